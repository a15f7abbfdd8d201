"""Keys have names: what enters one, and what an explanation says."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.models import write_tiny_recipe
from trtbuild import datasets
from trtbuild.core.values import digest_of
from trtbuild.pipeline.compose import compose
from trtbuild.pipeline.decide import Reuse, Run, decide, ingredients_of
from trtbuild.pipeline.file_digests import FileDigests
from trtbuild.pipeline.plan import Plan, Step
from trtbuild.pipeline.store import Action, Store, now
from trtbuild.recipe.load import load


@pytest.fixture
def files(store: Path) -> FileDigests:
    Store(store)
    return FileDigests(store / "digests.sqlite")


def plan_of(folder: Path, *sets: str) -> Plan:
    return compose(load(folder, sets)).plan


def ingredients(step: Step, files: FileDigests) -> dict[str, str]:
    return ingredients_of(step, dict.fromkeys(step.inputs, "0" * 64), files)


def test_every_ingredient_is_named(tiny: Path, files: FileDigests) -> None:
    steps = plan_of(tiny).steps
    sample = ingredients(steps["sample"], files)
    assert sample["stage"] == "sample v2"
    assert sample["source.calibration"] == "8"
    assert sample["shapes.axes.batch.opt"] == "4"
    assert len(sample["source.file.generator.py"]) == 64
    assert "machine.python" in sample
    build = ingredients(steps["fp32/build"], files)
    assert build["backend.compiler"] == "onnxruntime"
    assert {"version.onnxruntime", "machine.processor", "input.model", "options.tactics"} <= build.keys()
    assert not [name for name in build if name.startswith("version.") and name != "version.onnxruntime"]


@pytest.mark.parametrize(
    ("generator", "package"),
    [("text:lines", "tokenizers"), ("images:folder", "Pillow"), ("audio:clips", "scipy"), ("tensors:files", None)],
)
def test_a_generator_of_ours_brings_the_versions_of_its_libraries(
    generator: str, package: str | None, tiny: Path, files: FileDigests
) -> None:
    (tiny / "data.bin").write_bytes(b"")
    sets = f"data.generator=trtbuild.datasets.{generator}", "data.files=[data.bin]"
    found = ingredients(plan_of(tiny, *sets).steps["sample"], files)
    versions = {name: value for name, value in found.items() if name.startswith("version.")}
    assert versions == ({f"version.{package}": metadata.version(package)} if package else {})


def test_every_library_of_a_generator_is_known() -> None:
    """`library("PIL.Image", ...)` in a module of generators means that PACKAGES names it."""
    distributions = {"PIL": "Pillow"}
    for file in Path(datasets.__file__).parent.glob("*.py"):
        named = {name.partition(".")[0] for name in re.findall(r'[^_]library\("([\w.]+)"', file.read_text())}
        expected = {distributions.get(name, name) for name in named}
        assert set(datasets.PACKAGES.get(f"trtbuild.datasets.{file.stem}", ())) == expected, file.name


def test_a_place_is_no_ingredient(tmp_path: Path, files: FileDigests) -> None:
    here, there = write_tiny_recipe(tmp_path / "here"), write_tiny_recipe(tmp_path / "there")
    for name in ("sample", "adopt", "fp32/validate"):
        assert ingredients(plan_of(here).steps[name], files) == ingredients(plan_of(there).steps[name], files)


def test_the_reason_is_the_difference(tiny: Path, store: Path, files: FileDigests) -> None:
    opened = Store(store)
    step = plan_of(tiny).steps["sample"]
    first = decide(step, {}, "tiny", opened, files)
    assert isinstance(first, Run)
    assert first.reason == "first run"
    action = Action(step="sample", ingredients=dict(first.ingredients), outputs={}, elapsed_s=1, finished_at=now())
    opened.commit(first.key, "tiny", action)
    assert isinstance(decide(step, {}, "tiny", opened, files), Reuse)
    changed = decide(plan_of(tiny, "data.calibration=4").steps["sample"], {}, "tiny", opened, files)
    assert isinstance(changed, Run)
    assert changed.reason == "source.calibration: 8 -> 4"
    assert changed.key == digest_of(changed.ingredients)


def test_a_file_is_hashed_again_when_it_changes(tiny: Path, files: FileDigests) -> None:
    file = tiny / "generator.py"
    before = files.of(file)
    assert files.of(file) == before
    file.write_text(file.read_text() + "# changed\n")
    assert files.of(file) != before


def test_many_processes_may_open_a_new_table_at_once(tmp_path: Path) -> None:
    """Two builds started together both create it; none may find it locked."""
    code = (
        "import sys; from pathlib import Path; from trtbuild.pipeline.file_digests import FileDigests;"
        "print(FileDigests(Path(sys.argv[1])).of(Path(sys.argv[2])))"
    )
    file = tmp_path / "file"
    file.write_text("content")
    for number in range(3):
        command = [sys.executable, "-c", code, str(tmp_path / f"{number}.sqlite"), str(file)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(6)]
        answers = {process.communicate(timeout=60) for process in running}
        assert answers == {(hashlib.sha256(b"content").hexdigest().encode() + b"\n", b"")}


def test_a_damaged_table_costs_time_only(tmp_path: Path) -> None:
    (tmp_path / "digests.sqlite").write_bytes(b"this is no database" * 100)
    (tmp_path / "file").write_text("content")
    files = FileDigests(tmp_path / "digests.sqlite")
    assert files.of(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()


def test_equal_work_is_one_step_and_other_work_another(tiny: Path) -> None:
    plan = plan_of(tiny, "variants.again={precision: fp32}", "variants.other={precision: fp32, engine: {threads: 1}}")
    builds = [name for name in plan.steps if name.endswith("build")]
    assert builds == ["fp32/build", "other/build"]


def test_chains_are_counted_from_each_step(tiny: Path) -> None:
    lengths = plan_of(tiny).chain_lengths()
    assert lengths["fp32/judge"] == 1
    assert lengths["sample"] > lengths["observe"] > lengths["fp32/validate"]
