"""How long a call takes on the GPU, by events around it: the CPU's own time does not count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trtbuild.backends.tensorrt.cuda import Event, Stream


def gpu_times_ms(stream: Stream, launch: Callable[[], None], runs: int, warm_up: int) -> list[float]:
    """Milliseconds of each of `runs` calls of `launch`, which puts work into the stream, after `warm_up` untimed ones.

    Each call waits for the one before it, as a server's does that answers one request at a time: with a filled queue
    the GPU would hide how long the CPU takes to launch.
    """
    for _ in range(warm_up):
        launch()
    stream.wait()
    begin, end, times = Event(), Event(), []
    try:
        for _ in range(runs):
            begin.record(stream)
            launch()
            end.record(stream)
            stream.wait()
            times.append(end.since_ms(begin))
    finally:
        begin.close()
        end.close()
    return times


def layer_profiler(trt: Any, times: dict[str, list[float]]) -> Any:
    """A profiler of TensorRT's own kind that notes the milliseconds of each layer, call by call, by its name.

    It must outlive the context that it is given to.
    """

    class _Profiler(trt.IProfiler):  # type: ignore[misc]  # TensorRT carries no types
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.setdefault(layer_name, []).append(ms)

    return _Profiler()
