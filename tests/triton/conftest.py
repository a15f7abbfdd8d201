"""A built engine and the real server's files, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from tests.models import write_tiny_recipe
from tests.triton.server import unpacked
from trtbuild.pipeline.build import build

CACHE = Path(__file__).parents[2] / ".pytest_cache" / "tritonserver"


@pytest.fixture(scope="session")
def triton_home() -> Path:
    """The server's files; several test processes share them."""
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{CACHE}.lock"):
        return unpacked(CACHE)


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny engine of ONNX Runtime."""
    folder = tmp_path_factory.mktemp("engine")
    build(write_tiny_recipe(folder / "tiny"), store=folder / "store", output=folder / "engines")
    return folder / "engines" / "tiny" / "fp32"
