"""Measure every way to an INT8 MiniLM that is installed, and write `results.md` and `results-<cpu>-<n>cores.json`.

Each tool runs in a process of its own from the model's folder to the INT8 file: cold (a new folder), then once more in
the same folder, the whole pair twice; the faster of the two counts. In the end `common.py` scores all files together;
`--score-only` does just that, with the files and the wall times of the run before.

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
QUIET_CORES = 0.2
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
    variables: tuple[tuple[str, str], ...] = ()
    """Set in the environment."""

    def folder(self, work: Path) -> Path:
        """Where it works."""
        return work / re.sub(r"\W+", "-", self.name.lower())


TOOLS = (
    Tool(
        "trtbuild, int8_sq",
        "trtbuild",
        (
            *("{trtbuild}", "build", "{recipe}", "--variant", "int8_sq", "--set", "quantize.embeddings=int8"),
            *("--store", "{folder}/store", "-o", "{folder}/engines"),
        ),
        "engines/minilm/int8_sq/engine.onnx",
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
    Tool(
        "Optimum, static, MatMul and Gather only",
        "peers",
        ("{peers}", "optimum_static.py", "{folder}"),
        "model_quantized.onnx",
        ("optimum-onnx", "onnxruntime", "torch", "transformers"),
        variables=(("OPERATORS", "MatMul,Gather"),),
    ),
)


def busy_seconds() -> float:
    """Seconds that all cores together have worked since the machine started."""
    user, nice, system, _idle, _wait, irq, soft, steal, *_ = map(int, Path("/proc/stat").read_text().split()[1:11])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def wait_until_quiet(patience: float) -> float:
    """Wait at most that long until others use less than 0.2 cores over 2 s; returns what they used last."""
    end = time.monotonic() + patience
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


def timed(command: Sequence[str], log: Path, environment: dict[str, str], patience: float) -> dict[str, float]:
    """Run to the end: wall time, peak memory as /usr/bin/time says it and of all processes, and how quiet it was."""
    others = wait_until_quiet(patience)
    load = os.getloadavg()[0]
    busy, began, start = busy_seconds(), time.time(), time.perf_counter()
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=HERE, env=environment, stdout=out, stderr=out)
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
    return next(step["finished_at"] for step in steps if step["step"] == "int8_sq/build") - began


def measure(tool: Tool, given: dict[str, str], work: Path, patience: float) -> dict[str, Any]:
    """Two rounds of a cold and a second run."""
    colds, seconds = [], []
    folder = tool.folder(work)
    command = [part.format(**given, folder=folder, recipe=RECIPE) for part in tool.command]
    log, environment = work / f"{folder.name}.log", {**ENVIRONMENT, **dict(tool.variables)}
    for _ in range(ROUNDS):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        cold = timed(command, log, environment, patience)
        if tool.environment == "trtbuild":
            cold["engine_s"] = engine_seconds(folder / "store", cold["began"])
        colds.append(cold)
        seconds.append(timed(command, log, environment, patience))
    return {
        "command": " ".join([*(f"{name}={value}" for name, value in tool.variables), *tool.command]),
        "versions": versions(given[tool.environment], tool.packages),
        "cold": colds,
        "second": seconds,
    }


def score(results: dict[str, dict[str, Any]], peers: str, work: Path, patience: float) -> dict[str, float]:
    """Score every tool's file, all in one process and in turns; returns the score of the float32 export."""
    files = {tool: tool.folder(work) / tool.result for tool in TOOLS if tool.name in results}
    fp32 = work / "fp32.onnx"
    others = wait_until_quiet(patience)
    plain, finished = (
        [str(file) for tool, file in files.items() if tool.optimized is is_so] for is_so in (False, True)
    )
    command = [peers, "common.py", *plain, "--optimized", *finished, "--fp32", str(fp32)]
    scores = json.loads(subprocess.check_output(command, cwd=HERE, env=ENVIRONMENT))
    for tool, file in files.items():
        results[tool.name]["score"] = scores[str(file)]
    return {**scores[str(fp32)], "cores_of_others_before": others}


def versions(program: str, packages: Sequence[str]) -> dict[str, str]:
    """The packages' versions in the environment of an interpreter, or of a program installed beside one."""
    code = "import sys, json, importlib.metadata as m; print(json.dumps({p: m.version(p) for p in sys.argv[1:]}))"
    python = str(Path(program).with_name("python"))
    found: dict[str, str] = json.loads(subprocess.check_output([python, "-c", code, *packages]))
    return found


def processor() -> str:
    """What the processor calls itself."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1].strip() if found else "unknown"


def table(results: dict[str, dict[str, Any]], fp32: dict[str, float]) -> list[str]:
    """One Markdown row a tool."""
    rows = [
        "| Tool | Cosine mean | min | Neighbours | Median | p95 | of FP32 | File | of FP32 | Cold | its CPU time"
        " | CPU of others meanwhile | Second run | Largest process | All processes |",
        "|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    rows.append(" | ".join(["| FP32 export, as ONNX Runtime runs it", *_scored(fp32), "- | - | - | - | - | - |"]))
    for name, result in results.items():
        cold = min(result["cold"], key=lambda run: run["wall_s"])
        second = min(run["wall_s"] for run in result["second"])
        cells = [
            name,
            *_scored(result["score"]),
            f"{cold['wall_s']:.1f} s" + (f" (engine after {cold['engine_s']:.1f} s)" if "engine_s" in cold else ""),
            f"{cold['cpu_s']:.1f} s",
            f"{cold['cpu_s_of_others']:.1f} s",
            f"{second:.1f} s",
            f"{cold['largest_process_bytes'] / 1e9:.2f} GB",
            f"{cold['all_processes_bytes'] / 1e9:.2f} GB",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _scored(score: dict[str, float]) -> list[str]:
    return [
        f"{score['embedding_cosine_mean']:.4f}",
        f"{score['embedding_cosine_min']:.4f}",
        f"{score['neighbour_agreement']:.4f}",
        f"{score['ms_median']:.0f} ms",
        f"{score['ms_p95']:.0f} ms",
        f"{score['of_fp32_ms']:.2f} x",
        f"{score['bytes'] / 1e6:.1f} MB",
        f"{100 * score['of_fp32_bytes']:.1f} %",
    ]


NOTES = """
- Accuracy: sentence embeddings against PyTorch FP32 on the recipe's 128 held-out sentences. All tools that calibrate
  saw the same 256 other sentences. Neighbours: share of sentences whose nearest other sentence stays the same.
