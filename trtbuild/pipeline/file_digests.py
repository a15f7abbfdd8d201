"""The digest of a file, computed once: a table from (path, size, times, inode) to sha256; and what ONNX files name.

Hashing a 90 MB checkpoint takes 60 ms, a 15 GB one ten seconds; the table makes every later plan instant. A file
changed within the same clock tick as its hash would be missed, so entries younger than two seconds are not stored.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from trtbuild.core.disk import sha256_of
from trtbuild.core.errors import ModelError
from trtbuild.core.file_names import distinct_names

_SETTLED_NS = 2_000_000_000


class FileDigests:
    """Remembers digests of files outside the store, in a sqlite table inside it."""

    def __init__(self, table: Path) -> None:
        self._table: sqlite3.Connection | None = None
        # Only a memory: where it is damaged or cannot be had, files are hashed each time and the build goes on.
        with contextlib.suppress(sqlite3.Error):
            self._table = sqlite3.connect(table, timeout=30, isolation_level=None, check_same_thread=False)
            self._table.execute("pragma synchronous=off")
            self._table.execute("create table if not exists digests (file text primary key, state text, sha256 text)")
            self._table.execute("create table if not exists external (sha256 text primary key, names text)")

    def of(self, file: Path) -> str:
        """The sha256 (hex) of a file's content. Raises ModelError where it cannot be read."""
        try:
            status = file.stat()
            state = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
            known = self._ask("select state, sha256 from digests where file = ?", str(file))
            if known and known[0] == state:
                return known[1]
            found = sha256_of(file)
        except OSError as error:
            raise ModelError(f"{file}: {error.strerror}", hint="the recipe names this file; check the path") from error
        if time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
            self._ask("insert or replace into digests values (?, ?, ?)", str(file), state, found)
        return found

    def with_external_data(self, file: Path) -> list[Path]:
        """An ONNX file and the external data that it names, which is asked of its bytes once.

        Raises ModelError where one of them cannot be read, or lies outside the model's folder.
        """
        digest, folder = self.of(file), file.parent.resolve()
        if known := self._ask("select names from external where sha256 = ?", digest):
            found = [(folder / name).resolve() for name in json.loads(known[0])]
            if all(each.is_relative_to(folder) and each.is_file() for each in found):
                return [file, *found]
        from trtbuild.graph import external_data  # heavy, and only for an ONNX file never met before

        found = external_data.locations(file)
        names = json.dumps([str(each.relative_to(folder)) for each in found])
        self._ask("insert or replace into external values (?, ?)", digest, names)
        return [file, *found]

    def _ask(self, statement: str, *values: str) -> tuple[str, ...] | None:
        with contextlib.suppress(sqlite3.Error):
            if self._table is not None:
                row: tuple[str, ...] | None = self._table.execute(statement, values).fetchone()
                return row
        return None

    def of_all(self, files: Iterable[Path], root: Path) -> dict[str, str]:
        """Digests by name relative to `root` where a file lies below it, else by a name that tells it from the rest."""
        listed = list(files)
        below = {file: str(file.relative_to(root)) for file in listed if file.is_relative_to(root)}
        outside = distinct_names((file for file in listed if file not in below), taken=set(below.values()))
        return {(below.get(file) or outside[file]): self.of(file) for file in listed}
