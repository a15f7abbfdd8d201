"""Which nodes a pattern names, where nodes are to stay in FP32.

A pattern is a node's name (`encoder.layer.0.dense/MatMul`) or a module path (`encoder.layer.0.dense`, all nodes of that
very module), either with `*` and `?`, which also match dots and slashes.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from trtbuild.core.errors import ModelError
from trtbuild.graph.naming import module_of


def pinned(graph: ir.Graph, patterns: Sequence[str]) -> list[str]:
    """Names of the nodes that patterns match, in the graph's order. Raises ModelError for one that matches none."""
    modules = {node.name: module_of(node) for node in graph if node.name}
    chosen: set[str] = set()
    for pattern in patterns:
        matched = {
            name
            for name, module in modules.items()
            if fnmatchcase(name, pattern) or (module and fnmatchcase(module, pattern))
        }
        if not matched:
            known = sorted({*modules, *filter(None, modules.values())})
            close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4) or known[:3]
            raise ModelError(
                f"keep_fp32: no node and no module matches {pattern!r}", hint=f"did you mean {', '.join(close)}?"
            )
        chosen |= matched
    return [name for name in modules if name in chosen]


def patterns_of(graph: ir.Graph, nodes: Collection[str]) -> list[str]:
    """The shortest patterns that match exactly these nodes: a module's path where all of the module's nodes are
    among them, else the nodes' names."""
    members: dict[str, list[str]] = {}
    for node in graph:
        if node.name:
            members.setdefault(module_of(node), []).append(node.name)
    found: list[str] = []
    for module, names in members.items():
        chosen = [name for name in names if name in nodes]
        whole = bool(module) and len(chosen) == len(names) and _is_plain(module)
        found += [module] if whole else map(_escaped, chosen)
    return found


def _is_plain(path: str) -> bool:
    return not any(mark in path for mark in "*?[")


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
