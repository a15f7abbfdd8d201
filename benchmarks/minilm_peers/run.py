"""Measure every way to an INT8 MiniLM that is installed, and write `results.md` and `results-<cpu>-<n>cores.json`.

Each tool runs in a process of its own from the model's folder to the INT8 file: cold (a new folder), then once more in the
same folder, the whole pair twice; the faster of the two counts. Then `common.py` scores the file.

    python run.py --work SCRATCH --peers PYTHON --modelopt PYTHON --olive PYTHON --trtbuild PROGRAM

The interpreters are those of the environments that results.md names. A tool without an interpreter is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parents[1] / "recipes" / "minilm"
ROUNDS = 2
QUIET_CORES, PATIENCE_S = 0.2, 120.0
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OLIVE_DISABLE_TELEMETRY": "1"}
"""Without network: Olive's telemetry would wait for its server at exit."""


class Tool(NamedTuple):
    """One way to an INT8 file."""

    name: str
    environment: str
    command: tuple[str, ...]
    """With placeholders: {peers}, {modelopt}, {olive}, {trtbuild}, {folder}, {recipe}."""
    result: str
    packages: tuple[str, ...]
    optimized: bool = False


TOOLS = (
    Tool(
        "trtbuild, int8_smoothquant",
        "trtbuild",
        (
            *("{trtbuild}", "build", "{recipe}", "--variant", "int8_smoothquant", "--set", "quantize.embeddings=int8"),
            *("--store", "{folder}/store", "-o", "{folder}/engines"),
        ),
        "engines/minilm/int8_smoothquant/engine.onnx",
        ("trtbuild", "nvidia-modelopt", "onnxruntime", "torch", "transformers"),
        optimized=True,
    ),
    Tool(
        "Optimum, static",
        "peers",
        ("{peers}", "optimum_static.py", "{folder}"),
        "model_quantized.onnx",
        ("optimum-onnx", "onnxruntime", "torch", "transformers"),
    ),
    Tool(
        "Optimum, dynamic",
        "peers",
        ("{peers}", "optimum_dynamic.py", "{folder}"),
        "model_quantized.onnx",
        ("optimum-onnx", "onnxruntime", "torch", "transformers"),
    ),
    Tool(
        "ONNX Runtime quantize_static",
        "peers",
        ("{peers}", "onnxruntime_static.py", "{folder}"),
        "int8.onnx",
        ("onnxruntime", "onnx", "torch", "transformers"),
    ),
    Tool(
        "ModelOpt ONNX",
        "modelopt",
        ("{modelopt}", "modelopt_onnx.py", "{folder}"),
        "int8.onnx",
        ("nvidia-modelopt", "onnxruntime", "torch", "transformers"),
    ),
    Tool(
        "Olive, static",
        "olive",
        ("{olive}", "olive_int8.py", "{folder}"),
        "output/model.onnx",
        ("olive-ai", "onnxruntime", "torch", "transformers"),
    ),
)


def busy_seconds() -> float:
    """Seconds that all cores together have worked since the machine started."""
    user, nice, system, _idle, _wait, irq, soft, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def wait_until_quiet() -> float:
    """Wait at most two minutes until others use less than 0.2 cores over 2 s; returns what they used last."""
    end = time.monotonic() + PATIENCE_S
    while True:
        before = busy_seconds()
        time.sleep(2)
        cores = (busy_seconds() - before) / 2
        if cores < QUIET_CORES or time.monotonic() > end:
            return cores


