"""kill -9 during a real TensorRT build: what stays must be whole, and the next build goes on.

    PYTHONPATH=. python benchmarks/tensorrt/kill_build.py benchmarks/tensorrt/recipes/resnet50.yaml \
        --first benchmarks/tensorrt/recipes/dit.yaml --variant fp16 --set engine.target=8.6 --after 5 20

builds `--first`, so that there is a timing cache to lose, then starts the recipe's build as often as `--after` says and
kills the build and its worker that many seconds after TensorRT began; then builds to the end, and once more. The store
is looked at after every kill. Exits with 1 where anything was lost.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from trtbuild.core import gpu
from trtbuild.pipeline.store import Store
from trtbuild.pipeline.upkeep import verify

BEGUN = "timing cache"
"""What a step's log says when TensorRT has its configuration, and the search for kernels begins."""


def main() -> int:
    """Kill, look, go on; 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--first", required=True, help="another recipe, which fills the timing cache")
    parser.add_argument("--variant", default="fp16")
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--after", type=float, nargs="+", default=[5.0, 20.0], help="seconds into TensorRT's build")
    parser.add_argument("--store", type=Path, default=Path("kill-store"))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("kill_build.json"))
    given = parser.parse_args()
    bench = KilledBuilds(given.store, given.variant, given.sets)
    result: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "gpu": str(gpu.current())}
    result["first"] = bench.whole(given.first)
    result["kills"] = [bench.killed(given.recipe, after_s) for after_s in given.after]
    result["then"] = bench.whole(given.recipe)
    result["again"] = bench.whole(given.recipe)
    lost = [kill for kill in result["kills"] if not kill["whole"]]
    result["outcome"] = "lost" if lost or result["then"]["exit_code"] or result["again"]["steps_run"] else "whole"
    given.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0 if result["outcome"] == "whole" else 1


class KilledBuilds:
    """Builds in one store, ended or killed."""

    def __init__(self, store: Path, variant: str, sets: list[str]) -> None:
        self._store, self._engines = store.absolute(), store.absolute().with_name("kill-engines")
        chosen = ["--variant", variant, *(word for one in sets for word in ("--set", one))]
        self._options = [*chosen, "--store", str(self._store), "--output", str(self._engines), "--json"]

    def whole(self, recipe: str) -> dict[str, Any]:
        """A build to its end: exit code (8 is a failed gate), seconds, steps, the timing cache behind it."""
        began = time.perf_counter()
        done = subprocess.run(self._command(recipe), capture_output=True, text=True, check=False)
        elapsed_s = time.perf_counter() - began
        if done.returncode not in (0, 8):
            print(done.stderr, file=sys.stderr)
            return {"exit_code": done.returncode, "elapsed_s": round(elapsed_s, 1), "steps_run": -1}
        report = json.loads(done.stdout)
        return {
            "exit_code": 0,
            "elapsed_s": round(elapsed_s, 1),
            "steps_run": report["steps_run"],
            "steps_reused": report["steps_reused"],
            "timing_cache": self._timing_cache(),
        }

    def killed(self, recipe: str, after_s: float) -> dict[str, Any]:
        """A build that ends by SIGKILL, worker first, and what it left."""
        before, known = self._timing_cache(), {key for key, _ in Store(self._store).actions()}
        logs = {log: log.stat().st_mtime for log in self._logs()}
        process = subprocess.Popen(self._command(recipe), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not self._has_begun(logs):
            time.sleep(0.1)
        time.sleep(after_s)
        running = process.poll() is None
        for victim in (*_children(process.pid), process.pid):
            os.kill(victim, signal.SIGKILL)
        process.wait()
        found, after = verify(Store(self._store)), self._timing_cache()
        fresh = [action.ingredients["stage"] for key, action in Store(self._store).actions() if key not in known]
        visible = [str(entry) for entry in self._engines.glob("*/*") if not entry.name.startswith(".")]
        engines_of_others = [entry for entry in visible if Path(entry).parent.name != Path(recipe).stem]
        return {
            "after_s": after_s,
            "was_building": running,
            "corrupt": found.corrupt,
            "incomplete": found.incomplete,
            "engines_recorded": sum(stage.startswith("build ") for stage in fresh),
            "partial_engines_visible": len(visible) - len(engines_of_others),
            "timing_cache_unchanged": after == before,
            "whole": running
            and after == before
            and not (found.corrupt or found.incomplete)
            and not any(stage.startswith("build ") for stage in fresh)
            and len(visible) == len(engines_of_others),
        }

    def _command(self, recipe: str) -> list[str]:
        return [sys.executable, "-m", "trtbuild", "build", recipe, *self._options]

    def _timing_cache(self) -> dict[str, Any]:
        files = sorted((self._store / "timing").glob("*.cache"))
        return {
            file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            for file in files
        }

    def _logs(self) -> list[Path]:
        return [*(self._store / "jobs").glob("*/*.log")]

    def _has_begun(self, old: dict[Path, float]) -> bool:
        new = [log for log in self._logs() if old.get(log) != log.stat().st_mtime]
        return any(BEGUN in log.read_text(errors="replace") for log in new)


def _children(pid: int) -> list[int]:
    """The processes below one, the deepest first."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # ended meanwhile
    below = [child for child, parent in parents.items() if parent == pid]
    return [each for child in below for each in (*_children(child), child)]


if __name__ == "__main__":
    sys.exit(main())
