"""Whole builds of the tiny ONNX recipe: no PyTorch, a few seconds each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.machine_speed import slowness
from tests.models import write_onnx, write_tiny_recipe
from trtbuild.core import machine
from trtbuild.core.errors import BackendMissing, ModelError, RecipeError, StepFailed, TrtbuildError
from trtbuild.core.events import Listener, StepName
from trtbuild.pipeline.build import build
from trtbuild.pipeline.compose import compose
from trtbuild.pipeline.decide import Reuse, decide
from trtbuild.pipeline.explain import explain
from trtbuild.pipeline.file_digests import FileDigests
from trtbuild.pipeline.run import Limits
from trtbuild.pipeline.store import Action, Store
from trtbuild.pipeline.upkeep import verify
from trtbuild.recipe.load import load


class Recorder(Listener):
    def __init__(self) -> None:
        self.heard: list[tuple[str, str, str]] = []

    def started(self, step: StepName, reason: str) -> None:
        self.heard.append(("ran", step.name, reason))

    def reused(self, step: StepName, reason: str) -> None:
        self.heard.append(("reused", step.name, reason))

    def failed(self, step: StepName, message: str) -> None:
        self.heard.append(("failed", step.name, message))

    def names(self, what: str) -> set[str]:
        return {name for heard, name, _ in self.heard if heard == what}


def command(*arguments: object, **environment: str) -> list[str]:
    return [sys.executable, "-m", "trtbuild", *map(str, arguments)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A recipe folder, its store and its output, after one build."""
    folder = tmp_path_factory.mktemp("built")
    recipe = write_tiny_recipe(folder / "tiny")
    build(recipe, store=folder / "store", output=folder / "engines")
    return recipe, folder / "store", folder / "engines"


def test_a_second_build_runs_nothing_and_says_so(built: tuple[Path, Path, Path]) -> None:
    recipe, store, output = built
    heard = Recorder()
    began = time.perf_counter()
    report = build(recipe, store=store, output=output, listener=heard)
    assert time.perf_counter() - began < 1.0 * slowness()
    assert report.steps_run == 0
    assert heard.names("ran") == set()
    assert all(reason == "nothing it depends on changed" for _, _, reason in heard.heard)
    assert report.variants[0].reused


def test_the_engine_folder_holds_the_engine_and_a_manifest_that_matches(built: tuple[Path, Path, Path]) -> None:
    _, store, output = built
    folder = output / "tiny" / "fp32"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {"engine.onnx", "engine.json", "interface.json"}
    assert manifest["verdict"]["outcome"] == "passed"
    assert manifest["steps"]["adopt"]["ingredients"]["source.file.model.onnx"]
    assert not [entry for entry in (output / "tiny").iterdir() if entry.name.startswith(".")]
    assert verify(Store(store)).corrupt == []


def test_explain_and_build_agree(built: tuple[Path, Path, Path]) -> None:
    recipe, store, _ = built
    decisions = {step.name: step.decision for step in explain(recipe, store=store).steps}
    assert set(decisions.values()) == {"reuse"}
    changed = explain(recipe, sets=["measure.runs=4"], store=store).steps
    by_name = {step.name: step for step in changed}
    assert by_name["fp32/measure"].decision == "run"
    assert by_name["fp32/measure"].reason == "options.runs: 3 -> 4"
    assert by_name["fp32/judge"].decision == "unknown"
    assert by_name["fp32/validate"].decision == "reuse"


def test_gates_are_judged_again_without_running_anything_else(built: tuple[Path, Path, Path]) -> None:
    recipe, store, _ = built
    heard = Recorder()
    report = build(recipe, sets=["gates.accuracy.cosine_min.min=1.5"], store=store, output=None, listener=heard)
    assert heard.names("ran") == {"fp32/judge"}
    assert not report.passed
    assert report.recommended is None
    assert "cosine_min is 1" in report.variants[0].reasons[0]


