"""Kill builds at random moments and check the store after each: `python benchmarks/kill_builds.py --kills 200`.

Each round builds a small ONNX recipe, kills the build with SIGKILL after a random time between nothing and a little
more than a whole build, and then checks that every worker ended, that the store verifies, and that every engine folder
in sight is whole. Every third round changes the model, so that there is always something new to commit; the others go
on from what the killed ones left. At the end one build must finish. Writes the counts to benchmarks/kill_builds.json.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.models import write_onnx, write_tiny_recipe  # noqa: E402 - the repository is no installed package
from trtbuild.pipeline.inspect import inspect  # noqa: E402
from trtbuild.pipeline.store import Store  # noqa: E402
from trtbuild.pipeline.upkeep import verify  # noqa: E402


def main() -> None:
    """Run the rounds and write what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        found = kill(Path(scratch), arguments.kills, chance)
    (ROOT / "benchmarks" / "kill_builds.json").write_text(
        json.dumps({"seed": arguments.seed, **found}, indent=1) + "\n"
    )
    print(json.dumps(found, indent=1))


def kill(folder: Path, kills: int, chance: random.Random) -> dict[str, float]:
    """Kill that many builds; raises AssertionError at the first thing that is not as it must be."""
    recipe = write_tiny_recipe(folder / "tiny")
    store, output = folder / "store", folder / "engines"
    command = [sys.executable, "-m", "trtbuild", "build", str(recipe), "--store", str(store), "-o", str(output), "-q"]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    whole_s = time.perf_counter() - began
    killed = finished = checked = engines = 0
    while killed < kills:
        number = killed + finished
        if number % 3 == 0:
            write_onnx(recipe / "model.onnx", seed=number)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        time.sleep(chance.uniform(0, 1.1 * whole_s))
        workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        killed, finished = (killed + 1, finished) if process.wait() < 0 else (killed, finished + 1)
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert not alive, "a worker outlived its build"
        verified = verify(Store(store))
        assert not verified.corrupt, verified
        assert not verified.incomplete, verified
        checked += verified.checked
        for variant in (entry for entry in output.glob("tiny/*/") if not entry.name.startswith(".")):
            inspect(variant)
            engines += 1
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return {
        "kills": killed,
        "builds_that_finished_before_their_kill": finished,
        "seconds_of_a_whole_build": round(whole_s, 2),
        "artifacts_verified": checked,
        "engine_folders_verified": engines,
        "corrupt": 0,
        "incomplete": 0,
    }


if __name__ == "__main__":
    main()
