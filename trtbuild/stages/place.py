"""Which placement of Q/DQ is fastest here, over the whole network and block by block.

Every placement is one engine. Each is compared with the engine without quantization, which must give nearly the same,
and timed in turns with it. The times of their layers then say which is fastest for each block of modules, as far as the
engines keep blocks apart. `keep` has the last word on that mixture.
"""

from __future__ import annotations

from collections.abc import Mapping

from trtbuild.core.artifacts import Engine, Samples
from trtbuild.core.errors import ModelError
from trtbuild.core.layer_times import OUTSIDE, blocks_of, parts
from trtbuild.core.placement import HIGH, MIXED, Choice, Placement, PlacementChoice, Tried, told
from trtbuild.core.results import LayerTime
from trtbuild.core.roles import Runner
from trtbuild.core.sources import MetricSource
from trtbuild.core.stage import Resources, stage
from trtbuild.core.tensors import Shapes
from trtbuild.stages.attempt import Attempt
from trtbuild.stages.contest import Contest, PlaceOptions

LEAST_GAIN = 0.02
"""What a block must gain to be placed unlike the rest: less is noise, and where placements meet costs conversions."""


@stage(version=1, resources=Resources(exclusive=True))
def place(
    engines: list[Engine],
    attempts: list[Attempt],
    unquantized: Engine,
    calibration: Samples,
    metric: MetricSource,
    shapes: Shapes,
    options: PlaceOptions,
    runner: Runner,
) -> PlacementChoice:
    """Choose where quantization is fastest, block by block.

    Raises ModelError where no placement can be built.
    """
    contest = Contest(runner, unquantized, calibration, metric, shapes, options)
    tried, seen = [contest.unquantized()], dict[Engine, Placement]()
    for engine, attempt, placement in zip(engines, attempts, options.placements, strict=True):
        if engine in seen:
            tried.append(Tried(placement=placement, refused=f"is the same as {seen[engine]}"))
            continue
        if not attempt.failure:
            seen[engine] = placement
        tried.append(contest.tried(engine, attempt, placement))
    speedups = {one.placement: one.speedup for one in tried if not one.refused}
    fit: dict[Placement, Engine] = {name: engine for engine, name in seen.items() if name in speedups}
    if not fit:  # the verdict will say what is wrong with it
        best = _first_built(options, attempts)
        return PlacementChoice(kept=best, because=told(best, tried), best=best, blocks={OUTSIDE: best}, tried=tried)
    best = max(fit, key=lambda name: speedups[name])
    profiles: dict[Choice, list[LayerTime]] = {HIGH: contest.layer_times(unquantized)} if options.high else {}
    profiles |= {name: contest.layer_times(engine) for name, engine in fit.items()}
    blocks = {OUTSIDE: best} | fastest_blocks(profiles, best)
    kept = best if {*blocks.values()} == {best} else MIXED
    return PlacementChoice(kept=kept, because=told(kept, tried), best=best, blocks=blocks, tried=tried)


def fastest_blocks(profiles: Mapping[Choice, list[LayerTime]], best: Placement) -> dict[str, Choice]:
    """The choice with the least time for each block that every profile keeps apart; none where one tells nothing.

    Where high precision wins every block, all stay `best`: an engine without quantization is what the recipe's other
    variants are for, and the verdict says what this one costs.
    """
    if not all(profiles.values()):
        return {}
    choices, listed = [*profiles], [*profiles.values()]
    block_of = blocks_of(module for profile in listed for layer in profile for module in layer.modules)
    found: dict[str, Choice] = {}
    for part in parts(listed, block_of.__getitem__):
        times_ms = dict(zip(choices, part.times_ms, strict=True))
        fastest = min(choices, key=times_ms.__getitem__)
        clear = times_ms[fastest] < (1 - LEAST_GAIN) * times_ms[best]
        found |= dict.fromkeys(part.keys, fastest if clear else best)
    return found if {*found.values()} - {HIGH} else dict.fromkeys(found, best)


def _first_built(options: PlaceOptions, attempts: list[Attempt]) -> Placement:
    for placement, attempt in zip(options.placements, attempts, strict=True):
        if not attempt.failure:
            return placement
    reasons = dict.fromkeys(attempt.failure for attempt in attempts)
    raise ModelError(f"no placement can be built: {'; '.join(reasons)}", hint="quantize less, or leave it out")
