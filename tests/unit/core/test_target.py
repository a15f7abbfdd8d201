"""Which machine runs which engine, and which of several a pull takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bundles import write_engine
from trtbuild.bundle.manifest import Bundle
from trtbuild.core.errors import DestinationError
from trtbuild.core.gpu import Device
from trtbuild.core.target import Machine, Target, misfit
from trtbuild.pipeline.choose import choose
from trtbuild.pipeline.package import package

H200 = Device("NVIDIA H200", (9, 0), 132, 141 << 30, "580.95.05", "13.0")
L4 = Device("NVIDIA L4", (8, 9), 58, 24 << 30, "550.54.15", "12.4")
T4 = Device("Tesla T4", (7, 5), 40, 16 << 30, "550.54.15", "12.4")


def machine(device: Device | None = H200, tensorrt: str | None = "10.13.2.6", **facts: Any) -> Machine:
    versions = {"tensorrt": tensorrt, "onnxruntime": "1.31.1"}
    return Machine(
        **{
            "platform": "linux/amd64",
            "device": device,
            "versions": versions,
            "extensions": frozenset({"avx2"}),
            **facts,
        }
    )


def plan(**facts: Any) -> Target:
    usual = {
        "backend": "tensorrt",
        "version": "10.13.2.6",
        "platform": "linux/amd64",
        "gpu": "NVIDIA H200",
        "sm": (9, 0),
        "cuda": "13.0",
        "driver": "580.95.05",
    }
    return Target.model_validate({**usual, **facts})


ORT = Target(backend="onnxruntime", version="1.31.1", platform="linux/amd64", extensions=["avx2"])


@pytest.mark.parametrize(
    ("target", "here", "reason"),
    [
        (plan(), machine(), None),
        (plan(), machine(tensorrt="10.14.0.1"), "needs TensorRT 10.13.2.6, and this is 10.14.0.1"),
        (plan(version_compatible=True), machine(tensorrt="10.14.0.1"), None),
        (plan(version_compatible=True), machine(tensorrt="10.9.0.34"), "10.13.2.6 or later, and this is 10.9.0.34"),
        (plan(), machine(L4), "needs a GPU of SM 9.0 (NVIDIA H200), and this is NVIDIA L4, SM 8.9"),
        (plan(gpu="NVIDIA H100"), machine(), "built for NVIDIA H100, and this is NVIDIA H200"),
        (plan(gpu="NVIDIA H100", hardware_compatibility="same_compute_capability"), machine(), None),
        (plan(hardware_compatibility="ampere_plus", cuda="12.4"), machine(L4), None),
        (plan(hardware_compatibility="ampere_plus", cuda="12.4"), machine(T4), "SM 8.0 or later"),
        (plan(gpu="NVIDIA L4", sm=(8, 9), cuda="13.0"), machine(L4), "built under a driver for CUDA 13.0"),
        (plan(), machine(None), "needs a GPU of SM 9.0 (NVIDIA H200), and this machine has none"),
        (plan(), machine(tensorrt=None), "needs TensorRT 10.13.2.6, and none is installed here"),
        (plan(platform="linux/arm64"), machine(), "built for linux/arm64, and this is linux/amd64"),
        (ORT, machine(None), None),
        (ORT, machine(None, extensions=frozenset()), "optimized for a processor with avx2"),
        (ORT.model_copy(update={"version": "1.30.0"}), machine(None), "needs ONNX Runtime 1.30.0, and this is 1.31.1"),
        (ORT.model_copy(update={"backend": "abacus"}), machine(None), "needs abacus"),
    ],
)
def test_what_fits_and_why_not(target: Target, here: Machine, reason: str | None) -> None:
    found = misfit(target, here)
    assert found is None if reason is None else reason in (found or "")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("engines")
    l4: dict[str, Any] = {"gpu": "NVIDIA L4", "sm": (8, 9), "cuda": "12.4"}
    a100: dict[str, Any] = {"gpu": "NVIDIA A100", "sm": (8, 0), "hardware_compatibility": "ampere_plus"}
    engines = [
        write_engine(folder / "1", variant="fp16", median_ms=2.0, seed=1),
        write_engine(folder / "2", variant="int8", median_ms=1.0, seed=2),
        write_engine(folder / "3", variant="fp8", median_ms=0.5, verdict="failed", seed=3),
        write_engine(folder / "4", variant="int8", median_ms=0.1, seed=4, **a100),
        write_engine(folder / "5", variant="fp16", median_ms=9.0, seed=5, **l4),
        write_engine(folder / "6", variant="fp16", gpu=None, median_ms=50.0, seed=6),
    ]
    made = package(engines, output=folder / "bundle", allow_failed=True)
    return Bundle.parse((Path(made.bundle) / "bundle.json").read_bytes(), "here")


@pytest.mark.parametrize(
    ("here", "asked", "engine"),
    [
        (machine(), {}, "int8.sm_90.nvidia-h200.tensorrt-10.13.2.6"),
        (machine(), {"variants": ["fp16"]}, "fp16.sm_90.nvidia-h200.tensorrt-10.13.2.6"),
        (machine(), {"allow_failed": True}, "fp8.sm_90.nvidia-h200.tensorrt-10.13.2.6"),
        (machine(L4), {"variants": ["fp16"]}, "fp16.sm_89.nvidia-l4.tensorrt-10.13.2.6"),
        (machine(None), {}, "fp16.linux-amd64.onnxruntime-1.31.1"),
        (machine(tensorrt="8.6.0"), {}, "fp16.linux-amd64.onnxruntime-1.31.1"),
        (
            machine(T4),
            {"engines": ["fp16.sm_89.nvidia-l4.tensorrt-10.13.2.6"]},
            "fp16.sm_89.nvidia-l4.tensorrt-10.13.2.6",
        ),
    ],
)
def test_the_best_that_fits_is_taken(bundle: Bundle, here: Machine, asked: dict[str, Any], engine: str) -> None:
    (chosen,), because = choose(bundle, here, **asked)
    assert chosen.name == engine
    assert because


def test_where_none_fits_each_reason_is_said(bundle: Bundle) -> None:
    with pytest.raises(DestinationError) as told:
        choose(bundle, machine(T4, extensions=frozenset()))
    assert "no engine of tiny" in told.value.message
    assert "Tesla T4 (SM 7.5, driver 550.54.15)" in told.value.message
    assert "int8.ampere_plus.tensorrt-10.13.2.6: it needs a GPU of SM 8.0 or later" in told.value.message
    assert "fp8.sm_90.nvidia-h200.tensorrt-10.13.2.6: it failed its gates" in told.value.message
    assert "onnxruntime-1.31.1: it was optimized for a processor with avx2" in told.value.message


def test_names_that_are_not_there_get_the_nearest(bundle: Bundle) -> None:
    with pytest.raises(DestinationError, match="there are: fp16, fp8, int8"):
        choose(bundle, machine(), variants=["int4"])
    with pytest.raises(DestinationError, match=r"did you mean fp16.linux-amd64.onnxruntime-1.31.1"):
        choose(bundle, machine(), engines=["fp16.linux-amd64.onnxruntime-1.31"])
