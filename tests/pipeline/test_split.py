"""A recipe whose steps are divided between two machines: one calibrates, the other has no ModelOpt and goes on."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.models import RECIPE, write_tiny_recipe
from trtbuild.core import machine
from trtbuild.core.errors import ModelError, StoreError
from trtbuild.pipeline.build import build, prepare
from trtbuild.pipeline.carried import export, take_in
from trtbuild.pipeline.explain import explain
from trtbuild.pipeline.store import Store
from trtbuild.pipeline.upkeep import verify

WITH_INT8 = (
    RECIPE
    + "  int8: {quantize: {format: int8}, gates: {pays: 'no', coverage: 0.0, accuracy: {cosine_min: {min: 0.9}}}}\n"
)
GONE = ("nvidia-modelopt", "torch")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A recipe, the store of the machine that did it until the insertion for TensorRT 8.6, and the carried file."""
    folder = tmp_path_factory.mktemp("calibrated")
    recipe = write_tiny_recipe(folder / "tiny", recipe=WITH_INT8)
    report = prepare(recipe, until="insert", sets=["engine.target=8.6"], store=folder / "store")
    assert (report.backend, report.variants) == ("tensorrt", ["fp32", "int8"])
    carried = export(recipe, folder / "carried.tar", sets=["engine.target=8.6"], store=folder / "store")
    assert {"sample", "adopt", "observe", "calibrate-int8", "int8/insert"} == set(carried.steps)
    return recipe, folder / "store", folder / "carried.tar"


@pytest.fixture
def another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine without ModelOpt and PyTorch, with another Python."""
    installed = machine.package_version
    monkeypatch.setattr(machine, "package_version", lambda name: None if name in GONE else installed(name))
    monkeypatch.setitem(machine.FACTS, "python", lambda: "3.10.0")


def test_a_build_may_stop_before_engines(calibrated: tuple[Path, Path, Path]) -> None:
    _, store, _ = calibrated
    stages = {action.ingredients["stage"].split()[0] for _, action in Store(store).actions()}
    assert stages == {"sample", "adopt", "observe_onnx", "calibrate_onnx", "insert"}


@pytest.mark.usefixtures("another_machine")
def test_what_was_carried_over_is_reused_and_says_so(calibrated: tuple[Path, Path, Path], store: Path) -> None:
    recipe, _, file = calibrated
    assert len(take_in(file, store=store).steps) == 5
    assert verify(Store(store)).corrupt == []
    report = prepare(recipe, until="insert", sets=["engine.target=8.6"], store=store)
    assert (report.steps_run, report.steps_reused) == (0, 5)
    steps = {step.name: step for step in explain(recipe, store=store).steps}
    assert steps["calibrate-int8"].reason == "made on another machine: this one lacks nvidia-modelopt"
    assert steps["sample"].reason.startswith("made on another machine: under Python 3.1")
    assert steps["fp32/build"].decision == "run"


@pytest.mark.usefixtures("another_machine")
def test_the_machine_that_goes_on_builds_engines(
    calibrated: tuple[Path, Path, Path], store: Path, tmp_path: Path
) -> None:
    recipe, _, file = calibrated
    take_in(file, store=store)
    report = build(recipe, store=store, output=tmp_path / "engines")
    assert report.backend == "onnxruntime"
    assert {variant.name: variant.verdict for variant in report.variants} == {"fp32": "passed", "int8": "passed"}
    # sample, adopt, observe and the calibration came along; the insertion for this backend did not.
    assert report.steps_reused == 4


@pytest.mark.usefixtures("another_machine")
def test_the_model_itself_need_not_come_along(calibrated: tuple[Path, Path, Path], store: Path, tmp_path: Path) -> None:
    recipe, _, file = calibrated
    here = tmp_path / "tiny"
    shutil.copytree(recipe, here)
    (here / "model.onnx").unlink()
    take_in(file, store=store)
    assert prepare(here, until="insert", sets=["engine.target=8.6"], store=store).steps_run == 0
    with pytest.raises(ModelError, match="model is not on this machine, and no step"):
        prepare(here, until="insert", sets=["engine.target=8.6", "shapes.axes.batch.max=5"], store=store)


@pytest.mark.usefixtures("another_machine")
def test_other_settings_are_other_work(calibrated: tuple[Path, Path, Path], store: Path) -> None:
    recipe, _, file = calibrated
    take_in(file, store=store)
    changed = explain(recipe, sets=["variants.int8.quantize.method=entropy"], store=store).steps
    assert next(step for step in changed if step.name == "calibrate-int8").decision == "run"


def test_a_machine_that_can_do_the_step_does_it_itself(
    calibrated: tuple[Path, Path, Path], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of ModelOpt is other work, as long as there is one."""
    recipe, _, file = calibrated
    take_in(file, store=store)
    installed = machine.package_version
    monkeypatch.setattr(machine, "package_version", lambda name: "0.1" if "modelopt" in name else installed(name))
    step = next(step for step in explain(recipe, store=store).steps if step.name == "calibrate-int8")
    assert step.decision == "run"


