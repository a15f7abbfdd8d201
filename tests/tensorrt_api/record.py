"""Write down the interface of the TensorRT bindings that can be imported, as JSON: `python record.py`.

The bindings need TensorRT's libraries to be loadable, real ones or the empty ones of `stub_libraries.py`: no object is
made, so neither computes anything.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

CLASSES = (
    "Builder",
    "IBuilderConfig",
    "INetworkDefinition",
    "OnnxParser",
    "ParserError",
    "Runtime",
    "ICudaEngine",
    "IExecutionContext",
    "IOptimizationProfile",
    "ITimingCache",
    "IHostMemory",
    "EngineInspector",
    "IPluginRegistry",
    "IPluginCreator",
    "IProgressMonitor",
    "IOutputAllocator",
    "IProfiler",
    "ILogger",
    "ILayer",
    "ITensor",
)
"""What our code holds in its hands; every enumeration is recorded beside them."""


def record(trt: Any) -> dict[str, Any]:
    """Classes with their members, enumerations with their numbers, and the module's functions."""
    names = [name for name in dir(trt) if not name.startswith("_")]
    enumerations = {name: getattr(trt, name) for name in names if hasattr(getattr(trt, name), "__members__")}
    return {
        "version": trt.__version__,
        "names": names,
        "enumerations": {
            name: {member: int(value) for member, value in kind.__members__.items()}
            for name, kind in enumerations.items()
        },
        "classes": {name: _members(getattr(trt, name)) for name in CLASSES if hasattr(trt, name)},
        "functions": {
            name: signatures(getattr(trt, name), name) for name in ("init_libnvinfer_plugins", "get_plugin_registry")
        },
    }


def signatures(function: Any, name: str) -> list[list[str]]:
    """The parameters of each overload in a pybind11 docstring, `=` behind those with a default; none for properties."""
    found = []
    for line in (getattr(function, "__doc__", "") or "").splitlines():
        match = re.match(rf"\s*(?:\d+\. )?{re.escape(name)}\((.*)\)(?: -> .*)?$", line)
        if match and not match[1].startswith("*args"):  # the heading of several overloads
            found.append([_parameter(text) for text in _split(match[1]) if text.split(":")[0] != "self"])
    return found


def _members(kind: Any) -> dict[str, list[list[str]]]:
    return {
        name: signatures(value, name)
        for name, value in sorted(vars(kind).items())
        if name == "__init__" or not name.startswith("_")
    }


def _parameter(text: str) -> str:
    name = text.partition(":")[0].strip()
    return f"{name}=" if " = " in text else name


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character in "([<{") - (character in ")]>}")
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    return [*parts, current.strip()] if current.strip() else parts


if __name__ == "__main__":
    try:
        import tensorrt_bindings as trt
    except ModuleNotFoundError:
        import tensorrt as trt
    json.dump(record(trt), sys.stdout, indent=None, sort_keys=True, separators=(",", ":"))
    sys.stdout.write("\n")
