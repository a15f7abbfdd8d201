"""How fast is the engine? Timed in turns with its reference, so that a busy machine slows both alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from trtbuild.core import machine
from trtbuild.core.artifacts import Engine, Samples
from trtbuild.core.errors import DataError
from trtbuild.core.results import Latency, Measurement
from trtbuild.core.roles import Runner, Session
from trtbuild.core.stage import Resources, stage
from trtbuild.core.tensors import Shapes
from trtbuild.core.values import Options

if TYPE_CHECKING:
    from trtbuild.core.tensor_file import Array, Tensors


BLOCK = 5
"""Calls of one engine before it is the next one's turn."""
LEAST = 2 * BLOCK
"""Calls of each engine before anything is said about how sure their times are."""
PROFILED = 5
"""Calls whose layers are timed one by one."""


class MeasureOptions(Options):
    """How engines are timed."""

    runs: int = Field(default=20, ge=3)
    """Timed calls of each engine, at most."""
    uncertainty: float = Field(default=0.02, ge=0.0)
    """Timing stops before that, after 10 calls or more, once the speed-up over the reference is known this well: 0.02
    is 2 %. With 0 all calls are made."""
    warm_up: int = Field(default=3, ge=0)
    """Untimed calls before them."""
    threads: int = 0
    """Threads for one call; 0 means all cores."""
    cuda_graph: bool = False
    """TensorRT: launches each call as one recorded CUDA graph, which hides what launching its kernels costs the CPU."""


@stage(version=3, resources=Resources(exclusive=True))
def measure(
    engine: Engine,
    reference: Engine,
    evaluation: Samples,
    shapes: Shapes,
    options: MeasureOptions,
    runner: Runner,
) -> Measurement:
    """Time the engine against the reference."""
    from trtbuild.core.tensor_file import Batches  # numpy and safetensors: a plan must not load them

    samples = Batches(evaluation.main)
    if not samples:
        raise DataError("there are no evaluation samples to time with", hint="set data.evaluation, for example 128")
    inputs = at_opt(samples[0], shapes)
    engines = [engine] if engine == reference else [engine, reference]
    sessions = [runner.open(each, options.threads) for each in engines]
    try:
        times = time_in_turns(sessions, inputs, options)
    finally:
        for session in sessions:
            session.close()
    layers = [runner.layer_times(each, inputs, PROFILED, options.threads) for each in engines] * (len(engines) > 1)
    return Measurement(
        engine=latency(times[0]),
        reference=latency(times[-1]),
        uncertainty=round(uncertainty(times), 4),
        shapes={name: list(tensor.shape) for name, tensor in inputs.items()},
        engine_bytes=engine.size_bytes,
        reference_bytes=reference.size_bytes,
        device=runner.device,
        threads=options.threads or machine.core_count(),
        engine_layers=layers[0] if layers else [],
        reference_layers=layers[1] if layers else [],
    )


def at_opt(batch: Tensors, shapes: Shapes) -> Tensors:
    """A real batch repeated along every axis until it has the `opt` shapes: real values, wanted size."""
    import numpy as np

    wanted = shapes.at("opt")
    return {
        name: np.ascontiguousarray(
            np.pad(
                tensor,
                [(0, max(0, to - have)) for have, to in zip(tensor.shape, wanted[name], strict=True)],
                mode="wrap",
            )[tuple(slice(to) for to in wanted[name])]
        )
        for name, tensor in batch.items()
    }


def time_in_turns(sessions: list[Session], inputs: Tensors, options: MeasureOptions) -> list[list[float]]:
    """Milliseconds per call for each session, in turns of BLOCK calls, so that a busy machine slows all alike.

    The first call of each turn is not timed: it finds the caches full of the other engine. A quiet machine needs fewer
    than `options.runs` calls: see `uncertainty`.
    """
    times: list[list[float]] = [[] for _ in sessions]
    while (left := options.runs - len(times[0])) > 0:
        untimed = 1 if times[0] else max(1, options.warm_up)
        for session, spent in zip(sessions, times, strict=True):
            spent.extend(session.time(inputs, min(BLOCK, left), untimed, cuda_graph=options.cuda_graph))
        if len(times[0]) >= LEAST and uncertainty(times) < options.uncertainty:
            break
    return times


def uncertainty(times: list[list[float]]) -> float:
    """How well the speed-ups of the engines over the last one are known, the worst; for one engine alone, its median.

    The greater of two numbers, both relative to the speed-up: half its 95 % interval, by the percentile bootstrap over
    calls (Efron 1979), and the range of what single turns say, for calls of one turn may all have met the same
    disturbance.
    """
    import numpy as np

    spent = np.asarray(times)  # [engines, calls]
    calls = spent.shape[1]

    def speedups(medians: Array) -> Array:
        return np.asarray(medians[-1] / medians[:-1] if len(medians) > 1 else medians)

    drawn = np.random.default_rng(0).integers(calls, size=(1000, calls))
    low, high = np.percentile(speedups(np.median(spent[:, drawn], axis=-1)), [2.5, 97.5], axis=-1)
    turns = [speedups(np.median(spent[:, start : start + BLOCK], axis=1)) for start in range(0, calls, BLOCK)]
    widest = np.maximum((high - low) / 2, np.ptp(turns, axis=0))
    return float((widest / speedups(np.median(spent, axis=1))).max())


def latency(times_ms: list[float]) -> Latency:
    """Median, 95th percentile, least and noise of timed calls."""
    import numpy as np

    low, median, high, tail = (float(value) for value in np.percentile(times_ms, [25, 50, 75, 95]))
    return Latency(
        median_ms=round(median, 3),
        p95_ms=round(tail, 3),
        min_ms=round(min(times_ms), 3),
        noise=round((high - low) / 2 / median, 4),
        runs=len(times_ms),
    )
