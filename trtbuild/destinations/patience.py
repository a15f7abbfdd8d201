"""How often, and how long, to try again: briefly until a place has answered once, then as long as there is progress."""

from __future__ import annotations

import random
import time

from trtbuild.destinations.protocol import Interrupted

FIRST_CONTACT_S = 4.0
"""Until a place has answered once. A place that never answers is then known within ten seconds."""
WITHOUT_PROGRESS_S = 120.0
"""After that, without a byte of progress."""
_FIRST_WAIT_S, _MOST_WAIT_S = 0.1, 10.0


class Patience:
    """One destination's. Waits grow by half to twofold, at random, so that many clients do not come back at once."""

    def __init__(self) -> None:
        self._reached = False
        self._failures = 0
        self._since = time.monotonic()

    def begin(self) -> None:
        """Start the clock of another piece of work."""
        self._failures, self._since = 0, time.monotonic()

    def progressed(self) -> None:
        """The place answered, or a byte arrived."""
        self._reached = True
        self.begin()

    def wait(self, error: Interrupted) -> None:
        """Wait before another try. Raises the error where patience is at its end."""
        self._reached |= error.answered
        limit_s = WITHOUT_PROGRESS_S if self._reached else FIRST_CONTACT_S
        wait_s = max(_FIRST_WAIT_S * 2**self._failures * random.uniform(0.75, 1.5), error.retry_after_s)  # noqa: S311
        wait_s = min(wait_s, max(_MOST_WAIT_S, error.retry_after_s))
        self._failures += 1
        if time.monotonic() - self._since + wait_s > limit_s:
            raise error
        time.sleep(wait_s)
