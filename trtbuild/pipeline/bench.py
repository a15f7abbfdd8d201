"""Time built engines against each other, away from any recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtbuild.core import machine
from trtbuild.core.artifacts import Engine
from trtbuild.core.errors import DataError
from trtbuild.core.kv_cache import KvCache
from trtbuild.core.report import BenchReport, LatencySummary
from trtbuild.pipeline.inspect import check_digests
from trtbuild.pipeline.job import load_backend
from trtbuild.pipeline.release import read_manifest
from trtbuild.stages.measure import MeasureOptions, latency, time_in_turns
from trtbuild.stages.measure_decoder import Fed, feed

if TYPE_CHECKING:
    from trtbuild.core.roles import Runner, Session


def bench(folders: Sequence[Path], *, runs: int = 20, threads: int = 0) -> BenchReport:
    """Time engines in turns on ones of the shapes they were measured at; decoders one step behind such a prompt.

    Raises StoreError where a folder is no engine or its bytes are not the manifest's, DataError where the shapes
    differ.
    """
    import numpy as np

    manifests = [read_manifest(folder) for folder in folders]
    for folder, manifest in zip(folders, manifests, strict=True):
        check_digests(folder, manifest)
    inputs = manifests[0]["inputs"]
    for folder, manifest in zip(folders, manifests, strict=True):
        if manifest["inputs"] != inputs:
            raise DataError(
                f"{folder} takes {manifest['inputs']}, {folders[0]} takes {inputs}: they cannot be compared"
            )
    ones = {name: np.ones(spec["shape"], dtype=spec["dtype"]) for name, spec in inputs.items()}
    runners = [load_backend(manifest["backend"]) for manifest in manifests]
    sessions = [_session(runner, folder, inputs, threads) for runner, folder in zip(runners, folders, strict=True)]
    times = time_in_turns(sessions, ones, MeasureOptions(runs=runs, uncertainty=0.0, threads=threads))
    summaries = {str(folder): latency(spent) for folder, spent in zip(folders, times, strict=True)}
    return BenchReport(
        device=", ".join(dict.fromkeys(runner.device for runner in runners)),
        threads=threads or machine.core_count(),
        shapes={name: spec["shape"] for name, spec in inputs.items()},
        engines={
            name: LatencySummary(median=found.median_ms, p95=found.p95_ms, noise=found.noise)
            for name, found in summaries.items()
        },
    )


def _session(runner: Runner, folder: Path, inputs: dict[str, Any], threads: int) -> Session:
    """An engine, loaded; a decoder with a step to do, for its cache's types are its own."""
    import numpy as np

    session = runner.open(Engine(folder), threads)
    layout = KvCache.of(folder)
    if layout is None:
        return session
    rows, prompt = inputs["input_ids"]["shape"]
    return Fed(session, feed(layout, np.ones((rows, 1), np.int64), prompt))