- Latency: ONNX Runtime, CPU, 2 threads, 16 rows x 128 tokens, 40 calls after 5 of warm-up, all files in turns in one
  process with the FP32 export in ONNX Runtime's default settings. Others used the machine too, so the ratios count. The
  peers' files run with ONNX Runtime's default optimization; trtbuild's engine is already optimized and runs as it is.
- Cold: one process from the model's folder to the INT8 file, into a new folder; the operating system's file cache is
  warm. Second run: the same command on the same folder. Both were done twice; the faster counts, for all tools alike.
- trtbuild's time includes building the FP16 reference engine, timing kernels on this machine, validating both engines
  and measuring both, which the peers do not do; "engine after" is when its INT8 engine existed. Optimum, ONNX Runtime
  and ModelOpt have no cache, so their second run does everything again; Olive and trtbuild reuse finished steps.
- Memory: "largest process" is the peak that `/usr/bin/time -v` prints; "all processes" the peak of the sum over the
  process and its descendants (proportional set size, four samples a second). trtbuild runs steps side by side.
- The machine was not empty. Each run waited up to PATIENCE s until others used less than 0.2 cores over 2 s, then
  started anyway. "CPU of others meanwhile" says how much each cold run was disturbed; its own CPU time is less
  sensitive to that than wall time. The JSON file has both, and the load before, for every run.
- Olive ran with OLIVE_DISABLE_TELEMETRY=1 and without network. Its process still ended about 11 s after Olive's log
  said that the model was saved (after 11 to 13 s cold, 4 s in the second run); the table has the whole process.
- The peers run at the settings in the scripts, not tuned to this model; trtbuild's row is a recipe tuned to it.
- ONNX Runtime's and Olive's rows quantize every operator type that they can, so also the sum with the attention mask,
  whose range (about 3e38) leaves attention nothing: scales of 1e36 in their files. That is a matter of settings
  (`op_types_to_quantize`), not the best these tools can do.
"""


def report(data: dict[str, Any]) -> str:
    """The whole of results.md."""
    results = data["results"]
    lines = [
        "# INT8 MiniLM: trtbuild and today's alternatives",
        "",
        f"Measured on {data['date']} by `run.py`: {data['processor']}, {data['cores']} cores, no GPU.",
        "",
        *table(results, data["fp32"]),
        NOTES.rstrip().replace("PATIENCE", f"{data['patience_s']:.0f}"),
        "",
        "## Versions and commands",
        "",
        "Commands run in this folder with `HF_HUB_OFFLINE=1`. `{peers}`, `{modelopt}` and `{olive}` are the Python of "
        "an environment with the versions below, `{trtbuild}` is the program, `{folder}` an empty folder, `{recipe}` "
        "is `recipes/minilm`.",
        "",
    ]
    for name, result in results.items():
        named = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
        lines += [f"- {name}: {named}", f"  `{result['command']}`"]
    if failed := data["failed"]:
        lines += ["", "## Not measured", "", *(f"- {name}: {why}" for name, why in failed.items())]
    lines += ["", "All of it again: `python run.py --work SCRATCH --peers PYTHON --modelopt PYTHON --olive PYTHON"]
    lines[-1] += " --trtbuild PROGRAM`"
    return "\n".join(lines) + "\n"


def results_file() -> Path:
    """Where the numbers of this machine are kept."""
    name = re.sub(r"\W+", "-", processor().lower()).strip("-")
    return HERE / f"results-{name}-{os.cpu_count()}cores.json"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder")
    parser.add_argument("--peers", required=True, help="Python with optimum-onnx; it also scores every file")
    parser.add_argument("--modelopt", default="", help="Python with nvidia-modelopt")
    parser.add_argument("--olive", default="", help="Python with olive-ai")
    parser.add_argument("--trtbuild", default="", help="the trtbuild program")
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait for a quiet machine before a run")
    parser.add_argument("--score-only", action="store_true", help="score the files of the run before again")
    options = parser.parse_args()
    given = {name: getattr(options, name) for name in ("peers", "modelopt", "olive", "trtbuild")}
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if options.score_only:
        data = json.loads(results_file().read_text())
    else:
        data = {"date": time.strftime("%Y-%m-%d"), "processor": processor(), "cores": os.cpu_count()}
        data |= {"patience_s": options.patience, "results": {}, "failed": {}}
        for tool in TOOLS:
            try:
                if not given[tool.environment]:
                    raise RuntimeError("not installed")
                data["results"][tool.name] = measure(tool, given, work, options.patience)
            except RuntimeError as error:
                data["failed"][tool.name] = str(error)
            sys.stderr.write(f"{tool.name}: {data['failed'].get(tool.name, 'measured')}\n")
    data["fp32"] = score(data["results"], given["peers"], work, options.patience)
    results_file().write_text(json.dumps(data, indent=1) + "\n")
    (HERE / "results.md").write_text(report(data))


if __name__ == "__main__":
    main()
