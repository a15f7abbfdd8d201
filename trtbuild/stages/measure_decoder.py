"""How fast does a decoder read and write? Engine and reference in turns: reading a prompt, and one step behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtbuild.core import machine
from trtbuild.core.artifacts import Engine, Samples
from trtbuild.core.kv_cache import KvCache
from trtbuild.core.results import DecoderMeasurement, Measurement
from trtbuild.core.roles import Runner, Session
from trtbuild.core.stage import Resources, stage
from trtbuild.core.tensors import Shapes
from trtbuild.stages.measure import MeasureOptions, at_opt, latency, time_in_turns, uncertainty
from trtbuild.stages.read import read_texts

if TYPE_CHECKING:
    from trtbuild.core.tensor_file import Array, Tensors


@stage(version=1, resources=Resources(exclusive=True))
def measure_decoder(
    engine: Engine,
    reference: Engine,
    evaluation: Samples,
    shapes: Shapes,
    options: MeasureOptions,
    runner: Runner,
) -> Measurement:
    """Time the decoder against the reference.

    One step of decoding, at the `opt` batch with `opt` tokens before it, is what `engine` and `reference` are times of;
    reading that prompt is the time to the first token. A cache has its full capacity either way, empty slots included.
    """
    from trtbuild.decoding.cache import empty, size_bytes  # numpy: a plan must not load it

    prompt = at_opt({"input_ids": read_texts(evaluation)[0]}, shapes)["input_ids"]
    rows = len(prompt)
    engines = [engine] if engine == reference else [engine, reference]
    layouts = [KvCache.read(each.path) for each in engines]
    sessions = [runner.open(each, options.threads) for each in engines]
    try:
        decoders = list(zip(sessions, layouts, strict=True))
        first = [Fed(session, feed(layout, prompt, 0)) for session, layout in decoders]
        step = [Fed(session, feed(layout, prompt[:, -1:], prompt.shape[1])) for session, layout in decoders]
        first_ms, step_ms = (time_in_turns(list(each), {}, options) for each in (first, step))
    finally:
        for session in sessions:
            session.close()
    engine_step, reference_step = latency(step_ms[0]), latency(step_ms[-1])
    most_rows = shapes.axes["batch"].max
    cache_bytes = [most_rows * size_bytes(empty(layout, 1)) for layout in layouts]
    return Measurement(
        engine=engine_step,
        reference=reference_step,
        uncertainty=round(uncertainty(step_ms), 4),
        shapes={"input_ids": list(prompt.shape), "lengths": [rows]},
        engine_bytes=engine.size_bytes,
        reference_bytes=reference.size_bytes,
        device=runner.device,
        threads=options.threads or machine.core_count(),
        decoder=DecoderMeasurement(
            first_token=latency(first_ms[0]),
            reference_first_token=latency(first_ms[-1]),
            tokens_per_s=round(1e3 * rows / engine_step.median_ms, 1),
            reference_tokens_per_s=round(1e3 * rows / reference_step.median_ms, 1),
            cache_bytes=cache_bytes[0],
            reference_cache_bytes=cache_bytes[-1],
        ),
    )


class Fed(Session):
    """A session that has its inputs already, for decoders timed in turns: they differ in the types of their caches."""

    def __init__(self, session: Session, inputs: Tensors) -> None:
        self._session, self._inputs = session, inputs

    def infer(self, inputs: Tensors) -> Tensors:
        """The outputs for its own inputs; `inputs` do not count."""
        return self._session.infer(self._inputs)

    def time(self, inputs: Tensors, runs: int, warm_up: int, *, cuda_graph: bool = False) -> list[float]:
        """The times on its own inputs."""
        return self._session.time(self._inputs, runs, warm_up, cuda_graph=cuda_graph)

    def close(self) -> None:
        """Close the session."""
        self._session.close()


def feed(layout: KvCache, tokens: Array, length: int) -> Tensors:
    """What a decoder takes to append `tokens` [rows, tokens] to rows that hold `length` each; the cache is zeros, since
    time does not depend on values."""
    import numpy as np

    from trtbuild.decoding.cache import empty

    rows = len(tokens)
    return {"input_ids": tokens, "lengths": np.full(rows, length, np.int64), **empty(layout, rows)}
