"""A model version into a live Triton repository: whole or not at all, and back again.

    models/minilm/config.pbtxt
    models/minilm/1/model.onnx
    .trtbuild/stage/<random>/       beside `models`, never in it: a server in poll mode loads whatever it finds there
    .trtbuild/minilm.lock           held while a version goes in or out
    .trtbuild/minilm/1.pbtxt        the configuration that came with each version, for a roll-back
    .trtbuild/minilm/withdrawn/2/   what a server refused, or a person rolled back

Inside a model's folder any new entry makes a polling server load the model again, so a version appears there complete,
by one rename. [measured with Triton 2.51]
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from trtbuild.core.disk import discard, explained, flush, sha256_of
from trtbuild.core.errors import StoreError
from trtbuild.triton.server import Server

CONFIG = "config.pbtxt"


@dataclass(frozen=True)
class Published:
    """What happened."""

    model: str
    version: int
    folder: Path
    removed: list[int]
    """Versions that were older than is kept."""
    live: bool
    """Whether a server said that it serves it."""


class Repository:
    """A folder that Triton serves, or will."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._own = self.root.parent / ".trtbuild"

    def versions(self, model: str) -> list[int]:
        """The versions of a model, ascending; Triton reads folders named by numbers that do not begin with 0."""
        folder = self.root / model
        names = [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
        return sorted(int(name) for name in names if name.isdigit() and not name.startswith("0"))

    def publish(
        self, model: str, config: str, write: Callable[[Path], object], *, keep: int, server: Server | None = None
    ) -> Published:
        """Add a version that `write` fills, and its configuration; with a server, wait until it serves the version.

        Nothing is added where the newest version is this very one already.

        Raises StoreError where it cannot be written, or the server refuses it: then the repository is as before, and
        the server serves what it served.
        """
        with self._staged() as stage, self._locked(model):
            write(stage)
            _flush_all(stage)
            present = self.versions(model)
            if present and self._config_of(model) == config and _same(stage, self.root / model / str(present[-1])):
                if server is not None and (reason := _bring_up(server, model, present[-1])) is not None:
                    raise StoreError(f"the server at {server.url} does not serve {model}: {reason}")
                return Published(model, present[-1], self.root / model, [], live=server is not None)
            version = max([*present, *self._withdrawn(model)], default=0) + 1
            before = self._config_of(model)
            self._remember(model, version, config)
            if before is None:
                self._add_model(model, version, config, stage)
            else:
                _write_whole(self.root / model / CONFIG, config, self._own)
                stage.rename(self.root / model / str(version))
                flush(self.root / model)
            if server is not None and (reason := _bring_up(server, model, version)) is not None:
                self._withdraw(model, version, before)
                if before is not None:
                    server.load(model)
                raise StoreError(
                    f"the server at {server.url} refuses {model} version {version}: {reason}",
                    hint="the version was taken back; what was served before still is",
                )
            removed = [*present, version][:-keep]
            for each in removed:
                self._move_out(model, each)
                discard(self._own / model / "withdrawn" / str(each))
        return Published(model, version, self.root / model, removed, live=server is not None)

    def roll_back(self, model: str, *, server: Server | None = None) -> int:
        """Take the newest version back, with the configuration that the one before came with. Returns the version that
        is newest now. Raises StoreError where there is none before it, or the server refuses that."""
        with self._locked(model):
            present = self.versions(model)
            if len(present) < 2:
                raise StoreError(
                    f"{self.root / model} has {'one version' if present else 'no version'}: nothing to roll back to",
                    hint="publish another engine instead",
                )
            version = present[-2]
            self._withdraw(model, present[-1], self._remembered(model, version) or self._config_of(model))
            if server is not None and (reason := _bring_up(server, model, version)) is not None:
                raise StoreError(f"the server at {server.url} does not serve {model} version {version}: {reason}")
            return version

    def _add_model(self, model: str, version: int, config: str, stage: Path) -> None:
        """A model that is new here appears with its first version, by one rename."""
        whole = stage.with_name(f"{stage.name}.model")
        whole.mkdir()
        try:
            stage.rename(whole / str(version))
            (whole / CONFIG).write_text(config)
            flush(whole / CONFIG)
            flush(whole)
            whole.rename(self.root / model)
            flush(self.root)
        finally:
            discard(whole)

    def _withdraw(self, model: str, version: int, config: str | None) -> None:
        """Take a version out; with no configuration before it, the whole model."""
        self._move_out(model, version)
        if config is None:
            discard(self.root / model)
        else:
            _write_whole(self.root / model / CONFIG, config, self._own)

    def _move_out(self, model: str, version: int) -> None:
        out = self._own / model / "withdrawn" / str(version)
        out.parent.mkdir(parents=True, exist_ok=True)
        (self.root / model / str(version)).rename(out)
        flush(self.root / model)

    def _withdrawn(self, model: str) -> list[int]:
        folder = self._own / model / "withdrawn"
        return [int(entry.name) for entry in folder.iterdir()] if folder.is_dir() else []

    def _config_of(self, model: str) -> str | None:
        file = self.root / model / CONFIG
        return file.read_text() if file.is_file() else None

    def _remember(self, model: str, version: int, config: str) -> None:
        folder = self._own / model
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{version}.pbtxt").write_text(config)

    def _remembered(self, model: str, version: int) -> str | None:
        file = self._own / model / f"{version}.pbtxt"
        return file.read_text() if file.is_file() else None

    @contextmanager
    def _staged(self) -> Iterator[Path]:
        stage = self._own / "stage" / uuid.uuid4().hex
        try:
            with explained(self.root):
                self.root.mkdir(parents=True, exist_ok=True)
                stage.mkdir(parents=True)
                yield stage
        finally:
            discard(stage)

    @contextmanager
    def _locked(self, model: str) -> Iterator[None]:
        self._own.mkdir(parents=True, exist_ok=True)
        with FileLock(self._own / f"{model}.lock"):
            yield


def _bring_up(server: Server, model: str, version: int) -> str | None:
    return server.load(model) or server.wait_ready(model, version)


def _write_whole(file: Path, text: str, beside: Path) -> None:
    """Replace a file by one rename; the new one is written outside the repository."""
    if file.is_file() and file.read_text() == text:
        return  # a polling server would load the model again for nothing
    new = beside / f"{uuid.uuid4().hex}.pbtxt"
    new.write_text(text)
    flush(new)
    os.replace(new, file)


def _same(new: Path, old: Path) -> bool:
    """Whether two version folders hold the same files; what Python compiles beside a model does not count."""

    def digests(folder: Path) -> dict[str, str]:
        files = (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        return {str(file.relative_to(folder)): sha256_of(file) for file in files}

    return digests(new) == digests(old)


def _flush_all(folder: Path) -> None:
    for entry in folder.rglob("*"):
        flush(entry)
    flush(folder)
