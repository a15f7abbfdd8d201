"""The last word on a mixture of placements: it is kept where it runs faster than the best single one."""

from __future__ import annotations

import shutil
from typing import NamedTuple

from trtbuild.core.artifacts import Engine, Samples
from trtbuild.core.placement import MIXED, PlacementChoice, told
from trtbuild.core.results import Coverage
from trtbuild.core.roles import Runner
from trtbuild.core.sources import MetricSource
from trtbuild.core.stage import Resources, Workspace, stage
from trtbuild.core.tensors import Shapes
from trtbuild.stages.attempt import Attempt
from trtbuild.stages.contest import Contest, PlaceOptions


class Kept(NamedTuple):
    """The engine of the placement that is kept, what runs in it, and why it is kept."""

    engine: Engine
    coverage: Coverage
    placement: PlacementChoice


@stage(version=1, resources=Resources(exclusive=True))
def keep(
    engines: list[Engine],
    coverages: list[Coverage],
    mixture: Engine,
    mixture_coverage: Coverage,
    mixture_attempt: Attempt,
    placement: PlacementChoice,
    unquantized: Engine,
    calibration: Samples,
    metric: MetricSource,
    shapes: Shapes,
    options: PlaceOptions,
    runner: Runner,
    work: Workspace,
) -> Kept:
    """Keep the fastest placement whose outputs are right."""
    number = options.placements.index(placement.best)
    chosen, coverage = engines[number], coverages[number]
    if placement.kept == MIXED:
        mixed = Contest(runner, unquantized, calibration, metric, shapes, options).tried(
            mixture, mixture_attempt, MIXED
        )
        speedups = {one.placement: one.speedup for one in placement.tried}
        won = not mixed.refused and mixed.speedup > speedups[placement.best]
        if won:
            chosen, coverage = mixture, mixture_coverage
        kept, tried = MIXED if won else placement.best, [*placement.tried, mixed]
        blocks = placement.blocks if won else dict.fromkeys(placement.blocks, placement.best)
        placement = placement.model_copy(
            update={"kept": kept, "because": told(kept, tried), "tried": tried, "blocks": blocks}
        )
    engine = work.new(Engine)
    shutil.copytree(chosen.path, engine.path, dirs_exist_ok=True)
    return Kept(engine, coverage, placement)
