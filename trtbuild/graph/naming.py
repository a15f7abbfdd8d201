"""Names of nodes and values: module path and operator, so that all who read the graph speak in module paths."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection

import onnx
import onnx_ir as ir

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter keeps a node's module path: a Python list, outermost first, the operation's name last."""

REWRITES = "pkg.onnxscript.rewriter.rule_name"
"""Where the exporter's optimizer keeps the names of the rules that made a node."""

_NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"
_AUTOMATIC = re.compile(r"(?:val|tmp|const|constant|lifted_tensor|_?tensor_constant)_?\d+|onnx::\w+_\d+")
"""Names that exporters count up, which say nothing and shift when anything before them changes."""


def module_of(node: ir.Node) -> str:
    """The module path of a named node: `encoder.layer.0.query` of `encoder.layer.0.query/MatMul_1`."""
    return (node.name or "").rpartition("/")[0]


class Names:
    """Names that are taken; each new one is unique."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._counts: Counter[str] = Counter()

    def unique(self, name: str) -> str:
        """The name itself, or the first free one of `name_1`, `name_2`, ..."""
        candidate = name
        while candidate in self._taken:
            self._counts[name] += 1
            candidate = f"{name}_{self._counts[name]}"
        self._taken.add(candidate)
        return candidate


def names_of(graph: ir.Graph, leaving: Collection[ir.Node] = ()) -> Names:
    """The names that new nodes must not take: those of nodes, and those that outputs `<name>:0` are called after.

    Nodes that are `leaving` make room for theirs.
    """
    staying = [node for node in graph if node not in leaving]
    values = (value.name or "" for node in staying for value in node.outputs)
    return Names({node.name or "" for node in staying} | {name.removesuffix(":0") for name in values})


def rename(model: ir.Model) -> None:
    """Name nodes, their outputs and counted-up initializers. Names given before stay: a second run changes nothing."""
    nodes = list(model.graph.all_nodes())
    scopes = {node: _scope(node) for node in nodes}
    _rename_nodes(nodes, scopes)
    exported = [node for node in nodes if scopes[node] is not None]
    outputs = [value for node in exported for value in node.outputs if value.name and not value.is_graph_output()]
    weights = [
        (node, index, value)
        for node in nodes
        for index, value in enumerate(node.inputs)
        if value is not None and value.is_initializer() and _AUTOMATIC.fullmatch(value.name or "")
    ]
    changing = {*outputs, *(value for _, _, value in weights)}
    names = Names({value.name or "" for value in _values(model, nodes) if value not in changing})
    # Initializers first: a parameter's plain name must not depend on whether some node's output took it.
    done: set[ir.Value] = set()
    for node, index, value in weights:
        if value in done or value.is_graph_input() or value.is_graph_output():
            continue
        done.add(value)
        value.name = names.unique(_weight_name(node, index, model.opset_imports))
    for value in outputs:
        producer = value.producer()
        assert producer is not None
        value.name = names.unique(f"{producer.name}:{value.index()}")


def _scope(node: ir.Node) -> str | None:
    """The module path that the exporter left on a node; None where it left none."""
    try:
        scopes = ast.literal_eval(node.metadata_props[NAME_SCOPES])
    except (KeyError, ValueError, SyntaxError):
        return None
    if not isinstance(scopes, list) or len(scopes) < 2 or scopes[-2] == _NO_MODULE:
        return ""
    return _folded_into(node) or str(scopes[-2])


def _folded_into(node: ir.Node) -> str:
    """The module path of a convolution or Gemm that took in a batch norm, whose path the node has; else nothing.

    Its weight keeps the parameter's name.
    """
    if "FuseBatchNorm" not in node.metadata_props.get(REWRITES, "") or len(node.inputs) < 2 or node.inputs[1] is None:
        return ""
    return (node.inputs[1].name or "").rpartition(".")[0]


def _rename_nodes(nodes: list[ir.Node], scopes: dict[ir.Node, str | None]) -> None:
    own = Counter(node.name for node in nodes if scopes[node] is None)
    kept = {node for node in nodes if scopes[node] is None and node.name and own[node.name] == 1}
    names = Names({node.name or "" for node in kept})
    for node in nodes:
        if node not in kept:
            scope = scopes[node]
            node.name = names.unique(f"{scope}/{node.op_type}" if scope else node.op_type)


def _values(model: ir.Model, nodes: list[ir.Node]) -> list[ir.Value]:
    graphs = list(model.graphs())
    return [
        *(value for graph in graphs for value in (*graph.inputs, *graph.initializers.values())),
        *(value for node in nodes for value in node.outputs),
    ]


def _weight_name(node: ir.Node, index: int, opsets: dict[str, int]) -> str:
    module = module_of(node)
    if module and node.op_type in ("MatMul", "Gemm") and index == 1:
        return f"{module}.weight"
    return f"{node.name}.{_role(node, index, opsets)}"


def _role(node: ir.Node, index: int, opsets: dict[str, int]) -> str:
    """What the operator's definition calls its input: `shape`, `axes`, `starts`, ..."""
    try:
        formal = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain).inputs
    except onnx.defs.SchemaError:
        return f"input_{index}"
    return str(formal[index].name) if index < len(formal) else f"{formal[-1].name}_{index}"
