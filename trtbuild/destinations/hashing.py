"""A sha256 computed beside the reading: hashlib lets go of the interpreter's lock, so that another core does it."""

from __future__ import annotations

import hashlib
from queue import Queue
from threading import Thread

_WAITING = 8
"""Chunks that may wait: with chunks of a mebibyte, what a slow core costs in memory."""


class BackgroundSha256:
    """Give it chunks, which must not change afterwards; ask for the digest at the end. Use as a context manager."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._queue: Queue[bytes | None] = Queue(_WAITING)
        self._thread = Thread(target=self._work, name="sha256", daemon=True)

    def __enter__(self) -> BackgroundSha256:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def update(self, chunk: bytes) -> None:
        """Take one chunk."""
        self._queue.put(chunk)

    def hexdigest(self) -> str:
        """The digest of all chunks; none may follow."""
        self._end()
        return self._digest.hexdigest()

    def _end(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (chunk := self._queue.get()) is not None:
            self._digest.update(chunk)
