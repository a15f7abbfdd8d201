"""The GPU as its driver describes it, as far as that can be told without one."""

from __future__ import annotations

import pytest

from trtbuild.core import gpu, machine


def test_a_device_in_words() -> None:
    device = gpu.Device("NVIDIA H200", (9, 0), 132, 143_771 << 20, "580.95.05", "13.0")
    assert str(device) == "NVIDIA H200 sm_90, 132 SMs, 143771 MB"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n", "535.104.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n", "580.95.05"),
        ("something else", ""),
    ],
)
def test_the_driver_version_is_read_from_proc(text: str, version: str) -> None:
    assert gpu.parsed_driver(text) == version


def test_facts_of_a_machine_without_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(gpu, "current", lambda: None)
    assert machine.FACTS["gpu"]() == "none"
    assert machine.FACTS["driver"]() == "none"


def test_tensorrt_that_was_unpacked_has_the_version_that_it_says(monkeypatch, tmp_path) -> None:
    machine.package_version.cache_clear()
    package = tmp_path / "tensorrt"
    package.mkdir()
    (package / "__init__.py").write_text('raise RuntimeError("must not be imported")\n__version__ = "8.6.0"\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert machine.package_version("tensorrt") == "8.6.0"
    machine.package_version.cache_clear()
