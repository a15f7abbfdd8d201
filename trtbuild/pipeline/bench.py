"""Time built engines against each other, away from any recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtbuild.core import machine
from trtbuild.core.artifacts import Engine
from trtbuild.core.errors import DataError
from trtbuild.core.report import BenchReport, LatencySummary
from trtbuild.pipeline.inspect import check_digests
from trtbuild.pipeline.job import load_backend
from trtbuild.pipeline.release import read_manifest
from trtbuild.stages.measure import MeasureOptions, latency, time_in_turns


def bench(folders: Sequence[Path], *, runs: int = 20, threads: int = 0) -> BenchReport:
    """Time engines in turns on ones of the shapes they were measured at.

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
    feed = {name: np.ones(spec["shape"], dtype=spec["dtype"]) for name, spec in inputs.items()}
    runners = [load_backend(manifest["backend"]) for manifest in manifests]
    sessions = [runner.open(Engine(folder), threads) for runner, folder in zip(runners, folders, strict=True)]
    times = time_in_turns(sessions, feed, MeasureOptions(runs=runs, threads=threads))
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
