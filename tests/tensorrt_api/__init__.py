"""TensorRT's Python interface as its real bindings have it, version by version: names and signatures, no behaviour.

Each `<version>.json` was written by `record.py` from NVIDIA's own bindings of that version (8.6.0 from the `tensorrt`
wheel, the others from `tensorrt-cu12-bindings` and `tensorrt-cu13-bindings`). A check against them is a check of names
and signatures, not a build.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def records() -> dict[str, Any]:
    """Each version's record, oldest first."""
    loaded = [json.loads(file.read_text()) for file in HERE.glob("*.json")]
    return {
        each["version"]: each for each in sorted(loaded, key=lambda each: [int(n) for n in each["version"].split(".")])
    }
