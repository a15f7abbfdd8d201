"""Which modules stay in high precision: what the recipe excludes, and what a default keeps unless it is included.

A pattern is a module path with `*` and `?`, or `class:` and a pattern for the module's class (`class:Conv2d`).
`exclude` wins over everything, `include` over the defaults. The defaults are two tables:

- names that ModelOpt's presets leave alone (modelopt_recipes/configs/ptq/units/default_disabled_quantizers.yaml), so
  that a checkpoint quantized there and a model quantized here agree;
- three kinds of convolution. The first one reads the graph's input, mostly of 1 to 3 channels: below 16 there are no
  fast kernels, and what it loses every later layer sees. The last one, with no product behind it, writes pixels or
  samples, where an error shows as it is. A transposed convolution over time is what vocoders write waveforms with; in a
  graph that makes 16 steps or more of one, all convolutions over time stay, because every error there is heard.

Norms, softmax and embeddings have no product with a weight, so no format touches them; tables have an option of their
own.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from trtbuild.core.errors import ModelError
from trtbuild.core.results import ASKED_HIGH
from trtbuild.graph.initializers import constant
from trtbuild.graph.linear import CONVOLUTIONS, MATRIX_PRODUCTS, products

CLASS = "class:"
LEAST_STRETCH = 16
"""Steps of the output for one of the input from which on a graph writes a waveform: vocoders make 200 and more, and
U-Nets over time, which shrink it before they stretch it, make one."""

MODELOPT_DEFAULTS = (
    "*block_sparse_moe.gate*",
    "*linear_attn.conv1d*",
    "*self_attention.conv1d*",
    "*linear_attn.in_proj_a*",
    "*linear_attn.in_proj_b*",
    "*lm_head*",
    "*mixer.conv1d*",
    "*mlp.gate.*",
    "*mlp.shared_expert_gate.*",
    "*output_layer*",
    "*proj_out.*",
    "*router*",
    "mtp.*",
    "output.*",
    "*embed_vision*",
    "*vision_tower*",
    "*visual*",
    "*vision_model*",
    "*multi_modal_projector*",
)
"""Patterns of ModelOpt 0.47 for `<module path>.weight_quantizer`; here they meet the path with a dot behind it."""


def keep_high(
    modules: Mapping[str, Collection[str]], graph: ir.Graph, *, exclude: Sequence[str], include: Sequence[str]
) -> dict[str, str]:
    """Modules that stay in high precision, each with the reason.

    `modules` holds every module that a pattern can name, with its classes. Raises ModelError for a pattern that
    matches none, with names that are close.
    """
    excluded: dict[str, str] = {}
    for pattern in exclude:
        for module in matched("exclude", pattern, modules):
            excluded.setdefault(module, f"excluded by pattern {pattern!r}")
    included = {module for pattern in include for module in matched("include", pattern, modules)}
    defaults = {**_named(modules), **_vocoder(graph), **_convolutions(graph)}
    return {**{module: reason for module, reason in defaults.items() if module not in included}, **excluded}


def check_included(include: Sequence[str], modules: Mapping[str, Collection[str]], planned: Mapping[str, str]) -> None:
    """Raise ModelError where a pattern names only modules that calibration left alone; `planned` holds its reasons.

    What `format: auto` or an override decided for high precision has numbers, and is no mistake of the pattern.
    """
    for pattern in include:
        named = matched("include", pattern, modules)
        if all(module in planned and not planned[module].startswith(ASKED_HIGH) for module in named):
            raise ModelError(
                f"include: calibration left {named[0]} alone, so there are no numbers for it: {planned[named[0]]}",
                hint="only a module with a weight that ModelOpt quantizes can be included",
            )


def _named(modules: Iterable[str]) -> dict[str, str]:
    return {
        module: f"ModelOpt's default for {pattern!r}; `include` overrides it"
        for module in modules
        for pattern in MODELOPT_DEFAULTS
        if fnmatchcase(f"{module}.", pattern)
    }


def _convolutions(graph: ir.Graph) -> dict[str, str]:
    """Convolutions that stay high by their place in the graph."""
    nodes = [node for node in graph if node.op_type in (*MATRIX_PRODUCTS, *CONVOLUTIONS)]
    if not any(node.op_type in CONVOLUTIONS for node in nodes):
        return {}
    after, before = _reached(graph, set(nodes), forward=True), _reached(graph, set(nodes), forward=False)
    found: dict[str, str] = {}
    for module, its in products(graph).items():
        node = its[0]
        if node.op_type == "ConvTranspose" and _is_over_time(node):
            found[module] = "a transposed convolution over time writes waveforms; `include` overrides it"
        elif node.op_type == "Conv" and not any(call in after for call in its):
            found[module] = "the first convolution reads the graph's input; `include` overrides it"
        elif node.op_type == "Conv" and not any(call in before for call in its):
            found[module] = "the last convolution writes the graph's output; `include` overrides it"
    return found


def _vocoder(graph: ir.Graph) -> dict[str, str]:
    """Every convolution over time of a graph that writes a waveform."""
    steps: dict[ir.Value, float] = {}
    for node in graph:
        before = max((steps.get(value, 1.0) for value in node.inputs if value is not None), default=1.0)
        steps |= dict.fromkeys(node.outputs, before * _stretch(node))
    if (stretch := max((steps.get(value, 1.0) for value in graph.outputs), default=1.0)) < LEAST_STRETCH:
        return {}
    reason = f"the graph makes {stretch:g} steps of one, so it writes a waveform; `include` overrides it"
    return {
        module: reason
        for module, its in products(graph).items()
        if its[0].op_type in CONVOLUTIONS and _is_over_time(its[0])
    }


def _stretch(node: ir.Node) -> float:
    """Steps of time that a node makes of one."""
    if node.op_type in CONVOLUTIONS and _is_over_time(node):
        stride = (node.attributes["strides"].as_ints() if "strides" in node.attributes else [1])[0]
        return stride if node.op_type == "ConvTranspose" else 1 / stride
    scales = constant(node.inputs[2]) if node.op_type == "Resize" and len(node.inputs) > 2 else None
    return float(scales.numpy()[2]) if scales is not None and scales.size == 3 else 1.0


def _is_over_time(node: ir.Node) -> bool:
    weight = node.inputs[1]
    return weight is not None and weight.shape is not None and len(weight.shape) == 3


def _reached(graph: ir.Graph, sources: set[ir.Node], *, forward: bool) -> set[ir.Node]:
    """Nodes that some other node of `sources` is computed before (or, backward, after)."""
    reached: set[ir.Node] = set()
    for node in graph if forward else reversed(graph):
        neighbours = node.predecessors() if forward else node.successors()
        if any(neighbour in reached or neighbour in sources for neighbour in neighbours):
            reached.add(node)
    return reached


def matched(option: str, pattern: str, modules: Mapping[str, Collection[str]]) -> list[str]:
    """Modules that a pattern matches. Raises ModelError where there is none, naming the `option` and what is close."""
    if pattern.startswith(CLASS):
        wanted = pattern.removeprefix(CLASS)
        matched = [name for name, classes in modules.items() if any(fnmatchcase(kind, wanted) for kind in classes)]
        known = [CLASS + kind for kind in sorted({kind for classes in modules.values() for kind in classes})]
    else:
        matched = [name for name in modules if fnmatchcase(name, pattern)]
        known = list(modules)
    if not matched:
        close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4) or known[:3]
        raise ModelError(f"{option}: no module matches {pattern!r}", hint=f"did you mean {', '.join(close)}?")
    return matched
