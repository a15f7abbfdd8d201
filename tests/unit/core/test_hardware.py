"""GPUs are found under every name that people, drivers and CUDA give them, and under no other's."""

from __future__ import annotations

import pytest

from trtbuild.core.errors import RecipeError
from trtbuild.core.hardware import GPUS, gpu_named


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("H100", "H100"),
        ("h100-sxm", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("A100-SXM4-40GB", "A100"),
        ("a100 40gb", "A100 40GB"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("a6000", "RTX A6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"),
        ("L4", "L4"),
        ("L40S", "L40S"),
        ("Jetson AGX Orin", "Orin"),
        ("GB200", "GB200"),
        ("sm_90", "H100"),
        ("9.0", "H100"),
        ("sm_100", "B200"),
        ("10.3", "B300"),
        ("sm_120", "RTX 5090"),
    ],
)
def test_a_gpu_by_its_names(text: str, name: str) -> None:
    assert gpu_named(text).name == name


@pytest.mark.parametrize(("text", "near"), [("H10O", "H100"), ("RTX 4090 Laptop GPU", "RTX 4090"), ("A10G", "A10")])
def test_another_gpu_is_not_taken_for_its_neighbour(text: str, near: str) -> None:
    with pytest.raises(RecipeError, match="no GPU") as caught:
        gpu_named(text)
    assert f"did you mean {near}" in caught.value.hint


def test_an_unknown_sm_lists_what_is_known() -> None:
    with pytest.raises(RecipeError) as caught:
        gpu_named("sm_99")
    assert "sm_90" in caught.value.hint


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_a_row_agrees_with_its_architecture(gpu) -> None:
    assert (gpu.fp8_tflops is not None) == (gpu.sm >= (8, 9))
    assert (gpu.fp4_tflops is not None) == (gpu.sm >= (10, 0))
    assert gpu.peak_tflops(None) == gpu.fp16_tflops > 0
    assert gpu.source
    # Every generation's 8-bit rates are twice its 16-bit ones, but for rates with FP16 sums and B300's cut-down INT8.
    if gpu.int8_tops and gpu.name not in ("B300", "RTX 3090", "RTX 4090", "RTX 5090"):
        assert gpu.int8_tops == pytest.approx(2 * gpu.fp16_tflops, rel=0.03)
    if gpu.fp8_tflops:
        assert gpu.fp8_tflops == pytest.approx(2 * gpu.fp16_tflops, rel=0.03)


def test_names_and_the_architecture_are_unambiguous() -> None:
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)
    assert all(gpu_named(gpu.name) == gpu for gpu in GPUS)
    assert gpu_named("B300").architecture == "sm_103"
