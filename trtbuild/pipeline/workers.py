"""Child processes that run jobs: a crash, a time-out or a leak takes the job, never the build."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtbuild.core.errors import ERRORS_BY_NAME, StepFailed
from trtbuild.pipeline.job import JobOutput

ENVIRONMENT = {
    # Threads that wait by spinning are ruinous where workers share cores: calibration took 32 s instead of 2.5 s.
    "OMP_WAIT_POLICY": "passive",
    # glibc raises its own threshold to the size of what was freed, up to 32 MB, and then keeps freed tensors in a heap
    # full of holes: AWQ of a 201 MB model held 4.2 times its bytes, and holds 1.5 (benchmarks/calibration_memory.json).
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
"""What a worker's environment says unless the user's own does."""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    answers: int
    seen: set[str] = field(default_factory=set)
    """Backends it has loaded already."""


class Workers:
    """A few worker processes, started when first needed and kept warm."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._all: list[_Worker] = []
        self._mutex = threading.Lock()
        self._closed = False

    def run(
        self, job: Path, workspace: Path, log: Path, backends: set[str], timeout_s: float | None
    ) -> dict[str, JobOutput]:
        """Run a job file in a worker. Raises what the job raised, or StepFailed where the process died."""
        worker = self._take(backends)
        request = {"job": str(job), "workspace": str(workspace), "log": str(log)}
        try:
            assert worker.process.stdin
            worker.process.stdin.write((json.dumps(request) + "\n").encode())
            worker.process.stdin.flush()
            answer = _answer(worker, timeout_s)
        except OSError:
            answer = None
        if answer is None:
            self._drop(worker)
            raise StepFailed(_how_it_died(worker, timeout_s))
        if answer["retire"]:
            self._drop(worker)
        else:
            with self._mutex:
                worker.seen |= backends
                self._idle.append(worker)
        if "outputs" in answer:
            return {name: JobOutput.model_validate(output) for name, output in answer["outputs"].items()}
        kind = ERRORS_BY_NAME.get(answer["error"], StepFailed)
        raise kind(answer["message"], hint=answer.get("hint", ""))

    def close(self) -> None:
        """Kill every worker and whatever it started."""
        with self._mutex:
            self._closed = True
            workers, self._all, self._idle = self._all, [], []
        for worker in workers:
            _kill(worker)
            os.close(worker.answers)

    def _take(self, backends: set[str]) -> _Worker:
        """The idle worker that has loaded the most of what is needed, or a new one."""
        with self._mutex:
            if self._closed:
                raise StepFailed("the build was stopped")
            if self._idle:
                worker = max(self._idle, key=lambda idle: len(idle.seen & backends))
                self._idle.remove(worker)
                return worker
            worker = _start()
            self._all.append(worker)
            return worker

    def _drop(self, worker: _Worker) -> None:
        with self._mutex:
            if worker in self._all:
                self._all.remove(worker)
                os.close(worker.answers)
        _kill(worker)


def _start() -> _Worker:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "trtbuild.pipeline.worker", str(writing)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(writing,),
        env={**ENVIRONMENT, **os.environ},
        start_new_session=True,  # Ctrl-C reaches the build, which then decides what becomes of its workers
    )
    os.close(writing)
    return _Worker(process, reading)


def _answer(worker: _Worker, timeout_s: float | None) -> dict[str, Any] | None:
    """The worker's next line, or None where it died or took too long."""
    timer = threading.Timer(timeout_s, _kill, (worker,)) if timeout_s else None
    if timer:
        timer.start()
    try:
        collected = b""
        while not collected.endswith(b"\n"):
            part = os.read(worker.answers, 65536)
            if not part:
                return None
            collected += part
        answer: dict[str, Any] = json.loads(collected)
        return answer
    finally:
        if timer:
            timer.cancel()


def _kill(worker: _Worker) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait()


def _how_it_died(worker: _Worker, timeout_s: float | None) -> str:
    code = worker.process.returncode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        cause = f"after the time limit of {timeout_s:g} s" if timeout_s else "perhaps memory ran out"
        return f"its process was killed by {name} ({cause if name == 'SIGKILL' else 'a crash in native code'})"
    return f"its process ended with exit code {code} and gave no result"
