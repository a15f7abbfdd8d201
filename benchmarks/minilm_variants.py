"""What eight variants of MiniLM cost beside one: `python benchmarks/minilm_variants.py` on an idle machine.

Each build is the command `trtbuild build recipes/minilm` in a process of its own, by the clock on the wall, and in CPU
seconds of it and its workers. Three kinds:

- `all`: every variant, with an empty store;
- `alone`: one variant, with an empty store (the reference fp16 is built with it, for it is what it is compared with);
- `after the first`: the same, with a store that holds fp16 and its samples, export, FP16 graph and truth already.

The bar is `all` under twice the slowest `alone`. Stricter, and told beside it: what `all` costs more than fp16 alone,
under twice the slowest `after the first`. Writes benchmarks/minilm_variants.json, with the seconds of each step of
`all`. Variants may be named as arguments, to time those alone; `int4_auto` is the slowest.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT)

from trtbuild.core.errors import GATE_FAILED_EXIT_CODE  # noqa: E402 - the repository is no installed package
from trtbuild.core.machine import core_count, processor  # noqa: E402
from trtbuild.pipeline.store import Store  # noqa: E402
from trtbuild.recipe.load import load  # noqa: E402

RECIPE = ROOT / "recipes" / "minilm"
FIRST = "fp16"


def main(names: list[str]) -> None:
    """Build all of them and each alone, and write what it took."""
    variants = names or list(load(RECIPE).recipe.variants)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        everything = _build(folder / "all")
        steps = {action.step: action.elapsed_s for _, action in Store(folder / "all").actions()}
        first = _build(folder / "first", FIRST)
        alone, after = {FIRST: first}, {}
        for name in variants:
            if name == FIRST:
                continue
            alone[name] = _build(folder / f"{name}-alone", name)
            shutil.copytree(folder / "first", folder / f"{name}-after", symlinks=True)
            after[name] = _build(folder / f"{name}-after", name)
    slowest, slowest_after = _slowest(alone), _slowest(after)
    found = {
        "processor": processor(),
        "cores": core_count(),
        "all": everything,
        "alone": alone,
        "after the first": after,
        "all over the slowest alone": round(everything["wall_s"] / slowest, 2),
        "all less the first over the slowest after it": round(
            (everything["wall_s"] - first["wall_s"]) / slowest_after, 2
        ),
        "steps of all, s": dict(sorted(steps.items(), key=lambda step: -step[1])),
    }
    (ROOT / "benchmarks" / "minilm_variants.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def _build(store: Path, variant: str = "") -> dict[str, float]:
    command = [sys.executable, "-m", "trtbuild", "build", str(RECIPE), "--quiet", "--store", str(store)]
    command += ["--output", str(store / "engines"), *(["--variant", variant] if variant else [])]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, cwd=ROOT)
    if done.returncode not in (0, GATE_FAILED_EXIT_CODE):  # a gate of speed may fail on a busy machine
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    elapsed_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{variant or 'all'}: {elapsed_s:.1f} s, {cpu_s:.1f} s of CPU", flush=True)
    return {"wall_s": round(elapsed_s, 1), "cpu_s": round(cpu_s, 1)}


def _slowest(builds: dict[str, dict[str, Any]]) -> float:
    return max(build["wall_s"] for build in builds.values())


if __name__ == "__main__":
    main(sys.argv[1:])
