"""Walk the plan: decide each step when its inputs are known, reuse or run, record, tell the listener."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from trtbuild.core import machine
from trtbuild.core.disk import FULL_DISK_HINT, discard, write_atomically
from trtbuild.core.errors import StepFailed, StoreError, TrtbuildError
from trtbuild.core.events import Listener, StepName
from trtbuild.pipeline.decide import Reuse, Run, decide
from trtbuild.pipeline.file_digests import FileDigests
from trtbuild.pipeline.job import job_of
from trtbuild.pipeline.plan import Plan, Step
from trtbuild.pipeline.store import Action, Store, now
from trtbuild.pipeline.workers import Workers

FULL_DISK_BYTES = 1 << 20
"""With less free than this, a step that failed is taken to have failed for that reason."""


@dataclass(frozen=True)
class Limits:
    """How much a build may do at once."""

    jobs: int = 0
    """Steps at the same time; 0 means two, or one on a single core (each step's libraries use all cores themselves)."""
    timeout_s: float | None = None
    """Seconds after which a step is killed."""
    force: bool = False
    """Run every step even where its work is done."""

    @property
    def threads(self) -> int:
        """Steps at the same time."""
        return self.jobs or min(2, machine.core_count())


@dataclass
class Finished:
    """What a walk gave: the action of every step, and which of them had to run."""

    actions: dict[str, Action] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)


