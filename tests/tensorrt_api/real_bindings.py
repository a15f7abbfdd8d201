"""A Python process with the real bindings, imported over the empty libraries of `stub_libraries`."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.tensorrt_api import stub_libraries

REAL = importlib.util.find_spec("tensorrt_bindings")
"""Where the bindings lie; None where they are not installed."""


def run(folder: Path, *arguments: str, given: str = "") -> str:
    """What Python prints with these arguments. The libraries are written to `folder`."""
    assert REAL is not None
    assert REAL.origin is not None
    version = re.search(r'^__version__ = "(\d+)', Path(REAL.origin).read_text(), re.MULTILINE)
    assert version
    stub_libraries.write(folder, version[1])
    root = Path(__file__).parents[2]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(root)}
    answer = subprocess.run(
        [sys.executable, *arguments], env=environment, input=given, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout
