"""The precision of each node, from the engine inspector's JSON: 8.6, 10 and 11 spell it differently.

8.6   a layer has `Inputs` with `Format/Datatype` (`N/A due to dynamic shapes` where shapes are), often `Weights` with
      `Type` and the name of its kernel, which tells what it multiplies; what Myelin took is one layer
10    the same, and Myelin's kernels are layers of their own; `Metadata` names the ONNX nodes of each
11    format and data type are fields of their own
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from trtbuild.backends.tensorrt.nodes import Nodes
from trtbuild.core.errors import ModelError
from trtbuild.core.results import UNTOLD
from trtbuild.core.roles import Precisions

_TYPES = (
    ("bfloat16", re.compile(r"BF16|BFloat16", re.IGNORECASE)),
    ("int8", re.compile(r"Int8(?!\d)", re.IGNORECASE)),
    ("fp8", re.compile(r"FP8|E4M3", re.IGNORECASE)),
    ("int4", re.compile(r"Int4(?!\d)", re.IGNORECASE)),
    ("fp4", re.compile(r"FP4|E2M1", re.IGNORECASE)),
    ("float16", re.compile(r"FP16|Half|Float16", re.IGNORECASE)),
    ("float32", re.compile(r"FP32|TF32|Float", re.IGNORECASE)),
)
"""Element types as the inspector spells them, most particular first; integers that only count are none of them."""
_QUANTIZED = ("int8", "fp8", "int4", "fp4")
_METADATA = re.compile(r"\[ONNX Layer: ([^\]\x1e]*)\]")
_FUSED = re.compile(r"\s*(?:\+|\|\||,)\s*")
_SPLIT = re.compile(r"_clone_\d+$|_myl\S*$")
"""What TensorRT hangs on names of layers that it split or copied."""
_MULTIPLIES = re.compile(r"_(i8|s8|u8|e4m3|e5m2|bf16|f16|f32|f64)(?:i8|s8|u8|e4m3|e5m2|bf16|f16|f32|f64)_")
"""Activation and weight types in the names of kernels: `sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_...`."""
_OLDER = (
    ("int8", re.compile(r"_i\d*(?:cudnn|gemm)_|_i8_conv_|i8i8|_int8")),
    ("float16", re.compile(r"_h\d*(?:cudnn|gemm)_|_s\d+(?:cudnn|gemm)_fp16|_h_conv_|_hconv_|_f16")),
    ("float32", re.compile(r"_s(?:cudnn|gemm)_|_s\d+(?:cudnn|gemm)_fp32|_f32")),
)
"""The same in older ones, mostly by the tensor core's instruction: `trt_turing_fp16_i8816cudnn_int8_256x64_...`."""
_KERNEL_TYPES = {
    **dict.fromkeys(("i8", "s8", "u8"), "int8"),
    **dict.fromkeys(("e4m3", "e5m2"), "fp8"),
    **dict.fromkeys(("f32", "f64"), "float32"),
    "f16": "float16",
    "bf16": "bfloat16",
}
_REGION = "{ForeignNode["
_COPY = re.compile(r"Reformatting CopyNode for (?:Input|Output) Tensor \d+ (?:to|from) ")
_COMPUTES = re.compile(r"gemm|conv|matmul|matrix|fullyconnected|cask|mha|cublas", re.IGNORECASE)
_MOVES = re.compile(r"reformat|noop|constant|shapehostto|signal|wait", re.IGNORECASE)


@dataclass(frozen=True)
class Layer:
    """One layer of an engine."""

    name: str
    """Its own name, by which the profiler tells its time."""
    nodes: frozenset[str]
    """The ONNX nodes that it computes, and other names that its own is put together of."""
    kind: str
    """The inspector's `LayerType`."""
    kernel: str
    """The name of the kernel that was chosen."""
    inputs: tuple[str, ...]
    """Element types of its inputs that are numbers to compute with, in order."""
    weights: str
    """Element type of the weights that it holds; empty where it holds none, or does not say."""
    is_region: bool
    """Whether it is a whole region of which only the border is told."""

    @property
    def rank(self) -> int:
        """How likely it is the layer that computes the products among its nodes."""
        if _MOVES.search(self.kind):
            return 0
        return 2 if _COMPUTES.search(f"{self.kind} {self.kernel}") else 1

    @property
    def precision(self) -> str:
        """What it multiplies in, in the words of `trtbuild.stages.build.runs_in`; empty where it does not say."""
        if self.is_region:
            return UNTOLD
        first = self.inputs[0] if self.inputs else _multiplied_by(self.kernel)
        if self.weights:
            return _with_weights(self.weights, first)
        quantized = [each for each in self.inputs if each in _QUANTIZED]
        if not quantized:
            return first or UNTOLD
        if first in _QUANTIZED:
            return first
        return f"{quantized[0]} weights"


