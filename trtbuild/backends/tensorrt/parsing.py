"""ONNX to TensorRT's network. What the parser says of a node is told with the node's name, module and operator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from trtbuild.backends.tensorrt.library import Messages, member
from trtbuild.core.dialects import Dialect
from trtbuild.core.errors import ModelError
from trtbuild.graph.naming import module_of

if TYPE_CHECKING:
    import tensorrt

_MOST_NAMED = 5
"""Problems to spell out; the others are counted."""


@dataclass
class Network:
    """A network, and the parser that owns its weights: it must live until the build is over."""

    network: tensorrt.INetworkDefinition
    parser: tensorrt.OnnxParser


def create_network(trt: Any, builder: tensorrt.Builder, dialect: Dialect) -> tensorrt.INetworkDefinition:
    """An empty network of the dialect's kind."""
    flags = 0
    for name in dialect.network_flags:
        flag = member(trt.NetworkDefinitionCreationFlag, name, "engine.target", trt.__version__)
        flags |= 1 << int(flag)
    return builder.create_network(flags)


def parse(
    trt: Any, builder: tensorrt.Builder, dialect: Dialect, file: Path, graph: ir.Model, logger: Any, messages: Messages
) -> Network:
    """Read an ONNX file, with its external data, into a network. `graph` is the same file's.

    Raises ModelError that names each node which the parser cannot take.
    """
    network = create_network(trt, builder, dialect)
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(str(file)):
        return Network(network, parser)
    problems = [parser.get_error(index) for index in range(parser.num_errors)]
    unsupported = sorted(
        {node.op_type for node in graph.graph if not node.domain and not parser.supports_operator(node.op_type)}
    )
    told = list(dict.fromkeys(_told(problem, list(graph.graph)) for problem in problems))
    raise ModelError(refusal(trt.__version__, told or [messages.essence()]), hint=remedy(unsupported))


def refusal(version: str, told: list[str]) -> str:
    """The message for what the parser refused."""
    lines = told[:_MOST_NAMED] + ([f"and {more} more"] if (more := len(told) - _MOST_NAMED) > 0 else [])
    return f"TensorRT {version} cannot parse the graph:\n  " + "\n  ".join(lines)


def remedy(unsupported: list[str]) -> str:
    """What to do about a graph that the parser refused, given the operators it has no importer for."""
    if unsupported:
        return (
            f"it has no importer for {', '.join(unsupported)}: load a plugin of that name by engine.plugins, use a "
            "newer TensorRT, or write that part of the model with other operators"
        )
    return "`trtbuild lint` names what TensorRT dislikes in a graph"


def described(name: str, operator: str, reason: str) -> str:
    """One refused node in words; `name` is empty where the parser speaks of no node."""
    if not name:
        return " ".join(reason.split())
    module = module_of(ir.Node("", operator or "Node", [], name=name))
    return f"{module or 'the graph'}: node {name!r}, operator {operator}: {' '.join(reason.split())}"


def content(trt: Any, network: tensorrt.INetworkDefinition) -> frozenset[str]:
    """What a network holds that decides builder flags: `fp16` tensors, `quantize` layers."""
    found = set()
    half, quantizes = trt.DataType.HALF, trt.LayerType.QUANTIZE
    for layer in _layers(network):
        if layer.type == quantizes:
            found.add("quantize")
        for index in range(layer.num_outputs):
            tensor = layer.get_output(index)
            if tensor is not None and tensor.dtype == half:
                found.add("fp16")
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.dtype == half:
            found.add("fp16")
    return frozenset(found)


def _layers(network: tensorrt.INetworkDefinition) -> Iterator[tensorrt.ILayer]:
    for index in range(network.num_layers):
        yield network.get_layer(index)


def _told(problem: tensorrt.ParserError, nodes: list[ir.Node]) -> str:
    """A parser's error in words. 8.6 gives the node's place in the graph only, later versions its name too."""
    name, operator, place = "", "", problem.node()
    if hasattr(problem, "node_name"):
        name, operator = problem.node_name(), problem.node_operator()
    if not name and 0 <= place < len(nodes):
        name, operator = nodes[place].name or "", nodes[place].op_type
    return described(name, operator, problem.desc())
