"""Whether a PyTorch file holds data alone: told from its opcodes, without unpickling it and without PyTorch.

What a pickle can run, it must first name. `torch.save` writes a zip file whose `data.pkl` names, for tensors in plain
containers, the functions below and nothing else; `torch.load(weights_only=True)` allows the same.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path

from trtbuild.core.errors import DataError

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
_ALLOWED = re.compile(
    r"collections OrderedDict|torch Size|torch [A-Za-z0-9]+Storage|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (float|bfloat|int|uint|complex)\d+|torch bool"
)
_BY_NAME = {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}
"""Opcodes that name what they run in another way, which `torch.save` does not use."""


def check_plain(file: Path) -> None:
    """Raise DataError where a PyTorch file may run code when it is loaded, or cannot be told."""
    hint = "nothing in it was run; save tensors in plain dictionaries, or leave it out"
    try:
        with zipfile.ZipFile(file) as archive:
            (name,) = [each for each in archive.namelist() if each.endswith("data.pkl")]
            named = [
                (opcode.name, str(argument))
                for opcode, argument, _ in pickletools.genops(archive.read(name))
                if opcode.name in {"GLOBAL", *_BY_NAME}
            ]
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise DataError(f"{file} is no file of torch.save: {error}", hint=hint) from error
    if strange := [argument for opcode, argument in named if opcode in _BY_NAME or not _ALLOWED.fullmatch(argument)]:
        raise DataError(f"{file} holds more than data: it names {strange[0]}", hint=hint)
