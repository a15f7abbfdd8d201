"""The typed stubs that mypy reads for TensorRT: written from the real bindings, and strict enough to refuse errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tensorrt_api.real_bindings import REAL, run

TYPINGS = Path(__file__).parents[4] / "typings"
MISTAKES = {
    "config.set_flag(trt.BuilderFlag.REFIT)": "",
    "config.set_flg(trt.BuilderFlag.REFIT)": 'has no attribute "set_flg"',
    "config.set_flag(trt.BuilderFlag.REFITS)": 'has no attribute "REFITS"',
    "config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)": 'Missing positional argument "pool_size"',
    "config.builder_optimization_level = 'high'": "Incompatible types in assignment",
    "builder.build_serialized_network(config, config)": "No overload variant",
    "memoryview(builder.build_serialized_network(builder.create_network(0), config))": "has incompatible type",
    "parser = trt.OnnxParser(builder.create_network(0))": "Missing positional argument",
}
"""Lines of code, and what mypy must say of each: `build_serialized_network` gives None where it fails."""


@pytest.mark.skipif(REAL is None, reason="needs the real bindings: pip install tensorrt-cu13-bindings==11.4.*")
def test_the_stubs_are_what_the_bindings_say(tmp_path: Path) -> None:
    assert run(tmp_path, "-m", "tests.tensorrt_api.stubs") == (TYPINGS / "tensorrt" / "__init__.pyi").read_text()


def test_mypy_refuses_what_tensorrt_would(tmp_path: Path) -> None:
    head = ["import tensorrt as trt", "def configure(builder: trt.Builder, config: trt.IBuilderConfig) -> None:"]
    file = tmp_path / "mistakes.py"
    file.write_text("\n".join([*head, *(f"    {line}" for line in MISTAKES)]) + "\n")
    answer = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(file)],
        env={**os.environ, "MYPYPATH": str(TYPINGS)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    for number, (line, error) in enumerate(MISTAKES.items(), start=1 + len(head)):
        told = [each for each in answer.stdout.splitlines() if f"mistakes.py:{number}: error:" in each]
        assert bool(told) == bool(error), f"{line}: {answer.stdout}"
        assert error in "".join(told), line
