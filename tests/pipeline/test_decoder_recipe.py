"""Recipes for decoders of transformers, from a folder with shards: what they give, and what they refuse."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import onnx
import pytest

from trtbuild.core.errors import DataError, ModelError, RecipeError
from trtbuild.core.report import BuildReport
from trtbuild.core.results import Comparison
from trtbuild.decoding.tokenizer import tokenizer_of
from trtbuild.pipeline.build import build, prepare
from trtbuild.pipeline.compose import compose
from trtbuild.pipeline.decide import Reuse
from trtbuild.pipeline.explain import foresee
from trtbuild.pipeline.file_digests import FileDigests
from trtbuild.pipeline.generate import generate
from trtbuild.pipeline.halfway import Until
from trtbuild.pipeline.repair import build_and_repair
from trtbuild.pipeline.store import Store
from trtbuild.recipe.load import load

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LLM = Path(__file__).parents[2] / "recipes" / "llm"
SIZES = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 256,
    "eos_token_id": 257,
}


def write_tokenizer(folder: Path) -> None:
    """A token is a byte; a text begins with BOS."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<bos>", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 256)])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 with random weights, as the hub keeps large ones: in shards."""
    folder = tmp_path_factory.mktemp("models") / "qwen"
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES, tie_word_embeddings=True))
    model.save_pretrained(folder, max_shard_size="150KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    write_tokenizer(folder)
    return folder


def sets(folder: Path, *more: str) -> list[str]:
    return [
        f"model.huggingface.folder={folder}",
        "decoder.capacity=96",
        "decoder.prompt=16",
        "decoder.steps=8",
        "data.arguments.length=64",
        "data.calibration=4",
        "data.evaluation=4",
        "measure.runs=3",
        *more,
    ]


@pytest.fixture(scope="module")
def built(qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuildReport]:
    folder = tmp_path_factory.mktemp("llm")
    more = ["variants.kv_fp8.kv_cache={mode: fp8, exclude: [-1]}", "decoder.needle={context: 80, repeats: 1}"]
    report = build(LLM, sets=sets(qwen, *more), store=folder / "store", output=folder / "engines")
    return folder, report


def test_every_variant_of_a_sharded_folder_is_built_and_asked_for(built: tuple[Path, BuildReport]) -> None:
    found = {variant.name: variant for variant in built[1].variants}
    asked = {name: variant.coverage.asked for name, variant in found.items()}
    assert asked == {
        **dict.fromkeys(("kv_int8", "kv_int8_static"), 2),
        **dict.fromkeys(("int8_sq_kv_int8", "fp8_kv_fp8"), 16),
        "int4_awq_kv_int8": asked["int4_awq_kv_int8"],
        "fp16": 0,
        "kv_fp8": 1,
    }
    for variant in found.values():
        assert variant.coverage.ran == variant.coverage.inserted == variant.coverage.asked
        assert variant.accuracy["perplexity_ratio"] == pytest.approx(1, abs=0.05)
        assert {"needles_found", "free_running_tokens", "cache_cosine_min", "kl_divergence"} <= variant.accuracy.keys()
    assert found["fp16"].accuracy["kv_bytes_ratio"] == 1
    assert found["kv_fp8"].accuracy["kv_bytes_ratio"] == 0.75


def test_export_and_lowering_run_once_and_ranges_are_in_a_plan(built: tuple[Path, BuildReport]) -> None:
    opened = Store(built[0] / "store")
    actions = {action.step: action for _, action in opened.actions()}
    steps = [action.step for _, action in opened.actions()]
    assert steps.count("export") == steps.count("autocast-fp16") == steps.count("calibrate-cache") == 1
    plan = opened.folder_of(actions["calibrate-cache"].outputs["quantizationplan"].digest) / "plan.json"
    (layer, other) = json.loads(plan.read_text())["cache"].values()
    assert len(layer["key"]) == len(other["value"]) == 2
    assert all(0 < head["amax"] <= head["seen"] for head in layer["key"])


def test_caches_are_compared_layer_by_layer(built: tuple[Path, BuildReport]) -> None:
    manifest = json.loads((built[0] / "engines" / "llm" / "kv_fp8" / "manifest.json").read_text())
    comparison = Comparison.model_validate(manifest["comparison"])
    assert {"logits", "cache.0.key", "cache.0.value", "cache.1.key", "cache.1.value"} == set(
        comparison.against_reference
    )
    # The last layer's cache stays FP16: what it holds differs by what came before alone.
    first, last = (comparison.against_reference[f"cache.{layer}.value"].cosine_mean for layer in (0, 1))
    assert 0.99 < first < last < 1


def test_the_engine_s_folder_is_all_that_writing_needs(qwen: Path, built: tuple[Path, BuildReport]) -> None:
    folder = built[0] / "engines" / "llm" / "kv_int8"
    assert {"cache.json", "tokenizer.json", "generation_config.json", "interface.json"} <= {
        file.name for file in folder.iterdir()
    }
    model = transformers.Qwen2ForCausalLM.from_pretrained(qwen).eval()
    ids = torch.tensor([tokenizer_of(qwen).encode("A prompt")])
    wanted = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :].tolist()
    texts = generate(built[0] / "engines" / "llm" / "fp16", ["A prompt"], max_new_tokens=8).texts
    assert texts[0].tokens == [token for token in wanted if token != SIZES["eos_token_id"]]
    with pytest.raises(DataError, match="prompt 0 has 101 tokens, the cache holds 96"):
        generate(folder, ["x" * 100])


def broken(folder: Path, qwen: Path, damage: str) -> Path:
    shutil.copytree(qwen, folder)
    if damage == "shard":
        sorted(folder.glob("model-*.safetensors"))[1].unlink()
    elif damage == "weights":
        for file in folder.glob("model*"):
            file.unlink()
    elif damage == "tokenizer":
        (folder / "tokenizer.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("damage", "more", "says"),
    [
        ("shard", [], r"lacks 1 of \d+ weight shards, first model-00002"),
        ("weights", [], r"has no weights"),
        ("tokenizer", [], r"has no tokenizer\.json.*save_pretrained"),
        ("", ["decoder.capacity=257"], r"capacity is 257, and the model in .* knows 256 positions"),
        ("", ["variants.kv_int8.kv_cache=int4"], r"there is no mode 'int4' of a KV cache"),
        ("", ["decoder.prompt=96"], r"a prompt of 96 tokens leaves no room in a capacity of 96"),
        ("", ["decoder.needle={context: 96}"], r"needle's context of 96 does not fit"),
        ("", ["data.calibration=0"], r"kv_cache int8_static needs samples, and data.calibration is 0"),
        ("", ["variants.kv_int8.precision=bf16"], r"FP16 or 8 bits, not bf16"),
        ("", ["variants.fp8_kv_fp8.quantize.attention=fp8"], r"a decoder's attention reads its cache"),
        ("", ["variants.fp8_kv_fp8.quantize.format=auto"], r"format auto is not for decoders"),
        ("", ["metric=llm:own"], r"a decoder's metrics are built in"),
        ("", ["shapes={inputs: {input_ids: {dtype: int64, dims: [1]}}}"], r"shapes follow from decoder"),
        ("", ["engine.target='8.6'"], r"a KV cache needs TensorRT 10.9"),
        ("", ["engine.target='10.13'", "engine.gpu=A100"], r"mode fp8 needs a GPU of SM 8.9 or later"),
        ("", ["decoder=null"], r"shapes is missing"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(
    qwen: Path, tmp_path: Path, damage: str, more: list[str], says: str
) -> None:
    folder = broken(tmp_path / "model", qwen, damage)
    with pytest.raises(RecipeError, match=says):
        build(LLM, sets=sets(folder, *more), store=tmp_path / "store", output=None)
    assert not (tmp_path / "store" / "ac").exists() or not list(Store(tmp_path / "store").actions())


def test_a_cache_without_a_decoder_is_refused(tiny: Path, store: Path) -> None:
    with pytest.raises(RecipeError, match="kv_cache is for decoders"):
        build(tiny, sets=["variants.fp32.kv_cache=int8"], store=store, output=None)


def test_a_layer_that_is_not_there_cannot_be_excluded(qwen: Path, built: tuple[Path, BuildReport]) -> None:
    with pytest.raises(ModelError, match=r"kv_cache\.exclude names layer 7, and the model has 2"):
        build(
            LLM,
            sets=sets(qwen, "variants.kv_int8.kv_cache={mode: int8, exclude: [7]}"),
            variants=["kv_int8"],
            store=built[0] / "store",
            output=None,
        )


def test_attention_that_no_cache_serves_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bloom"
    config = transformers.BloomConfig(vocab_size=384, hidden_size=32, n_layer=1, n_head=4)
    transformers.BloomForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder)
    with pytest.raises(ModelError, match="ALiBi"):
        build(LLM, sets=sets(folder), variants=["fp16"], store=tmp_path / "store", output=None)


def test_repair_says_that_it_is_not_for_decoders(qwen: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--repair is not for decoders"):
        build_and_repair(LLM, sets=sets(qwen), store=tmp_path / "store", output=tmp_path)


MAKER = """
import numpy as np