class Memory(threading.Thread):
    """Samples the memory of a process and all its descendants (proportional set size) four times a second."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.root, self.peak, self.done = root, 0, threading.Event()

    def run(self) -> None:
        """Sample until `done` is set."""
        while not self.done.wait(0.25):
            self.peak = max(self.peak, sum(map(_proportional, _family(self.root))))


def _family(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
    family = [root]
    for member in family:
        family += [process for process, parent in parents.items() if parent == member]
    return family


def _proportional(process: int) -> int:
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.M)
    except OSError:
        return 0
    return 1024 * int(found[1]) if found else 0


def timed(command: Sequence[str], log: Path) -> dict[str, float]:
    """Run to the end: wall time, peak memory as /usr/bin/time says it and of all processes, and how quiet it was."""
    others = wait_until_quiet()
    load = os.getloadavg()[0]
    busy, began, start = busy_seconds(), time.time(), time.perf_counter()
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=HERE, env=ENVIRONMENT, stdout=out, stderr=out)
        memory = Memory(process.pid)
        memory.start()
        _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    busy = busy_seconds() - busy
    process.returncode = os.waitstatus_to_exitcode(status)
    memory.done.set()
    memory.join()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}, see {log.name}")
    return {
        "began": began,
        "wall_s": wall,
        "cpu_s": used.ru_utime + used.ru_stime,
        "largest_process_bytes": 1024 * used.ru_maxrss,
        "all_processes_bytes": memory.peak,
        "load_before": load,
        "cores_of_others_before": others,
        "cpu_s_of_others": max(0.0, busy - used.ru_utime - used.ru_stime),
    }


def engine_seconds(store: Path, began: float) -> float:
    """Seconds from the start of the process until trtbuild's INT8 engine was in the store."""
    steps = (json.loads(file.read_text()) for file in store.glob("ac/*/*.json"))
    return next(step["finished_at"] for step in steps if step["step"] == "int8_smoothquant/build") - began


