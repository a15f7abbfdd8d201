"""The operators of the key-value cache: their names, formal inputs and outputs, attributes and bodies.

A node with a body runs wherever ONNX runs. TensorRT takes its own plugin instead where one of that name is registered,
because the nodes carry `plugin_namespace` (without it the parser would take the body, or a builtin of that name: so no
name here is a builtin's). Each operator has one signature of tensors, because a plugin cannot have optional inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
import onnx.parser
import onnx_ir as ir

from trtbuild.graph.kv_cache import append, attention

DOMAIN = "trtbuild"
VERSION = 1

UNLIMITED = 2**31 - 1
"""A window or a number of positions that excludes nothing; TensorRT keeps attributes in 32 bits."""

PLUGIN_ATTRIBUTES: dict[str, str | int] = {"plugin_namespace": DOMAIN, "plugin_version": "1", "aot": 1}
"""How TensorRT's parser finds a plugin; `aot`: the one whose kernel is embedded in the engine."""


@dataclass(frozen=True)
class Operator:
    """One operator. All names are formal: the roles that a node's values play."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[str, ...]
    """Those that a node must give; a plugin's come on top."""
    body: str
    """In ONNX's text format."""
    plugin: bool = True
    """Whether TensorRT may have a plugin for it."""

    def node(self, name: str, values: dict[str, ir.Value], **attributes: Any) -> ir.Node:
        """A node with every attribute: one that is missing reaches a plugin as nothing at all."""
        assert attributes.keys() == set(self.attributes)
        return ir.node(
            self.name,
            [values[role] for role in self.inputs],
            attributes={**attributes, **self._plugin_attributes},
            domain=DOMAIN,
            version=VERSION,
            num_outputs=len(self.outputs),
            name=name,
        )

    def function(self, opset: int) -> onnx.FunctionProto:
        """The body as a function. `opset` is the version of the standard operators, at least 18."""
        attributes = ", ".join((*self.attributes, *self._plugin_attributes))
        function = onnx.parser.parse_function(
            f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>'
            f"{self.name} <{attributes}> ({', '.join(self.inputs)}) => ({', '.join(self.outputs)})"
            f"{{ {_CONSTANTS} {self.body} }}"
        )
        _drop_unused(function)
        return function

    @property
    def _plugin_attributes(self) -> dict[str, str | int]:
        return PLUGIN_ATTRIBUTES if self.plugin else {}


def define(model: ir.Model) -> None:
    """Give the model the bodies of this domain's operators that it uses, and of no others, in place."""
    model.opset_imports.pop(DOMAIN, None)
    used = {node.op_type for node in model.graph if node.domain == DOMAIN}
    for key in [key for key in model.functions if key[0] == DOMAIN]:
        del model.functions[key]
    for name in sorted(used):
        function = ir.from_proto(OPERATORS[name].function(model.opset_imports[""]))
        model.functions[function.identifier()] = function
    if used:
        model.opset_imports[DOMAIN] = VERSION


_CONSTANTS = """
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  axis_0 = Constant <value_ints = [0]> ()
  axis_1 = Constant <value_ints = [1]> ()
  axis_2 = Constant <value_ints = [2]> ()
  axis_3 = Constant <value_ints = [3]> ()
  axes_1_2 = Constant <value_ints = [1, 2]> ()
  axes_1_3 = Constant <value_ints = [1, 3]> ()
  last_axis = Constant <value_ints = [-1]> ()
  counters_each = Constant <value_ints = [1, 1, 16]> ()
  zero_f = Constant <value_float = 0.0> ()
  lowest_f = Constant <value_float = -3.4028235e38> ()
  lowest_int8 = Constant <value_float = -8319008.0> ()
  greatest_int8 = Constant <value_float = 8319008.0> ()
  least_scale = Constant <value_float = 5.9604645e-8> ()
  next_by_share = Constant <value_float = 1.0006104> ()
  next_by_step = Constant <value_float = 4.4703484e-8> ()
"""


def _drop_unused(function: onnx.FunctionProto) -> None:
    """Remove nodes whose outputs nothing reads: constants and shapes that this operator has no use for."""
    needed, kept = set(function.output), []
    for node in reversed(function.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    del function.node[:]
    function.node.extend(reversed(kept))


_CACHE, _SCALES = ("key_cache", "value_cache"), ("key_scale", "value_scale")
_NEW = ("key", "value", "lengths")
_CACHE_OUT, _SCALES_OUT = ("key_cache_out", "value_cache_out"), ("key_scale_out", "value_scale_out")
# A plugin has no workspace: what attention's blocks need to find each other comes as tensors, the counters zeroed by
# the append before it. The bodies have no use for either.
_COUNTERS, _PARTIALS = "counters", "partials"
_SOFTMAX = ("scale", "window")

_FLOATS = Operator("KVCacheAppend", (*_CACHE, *_NEW), (*_CACHE_OUT, _COUNTERS), (), append.as_computed())
_INT8_PER_TOKEN = Operator(
    "KVCacheAppendInt8PerToken",
    (*_CACHE, *_SCALES, *_NEW),
    (*_CACHE_OUT, *_SCALES_OUT, _COUNTERS),
    (),
    append.int8_per_token(),
)
_INT8_PER_HEAD = Operator(
    "KVCacheAppendInt8PerHead",
    (*_CACHE, *_SCALES, *_NEW),
    (*_CACHE_OUT, _COUNTERS),
    (),
    append.int8_per_head(),
)
_FP8_PER_HEAD = Operator(
    "KVCacheAppendFp8PerHead",
    (*_CACHE, *_SCALES, *_NEW),
    (*_CACHE_OUT, _COUNTERS),
    (),
    append.fp8_per_head(),
)

_OVER_FLOATS = Operator(
    "CachedAttention",
    ("query", *_CACHE, "lengths", _COUNTERS),
    ("output", _PARTIALS),
    _SOFTMAX,
    attention.over_floats(),
)
_OVER_SCALE_PER_TOKEN = Operator(
    "CachedAttentionPerToken",
    ("query", *_CACHE, *_SCALES, "lengths", _COUNTERS),
    ("output", _PARTIALS),
    _SOFTMAX,
    attention.over_scale_per_token(),
)
_OVER_SCALE_PER_HEAD = Operator(
    "CachedAttentionPerHead",
    ("query", *_CACHE, *_SCALES, "lengths", _COUNTERS),
    ("output", _PARTIALS),
    _SOFTMAX,
    attention.over_scale_per_head(),
)

CAUSAL = Operator(
    "CausalAttention",
    ("query", "key", "value", "past"),
    ("output",),
    (*_SOFTMAX, "layer", "kv_heads", "head_dim", "positions"),
    attention.without_cache(),
    plugin=False,
)
"""What an exported decoder has until a cache is attached. `past` is the graph's `lengths`, `layer` its number in the
model, `positions` how many the model knows; heads and their size are attributes because tools lose shapes."""

OF_MODE = {
    "float": (_FLOATS, _OVER_FLOATS),
    "int8": (_INT8_PER_TOKEN, _OVER_SCALE_PER_TOKEN),
    "int8_static": (_INT8_PER_HEAD, _OVER_SCALE_PER_HEAD),
    "fp8": (_FP8_PER_HEAD, _OVER_SCALE_PER_HEAD),
}
"""For each mode of a cache, how tokens are appended and how they are attended."""

OPERATORS = {operator.name: operator for pair in OF_MODE.values() for operator in pair} | {CAUSAL.name: CAUSAL}
"""Every operator by its name."""
