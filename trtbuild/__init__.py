"""trtbuild: one recipe in, a validated engine out.

    import trtbuild
    report = trtbuild.build("recipes/minilm", store=Path("store"))

The functions are imported when first used, so that importing trtbuild costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "advise": "trtbuild.pipeline.advise",
    "bench": "trtbuild.pipeline.bench",
    "build": "trtbuild.pipeline.build",
    "build_and_repair": "trtbuild.pipeline.repair",
    "examine": "trtbuild.pipeline.doctor",
    "explain": "trtbuild.pipeline.explain",
    "inspect": "trtbuild.pipeline.inspect",
    "keygen": "trtbuild.pipeline.sign",
    "load": "trtbuild.recipe.load",
    "package": "trtbuild.pipeline.package",
    "promote": "trtbuild.pipeline.promote",
    "publish": "trtbuild.pipeline.publish",
    "pull": "trtbuild.pipeline.pull",
    "rollback": "trtbuild.pipeline.promote",
    "sign": "trtbuild.pipeline.sign",
    "verify": "trtbuild.pipeline.sign",
    "versions": "trtbuild.pipeline.promote",
}

__all__ = [
    "advise",
    "bench",
    "build",
    "build_and_repair",
    "examine",
    "explain",
    "inspect",
    "keygen",
    "load",
    "package",
    "promote",
    "publish",
    "pull",
    "rollback",
    "sign",
    "verify",
    "versions",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'trtbuild' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
