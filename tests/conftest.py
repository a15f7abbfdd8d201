"""What every test shares."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models import write_tiny_recipe


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A fresh store."""
    return tmp_path / "store"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A fresh copy of the tiny recipe."""
    return write_tiny_recipe(tmp_path / "tiny")