def nothing(folder):
    (folder / "notes.txt").write_text("no model")

def texts(split, count):
    yield {"input_ids": np.full((count, 64), len(split))}
"""


def test_a_function_that_makes_no_model_is_blamed(tmp_path: Path) -> None:
    (tmp_path / "maker.py").write_text(MAKER)
    text = (LLM / "recipe.yaml").read_text().replace("folder: model", "made_by: maker:nothing")
    (tmp_path / "recipe.yaml").write_text(text)
    more = ["data={generator: 'maker:texts', calibration: 4, evaluation: 1}"]
    with pytest.raises(ModelError, match=r"(?s)maker:nothing left no config\.json.*it wrote notes\.txt"):
        build(tmp_path, sets=more, variants=["fp16"], store=tmp_path / "store", output=None)


def test_for_tensorrt_11_the_float_cache_is_onnx_s_own_and_the_others_are_plugins(
    qwen: Path, built: tuple[Path, BuildReport]
) -> None:
    """What goes to a machine with a GPU; nothing of TensorRT is here."""
    variants, target = ["fp16", "kv_int8", "int4_awq_kv_int8"], "engine.target='11.4'"
    store = built[0] / "store"
    report = prepare(LLM, until="insert", sets=sets(qwen, target), variants=variants, store=store)
    assert report.backend == "tensorrt"
    opened, models = Store(store), {}
    plan = compose(load(LLM, sets(qwen, target), variants), variants, until="insert").plan
    for step, decision in foresee(plan, opened, FileDigests(store / "digests.sqlite")):
        assert isinstance(decision, Reuse)
        output = decision.action.outputs.get("model") or decision.action.outputs.get("onnxmodel")
        if step.name.endswith("/cache") and output is not None:
            folder = opened.folder_of(output.digest)
            assert {"cache.json", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
            models[step.name] = Counter(node.op_type for node in onnx.load(folder / "model.onnx").graph.node)
    assert models["fp16/cache"]["TensorScatter"] == 4  # keys and values of two layers
    assert not [name for name in models["fp16/cache"] if name.startswith(("KVCache", "Cached"))]
    for name in ("kv_int8/cache", "int4_awq_kv_int8/cache"):
        assert models[name]["KVCacheAppendInt8PerToken"] == models[name]["CachedAttentionPerToken"] == 2


def test_a_plan_stops_where_it_is_told(qwen: Path) -> None:
    loaded = load(LLM, sets(qwen))
    stops: tuple[Until, ...] = ("export", "calibrate", "insert", "build")
    plans = {until: compose(loaded, until=until).plan.steps.keys() for until in stops}
    follow = ["export", "calibrate-cache", "kv_fp8/cache", "kv_fp8/build"]
    for number, until in enumerate(stops):
        assert [step for step in follow if step in plans[until]] == follow[: number + 1]
    assert "kv_fp8/read" not in plans["build"]
