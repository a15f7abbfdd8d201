"""A build as it happens: on a terminal the running steps with their clocks, elsewhere a line an event."""

from __future__ import annotations

import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from trtbuild.core.events import Listener, StepName

_WIDTH = 58
"""Columns for a stage's sentence."""


class Progress(Listener):
    """Writes to standard error, so that standard output stays the result's. Use as a context manager."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._verbose = verbose
        self._running: dict[str, tuple[StepName, float, Spinner]] = {}
        self._reasons: dict[str, str] = {}
        self._done = self._total = self._reused = 0
        self._live = Live(get_renderable=self._picture, console=self._console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()
        if self._reused and self._reused == self._total:
            self._say("[green]=[/] nothing ran: none of the things the steps depend on changed")
        elif self._reused and not self._verbose:
            self._say(f"[green]=[/] {self._reused} of {self._total} steps reused: nothing they depend on changed")

    def planned(self, steps: list[StepName]) -> None:
        """Know how many more steps there are."""
        self._total += len(steps)

    def waiting(self, step: StepName) -> None:
        """Say that another build is at it."""
        self._say(f"[yellow]…[/] {step.name}: another build is running this step; waiting for its result")

    def started(self, step: StepName, reason: str) -> None:
        """Start the step's clock."""
        self._running[step.name] = (step, time.monotonic(), Spinner("dots"))
        self._reasons[step.name] = reason
        if not self._console.is_terminal or self._verbose:
            self._say(f"[blue]>[/] {step.name}: {step.sentence.lower()} [dim]({escape(reason)})[/]")

    def reused(self, step: StepName, reason: str) -> None:
        """Count it; say it only when asked to."""
        self._done += 1
        self._reused += 1
        if self._verbose:
            self._say(f"[green]=[/] {step.name}: reused, {reason}")

    def finished(self, step: StepName, elapsed_s: float) -> None:
        """Write its line for good."""
        self._done += 1
        self._running.pop(step.name, None)
        why = self._reasons.get(step.name, "")
        why = why if len(why) <= 60 else f"{why[:57]}..."
        done = f"[green]✓[/] {step.name:<28} {step.sentence.lower():<{_WIDTH}}"
        self._say(f"{done} [dim]{elapsed_s:6.1f} s  {escape(why)}[/]")

    def failed(self, step: StepName, message: str) -> None:
        """Write its line for good; the error itself comes at the end."""
        self._running.pop(step.name, None)
        self._say(f"[red]✗[/] {step.name:<28} {step.sentence.lower()}")

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def _picture(self) -> RenderableType:
        now = time.monotonic()
        rows = Table.grid(padding=(0, 1))
        for step, began, spinner in self._running.values():
            rows.add_row(
                spinner, f"{step.name:<26}", f"{step.sentence.lower():<{_WIDTH}}", Text(f"{now - began:6.1f} s", "dim")
            )
        return Group(rows, Text(f"{self._done} of {self._total} steps", "dim"))