class _Turnstile:
    """Lets ordinary steps in together, and one that measures time in alone."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0

    def enter(self, exclusive: bool) -> None:
        with self._condition:
            if exclusive:
                self._condition.wait_for(lambda: self._inside == 0)
                self._inside = -1
            else:
                self._condition.wait_for(lambda: self._inside >= 0)
                self._inside += 1

    def leave(self, exclusive: bool) -> None:
        with self._condition:
            self._inside = 0 if exclusive else self._inside - 1
            self._condition.notify_all()


class _Walk:
    def __init__(self, plan: Plan, store: Store, files: FileDigests, listener: Listener, limits: Limits) -> None:
        self._plan, self._store, self._files, self._listener, self._limits = plan, store, files, listener, limits
        self._workers = Workers()
        self._turnstile = _Turnstile()
        self._mutex = threading.Lock()
        self._follows = plan.chain_lengths()
        self._stopped = threading.Event()
        self._failure: TrtbuildError | None = None
        self.done = Finished()

    def walk(self) -> None:
        """Run every step whose inputs are ready, as many at once as the limits allow; the first failure stops
        the rest."""
        waiting = {step.name: step for step in self._plan}
        running: dict[Future[None], Step] = {}
        pool = ThreadPoolExecutor(self._limits.threads)
        try:
            while waiting or running:
                for step in self._ready(waiting)[: self._limits.threads - len(running)]:
                    del waiting[step.name]
                    running[pool.submit(self._step, step)] = step
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    del running[future]
                    future.result()
        except TrtbuildError as error:
            raise self._failure or error from None  # the first one; later ones only say that they were stopped
        finally:
            self._stopped.set()
            self._workers.close()
            pool.shutdown(wait=True, cancel_futures=True)

    def _ready(self, waiting: dict[str, Step]) -> list[Step]:
        """Steps whose inputs are there: those that may run beside others first, then by how much follows from them."""
        ready = [s for s in waiting.values() if all(ref.step in self.done.actions for ref in s.inputs.values())]
        return sorted(ready, key=lambda step: (step.stage.resources.exclusive, -self._follows[step.name]))

    def _step(self, step: Step) -> None:
        if self._stopped.is_set():
            return
        inputs = {parameter: self.done.actions[ref.step].outputs[ref.output] for parameter, ref in step.inputs.items()}
        digests = {parameter: output.digest for parameter, output in inputs.items()}
        decided = self._decide(step, digests)
        if isinstance(decided, Run):
            with self._locked(step, decided.key):
                again = self._decide(step, digests)  # another build may have done it while this one waited
                decided = decided if self._limits.force else again
                if isinstance(decided, Run):
                    folders = {parameter: self._store.folder_of(digest) for parameter, digest in digests.items()}
                    self._run(step, decided, folders)
                    return
        self._store.remember(decided.key, self._plan.recipe, step.name)
        self._tell("reused", step, decided.reason)
        self.done.actions[step.name] = decided.action

    @contextmanager
    def _locked(self, step: Step, key: str) -> Iterator[None]:
        lock = self._store.lock(key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self._tell("waiting", step)
            self._wait_for(lock)
        try:
            yield
        finally:
            lock.release()

    def _wait_for(self, lock: FileLock) -> None:
        while not self._stopped.is_set():
            try:
                lock.acquire(timeout=0.5)
            except Timeout:
                continue
            return
        raise StepFailed("the build was stopped")

    def _decide(self, step: Step, digests: dict[str, str]) -> Reuse | Run:
        with self._mutex:
            while True:
                decided = decide(step, digests, self._plan.recipe, self._store, self._files, force=self._limits.force)
                if isinstance(decided, Run) or self._store.claim(decided.key):
                    return decided  # else it was collected in between

    def _run(self, step: Step, decision: Run, inputs: dict[str, Path]) -> None:
        job = job_of(step, inputs, self._plan.recipe, decision.key)
        # Two recipes of one name may be built at once: the key keeps their jobs apart.
        name = f"{step.name.replace('/', '.')}-{decision.key[:12]}"
        file = self._store.root / "jobs" / self._plan.recipe / f"{name}.json"
        log = file.with_name(f"{name}.log")
        write_atomically(file, job.model_dump_json(indent=1))
        log.unlink(missing_ok=True)
        exclusive = step.stage.resources.exclusive
        self._turnstile.enter(exclusive)
        workspace = self._store.workspace()
        try:
            if self._stopped.is_set():
                raise StepFailed("the build was stopped")
            self._tell("started", step, decision.reason)
            began = time.perf_counter()
            outputs = self._workers.run(file, workspace, log, set(step.cast.values()), self._limits.timeout_s)
            elapsed_s = time.perf_counter() - began
            action = Action(
                step=step.name,
                ingredients=dict(decision.ingredients),
                outputs={name: self._store.put(output.folder, output.kind) for name, output in outputs.items()},
                elapsed_s=round(elapsed_s, 3),
                finished_at=now(),
            )
            self._store.commit(decision.key, self._plan.recipe, action)
            file.unlink(missing_ok=True)
            log.unlink(missing_ok=True)
        except TrtbuildError as error:
            told = _told(error, step, file, log)
            if self._failure is None and not self._stopped.is_set():
                self._failure = told
                self._stopped.set()
                self._tell("failed", step, error.message)
            raise told from error
        finally:
            discard(workspace)
            self._turnstile.leave(exclusive)
        self._tell("finished", step, elapsed_s)
        with self._mutex:
            self.done.ran.add(step.name)
            self.done.actions[step.name] = action

    def _tell(self, event: str, step: Step, *words: object) -> None:
        with self._mutex:
            getattr(self._listener, event)(_named(step), *words)


def walk(plan: Plan, store: Store, files: FileDigests, listener: Listener, limits: Limits) -> Finished:
    """Bring every step of a plan to its result. Raises the first failing step's error, after the running ones
    stopped."""
    listener.planned([_named(step) for step in plan])
    state = _Walk(plan, store, files, listener, limits)
    state.walk()
    return state.done


def _named(step: Step) -> StepName:
    return StepName(step.name, step.stage.sentence)


def _told(error: TrtbuildError, step: Step, job: Path, log: Path) -> TrtbuildError:
    """The same error, with the step, its job file and its log."""
    hints = [error.hint, f"run it again alone: trtbuild run-job {job}"]
    if log.exists() and log.stat().st_size:
        hints.append(f"log: {log}")
    kind: type[TrtbuildError] = type(error) if type(error) is not TrtbuildError else StepFailed
    if not isinstance(error, StoreError) and shutil.disk_usage(job.parent).free < FULL_DISK_BYTES:
        kind, hints = StoreError, [FULL_DISK_HINT, *hints]  # libraries say it in many ways: "serialization failed"
    message = f"step {step.name} ({step.stage.sentence.lower()}): {error.message}"
    return kind(message, hint="\n  ".join(filter(None, hints)))
