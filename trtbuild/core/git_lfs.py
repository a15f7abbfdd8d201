"""Git LFS pointers: small text files that stand where a large one was never pulled."""

from __future__ import annotations

from pathlib import Path

_POINTER = b"version https://git-lfs"
"""What a pointer starts with (Git LFS specification, "The Pointer")."""


def is_pointer(file: Path) -> bool:
    """Whether Git LFS left its pointer here instead of the file."""
    with file.open("rb") as stored:
        return stored.read(len(_POINTER)) == _POINTER
