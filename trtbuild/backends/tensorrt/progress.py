"""How far a build is, from TensorRT's progress monitor: one line a second at most, with the time that is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt


class Progress:
    """The phases of a build. TensorRT calls it from its own threads."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._mutex = threading.Lock()
        self._phases: dict[str, tuple[int, float]] = {}
        self._last_said = float("-inf")

    def started(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of this many steps begins. Phases inside another are its steps, and are not told."""
        with self._mutex:
            if not parent:
                self._phases[phase] = (steps, self._clock())
                self._say(f"{phase}: {steps} steps")

    def stepped(self, phase: str, step: int) -> None:
        """Step number `step`, from 0, of a phase is done."""
        with self._mutex:
            now = self._clock()
            if phase not in self._phases or now - self._last_said < 1:
                return
            self._last_said = now
            steps, began = self._phases[phase]
            done = min(step + 1, steps)
            if done:
                left_s = (now - began) / done * (steps - done)
                self._say(f"{phase}: {done} of {steps}, about {left_s:.0f} s left")

    def finished(self, phase: str) -> None:
        """A phase ended, also where it was cut short."""
        with self._mutex:
            if phase in self._phases:
                _, began = self._phases.pop(phase)
                self._say(f"{phase}: done in {self._clock() - began:.1f} s")


def watch(trt: Any, config: tensorrt.IBuilderConfig) -> Any | None:
    """Print the progress of a build with this configuration, where this version tells it (not 8.6).

    The monitor returned must live until the build is over.
    """
    if not hasattr(trt, "IProgressMonitor"):
        return None
    progress = Progress(lambda line: print(line, flush=True))

    class _Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # TensorRT carries no types
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.started(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress.stepped(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            progress.finished(phase_name)

    monitor = _Monitor()
    config.progress_monitor = monitor
    return monitor
