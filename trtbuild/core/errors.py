"""Every error a user can meet.

    TrtbuildError           exit 1   the root; anything below can be caught as this
      RecipeError                2   the recipe says something impossible (all problems at once, each with its place)
      ModelError                 3   the model source cannot be read, loaded or exported
      DataError                  4   calibration or evaluation data is missing or does not fit the shapes
      BackendMissing             5   a backend was asked for that this environment lacks
      StepFailed                 6   a step broke; names its job file and log
      StoreError                 7   the store cannot be written or does not verify
    a variant that fails a gate  8   (a result, not an exception; the exit code of `build` and `validate`)
      DestinationError           9   a registry cannot be reached, refuses, or lacks what was asked for
      VerificationError         10   a bundle is not what its manifest, its signature or its digest says
    Ctrl-C                     130

An error carries what happened and, as `hint`, the next thing to do. The CLI prints both and exits with `exit_code`;
only a bug in trtbuild shows a stack trace.
"""

from __future__ import annotations

from dataclasses import dataclass

GATE_FAILED_EXIT_CODE = 8
INTERRUPTED_EXIT_CODE = 130


class TrtbuildError(Exception):
    """Any failure that trtbuild explains."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe.

    `place` is `file:line`, `--set path=value` or a recipe path; `message` says what is wrong; `hint` what to write
    instead.
    """

    place: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class RecipeError(TrtbuildError):
    """A recipe says something impossible; carries every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: list[Problem] | str, *, hint: str = "") -> None:
        self.problems = [] if isinstance(problems, str) else list(problems)
        super().__init__(problems if isinstance(problems, str) else "\n".join(map(str, problems)), hint=hint)


class ModelError(TrtbuildError):
    """The model source cannot be read, loaded or exported."""

    exit_code = 3


class DataError(TrtbuildError):
    """Samples are missing, or do not fit the recipe's shapes."""

    exit_code = 4


class BackendMissing(TrtbuildError):
    """A step needs a backend whose libraries are not installed here."""

    exit_code = 5


class StepFailed(TrtbuildError):
    """A step broke: its process died, ran out of time, or raised something nobody explains."""

    exit_code = 6


class StoreError(TrtbuildError):
    """The store cannot be read or written, or holds something else than it promised."""

    exit_code = 7


class DestinationError(TrtbuildError):
    """A registry or object store cannot be reached, refuses the request, or lacks what was asked for."""

    exit_code = 9


class VerificationError(TrtbuildError):
    """A bundle, or what a registry sent, is not what its manifest, its signature or its digest says."""

    exit_code = 10


ERRORS_BY_NAME = {
    error.__name__: error
    for error in (
        TrtbuildError,
        RecipeError,
        ModelError,
        DataError,
        BackendMissing,
        StepFailed,
        StoreError,
        DestinationError,
        VerificationError,
    )
}
"""How an error crosses a process border: by its name (see `trtbuild.pipeline.job`)."""