def test_the_same_content_elsewhere_is_the_same_work(built: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, store, _ = built
    elsewhere = write_tiny_recipe(tmp_path / "another" / "place")
    heard = Recorder()
    build(elsewhere, store=store, output=None, listener=heard)
    assert heard.names("ran") == set()


def test_an_unchanged_result_stops_the_work_below_it(built: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, store, _ = built
    folder = write_tiny_recipe(tmp_path / "tiny")
    with (folder / "generator.py").open("a") as generator:
        generator.write("\n# another comment, the same samples\n")
    heard = Recorder()
    build(folder, store=store, output=None, listener=heard)
    assert heard.names("ran") == {"sample"}


def test_a_changed_model_runs_what_follows_from_it(built: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, store, _ = built
    folder = write_tiny_recipe(tmp_path / "tiny")
    write_onnx(folder / "model.onnx", seed=7)
    heard = Recorder()
    build(folder, store=store, output=None, listener=heard)
    assert "sample" in heard.names("reused")
    assert {"adopt", "observe", "fp32/build", "fp32/validate", "fp32/measure"} <= heard.names("ran")
    reason = next(reason for what, name, reason in heard.heard if (what, name) == ("ran", "adopt"))
    assert reason.startswith("source.file.model.onnx: ")


def test_a_nan_model_is_a_model_error_that_names_the_step(tmp_path: Path, store: Path) -> None:
    folder = write_tiny_recipe(tmp_path / "tiny")
    write_onnx(folder / "model.onnx", nan=True)
    with pytest.raises(ModelError, match=r"step observe .* holds NaN or infinity") as caught:
        build(folder, store=store, output=tmp_path / "engines")
    assert "trtbuild run-job" in caught.value.hint
    assert not (tmp_path / "engines").exists()
    assert Store(store).sweep() == 0


def test_run_job_repeats_a_failed_step_and_tells_when_it_is_mended(tiny: Path, store: Path) -> None:
    source = (tiny / "generator.py").read_text()
    (tiny / "generator.py").write_text(source.replace("yield", "raise RuntimeError('no text'); yield"))
    with pytest.raises(TrtbuildError):
        build(tiny, store=store, output=None)
    (job,) = store.glob("jobs/tiny/sample-*.json")
    again = subprocess.run(command("run-job", job), capture_output=True, text=True, check=False)
    assert again.returncode == 3
    assert "no text" in again.stderr
    (tiny / "generator.py").write_text(source)
    mended = subprocess.run(command("run-job", job, "--json"), capture_output=True, text=True, check=True)
    assert json.loads(mended.stdout)["evaluation"]["kind"] == "Samples"


def test_steps_that_ended_well_leave_no_job_files(built: tuple[Path, Path, Path]) -> None:
    _, store, _ = built
    assert list(store.glob("jobs/tiny/*")) == []


def test_ctrl_c_while_waiting_for_another_build(built: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """The other build holds the lock of a step; a build that waits for it can still be stopped."""
    recipe, store, _ = built
    key = next(step for step in explain_keys(recipe, store, ["measure.runs=9"]))
    with Store(store).lock(key):
        process = subprocess.Popen(
            command("validate", recipe, "--store", store, "--set", "measure.runs=9"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr
        line = ""
        while "another build" not in line and process.poll() is None:
            line = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130


def explain_keys(recipe: Path, store: Path, sets: list[str]) -> list[str]:
    """The keys of the steps that would run."""
    opened, files = Store(store), FileDigests(store / "digests.sqlite")
    actions: dict[str, Action] = {}
    keys = []
    for step in compose(load(recipe, sets)).plan:
        if any(ref.step not in actions for ref in step.inputs.values()):
            continue
        digests = {name: actions[ref.step].outputs[ref.output].digest for name, ref in step.inputs.items()}
        decided = decide(step, digests, "tiny", opened, files)
        if isinstance(decided, Reuse):
            actions[step.name] = decided.action
        else:
            keys.append(decided.key)
    return keys


def test_a_step_that_takes_too_long_is_killed(tiny: Path, store: Path) -> None:
    (tiny / "generator.py").write_text("import time\ndef samples(split, count):\n    time.sleep(60)\n")
    began = time.monotonic()
    with pytest.raises(StepFailed, match="time limit of 3 s"):
        build(tiny, store=store, output=None, limits=Limits(timeout_s=3))
    assert time.monotonic() - began < 20


def test_a_crash_in_native_code_takes_the_step_not_the_build(tiny: Path, store: Path) -> None:
    (tiny / "generator.py").write_text("import os\ndef samples(split, count):\n    os.kill(os.getpid(), 11)\n")
    with pytest.raises(StepFailed, match="SIGSEGV"):
        build(tiny, store=store, output=None)


def test_an_unknown_variant_gets_the_nearest_name(tiny: Path, store: Path) -> None:
    with pytest.raises(RecipeError, match="no variant 'fp23'") as caught:
        build(tiny, variants=["fp23"], store=store, output=None)
    assert caught.value.hint == "did you mean fp32?"


def test_two_builds_at_once_run_each_step_once(tiny: Path, store: Path, tmp_path: Path) -> None:
    (tiny / "generator.py").write_text(
        (tiny / "generator.py").read_text() + f"\nopen({str(tmp_path / 'runs')!r}, 'a').write('sampled\\n')\n"
    )
    start = command("build", tiny, "--store", store, "--json", "-o")
    running = [
        subprocess.Popen([*start, str(tmp_path / f"engines{n}")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for n in range(2)
    ]
    reports = [json.loads(process.communicate(timeout=120)[0]) for process in running]
    assert sum(report["steps_run"] for report in reports) == reports[0]["steps_run"] + reports[1]["steps_run"] == 7
    assert (tmp_path / "runs").read_text().count("sampled") >= 1
    assert verify(Store(store)).corrupt == []


def test_ctrl_c_stops_everything_keeps_what_is_finished_and_the_next_build_goes_on(
    tiny: Path, store: Path, tmp_path: Path
) -> None:
    source = (tiny / "generator.py").read_text()
    (tiny / "generator.py").write_text(source.replace("yield", "__import__('time').sleep(30); yield"))
    process = subprocess.Popen(
        command("build", tiny, "--store", store, "-o", tmp_path / "engines"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 30
    while not list(store.glob("ac/*/*.json")) and time.monotonic() < deadline:  # adopt finishes while sample sleeps
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"interrupted" in errors
    assert b"Traceback" not in errors
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    assert not (tmp_path / "engines").exists()
    assert list((store / "tmp").iterdir()) == []
    (tiny / "generator.py").write_text(source)
    heard = Recorder()
    build(tiny, store=store, output=None, listener=heard)
    assert "adopt" in heard.names("reused")


def test_killed_builds_leave_a_store_that_verifies_and_workers_that_end(
    tiny: Path, store: Path, tmp_path: Path
) -> None:
    """A dozen kills at moments spread over a build; `benchmarks/kill_builds.py` does hundreds."""
    output = tmp_path / "engines"
    for number in range(12):
        process = subprocess.Popen(
            command("build", tiny, "--store", store, "-o", output, "--force", "--quiet"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.2 + 0.25 * number)
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, "a worker outlived its build"
        found = verify(Store(store))
        assert (found.corrupt, found.incomplete) == ([], [])
        for variant in (entry for entry in output.glob("tiny/[a-z]*") if entry.is_dir()):
            assert (variant / "manifest.json").is_file()
            assert (variant / "engine.onnx").is_file()
    report = build(tiny, store=store, output=output)
    assert report.passed
    assert Store(store).sweep() == 0, "a finished build sweeps what dead ones left"
    assert os.listdir(store / "tmp") == []


def test_a_missing_backend_is_said_before_anything_runs(
    tiny: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = machine.package_version
    monkeypatch.setattr(machine, "package_version", lambda name: None if "modelopt" in name else installed(name))
    with pytest.raises(BackendMissing, match="autocast needs nvidia-modelopt") as caught:
        build(tiny, sets=["variants.fp16={precision: fp16}"], store=store, output=None)
    assert caught.value.hint == "install it: pip install 'trtbuild[export]'"
    assert list(Store(store).actions()) == []


def test_what_is_already_built_needs_no_backend(
    built: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that are reused run on a machine without their libraries; only the versions that keys name must match."""
    recipe, store, _ = built
    monkeypatch.setattr("trtbuild.pipeline.job.machine", None)
    assert build(recipe, store=store, output=None).steps_run == 0
