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
    from trtbuild.core.tensor_file import Tensors


BLOCK = 5
"""Calls of one engine before it is the next one's turn."""


class MeasureOptions(Options):
    """How engines are timed."""

    runs: int = Field(default=20, ge=3)
    """Timed calls of each engine."""
    warm_up: int = Field(default=3, ge=0)
    """Untimed calls before them."""
    threads: int = 0
    """Threads for one call; 0 means all cores."""
    cuda_graph: bool = False
    """TensorRT: launches each call as one recorded CUDA graph, which hides what launching its kernels costs the CPU."""


@stage(version=2, resources=Resources(exclusive=True))
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
    return Measurement(
        engine=latency(times[0]),
        reference=latency(times[-1]),
        shapes={name: list(tensor.shape) for name, tensor in inputs.items()},
        engine_bytes=engine.size_bytes,
        reference_bytes=reference.size_bytes,
        device=runner.device,
        threads=options.threads or machine.core_count(),
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

    The first call of each turn is not timed: it finds the caches full of the other engine.
    """
    for session in sessions:
        session.time(inputs, 0, options.warm_up, cuda_graph=options.cuda_graph)
    times: list[list[float]] = [[] for _ in sessions]
    while (left := options.runs - len(times[0])) > 0:
        for session, spent in zip(sessions, times, strict=True):
            spent.extend(session.time(inputs, min(BLOCK, left), 1, cuda_graph=options.cuda_graph))
    return times


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
