"""Encoders, classifiers, Whisper and a UNet, small, with weights made here: every format, and a fault that each gate
catches."""

from __future__ import annotations

import importlib.util
import json
import wave
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from trtbuild.core.errors import ModelError
from trtbuild.core.report import BuildReport
from trtbuild.pipeline.build import build

RECIPES = Path(__file__).parents[2] / "recipes"
QUICK = ["data.calibration=8", "data.evaluation=4", "measure.runs=3", "measure.warm_up=1", "engine.tactics=default"]
QUICK += ["gates.pays='no'"]
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}


class Kind(NamedTuple):
    """How a recipe is made small."""

    recipe: str
    asked: dict[str, int]
    """Modules that each variant quantizes."""
    sets: Callable[[Path], list[str]]
    """Settings, with the files they need written into a folder."""
    survivor: str = "int8_sq"
    """The variant that a loud neuron leaves in order, where plain INT8 fails."""
    loud: Callable[[Any], None] | None = None
    """Makes one neuron of a module louder by LOUD and its listeners deafer; None where the factory can."""
    module: Callable[[], Any] | None = None
    """The module of a Hugging Face folder; None where the factory makes it."""


LOUD = 3000.0


def shift(first: Any, second: Any) -> None:
    first.weight.data[0] *= LOUD
    if first.bias is not None:
        first.bias.data[0] *= LOUD
    second.weight.data[:, 0] /= LOUD


def bert() -> Any:
    return transformers.BertModel(
        transformers.BertConfig(**SIZES, vocab_size=202, initializer_range=0.1), add_pooling_layer=False
    )


def t5() -> Any:
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 202}
    # The whole model, as checkpoints hold it: the recipe takes its encoder.
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, feed_forward_proj="gated-gelu"))


def vit() -> Any:
    labels = {"num_labels": 8, "image_size": 32, "patch_size": 16, "initializer_range": 0.1}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, **labels))


def resnet() -> Any:
    sizes = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "bottleneck"}
    made = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, num_labels=8)).train()
    with torch.no_grad():  # statistics as training leaves them: without, logits are all but equal
        for _ in range(20):
            made(torch.randn(8, 3, 32, 32))
    return made


def unheard(made: Any) -> None:
    """A channel far above the others, which nothing behind it reads: as batch normalization leaves dead ones."""
    first, second, *_ = made.resnet.encoder.stages[0].layers[0].layer
    first.normalization.bias.data[0] = LOUD
    second.convolution.weight.data[:, 0] = 0


