"""The outcome of a build as one value: what `--json` prints and every renderer reads."""

from __future__ import annotations

from typing import Literal

from trtbuild.core.placement import PlacementChoice
from trtbuild.core.repairs import GuiltyNode
from trtbuild.core.results import Gate
from trtbuild.core.values import Result


class LatencySummary(Result):
    """Time of one call at the `opt` shapes, in milliseconds; of a decoder, one step of decoding at the `opt` batch."""

    median: float
    p95: float
    noise: float
    """Half the interquartile range over the median."""
    first_token: float | None = None
    """Of a decoder: reading a prompt of `opt` tokens, at the `opt` batch."""
    tokens_per_s: float | None = None
    """Of a decoder: all rows together, while decoding."""


class CoverageSummary(Result):
    """How many modules were asked to run quantized, carry Q/DQ in the graph, and run quantized in the engine."""

    asked: int
    inserted: int
    ran: int
    untold: int = 0
    """Of how many the engine does not tell in what precision they run: they count neither as run nor as missed."""


class VariantReport(Result):
    """One engine of a recipe, as built, measured and judged."""

    name: str
    engine: str
    """Path of the engine file."""
    size_bytes: int
    cache_bytes: int = 0
    """Of a decoder: what the cache of the greatest batch takes beside it."""
    latency_ms: LatencySummary
    speedup_vs_reference: float
    accuracy: dict[str, float]
    """Metrics by name, against the FP32 model in its own framework."""
    accuracy_vs_reference: dict[str, float]
    """Agreement of the outputs with the reference engine's."""
    coverage: CoverageSummary
    kept_high: dict[str, str] = {}
    """Modules that stay in high precision although the recipe does not say so, each with the reason."""
    approximates: str = ""
    """Where the recipe names a mode that can only be approximated: its name, and what differs."""
    placement: PlacementChoice | None = None
    """Where Q/DQ stand and why, where `engine.placement` searched for it."""
    verdict: Literal["passed", "failed"]
    failed: list[Gate] = []
    """The gates that it failed."""
    reasons: list[str]
    """Why it failed; empty where it passed."""
    remarks: list[str] = []
    """What a gate let pass without proof."""
    reused: bool
    """Whether nothing of it had to run."""

    @property
    def memory_bytes(self) -> int:
        """The engine and a decoder's cache together."""
        return self.size_bytes + self.cache_bytes


class RepairReport(Result):
    """What `--repair` made of one variant that failed its gates."""

    variant: str
    outcome: Literal["repaired", "failed", "impossible"]
    """`failed` where a repair was tried and does not suffice, `impossible` where repairing cannot help."""
    because: str
    """Why, in words."""
    reasons: list[str]
    """Why the variant failed at first."""
    keep_fp32: dict[str, str] = {}
    """Patterns of nodes that were pinned to FP32, each with the reason."""
    guilty: list[GuiltyNode] = []
    """The nodes that made NaN or infinity in 16 bits."""
    high: dict[str, str] = {}
    """Modules that were left in high precision, each with the reason."""
    accuracy_before: dict[str, float] = {}
    accuracy_after: dict[str, float] = {}
    evaluations: int = 0
    """Plans that were run, and graphs that were lowered, to find it."""


class PatchReport(Result):
    """The repairs as a change of the recipe."""

    file: str
    """The unified diff; empty where the recipe's text could not be edited."""
    command: str
    """What applies it."""
    written: bool
    """Whether the recipe has been changed already, because `--write` asked for it."""
    note: str = ""
    """What else to know: variants that share a key, or why there is no diff."""
    lines: str
    """The keys to add, as YAML."""


class BuildReport(Result):
    """One build of a recipe."""

    recipe: str
    variants: list[VariantReport]
    recommended: str | None
    """The variant to ship: the fastest that passed, the smaller of two that are equally fast."""
    recommended_because: str
    reference: str
    """The variant that speed and size are compared with."""
    backend: str
    backend_because: str
    device: str
    elapsed_s: float
    steps_run: int
    steps_reused: int
    repairs: list[RepairReport] = []
    """What `--repair` did, by variant that failed."""
    patch: PatchReport | None = None
    """The repairs that held, as a change of the recipe."""

    @property
    def passed(self) -> bool:
        """Whether every variant passed its gates."""
        return all(variant.verdict == "passed" for variant in self.variants)


def recommend(variants: list[VariantReport], margin: float = 0.05) -> tuple[str | None, str]:
    """Which variant to ship and why: the fastest that passed; of those as fast within `margin`, one that is smaller by
    more than it, else the one that agrees best with the FP32 model."""
    passed = [variant for variant in variants if variant.verdict == "passed"]
    if not passed:
        return None, "no variant passed its gates"
    if len(passed) == 1 < len(variants):
        return passed[0].name, "the only variant that passed"
    fastest = min(passed, key=lambda variant: variant.latency_ms.median)
    level = [variant for variant in passed if variant.latency_ms.median <= fastest.latency_ms.median * (1 + margin)]
    smallest = min(level, key=lambda variant: variant.memory_bytes)
    if smallest.memory_bytes < fastest.memory_bytes * (1 - margin):
        return smallest.name, f"as fast as {fastest.name} within {margin:.0%}, and smaller"
    nearest = max(level, key=lambda variant: variant.accuracy.get("snr_db", 0.0))
    if nearest.accuracy.get("snr_db", 0.0) > fastest.accuracy.get("snr_db", 0.0):
        return nearest.name, f"as fast as {fastest.name} within {margin:.0%}, and more accurate"
    return fastest.name, "the fastest that passed"


class PrepareReport(Result):
    """A build that stopped on purpose, for another machine to go on."""

    recipe: str
    until: str
    """The stage behind which it stopped."""
    variants: list[str]
    backend: str
    """Who is to build."""
    backend_because: str
    elapsed_s: float
    steps_run: int
    steps_reused: int


class PlannedStep(Result):
    """One step of a plan, and what a build would do with it."""

    name: str
    does: str
    """What its stage does, in words."""
    decision: Literal["run", "reuse", "unknown"]
    reason: str
    """Why: what changed, or what it waits for."""
    inputs: dict[str, str]
    """The step each input comes from."""
    backends: dict[str, str]
    """Who plays each role."""


class PlanReport(Result):
    """What a build of a recipe would do."""

    recipe: str
    backend: str
    backend_because: str
    reference: str
    variants: list[str]
    approximates: dict[str, str] = {}
    """By variant, the mode that the recipe names and that can only be approximated, and what differs."""
    steps: list[PlannedStep]


class BenchReport(Result):
    """Engines timed in turns, in one process, on the same inputs."""

    device: str
    threads: int
    shapes: dict[str, list[int]]
    engines: dict[str, LatencySummary]
    """By the folder given."""


class Capability(Result):
    """One thing this machine can or cannot do."""

    name: str
    available: bool
    detail: str
    """A version where it is there; the command that installs it where it is not."""


class DoctorReport(Result):
    """What this machine can do."""

    processor: str
    cores: int
    python: str
    store: str
    capabilities: list[Capability]
