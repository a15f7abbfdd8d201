"""Content as it moves: on a terminal a bar with bytes and rate for each, elsewhere a line for each."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from trtbuild.core.events import TransferListener
from trtbuild.reports.console import size

_SMALL_BYTES = 1 << 20
"""What is smaller moves in no time and gets no line."""


class Transfers(TransferListener):
    """Writes to standard error, so that standard output stays the result's. Use as a context manager."""

    def __init__(self, verb: str, *, quiet: bool = False) -> None:
        self._verb = verb
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._sizes: dict[str, int] = {}
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._done: set[str] = set()

    def __enter__(self) -> Transfers:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def announced(self, names: dict[str, int]) -> None:
        """Know the sizes."""
        self._sizes |= names

    def reached(self, name: str, position: int) -> None:
        """Move the bar; write a line when it is full."""
        total = self._sizes.get(name, 0)
        if total < _SMALL_BYTES or name in self._done:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total)
            self._began[name] = time.monotonic()
        self._bars.update(self._tasks[name], completed=position)
        if position >= total:
            self._done.add(name)
            elapsed_s = max(time.monotonic() - self._began[name], 1e-3)
            self._bars.remove_task(self._tasks[name])
            self._say(f"[green]✓[/] {self._verb} {name} [dim]{size(total)}, {size(total / elapsed_s)}/s[/]")

    def already_there(self, name: str) -> None:
        """Say it of what is large."""
        if self._sizes.get(name, 0) >= _SMALL_BYTES:
            self._say(f"[green]=[/] {name} is there already [dim]{size(self._sizes[name])}[/]")

    def interrupted(self, name: str, reason: str) -> None:
        """Say that it is tried again."""
        self._say(f"[yellow]…[/] {name}: {reason}; trying again")

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
