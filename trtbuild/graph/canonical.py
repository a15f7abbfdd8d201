"""One spelling for one model: what depends on where and how it was exported leaves, names follow module paths."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from trtbuild.graph import naming
from trtbuild.graph.initializers import drop_unused, is_unknown


def canonicalize(model: ir.Model) -> None:
    """Bring a model into canonical form, in place: equal models have equal bytes from any folder or machine.

    Doing it twice changes nothing, so names survive tools that drop metadata. Model-local functions stay functions:
    a backend may know them by name. Weights are not read.
    """
    common.RemoveInitializersFromInputsPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for graph in model.graphs():
        drop_unused(graph)
    common.RemoveUnusedOpsetsPass()(model)
    naming.rename(model)
    common.ClearMetadataAndDocStringPass()(model)
    _forget_origin(model)
    for graph in model.graphs():
        _order_initializers(graph)
    for node in model.graph.all_nodes():
        _order_attributes(node)


def _forget_origin(model: ir.Model) -> None:
    """Drop who wrote the file, descriptions that the metadata pass leaves on values, and false names of lengths."""
    model.producer_name = model.producer_version = model.domain = model.doc_string = None
    model.model_version = None
    model.metadata_props.clear()
    for graph in model.graphs():
        graph.doc_string = None
        graph.metadata_props.clear()
        values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
        for value in values:
            value.doc_string = None
            value.metadata_props.clear()
            if value.shape is not None and any(map(is_unknown, value.shape)):
                # One name for all unknown lengths would tell runtimes that they are equal.
                value.shape = ir.Shape([None if is_unknown(dim) else dim for dim in value.shape])


def _order_initializers(graph: ir.Graph) -> None:
    """In the order of their first use, which is also the order in which a runtime reads them from disk."""
    used = {
        value: None
        for node in graph.all_nodes()
        for value in node.inputs
        if value is not None and value.graph is graph and value.is_initializer()
    }
    ordered = [*used, *(value for value in graph.initializers.values() if value not in used)]
    graph.initializers.clear()
    for value in ordered:
        graph.register_initializer(value)


def _order_attributes(node: ir.Node) -> None:
    ordered = sorted(node.attributes.values(), key=lambda attribute: attribute.name)
    node.attributes.clear()
    for attribute in ordered:
        node.attributes[attribute.name] = attribute
