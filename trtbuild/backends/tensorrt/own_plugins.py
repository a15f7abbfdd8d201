"""Our own operators in a graph, handed to TensorRT as plugins before it parses: the rest of the engine needs nothing.

They ship with trtbuild and are trusted as it is. Libraries that a recipe names are another matter: `engine.plugins`.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from trtbuild.backends.tensorrt.library import quick_plugins
from trtbuild.core.gpu import Device
from trtbuild.plugins import glue
from trtbuild.plugins.kernels import operators

ALIASING = "ALIASED_PLUGIN_IO_10_03"
"""The preview feature without which TensorRT ignores that a plugin's output is its input."""


def used_in(graph: ir.Graph) -> list[str]:
    """The operators of a graph that we have kernels for, by name."""
    known = operators()
    nodes = (node for node in graph if node.op_type in known and node.domain == known[node.op_type][0].namespace)
    return sorted({node.op_type for node in nodes})


def register(trt: Any, graph: ir.Graph, device: Device, preview_features: list[str]) -> list[str]:
    """Register what the graph uses; returns the operators' names.

    A TensorRT before 10.9 cannot embed kernels: it reads the operators' bodies, in standard operators, instead. With
    the preview feature `ALIASING` among an engine's options, caches are declared as aliases of their outputs.
    """
    names = used_in(graph)
    if not names:
        return []
    if not hasattr(trt, "QuickPluginCreationRequest"):
        print(f"TensorRT {trt.__version__} embeds no kernels: {', '.join(names)} as standard operators", flush=True)
        return []
    glue.register(quick_plugins(), names, device, aliased=ALIASING in preview_features)
    print(f"our own plugins, embedded in the engine: {', '.join(names)}", flush=True)
    return names
