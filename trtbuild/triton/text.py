"""Text in, embedding out: tokenizer, encoder and pooling as an ensemble of Triton."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import onnx
from onnx import parser
from tritonclient.grpc import model_config_pb2 as pb

from trtbuild.core.errors import ModelError, RecipeError
from trtbuild.core.interface import DYNAMIC, Interface, IoTensor, ProfileRange
from trtbuild.triton.config import DATA_TYPES, model_config
from trtbuild.triton.options import TextOptions, TritonOptions

TOKENIZER_OUTPUTS = ("input_ids", "attention_mask", "token_type_ids")

_POOLING = """
<ir_version: 8, opset_import: ["" : 17]>
pooling ({type}[batch, tokens, {hidden}] hidden, {mask}[batch, tokens] attention_mask)
  => (float[batch, {hidden}] embedding)
<int64[1] along_tokens = {{1}}, int64[1] last = {{-1}}, int64[1] first = {{0}}, int64[1] one = {{1}},
 float least = {{1e-9}}>
{{
  floats = Cast <to = 1> (hidden)
  {pooled}
  {finished}
}}
"""
_MEAN = """present = Cast <to = 1> (attention_mask)
  weights = Unsqueeze (present, last)
  kept = Mul (floats, weights)
  sum = ReduceSum <keepdims = 0> (kept, along_tokens)
  count = ReduceSum <keepdims = 0> (weights, along_tokens)
  divisor = Max (count, least)
  pooled = Div (sum, divisor)"""
_CLS = """cls = Slice (floats, first, one, along_tokens)
  pooled = Squeeze (cls, along_tokens)"""
"""As sentence-transformers pools: the mean of the tokens that are there, or the first token."""


@dataclass(frozen=True)
class Part:
    """One model of an ensemble."""

    config: pb.ModelConfig
    write: Callable[[Path], None]
    """Fills its version folder."""


def parts(encoder: pb.ModelConfig, interface: Interface, options: TritonOptions, text: TextOptions) -> list[Part]:
    """The models around an encoder, the ensemble last: `<name>_tokenizer`, `<name>_pooling` and `<name>` itself.

    `encoder` is the encoder's configuration, whose name ends in `_encoder`. Raises ModelError where the engine is no
    text encoder, RecipeError where the tokenizer cannot be read.
    """
    name = encoder.name.removesuffix("_encoder")
    unknown = sorted(set(interface.inputs) - set(TOKENIZER_OUTPUTS))
    if unknown or "input_ids" not in interface.inputs:
        raise ModelError(
            f"the engine takes {', '.join(interface.inputs)}: no tokenizer makes {', '.join(unknown) or 'that'}",
            hint="leave out text: and serve the engine alone",
        )
    if not encoder.max_batch_size:
        raise ModelError(
            "the engine has no batch axis, which an ensemble for text needs", hint="serve the engine alone"
        )
    output, hidden = next(iter(interface.outputs.items()))
    tokenizer = Part(_tokenizer_config(name, encoder, interface, text), lambda folder: _write_tokenizer(folder, text))
    around = [tokenizer]
    if text.pooling != "none":
        graph = pooling_model(hidden, _mask_type(interface), text)
        around.append(
            Part(
                _pooling_config(name, encoder, interface, options, hidden),
                lambda folder: onnx.save(graph, folder / "model.onnx"),
            )
        )
    return [*around, Part(_ensemble_config(name, encoder, output, hidden, text), lambda folder: None)]


def pooling_model(hidden: IoTensor, mask: str, text: TextOptions) -> onnx.ModelProto:
    """The pooling as ONNX: `hidden` [batch, tokens, hidden] and `attention_mask` [batch, tokens] to `embedding` [batch,
    hidden] in FP32, of length 1 where `normalize` is set."""
    types = {"float32": "float", "float16": "float16", "bfloat16": "bfloat16"}
    finished = "LpNormalization <axis = -1, p = 2> (pooled)" if text.normalize else "Identity (pooled)"
    model = parser.parse_model(
        _POOLING.format(
            type=types[hidden.dtype],
            hidden=hidden.dims[-1],
            mask=mask,
            pooled=_MEAN if text.pooling == "mean" else _CLS,
            finished=f"embedding = {finished}",
        )
    )
    onnx.checker.check_model(model)
    return model


def _tokenizer_config(name: str, encoder: pb.ModelConfig, interface: Interface, text: TextOptions) -> pb.ModelConfig:
    greatest = min(ranges["input_ids"][2][1] for ranges in (profile.ranges for profile in interface.profiles))
    config = pb.ModelConfig(
        name=f"{name}_tokenizer",
        backend="python",
        max_batch_size=encoder.max_batch_size,
        default_model_filename="model.py",
        input=[pb.ModelInput(name="TEXT", data_type=pb.TYPE_STRING, dims=[1])],
        output=[pb.ModelOutput(name=each.name, data_type=each.data_type, dims=[DYNAMIC]) for each in encoder.input],
    )
    if "attention_mask" not in interface.inputs:
        config.output.append(pb.ModelOutput(name="attention_mask", data_type=pb.TYPE_INT64, dims=[DYNAMIC]))
    config.dynamic_batching.max_queue_delay_microseconds = 0
    settings = {
        "max_length": min(text.max_length or greatest, greatest),
        "pad_to_multiple": text.pad_to_multiple,
        "pad_id": pad_id(text.tokenizer),
    }
    for key, value in settings.items():
        config.parameters[key].string_value = str(value)
    return config


def pad_id(tokenizer: Path) -> int:
    """The id that fills short rows: the tokenizer's own padding token, else 0. Raises RecipeError where it is no
    `tokenizer.json`."""
    try:
        content = json.loads(tokenizer.read_bytes())
        padding = content.get("padding") or {}
    except (OSError, ValueError, AttributeError) as error:
        raise RecipeError(
            f"text.tokenizer: {tokenizer} is no tokenizer.json: {error}",
            hint="name the file of that name in the model's Hugging Face folder",
        ) from error
    named = next(
        (each["id"] for each in content.get("added_tokens", []) if each.get("content") in ("[PAD]", "<pad>")), 0
    )
    return int(padding.get("pad_id", named))


def _write_tokenizer(folder: Path, text: TextOptions) -> None:
    shutil.copyfile(text.tokenizer, folder / "tokenizer.json")
    model = resources.files("trtbuild.triton") / "python_models" / "tokenizer_model.py"
    (folder / "model.py").write_text(model.read_text())


def _mask_type(interface: Interface) -> str:
    return interface.inputs["attention_mask"].dtype if "attention_mask" in interface.inputs else "int64"


def _pooling_config(
    name: str, encoder: pb.ModelConfig, interface: Interface, options: TritonOptions, hidden: IoTensor
) -> pb.ModelConfig:
    ranges = dict.fromkeys(("hidden", "attention_mask"), interface.profiles[0].ranges["input_ids"])
    least, usual, greatest = ranges["hidden"]
    size = hidden.dims[-1]
    own = Interface(
        inputs={
            "hidden": IoTensor(dtype=hidden.dtype, dims=[DYNAMIC, DYNAMIC, size]),
            "attention_mask": IoTensor(dtype=_mask_type(interface), dims=[DYNAMIC, DYNAMIC]),
        },
        outputs={"embedding": IoTensor(dtype="float32", dims=[DYNAMIC, size])},
        profiles=[
            ProfileRange(
                name="shapes",
                ranges={**ranges, "hidden": ([*least, size], [*usual, size], [*greatest, size])},
            )
        ],
    )
    plain = TritonOptions(release=options.release, max_batch_size=encoder.max_batch_size, warm_up=False)
    return model_config(own, plain, name=f"{name}_pooling", backend="onnxruntime", model_file="model.onnx", tags={})


def _ensemble_config(
    name: str, encoder: pb.ModelConfig, output: str, hidden: IoTensor, text: TextOptions
) -> pb.ModelConfig:
    config = pb.ModelConfig(
        name=name,
        platform="ensemble",
        max_batch_size=encoder.max_batch_size,
        input=[pb.ModelInput(name="TEXT", data_type=pb.TYPE_STRING, dims=[1])],
    )
    steps = config.ensemble_scheduling.step
    ids = [each.name for each in encoder.input]
    made = list(dict.fromkeys([*ids, "attention_mask"]))
    steps.add(
        model_name=f"{name}_tokenizer",
        model_version=-1,
        input_map={"TEXT": "TEXT"},
        output_map={each: each for each in made},
    )
    answer = "hidden" if text.pooling != "none" else output
    steps.add(
        model_name=encoder.name, model_version=-1, input_map={each: each for each in ids}, output_map={output: answer}
    )
    if text.pooling == "none":
        dtype = pb.DataType.Value(DATA_TYPES[hidden.dtype])
        config.output.add(name=output, data_type=dtype, dims=[DYNAMIC, hidden.dims[-1]])
        return config
    steps.add(
        model_name=f"{name}_pooling",
        model_version=-1,
        input_map={"hidden": "hidden", "attention_mask": "attention_mask"},
        output_map={"embedding": "embedding"},
    )
    config.output.add(name="embedding", data_type=pb.TYPE_FP32, dims=[hidden.dims[-1]])
    return config