def words(folder: Path) -> list[str]:
    vocabulary = {"[PAD]": 0, "<unk>": 1} | {f"word{number}": number + 2 for number in range(200)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    lines = [" ".join(f"word{(7 * line + 3 * place) % 200}" for place in range(5 + line % 9)) for line in range(60)]
    (folder / "lines.txt").write_text("\n".join(lines) + "\n")
    return [f"data.files={json.dumps([str(folder / 'tokenizer.json'), str(folder / 'lines.txt')])}"]


def pictures(folder: Path) -> list[str]:
    rng = np.random.default_rng(0)
    for number in range(60):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return [
        f"data.files=['{folder}/*.png']",
        "shapes.inputs.pixel_values.dims=[batch, 3, 32, 32]",
        "data.arguments.size=32",
        "shapes.axes.batch={min: 1, opt: 2, max: 8}",
    ]


def sounds(folder: Path) -> str:
    rng = np.random.default_rng(0)
    for number in range(60):
        with wave.open(str(folder / f"{number}.wav"), "wb") as stream:
            stream.setnchannels(1)
            stream.setsampwidth(2)
            stream.setframerate(16000)
            tone = np.sin(np.arange(16000) * rng.uniform(0.01, 1.0)) * rng.uniform(1000, 9000)
            stream.writeframes((tone + rng.normal(0, 200, 16000)).astype("<i2").tobytes())
    return f"data.files=['{folder}/*.wav']"


def whisper_encoder(folder: Path) -> list[str]:
    return [sounds(folder), "shapes.inputs.input_features.dims=[batch, 80, 100]", "data.arguments.seconds=1"]


def whisper_decoder(folder: Path) -> list[str]:
    own, cross = "[batch, 2, 4, 32, 16]", "[batch, 2, 4, 50, 16]"
    dims = {"self_key": own, "self_value": own, "cross_key": cross, "cross_value": cross}
    return [
        sounds(folder),
        "data.arguments={prompt: [1, 5], weights: random, tokens: 4}",
        *(f"shapes.inputs.{name}.dims={each}" for name, each in dims.items()),
        "shapes.axes.tokens={min: 1, opt: 4, max: 8}",
        "gates.accuracy.next_token_agreement={min: 0.9}",  # of 16 tokens one may flip between two that are as likely
    ]


def unet(folder: Path) -> list[str]:
    del folder
    return [
        "shapes.inputs.sample.dims=[batch, 4, 8, 8]",
        "shapes.inputs.encoder_hidden_states.dims=[batch, 6, 32]",
        "data.arguments={latent: [4, 8, 8], text: [6, 32]}",
    ]


KINDS = {
    "bert": Kind(
        "bert",
        {"fp16": 0, "int8_sq": 12, "fp8": 14, "w8a16": 12, "int4_awq": 12},  # fp8: two attentions as well
        words,
        loud=lambda made: shift(made.encoder.layer[0].intermediate.dense, made.encoder.layer[0].output.dense),
        module=bert,
    ),
    "t5": Kind(
        "t5",
        {"fp16": 0, "int8_sq": 14, "fp8": 16, "w8a16": 14},
        words,
        loud=lambda made: shift(
            *(getattr(made.encoder.block[0].layer[1].DenseReluDense, name) for name in ("wi_1", "wo"))
        ),
        module=t5,
    ),
    "vit": Kind(
        "vit",
        {"fp16": 0, "int8_sq": 12, "fp8": 14, "w8a16": 12},
        pictures,
        loud=lambda made: shift(made.vit.layers[0].mlp.fc1, made.vit.layers[0].mlp.fc2),
        module=vit,
    ),
    "resnet": Kind(
        "resnet",
        {"fp16": 0, "int8": 9, "int8_residual": 9, "w8a16": 9},  # the first convolution stays high
        lambda folder: [*pictures(folder), "data.arguments.resize=36"],
        survivor="w8a16",
        loud=unheard,
        module=resnet,
    ),
    "whisper/encoder": Kind("whisper/encoder", {"fp16": 0, "int8_sq": 16, "fp8": 18, "w8a16": 16}, whisper_encoder),
    "whisper/decoder": Kind("whisper/decoder", {"fp16": 0, "int8_sq": 16, "w8a16": 16}, whisper_decoder),
    "unet": Kind("unet", {"fp16": 0, "int8_sq": 41, "fp8": 47, "w8a16": 41}, unet),
}


def settings(kind: Kind, folder: Path, *, loud: bool = False) -> list[str]:
    """What makes a recipe small, its files written into the folder."""
    folder.mkdir()
    sets = [*QUICK, *kind.sets(folder)]
    if kind.module is None:
        outlier = f", outlier: {LOUD}" if loud else ""
        return [*sets, f"model.factory.arguments={{weights: random{outlier}}}"]
    torch.manual_seed(0)
    made = kind.module().eval()
    if loud and kind.loud is not None:
        kind.loud(made)
    made.save_pretrained(folder / "model")
    return [*sets, f"model.huggingface.folder={folder / 'model'}"]


def built(kind: Kind, sets: list[str], place: Path, variants: list[str] | None = None) -> BuildReport:
    return build(RECIPES / kind.recipe, sets=sets, variants=variants or [], store=place / "store", output=place / "out")


@pytest.mark.parametrize("name", KINDS)
def test_every_format_passes_and_runs_what_was_asked(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    report = built(kind, settings(kind, tmp_path / "made"), tmp_path)
    for variant in report.variants:
        assert variant.verdict == "passed", (variant.name, variant.reasons)
        coverage = variant.coverage
        found = (coverage.asked, coverage.inserted, coverage.ran)
        assert found == (kind.asked[variant.name],) * 3, (variant.name, found)


@pytest.mark.parametrize("name", KINDS)
def test_a_loud_neuron_fails_the_gate_of_int8_alone(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    sets = [*settings(kind, tmp_path / "made", loud=True), "variants.int8={quantize: {format: int8}}"]
    found = {each.name: each for each in built(kind, sets, tmp_path, ["int8", kind.survivor]).variants}
    assert found["int8"].verdict == "failed"
    assert any("cosine" in reason for reason in found["int8"].reasons), found["int8"].reasons
    assert found[kind.survivor].verdict == "passed", found[kind.survivor].reasons


def module(folder: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, RECIPES / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_whispers_parts_say_what_transformers_says_of_the_same_folder(tmp_path: Path) -> None:
    heard = module("whisper/encoder", "whisper_encoder")
    written = module("whisper/decoder", "whisper_decoder")
    whole = written.whisper([], "random")
    whole.save_pretrained(tmp_path)
    files = [str(tmp_path / "config.json"), str(tmp_path / "model.safetensors")]
    features, text = torch.randn(2, 80, 100), torch.tensor([[1, 5, 9, 11], [1, 5, 7, 3]])
    with torch.inference_mode():
        expected = whole(input_features=features, decoder_input_ids=text)
        hidden, cross_key, cross_value = heard.encoder(files)(features)
        torch.testing.assert_close(hidden, expected.encoder_last_hidden_state)
        step, own = written.decoder(files), torch.zeros(2, 2, 2, 4, 32, 16)
        lengths = torch.tensor([0, 0])
        for tokens in (text[:, :3], text[:, 3:]):  # a prompt, then one token behind it
            logits, *new = step(tokens, lengths, own[0], own[1], cross_key, cross_value)
            for which, tensor in enumerate(new):
                own[which, :, :, :, int(lengths[0]) : int(lengths[0]) + tokens.shape[1]] = tensor
            lengths = lengths + tokens.shape[1]
        torch.testing.assert_close(logits[:, -1], expected.logits[:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("folder", "name", "entry"),
    [
        ("whisper/encoder", "whisper_encoder", "encoder"),
        ("whisper/decoder", "whisper_decoder", "decoder"),
        ("unet", "unet", "denoiser"),
    ],
)
def test_a_folder_that_lacks_a_weight_or_is_not_named_is_refused(
    tmp_path: Path, folder: str, name: str, entry: str
) -> None:
    there = module(folder, name)
    if name == "unet":
        there.Denoiser(**there.SMALL).save_pretrained(tmp_path)
    else:
        module("whisper/decoder", "whisper_decoder").whisper([], "random").save_pretrained(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    files = [str(tmp_path / "config.json"), str(weights)]
    factory = getattr(there, entry)
    assert sum(each.numel() for each in factory(files).parameters()) > 0
    tensors = load_file(weights)
    lost = [each for each in tensors if "layers.0.self_attn.k_proj" in each or each.endswith("to_k.weight")]
    save_file({each: tensor for each, tensor in tensors.items() if each not in lost}, weights)
    with pytest.raises(ModelError, match=r"does not fit .*: missing "):
        factory(files)
    with pytest.raises(ModelError, match=r"config\.json"):
        factory([])
