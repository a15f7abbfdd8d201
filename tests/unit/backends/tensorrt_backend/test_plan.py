"""What may be loaded: headers, digests, machines."""

from __future__ import annotations

import struct

import pytest

from trtbuild.backends.tensorrt import plan
from trtbuild.backends.tensorrt.plan import Manifest
from trtbuild.core.artifacts import Engine
from trtbuild.core.errors import ModelError
from trtbuild.core.gpu import Device

H200 = Device("NVIDIA H200", (9, 0), 132, 150_000_000_000, "580.95.05", "13.0")
PLAN = struct.pack("<II16xBBBB", plan.MAGIC, 0, 8, 6, 0, 0) + bytes(range(256))


def manifest(**changes: object) -> Manifest:
    return Manifest(
        **{
            "tensorrt": "8.6.0",
            "cuda": "13.0",
            "driver": "580.95.05",
            "gpu": "NVIDIA H200",
            "sm": (9, 0),
            "multiprocessors": 132,
            "memory_mb": 143_000,
            "plan_sha256": plan.digest(PLAN),
            "plan_bytes": len(PLAN),
            "plan_header": "8.6.0.0",
            "timing_cache_sha256": "",
            "dialect": "TensorRT 8.6",
            "precision_flags": ["FP16"],
            "profiles": [{"name": "shapes", "ranges": {"x": ([1, 3], [8, 3], [16, 3])}}],
            "outputs": {"y": "float32"},
            "hardware_compatibility": "none",
            "version_compatible": False,
            "weight_streaming": False,
            "plugins": [],
            "device_memory_bytes": 1,
            "estimated_weights_bytes": 1,
            "estimated_activations_bytes": 1,
            **changes,
        }
    )


def engine(folder, content: bytes = PLAN, **changes: object) -> Engine:
    made = Engine(folder)
    (folder / plan.PLAN_FILE).write_bytes(content)
    made.main.write_text(manifest(**changes).model_dump_json())
    return made


def test_the_magic_is_ftrt() -> None:
    assert PLAN[:4] == b"ftrt"
    assert plan.header_version(PLAN, "plan") == "8.6.0.0"
    assert plan.header_version(memoryview(PLAN), "plan") == "8.6.0.0"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes are too few"),
        (PLAN[:20], "20 bytes are too few"),
        (b"PK\3\4" + PLAN, "does not begin with `ftrt`"),
    ],
)
def test_a_file_that_is_no_plan_is_told_from_its_header(content: bytes, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        plan.header_version(content, "engine.plan")


def test_a_plan_that_is_the_one_built_is_let_through(tmp_path) -> None:
    made = engine(tmp_path)
    assert plan.verified(made, plan.read_manifest(made), "8.6.0", H200) == PLAN


@pytest.mark.parametrize("content", [PLAN[:-1], PLAN[:-1] + b"!", b""], ids=["truncated", "changed", "empty"])
def test_a_plan_that_is_another_is_refused(tmp_path, content: bytes) -> None:
    made = engine(tmp_path, content)
    with pytest.raises(ModelError, match="not the plan that"):
        plan.verified(made, plan.read_manifest(made), "8.6.0", H200)


def test_a_header_of_another_version_is_refused(tmp_path) -> None:
    made = engine(tmp_path, plan_header="10.9.0.34")
    with pytest.raises(ModelError, match=r"TensorRT 8\.6\.0\.0 wrote it, engine.json says 10\.9"):
        plan.verified(made, plan.read_manifest(made), "8.6.0", H200)


def test_a_missing_plan_is_refused(tmp_path) -> None:
    made = engine(tmp_path)
    (tmp_path / plan.PLAN_FILE).unlink()
    with pytest.raises(ModelError, match="the plan is missing"):
        plan.verified(made, plan.read_manifest(made), "8.6.0", H200)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"backend": "onnxruntime", "onnxruntime": "1.31.1"}', "another backend built it"),
        ("{", "1 validation error"),
        ("[]", "1 validation error"),
    ],
)
def test_a_foreign_or_damaged_manifest_is_refused(tmp_path, text: str, said: str) -> None:
    Engine(tmp_path).main.write_text(text)
    with pytest.raises(ModelError, match="not a TensorRT engine of trtbuild") as caught:
        plan.read_manifest(Engine(tmp_path))
    assert said in caught.value.message


A100 = Device("NVIDIA A100-SXM4-80GB", (8, 0), 108, 80_000_000_000, "580.95.05", "13.0")
T4 = Device("Tesla T4", (7, 5), 40, 16_000_000_000, "580.95.05", "13.0")
H100 = Device("NVIDIA H100", (9, 0), 132, 80_000_000_000, "580.95.05", "13.0")


@pytest.mark.parametrize(
    ("changes", "version", "device", "said"),
    [
        ({}, "8.6.0", H200, None),
        ({}, "8.6.1", H200, "needs TensorRT 8.6.0, and this is 8.6.1"),
        ({}, "8.6.0", A100, "needs a GPU of SM 9.0 (NVIDIA H200), and this is NVIDIA A100-SXM4-80GB, SM 8.0"),
        ({}, "8.6.0", H100, "was built for NVIDIA H200, and this is NVIDIA H100"),
        ({"hardware_compatibility": "same_compute_capability"}, "8.6.0", H100, None),
        ({"hardware_compatibility": "same_compute_capability"}, "8.6.0", A100, "needs a GPU of SM 9.0"),
        ({"hardware_compatibility": "ampere_plus"}, "8.6.0", A100, None),
        ({"hardware_compatibility": "ampere_plus"}, "8.6.0", T4, "needs a GPU of SM 8.0 or later"),
        ({"version_compatible": True}, "10.9.0.34", H200, None),
        ({"version_compatible": True}, "8.5.3", H200, "needs TensorRT 8.6.0 or later, and this is 8.5.3"),
    ],
)
def test_what_fits_where(changes: dict, version: str, device: Device, said: str | None) -> None:
    reason = plan.misfit(manifest(**changes), version, device)
    assert (reason is None) if said is None else (said in reason)


def test_in_a_bundle_plugins_are_the_bundles_own(tmp_path) -> None:
    elsewhere = "/nowhere/libmine.so"
    bundled = tmp_path / "plugins/0123/libmine.so"
    folder = tmp_path / "engines/fp16"
    folder.mkdir(parents=True)
    made = engine(folder, plugins=[elsewhere])
    assert plan.read_manifest(made).plugins == [elsewhere]
    bundled.parent.mkdir(parents=True)
    bundled.touch()
    assert plan.read_manifest(made).plugins == [str(bundled)]
