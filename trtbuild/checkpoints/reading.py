"""The tensors of a checkpoint by name, each read when it is asked for: 20 GB take one tensor of memory.

`.safetensors` are mapped from disk. PyTorch's own files are unpickled with `weights_only`, which builds tensors and
plain containers and calls nothing else [PyTorch, torch.load], and are mapped too where they are zip files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from trtbuild.core import git_lfs
from trtbuild.core.errors import ModelError

PYTORCH = (".pt", ".pth", ".bin", ".ckpt")
INDEXES = (
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)


class Checkpoint(Mapping[str, torch.Tensor]):
    """Tensors by name, and for each a function that reads it."""

    def __init__(
        self,
        place: Path,
        readers: Mapping[str, Callable[[], torch.Tensor]],
        quantized: Mapping[str, Callable[[], Any]] | None = None,
    ) -> None:
        self.place = place
        self.quantized = dict(quantized or {})
        """By name of a weight that was quantized before, a function that reads its codes
        (`trtbuild.checkpoints.quantized`)."""
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def renamed(self, rename: Callable[[str], str | None]) -> Checkpoint:
        """The same tensors by other names; those for which `rename` returns None are left out."""
        readers, quantized = (
            {new: reader for name, reader in each.items() if (new := rename(name)) is not None}
            for each in (self._readers, self.quantized)
        )
        return Checkpoint(self.place, readers, quantized)

    def replaced(
        self,
        gone: set[str],
        made: Mapping[str, Callable[[], torch.Tensor]],
        quantized: Mapping[str, Callable[[], Any]] | None = None,
    ) -> Checkpoint:
        """Without some tensors, and with others that are made from them, some of them out of `quantized` codes."""
        readers, codes = (
            {name: each for name, each in found.items() if name not in gone}
            for found in (self._readers, self.quantized)
        )
        return Checkpoint(self.place, readers | dict(made), codes | dict(quantized or {}))


def read_checkpoint(place: str | Path | Sequence[str], *, inside: str = "") -> Checkpoint:
    """The tensors of a checkpoint as they are stored: of a file, of the files of its shards, or of a folder with one or
    with an index of shards.

    `inside` names the entry of a PyTorch file that holds them, such as `generator` or `model.ema`. Raises ModelError
    where a file is missing, damaged, a Git-LFS pointer, holds more than tensors, or lies outside its folder.
    """
    files = _files(Path(place)) if isinstance(place, str | Path) else [Path(file) for file in place]
    files = [file for file in files if file.suffix != ".json"]
    readers: dict[str, Callable[[], torch.Tensor]] = {}
    for file in files:
        if not file.is_file():
            raise ModelError(f"there is no checkpoint {file}", hint="correct the path, or copy the missing file")
        if git_lfs.is_pointer(file):
            raise ModelError(
                f"{file} is a Git-LFS pointer, not the file itself", hint=f"cd {file.parent} && git lfs pull"
            )
        readers |= _safetensors(file) if file.suffix == ".safetensors" else _pytorch(file, inside)
    return Checkpoint(files[0] if len(files) == 1 else files[0].parent, readers)


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    for index in (place / name for name in INDEXES):
        if index.is_file():
            return [_inside(place, name, index) for name in _shards(index)]
    found = sorted(place.glob("*.safetensors")) or sorted(file for file in place.iterdir() if file.suffix in PYTORCH)
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ModelError(
            f"{place} should hold one checkpoint or an index of shards, there is: {names}", hint="name the file"
        )
    return found


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is no index of weight shards: {error}", hint="copy it again") from error


def _inside(folder: Path, name: str, index: Path) -> Path:
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()) and not folder.is_symlink():
        raise ModelError(f"{index} names {name}, which lies outside its folder", hint="do not trust this checkpoint")
    return file


def _safetensors(file: Path) -> dict[str, Callable[[], torch.Tensor]]:
    try:
        opened: Any = safe_open(file, framework="pt")
        return {name: _reader(opened, name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file} is damaged: {error}", hint="copy it again") from error


def _reader(opened: Any, name: str) -> Callable[[], torch.Tensor]:
    return lambda: opened.get_tensor(name)


def _pytorch(file: Path, inside: str) -> dict[str, Callable[[], torch.Tensor]]:
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except Exception as error:  # whatever a damaged or hostile file makes the unpickler raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"{file} holds more than weights, or is damaged: {reason}",
            hint="nothing in it was run; save its state_dict alone, best as safetensors",
        ) from error
    for part in filter(None, inside.split(".")):
        if not isinstance(content, Mapping) or part not in content:
            found = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
            raise ModelError(f"{file} has no entry {inside!r}", hint=f"it holds {found[:300]}")
        content = content[part]
    if not isinstance(content, Mapping):
        raise ModelError(f"{file} holds a {type(content).__name__}, not tensors by name", hint="save its state_dict")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        entries = ", ".join(map(str, content))
        raise ModelError(
            f"{file} holds no tensors by name, but {entries[:300]}", hint="name the entry that does: inside="
        )
    return {name: (lambda value=value: value) for name, value in tensors.items()}  # type: ignore[misc]  # binds value


def _is_zip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"
