"""What a shared library needs to be loaded: the names in the dynamic section of its ELF file.

[System V ABI, gabi 4.1: ELF header, program headers, dynamic section]
"""

from __future__ import annotations

import mmap
import struct
from itertools import takewhile
from pathlib import Path
from typing import IO

from trtbuild.core.errors import ModelError

_LOAD, _DYNAMIC = 1, 2
_NULL, _NEEDED, _STRTAB = 0, 1, 5
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_ENTRY = struct.Struct("<qQ")
_64_BIT_LITTLE_ENDIAN = b"\x7fELF\x02\x01"


def needed_by(file: Path) -> list[str]:
    """The libraries that a 64-bit little-endian ELF file is linked with, in the loader's order.

    Raises ModelError where it is no such file.
    """
    with file.open("rb") as stream, _mapped(stream, file) as content:
        return _needed(content, file)


def _mapped(stream: IO[bytes], file: Path) -> mmap.mmap:
    try:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise ModelError(f"{file} is an empty file", hint="build the plugin again") from error


def _needed(content: mmap.mmap, file: Path) -> list[str]:
    if content[: len(_64_BIT_LITTLE_ENDIAN)] != _64_BIT_LITTLE_ENDIAN:
        raise ModelError(f"{file} is no 64-bit shared library for Linux", hint="check engine.plugins")
    try:
        header = _HEADER.unpack_from(content)
        offset, entry_bytes, count = header[5], header[9], header[10]
        segments = [_SEGMENT.unpack_from(content, offset + number * entry_bytes) for number in range(count)]
        loads = [(virtual, at, size) for kind, _, at, virtual, _, size, _, _ in segments if kind == _LOAD]
        dynamic = next(content[at : at + size] for kind, _, at, _, _, size, _, _ in segments if kind == _DYNAMIC)
        entries = list(takewhile(lambda entry: entry[0] != _NULL, _ENTRY.iter_unpack(dynamic)))
        address = next(value for tag, value in entries if tag == _STRTAB)
        strings = next(at + address - virtual for virtual, at, size in loads if virtual <= address < virtual + size)
        return [_text(content, strings + value) for tag, value in entries if tag == _NEEDED]
    except (struct.error, StopIteration, ValueError) as error:
        raise ModelError(f"{file} is a damaged shared library", hint="build the plugin again") from error


def _text(content: mmap.mmap, start: int) -> str:
    return content[start : content.find(b"\0", start)].decode()