def test_unfinished_steps_are_not_exported(calibrated: tuple[Path, Path, Path], store: Path, tmp_path: Path) -> None:
    recipe, _, _ = calibrated
    with pytest.raises(StoreError, match="5 steps are not finished, sample first") as caught:
        export(recipe, tmp_path / "none.tar", sets=["engine.target=8.6"], store=store)
    assert "--until insert" in caught.value.hint
    assert not (tmp_path / "none.tar").exists()


def rewritten(file: Path, target: Path, change: dict[str, bytes], more: list[tarfile.TarInfo] | None = None) -> Path:
    with tarfile.open(file) as source, tarfile.open(target, "w") as archive:
        for member in source:
            content = source.extractfile(member).read()
            content = next((new for part, new in change.items() if part in member.name), content)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in more or []:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return target


def member(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, "/etc/passwd", 1 if kind == tarfile.REGTYPE else 0
    return found


@pytest.mark.parametrize(
    "name",
    ["/absolute", "../up", f"cas/{'0' * 64}/../../../up", "cas/short/file", "ac/x.json", "last/tiny/sample", "x"],
)
def test_no_member_leaves_its_place(
    calibrated: tuple[Path, Path, Path], store: Path, tmp_path: Path, name: str
) -> None:
    file = rewritten(calibrated[2], tmp_path / "bad.tar", {}, [member(name)])
    with pytest.raises(StoreError, match="which no export writes"):
        take_in(file, store=store)
    assert list(Store(store).actions()) == []
    assert not (tmp_path / "up").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_no_member_is_anything_but_a_file(
    calibrated: tuple[Path, Path, Path], store: Path, tmp_path: Path, kind: bytes
) -> None:
    file = rewritten(calibrated[2], tmp_path / "bad.tar", {}, [member(f"cas/{'0' * 64}/link", kind)])
    with pytest.raises(StoreError, match="which no export writes"):
        take_in(file, store=store)


def test_changed_bytes_are_refused(calibrated: tuple[Path, Path, Path], store: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not hold what its digest says"):
        take_in(rewritten(calibrated[2], tmp_path / "a.tar", {"plan.json": b"{}"}), store=store)
    with tarfile.open(calibrated[2]) as archive:
        name = next(name for name in archive.getnames() if name.startswith("ac/"))
        action = archive.extractfile(name).read()
    other = action.replace(b'"stage": "', b'"stage": "x')
    assert other != action
    with pytest.raises(StoreError, match="not its ingredients' digest"):
        take_in(rewritten(calibrated[2], tmp_path / "b.tar", {name: other}), store=store)
    (tmp_path / "c.tar").write_bytes(calibrated[2].read_bytes()[:3000])
    with pytest.raises(StoreError, match=r"cannot be read|is no file of"):
        take_in(tmp_path / "c.tar", store=store)
    with pytest.raises(StoreError, match="there is no file"):
        take_in(tmp_path / "none.tar", store=store)
    assert list(Store(store).actions()) == []
