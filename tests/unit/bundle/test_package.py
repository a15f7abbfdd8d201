"""Engines into bundles: what goes together, what is refused, and that equal inputs give equal bytes."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from numpy.linalg import _umath_linalg

from tests.bundles import MODEL, write_engine
from trtbuild.core.errors import DataError, ModelError, StoreError, TrtbuildError, VerificationError
from trtbuild.pipeline.package import package
from trtbuild.pipeline.sign import keygen, sign, verify

L4: dict[str, Any] = {"gpu": "NVIDIA L4", "sm": (8, 9), "cuda": "12.4"}


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """As `build` leaves it: two variants of one recipe."""
    write_engine(tmp_path / "engines/tiny/fp16", seed=1)
    write_engine(tmp_path / "engines/tiny/int8", variant="int8", seed=2, calibration="cd" * 32)
    return tmp_path / "engines/tiny"


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_bundle_holds_every_engine_of_a_folder(built: Path, tmp_path: Path) -> None:
    report = package([built], output=tmp_path / "bundle", version="1.4.0")
    assert [engine.name for engine in report.engines] == [
        "fp16.sm_90.nvidia-h200.tensorrt-10.13.2.6",
        "int8.sm_90.nvidia-h200.tensorrt-10.13.2.6",
    ]
    bundle = json.loads((tmp_path / "bundle/bundle.json").read_text())
    assert bundle["version"] == "1.4.0"
    assert bundle["engines"][1]["calibration"] == {"generator": "g:s", "samples": 8, "digest": "cd" * 32}
    assert bundle["engines"][1]["verdict"]["speedup"] == 1.5
    assert verify(tmp_path / "bundle").files == len(content(tmp_path / "bundle"))


def test_equal_inputs_give_equal_bytes(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package([built], output=tmp_path / "one")
    package([built / "int8", built / "fp16"], output=tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")
    for name in ("a.tar", "b.tar"):
        package([built], output=tmp_path / name)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    package([built], output=tmp_path / "old")
    assert json.loads((tmp_path / "old/bundle.json").read_text())["created"] == "1970-01-01T00:00:00+00:00"


def test_packaging_again_keeps_the_signature(built: Path, tmp_path: Path) -> None:
    package([built], output=tmp_path / "bundle")
    keygen(tmp_path / "k.key")
    sign(tmp_path / "bundle", tmp_path / "k.key")
    assert package([built], output=tmp_path / "bundle").unchanged
    assert verify(tmp_path / "bundle", keys=[tmp_path / "k.pub"]).signed_by


def test_engines_of_another_machine_are_added(built: Path, tmp_path: Path) -> None:
    package([built], output=tmp_path / "bundle", version="2")
    other = write_engine(tmp_path / "l4", variant="int8", seed=3, calibration="cd" * 32, **L4)
    report = package([tmp_path / "bundle", other], output=tmp_path / "bundle", version="2")
    assert len(report.engines) == 3
    assert len(verify(tmp_path / "bundle").engines) == 3
    once = package([built, other], output=tmp_path / "once", version="2")
    assert content(tmp_path / "once") == content(tmp_path / "bundle")
    assert once.size_bytes == report.size_bytes


def test_a_bundle_does_not_lose_engines_by_accident(built: Path, tmp_path: Path) -> None:
    package([built], output=tmp_path / "bundle")
    with pytest.raises(StoreError, match="holds engines that this bundle would lack"):
        package([built / "fp16"], output=tmp_path / "bundle")
    assert len(verify(tmp_path / "bundle").engines) == 2
    (tmp_path / "mine").mkdir()
    with pytest.raises(StoreError, match="is no bundle"):
        package([built], output=tmp_path / "mine")


def test_two_engines_for_one_target(built: Path, tmp_path: Path) -> None:
    newer = write_engine(tmp_path / "newer", seed=9)
    with pytest.raises(DataError, match="two engines for one target"):
        package([built, newer], output=tmp_path / "bundle")
    report = package([built, newer], output=tmp_path / "bundle", replace=True)
    assert len(report.engines) == 2
    plan = tmp_path / "bundle/engines/fp16.sm_90.nvidia-h200.tensorrt-10.13.2.6/engine.plan"
    assert plan.read_bytes() == (newer / "engine.plan").read_bytes()


def test_a_failed_verdict_needs_a_word(built: Path, tmp_path: Path) -> None:
    write_engine(built / "int4", variant="int4", verdict="failed", seed=4)
    with pytest.raises(DataError, match=r"int4.*failed its gates: cosine_min is 0.9"):
        package([built], output=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    assert len(package([built], output=tmp_path / "bundle", variants=["fp16", "int8"]).engines) == 2
    allowed = package([built], output=tmp_path / "all", allow_failed=True)
    assert [engine.verdict for engine in allowed.engines] == ["passed", "failed", "passed"]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"recipe": "other"}, "two recipes, tiny and other"),
        ({"model": {**MODEL, "source.file.model.onnx": "00" * 32}}, "two models"),
        ({"model": {**MODEL, "shapes.axes.batch.max": "16"}}, "other shapes"),
        ({"calibration": "ee" * 32}, "two sets of samples"),
    ],
)
def test_what_does_not_belong_together(built: Path, tmp_path: Path, facts: dict[str, Any], words: str) -> None:
    other = write_engine(tmp_path / "other", variant="more", seed=5, **facts)
    with pytest.raises(DataError, match=words):
        package([built / "int8", other], output=tmp_path / "bundle")
    assert not list(tmp_path.glob("*bundle*"))


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda f: (f / "engine.plan").write_bytes(b"?" * 1000), VerificationError, "not the ones that were built"),
        (lambda f: (f / "engine.json").unlink(), StoreError, "no engine that can be packaged"),
        (lambda f: (f / "manifest.json").write_text("{"), StoreError, "no readable manifest.json"),
        (lambda f: (f / "manifest.json").write_text('{"format": 1}'), StoreError, "another trtbuild"),
        (shutil.rmtree, StoreError, "there is no folder"),
    ],
)
def test_engines_that_are_not_whole(
    built: Path, tmp_path: Path, spoil: Any, error: type[TrtbuildError], words: str
) -> None:
    spoil(built / "fp16")
    with pytest.raises(error, match=words):
        package([built / "fp16"], output=tmp_path / "bundle")
    assert not list(tmp_path.glob("*bundle*"))


def test_the_bill_of_materials_is_strictly_valid(built: Path, tmp_path: Path) -> None:
    package([built], output=tmp_path / "bundle")
    text = (tmp_path / "bundle/sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    models = [part for part in json.loads(text)["components"] if part["type"] == "machine-learning-model"]
    assert len(models) == 2
    metrics = {
        each["type"]: each["value"] for each in models[1]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    }
    assert metrics["cosine_min"] == "0.999"
    assert models[1]["modelCard"]["modelParameters"]["datasets"] == [{"ref": "calibration:cdcdcdcdcdcd"}]


def test_the_statement_names_every_file_and_source(built: Path, tmp_path: Path) -> None:
    package([built], output=tmp_path / "bundle")
    statement = json.loads((tmp_path / "bundle/provenance.json").read_text())
    files = set(content(tmp_path / "bundle")) - {"provenance.json"}
    assert {subject["name"] for subject in statement["subject"]} == files
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    definition = statement["predicate"]["buildDefinition"]
    assert definition["resolvedDependencies"] == [{"name": "model.onnx", "digest": {"sha256": "ab" * 32}}]


def test_plugins_travel_with_what_they_need(tmp_path: Path) -> None:
    library = tmp_path / "libmine.so"
    shutil.copy(_umath_linalg.__file__, library)  # any shared library will do
    engine = write_engine(tmp_path / "engine", facts={"plugins": [str(library)]})
    package([engine], output=tmp_path / "bundle")
    (entry,) = json.loads((tmp_path / "bundle/bundle.json").read_text())["engines"][0]["plugins"]
    assert (tmp_path / "bundle" / entry["path"]).read_bytes() == library.read_bytes()
    assert any(name.startswith("libc.so") for name in entry["needs"])
    library.unlink()
    again = package([tmp_path / "bundle"], output=tmp_path / "copy")
    assert (tmp_path / "copy" / entry["path"]).is_file(), "found in the bundle, though its first place is gone"
    assert again.files == 5
    with pytest.raises(DataError, match=r"needs the plugin .*libmine.so, which is not there"):
        package([engine], output=tmp_path / "third")
    library.write_text("no library at all")
    with pytest.raises(ModelError, match="no 64-bit shared library"):
        package([engine], output=tmp_path / "third")


def test_a_tar_file_is_verified_as_it_is(built: Path, tmp_path: Path) -> None:
    package([built], output=tmp_path / "bundle.tar", version="3")
    assert verify(tmp_path / "bundle.tar").version == "3"
    with tarfile.open(tmp_path / "bundle.tar") as tar:
        assert all((member.uid, member.mtime, member.mode) == (0, 1700000000, 0o644) for member in tar)
        tar.extractall(tmp_path / "out", filter="data")
    assert verify(tmp_path / "out").recipe == "tiny"