def layers_of(text: str) -> list[Layer]:
    """The layers in the inspector's JSON. Raises ModelError where it is none."""
    try:
        listed = json.loads(text, strict=False)["Layers"]  # not strict: metadata is joined by control characters
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"the engine inspector's answer is no JSON with Layers: {error}", hint="build the engine again"
        ) from error
    return [_layer(entry) for entry in listed]


def precisions(text: str, nodes: Nodes) -> Precisions:
    """What the engine multiplies in, by the names of the graph's nodes.

    A node that no layer names is left out, unless a region of unknown content may have taken it.
    """
    layers = layers_of(text)
    has_regions = any(layer.is_region for layer in layers)
    found: dict[str, Layer] = {}
    for layer in layers:
        for name in layer.nodes:
            if layer.rank and (name not in found or layer.rank > found[name].rank):
                found[name] = layer

    def ran(name: str) -> str:
        if name in found:
            return found[name].precision
        return UNTOLD if has_regions else ""

    products = {name: ran(name) for name in nodes.weights}
    tables = {name: "int8 table" if (its := ran(name)) == "int8" else its for name in nodes.tables}
    attention = {
        softmax: scores if (scores := ran(first)) == (context := ran(second)) else f"{scores}, then {context}"
        for softmax, (first, second) in nodes.attention.items()
        if ran(first) and ran(second)
    }
    return Precisions({name: each for name, each in (products | tables).items() if each}, attention)


def modules_of(layer: Layer, order: Sequence[str]) -> list[str]:
    """The module paths of the nodes that a layer computes, or that it converts for; `order` names the graph's nodes.

    A region is told by its ends: all between them in the graph counts as its own.
    """
    position = {name: number for number, name in enumerate(order)}
    nodes = [position[name] for name in layer.nodes if name in position]
    if layer.name.startswith(_REGION):
        first, last = _ends(layer.name)
        begin, end = position.get(first, 0), position.get(last, len(order) - 1)
        nodes = [*range(min(begin, end), max(begin, end) + 1)]
    named = [order[number] for number in sorted(nodes)]
    return list(dict.fromkeys(name.rpartition("/")[0] for name in named))


def _ends(region: str) -> tuple[str, str]:
    """The first and the last name of `{ForeignNode[first...last]}`, each possibly several joined ones' edge."""
    first, _, last = region.removeprefix(_REGION).removesuffix("]}").partition("...")
    return _FUSED.split(first)[0], _FUSED.split(last)[-1]


def _with_weights(weights: str, activations: str) -> str:
    if weights not in _QUANTIZED:
        return weights
    if activations == weights:
        return weights
    return f"{weights} weights, {activations} activations" if activations in _QUANTIZED else f"{weights} weights"


def _layer(entry: Any) -> Layer:
    if isinstance(entry, str):  # an engine that keeps names only
        return Layer(entry, frozenset(_names(entry, "")), "", "", (), "", is_region=True)
    name, kind = str(entry.get("Name", "")), str(entry.get("LayerType", ""))
    types = [_type_of_tensor(tensor) for tensor in entry.get("Inputs", ()) if isinstance(tensor, dict)]
    weights = entry.get("Weights")
    return Layer(
        name=name,
        nodes=frozenset(_names(name, str(entry.get("Metadata", "")))),
        kind="Reformat" if name.startswith("Reformatting CopyNode") else kind,
        kernel=str(entry.get("TacticName", "")),
        inputs=tuple(each for each in types if each),
        weights=_type(str(weights.get("Type", ""))) if isinstance(weights, dict) else "",
        is_region=kind in ("Myelin", "ForeignNode") or name.startswith(_REGION),
    )


def _names(name: str, metadata: str) -> Iterable[str]:
    """The names that a layer's own is put together of, and those of its metadata."""
    yield from _METADATA.findall(metadata)
    plain = _COPY.sub("", name).removeprefix(_REGION).removesuffix("]}").replace("...", " + ")
    for part in _FUSED.split(re.sub(r"PWN\(|\)", " ", plain)):
        yield _SPLIT.sub("", part.strip())


def _multiplied_by(kernel: str) -> str:
    """The type of the activations that a kernel multiplies, by its name; empty where the name does not tell."""
    if match := _MULTIPLIES.search(kernel):
        return _KERNEL_TYPES[match[1]]
    return next((name for name, pattern in _OLDER if pattern.search(kernel)), "")


def _type_of_tensor(tensor: dict[str, Any]) -> str:
    spelled = [str(value) for key, value in tensor.items() if "type" in key.lower() and isinstance(value, str)]
    return next((found for text in spelled if (found := _type(text))), "")


def _type(text: str) -> str:
    return next((name for name, pattern in _TYPES if pattern.search(text)), "")