def measure(tool: Tool, given: dict[str, str], work: Path) -> dict[str, Any]:
    """Two rounds of a cold and a second run, then the score of the file."""
    colds, seconds = [], []
    folder = work / re.sub(r"\W+", "-", tool.name.lower())
    command = [part.format(**given, folder=folder, recipe=RECIPE) for part in tool.command]
    for _ in range(ROUNDS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        cold = timed(command, work / f"{folder.name}.log")
        if tool.environment == "trtbuild":
            cold["engine_s"] = engine_seconds(folder / "store", cold["began"])
        colds.append(cold)
        seconds.append(timed(command, work / f"{folder.name}.log"))
    wait_until_quiet()
    scorer = [given["peers"], "common.py", str(folder / tool.result), "--fp32", str(work / "fp32.onnx")]
    said = subprocess.run(
        scorer + ["--optimized"] * tool.optimized, cwd=HERE, env=ENVIRONMENT, stdout=subprocess.PIPE, check=True
    )
    return {
        "command": " ".join(tool.command),
        "versions": versions(given[tool.environment], tool.packages),
        "score": json.loads(said.stdout),
        "cold": colds,
        "second": seconds,
    }


def versions(program: str, packages: Sequence[str]) -> dict[str, str]:
    """The packages' versions in the environment of an interpreter, or of a program installed beside one."""
    code = "import sys, json; from importlib.metadata import version as v; print(json.dumps({p: v(p) for p in sys.argv[1:]}))"
    python = str(Path(program).with_name("python"))
    found: dict[str, str] = json.loads(subprocess.check_output([python, "-c", code, *packages]))
    return found


def processor() -> str:
    """What the processor calls itself."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1].strip() if found else "unknown"


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """One Markdown row a tool."""
    rows = [
        "| Tool | Cosine mean | min | Neighbours | Median | p95 | of FP32 | File | of FP32 | Cold | Second run | Largest process"
        " | All processes |",
        "|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, result in results.items():
        score, cold = result["score"], min(result["cold"], key=lambda run: run["wall_s"])
        second = min(run["wall_s"] for run in result["second"])
        cells = [
            name,
            f"{score['embedding_cosine_mean']:.4f}",
            f"{score['embedding_cosine_min']:.4f}",
            f"{score['neighbour_agreement']:.4f}",
            f"{score['ms_median']:.0f} ms",
            f"{score['ms_p95']:.0f} ms",
            f"{score['latency_of_fp32']:.2f} x",
            f"{score['bytes'] / 1e6:.1f} MB",
            f"{100 * score['bytes'] / score['fp32_bytes']:.1f} %",
            f"{cold['wall_s']:.1f} s" + (f" (engine after {cold['engine_s']:.1f} s)" if "engine_s" in cold else ""),
            f"{second:.1f} s",
            f"{cold['largest_process_bytes'] / 1e9:.2f} GB",
            f"{cold['all_processes_bytes'] / 1e9:.2f} GB",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


NOTES = """
- Accuracy: sentence embeddings against PyTorch FP32 on the recipe's 128 held-out sentences. All tools that calibrate saw
  the same 256 other sentences. Neighbours: share of sentences whose nearest other sentence stays the same.
- Latency: ONNX Runtime, CPU, 2 threads, 16 rows x 128 tokens, 40 calls after 5 of warm-up, each in turns with the FP32
  export in ONNX Runtime's default settings in the same process. Compare the ratios, not the milliseconds, between rows. The
  peers' files run with ONNX Runtime's default optimization; trtbuild's engine is already optimized and runs as it is.
- Cold: one process from the model's folder to the INT8 file, into a new folder; the operating system's file cache is warm.
  Second run: the same command again on the same folder. Both were done twice and the faster counts, for every tool alike.
- trtbuild's time includes building the FP16 reference engine, timing kernels on this machine, validating both engines and
  measuring both, which the peers do not do; "engine after" is when its INT8 engine existed. Optimum, ONNX Runtime and
  ModelOpt have no cache, so their second run does everything again; Olive and trtbuild reuse finished steps.
- Memory: "largest process" is the peak that `/usr/bin/time -v` prints; "all processes" the peak of the sum over the process
  and its descendants (proportional set size, four samples a second). trtbuild runs steps in processes side by side.
- Before each run the others on the machine used less than 0.2 cores over 2 s, or two minutes had passed; the JSON file
  has the load before, and the CPU seconds of others during, every run.
- Olive ran with OLIVE_DISABLE_TELEMETRY=1: without network, its telemetry delays the exit.
"""


def report(results: dict[str, dict[str, Any]], failed: dict[str, str]) -> str:
    """The whole of results.md."""
    ratios = sorted(result["score"]["fp32_ms_median"] for result in results.values())
    lines = [
        "# INT8 MiniLM: trtbuild and today's alternatives",
        "",
        f"Measured on {time.strftime('%Y-%m-%d')} by `run.py`: {processor()}, {os.cpu_count()} cores, no GPU. "
        f"FP32 took {ratios[0]:.0f} to {ratios[-1]:.0f} ms in the rows' own turns.",
        "",
        *table(results),
        NOTES.rstrip(),
        "",
        "## Versions and commands",
        "",
        "Commands run in this folder with `HF_HUB_OFFLINE=1`. `{peers}`, `{modelopt}` and `{olive}` are the Python of an "
        "environment with the versions below, `{trtbuild}` is the program, `{folder}` an empty folder, `{recipe}` is "
        "`recipes/minilm`.",
        "",
    ]
    for name, result in results.items():
        named = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
        lines += [f"- {name}: {named}", f"  `{result['command']}`"]
    if failed:
        lines += ["", "## Not measured", "", *(f"- {name}: {why}" for name, why in failed.items())]
    lines += ["", "All of it again: `python run.py --work SCRATCH --peers PYTHON --modelopt PYTHON --olive PYTHON"]
    lines[-1] += " --trtbuild PROGRAM`"
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder")
    parser.add_argument("--peers", required=True, help="Python with optimum-onnx; it also scores every file")
    parser.add_argument("--modelopt", default="", help="Python with nvidia-modelopt")
    parser.add_argument("--olive", default="", help="Python with olive-ai")
    parser.add_argument("--trtbuild", default="", help="the trtbuild program")
    options = parser.parse_args()
    given = {name: getattr(options, name) for name in ("peers", "modelopt", "olive", "trtbuild")}
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    results, failed = {}, {}
    for tool in TOOLS:
        try:
            if not given[tool.environment]:
                raise RuntimeError("not installed")
            results[tool.name] = measure(tool, given, work)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            failed[tool.name] = str(error) if isinstance(error, RuntimeError) else "scoring failed"
        sys.stderr.write(f"{tool.name}: {failed.get(tool.name, 'measured')}\n")
    name = re.sub(r"\W+", "-", processor().lower()).strip("-")
    written = {"processor": processor(), "cores": os.cpu_count(), "results": results, "failed": failed}
    (HERE / f"results-{name}-{os.cpu_count()}cores.json").write_text(json.dumps(written, indent=1) + "\n")
    (HERE / "results.md").write_text(report(results, failed))


if __name__ == "__main__":
    main()
