"""What quantizing one module alone does, in every candidate format; and what a search made of it."""

from __future__ import annotations

from typing import Literal

from trtbuild.core.values import Result

HIGH = "high"
"""What stands for `left in high precision` where a candidate's name is expected."""


class LocalError(Result):
    """How a module's own output changes, over all its elements on all samples."""

    snr_db: float
    """10 log10 of the output's energy over the error's, at most 200."""
    mse: float
    """Mean squared error."""
    cosine: float
    """Cosine similarity between the two outputs, flattened."""
    relative_error: float
    """Root of the error's energy over the output's."""


class ModuleError(Result):
    """What one candidate does to one module while every other module stays in high precision."""

    format: str
    """The candidate's format of this module."""
    output_error: float
    """Relative error of the model's output, root mean square over samples: |error| / |output| of each sample."""
    kl: float | None = None
    """Nats by which the distribution that the logits spell moves, per position; None where it was not asked for."""
    local: LocalError | None = None
    """Error of the module's own output; None where only the model's output was looked at."""

    @property
    def penalty(self) -> float:
        """What adds up over modules whose errors are independent: the squared error, or the divergence."""
        return self.output_error**2 if self.kl is None else self.kl


class ModuleSensitivity(Result):
    """One module in every candidate that quantizes it."""

    weights: int
    """Numbers in its weight."""
    errors: dict[str, ModuleError]
    """By candidate."""


class Sensitivity(Result):
    """The sensitivity of every module that a candidate plan quantizes."""

    candidates: list[str]
    """Names of the plans compared, in their order: the format, with a number behind it where it comes twice."""
    modules: dict[str, ModuleSensitivity]
    """By module path."""
    unscored: dict[str, str] = {}
    """Modules of the plans without a score, each with the reason. A search leaves them in high precision."""
    samples: int
    """Rows that were looked at."""


class Evaluation(Result):
    """One mixed plan, inserted into the graph and run."""

    formats: dict[str, int]
    """How many modules in each format, `high` included."""
    cost: float
    """In the search's unit: bytes of weights, or relative time."""
    predicted: float
    """The sum of the modules' penalties: what the sensitivity expects of this plan."""
    metrics: dict[str, float]
    """Every accuracy metric against the graph in high precision."""
    misses: list[str] = []
    """The floors that it misses, in words; empty where it passes."""


class ModuleChoice(Result):
    """What the search decided for one module."""

    candidate: str
    """The chosen plan's name, or `high`."""
    format: str
    """The module's format in that plan, or `high`."""
    output_error: float
    """The relative error of the model's output that this choice alone was predicted to make."""
    cost: float
    """In the search's unit."""


class SearchReport(Result):
    """How the mixed plan was found."""

    objective: Literal["memory", "latency"]
    cost: float
    """Of the plan found: bytes of weights for `memory`, relative time of the modules' products for `latency`."""
    cost_high: float
    """With every module in high precision, in the same unit."""
    choices: dict[str, ModuleChoice]
    """By module path."""
    evaluations: list[Evaluation]
    """Each plan that was really run, in order; the first has every module in high precision."""
    floors: dict[str, dict[str, float]]
    """`min` and `max` of each metric that a plan had to reach: the recipe's bounds with the margin."""
    rows: int
    """Calibration rows that each evaluation ran on."""


def candidate_names(formats: list[list[str]]) -> list[str]:
    """A name for each plan, from the formats of its modules, several joined by `+`: `int8+int8_sq`; where the name is
    taken, with a number: `int8_sq#2`."""
    names: list[str] = []
    for found in formats:
        name = "+".join(sorted(set(found))) or "nothing"
        taken = sum(other.partition("#")[0] == name for other in names)
        names.append(f"{name}#{taken + 1}" if taken else name)
    return names
