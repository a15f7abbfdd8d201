"""`cache gc --keep-days 0` while a build runs: it takes everything but what the build uses."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from trtbuild.pipeline.build import build
from trtbuild.pipeline.store import Store
from trtbuild.pipeline.upkeep import verify

PAUSE = """
import pathlib, time

def samples(split, count, scale=1.0):
    here = pathlib.Path(__file__).parent
    (here / f"began-{scale}").touch()
    while not (here / f"go-{scale}").exists():
        time.sleep(0.02)
    yield from _samples(split, count, scale)
"""


@pytest.fixture
def paused(tiny: Path) -> Path:
    """The tiny recipe, whose generator waits for a file `go-<scale>`; its scale is 1.0."""
    generator = tiny / "generator.py"
    generator.write_text(generator.read_text().replace("def samples", "def _samples") + PAUSE)
    return tiny


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "trtbuild", *map(str, arguments)]


def collected(store: Path) -> dict[str, Any]:
    done = subprocess.run(
        command("cache", "gc", "--keep-days", 0, "--store", store, "--json"),
        capture_output=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def steps(store: Path) -> set[str]:
    return {action.step for _, action in Store(store).actions()}


@pytest.fixture
def running(paused: Path, store: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A build with scale 2.0 over a store that holds a finished one with 1.0; it waits for its samples."""
    (paused / "go-1.0").touch()
    build(paused, store=store, output=None)
    arguments = ("--set", "data.arguments.scale=2.0", "--store", store, "--output", tmp_path / "engines", "--json")
    process = subprocess.Popen(
        command("build", paused, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (paused / "began-2.0").exists() or "adopt" not in _noted(store):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield process
    if process.poll() is None:
        for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            each.kill()
    process.communicate()


def _noted(store: Path) -> set[str]:
    """The steps whose actions a lease names."""
    noted = {name for file in (store / "leases").glob("*.used") for name in file.read_text().split()}
    return {action.step for key, action in Store(store).actions() if key in noted}


def test_a_build_keeps_what_it_uses_and_the_rest_goes(
    running: subprocess.Popen[str], paused: Path, store: Path
) -> None:
    before, used = steps(store), _noted(store)
    found = collected(store)
    assert found["in_use"] == len(used) > 0
    assert found["actions"] == len(before) - len(used) > 0
    assert steps(store) == used
    (paused / "go-2.0").touch()
    while running.poll() is None:
        collected(store)
    out, error = running.communicate()
    assert running.returncode == 0, error
    report = json.loads(out)
    assert report["steps_reused"] == len(used)
    assert report["variants"][0]["verdict"] == "passed"
    assert verify(Store(store)).corrupt == []
    collected(store)
    assert steps(store) == set()
    assert list(Store(store).artifacts()) == []


def test_a_killed_build_keeps_nothing(running: subprocess.Popen[str], store: Path) -> None:
    workers = psutil.Process(running.pid).children(recursive=True)
    running.kill()
    running.wait()
    assert collected(store)["in_use"] == 0
    assert steps(store) == set()
    for worker in workers:
        if worker.is_running():
            worker.kill()
