"""Ordinary operators in the place of `CausalAttention`, for tools that would run or type the graph and know only those.

ModelOpt's AutoCast is one: an operator of another domain makes it ask for TensorRT. The stand-in computes no attention,
but its output has attention's shape and is no greater than what goes in, so ranges behind it stay in proportion.
"""

from __future__ import annotations

import onnx_ir as ir

from trtbuild.core.errors import ModelError
from trtbuild.graph.kv_cache.operators import CAUSAL, DOMAIN, VERSION


def conceal(model: ir.Model) -> None:
    """Replace each `CausalAttention`, in place, by the mean of its query, key and value, under the same node name."""
    for node in _attentions(model):
        query, key, value, _ = node.inputs
        assert query is not None
        before = [_over_all_heads(node, role, of, query) for role, of in (("key", key), ("value", value))]
        mean = ir.node("Mean", [query, *(entry.outputs[0] for entry in before)], name=node.name)
        _replace(model.graph, node, [*before, mean])
    model.opset_imports.pop(DOMAIN, None)


def reveal(model: ir.Model, original: ir.Model) -> None:
    """Put each `CausalAttention` of `original` back where its stand-in is now, in place.

    Types may have changed on the way: the node takes what the stand-in takes. Raises ModelError where one is gone.
    """
    nodes = {node.name: node for node in model.graph}
    inputs = {value.name: value for value in model.graph.inputs}
    for known in _attentions(original):
        past = known.inputs[CAUSAL.inputs.index("past")]
        mean = nodes.get(known.name)
        before = [nodes.get(f"{known.name}/{role}") for role in ("key", "value")]
        if mean is None or None in before or past is None or past.name not in inputs:
            raise ModelError(f"{known.name} did not survive the change of the graph's types", hint="build in fp32")
        key, value = (entry.inputs[0] for entry in before if entry is not None)
        back = ir.node(
            CAUSAL.name,
            [mean.inputs[0], key, value, inputs[past.name]],
            attributes={name: attribute.value for name, attribute in known.attributes.items()},
            domain=DOMAIN,
            version=VERSION,
            name=known.name,
        )
        _replace(model.graph, mean, [back])
        for entry in before:
            if entry is not None:
                _remove_with_casts(model.graph, entry)
    model.opset_imports[DOMAIN] = VERSION


def _attentions(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.domain == DOMAIN and node.op_type == CAUSAL.name]


def _over_all_heads(node: ir.Node, role: str, heads: ir.Value | None, query: ir.Value) -> ir.Node:
    """Key or value as often as query heads share it; the order of heads does not matter here."""
    assert heads is not None and heads.shape is not None and query.shape is not None  # noqa: PT018
    count, shared = query.shape[1], heads.shape[1]
    if not isinstance(count, int) or not isinstance(shared, int):
        raise ModelError(f"{node.name}: the numbers of query and {role} heads are unknown")
    return ir.node("Concat", [heads] * (count // shared), attributes={"axis": 1}, name=f"{node.name}/{role}")


def _replace(graph: ir.Graph, old: ir.Node, new: list[ir.Node]) -> None:
    value, output = old.outputs[0], new[-1].outputs[0]
    output.name, output.type, output.shape = value.name, value.type, value.shape
    for node in new[:-1]:
        node.outputs[0].name = f"{node.name}:0"
    graph.insert_before(old, new)
    ir.convenience.replace_all_uses_with(value, output)
    graph.remove(old, safe=True)


def _remove_with_casts(graph: ir.Graph, node: ir.Node) -> None:
    """Remove a node that nobody needs any more, behind the casts that nobody needs either."""
    for use in list(node.outputs[0].uses()):
        _remove_with_casts(graph, use.node)
    graph.remove(node, safe=True)
