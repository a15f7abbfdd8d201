"""What living builds use, so that garbage collection leaves it alone.

    leases/<build>.lock  held by a build from its first look at the store to its last; free when it ended or died
    leases/<build>.used  what it read or made since then: keys of actions, digests of artifacts, one a line
    leases/guard         held for moments: by a build while it notes something, by garbage collection while it reads the
                         notes, decides, and moves what must go out of sight

A build notes what it wants first and looks whether it is there second: what it then finds stays. Whether a build lives
is asked of its lock, never of a process id, which another host or a later process may have.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

POLL_S = 0.01
"""How often the guard is tried: it is held for milliseconds."""


class Leases:
    """The leases of a store. One value is one build's, if it holds one; many threads may use it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: Path | None = None
        """Where this build notes what it uses."""

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Nobody else notes, begins, ends or collects meanwhile. Does not nest."""
        with FileLock(self._folder / "guard", thread_local=False, poll_interval=POLL_S):
            yield

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be a living build: what is noted inside is kept until the end."""
        file = self._folder / f"{os.getpid()}-{uuid.uuid4().hex[:12]}.lock"
        lock = FileLock(file, thread_local=False)
        with self.guarded():  # collection must not meet the file before it is locked
            lock.acquire()
            self._used = file.with_suffix(".used")
        try:
            yield
        finally:
            with self.guarded():
                _end(file)
                lock.release()
                self._used = None

    def note(self, *names: str) -> None:
        """Keep actions and artifacts, by key and digest, as long as this build lives; nothing where none is held."""
        if self._used is not None:
            with self.guarded(), self._used.open("a") as stream:
                stream.writelines(f"{name}\n" for name in names)

    def in_use(self) -> set[str]:
        """What living builds noted; what dead ones left here is removed. To be called under the guard."""
        found: set[str] = set()
        for file in self._folder.glob("*.lock"):
            try:
                with FileLock(file, thread_local=False).acquire(timeout=0):
                    _end(file)
            except Timeout:
                used = file.with_suffix(".used")
                found.update(used.read_text().split() if used.exists() else ())
        return found


def _end(file: Path) -> None:
    file.with_suffix(".used").unlink(missing_ok=True)
    file.unlink(missing_ok=True)
