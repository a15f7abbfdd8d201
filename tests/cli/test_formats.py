"""`formats`, `lint` and `advise` as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import helper, numpy_helper

from tests.models import RECIPE, write_onnx, write_tiny_recipe
from trtbuild.core.formats import FORMATS

ROOT = Path(__file__).parents[2]


def trtbuild(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trtbuild", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "TRTBUILD_STORE": str(folder / "store"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def parsed(folder: Path, *arguments: object, code: int = 0) -> Any:
    done = trtbuild(folder, *arguments, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_formats_lists_every_name_with_what_it_is_here(tmp_path: Path) -> None:
    rows = parsed(tmp_path, "formats")
    assert {row["family"] for row in rows} == {"trtbuild", "TensorRT-LLM", "LightX2V", "LightTTS"}
    for row in rows:
        assert set(row) == {"name", "family", "mapping", "reason", "canonical", "kv_cache"}
        assert row["mapping"] in ("exact", "approximated", "impossible")
        meant = [row[key] for key in ("canonical", "kv_cache") if row[key] is not None]
        assert len(meant) == (row["mapping"] != "impossible")
        assert row["canonical"] is None or row["canonical"] in FORMATS
    assert [row["name"] for row in rows if row["family"] == "trtbuild"] == list(FORMATS)
    text = trtbuild(tmp_path, "formats").stdout
    assert all(row["name"] in text for row in rows)


def test_formats_of_one_family(tmp_path: Path) -> None:
    rows = parsed(tmp_path, "formats", "--family", "lighttts")
    assert {row["family"] for row in rows} == {"LightTTS"}
    assert "triton_int8kv" in {row["name"] for row in rows}
    wrong = trtbuild(tmp_path, "formats", "--family", "LightLLM")
    assert wrong.returncode == 2
    assert "TensorRT-LLM" in wrong.stderr


def test_formats_explains_a_name(tmp_path: Path) -> None:
    (row,) = parsed(tmp_path, "formats", "ao-w4a16-64")
    assert (row["canonical"], row["block_size"]) == ("int4", 64)
    told = trtbuild(tmp_path, "formats", "fp8-sgl").stdout
    assert "approximately fp8_pc_pt" in told
    assert "quantize: {format: fp8_pc_pt}" in told
    told = trtbuild(tmp_path, "formats", "W8A16_GPTQ").stdout
    assert "quantize: {format: w8a16, rounding: gptq}" in told
    told = trtbuild(tmp_path, "formats", "triton_int8kv").stdout
    assert "exactly a KV cache in int8" in told
    assert "kv_cache: int8" in told
    told = trtbuild(tmp_path, "formats", "mxfp4").stdout
    assert "not possible" in told
    assert "nearest: int4_awq" in told


def test_formats_has_a_guess_for_a_misspelt_name(tmp_path: Path) -> None:
    done = trtbuild(tmp_path, "formats", "fp8-vlllm", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean fp8-vllm" in done.stderr


def defective(file: Path) -> Path:
    """A FP32 weight with FP16 scales."""
    tensors = {"w": np.ones((64, 64), np.float32), "s": np.float16(0.1), "z": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], name="fc/QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="fc/DequantizeLinear"),
        helper.make_node("MatMul", ["x", "d"], ["y"], name="fc/MatMul"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT16, ["batch", 64])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT16, ["batch", 64])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), file)
    return file


def test_lint_passes_a_good_model_and_fails_a_bad_one(tmp_path: Path) -> None:
    write_onnx(tmp_path / "good.onnx")
    assert parsed(tmp_path, "lint", "good.onnx") == []
    defective(tmp_path / "bad.onnx")
    (found,) = parsed(tmp_path, "lint", "bad.onnx", code=3)
    assert (found["node"], found["code"], found["severity"]) == ("fc/QuantizeLinear", "Q001", "error")
    assert found["remedy"]
    told = trtbuild(tmp_path, "lint", "bad.onnx")
    assert told.returncode == 3
    assert "bad.onnx: 1 errors, 0 warnings" in told.stdout


def test_lint_of_no_model_is_a_sentence(tmp_path: Path) -> None:
    done = trtbuild(tmp_path, "lint", "missing.onnx")
    assert done.returncode == 3
    assert "missing.onnx" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("goal", ["accuracy", "memory", "latency"])
def test_advise_proposes_lines_that_make_a_recipe(tmp_path: Path, goal: str) -> None:
    folder = write_tiny_recipe(tmp_path / "tiny")
    advice = parsed(tmp_path, "advise", "tiny", "--for", goal, "--gpu", "h100-sxm")
    assert (advice["goal"], advice["measured"]) == (goal, False)
    assert "H100" in advice["target"]
    assert advice["parameters"] == 3 * 64 * 64
    lines = "".join(proposal["recipe_lines"] for proposal in advice["proposals"])
    pasted = yaml.safe_load(RECIPE + lines)["variants"]
    assert {name: variant["quantize"]["format"] for name, variant in pasted.items() if "quantize" in variant} == {
        proposal["variant"]: proposal["format"] for proposal in advice["proposals"]
    }
    told = trtbuild(tmp_path, "advise", "tiny", "--for", goal, "--gpu", "h100-sxm").stdout
    assert f"1. {advice['proposals'][0]['format']}" in told
    assert "nothing was measured" in told
    assert folder.exists()


def test_advise_refuses_an_unknown_gpu(tmp_path: Path) -> None:
    write_tiny_recipe(tmp_path / "tiny")
    done = trtbuild(tmp_path, "advise", "tiny", "--gpu", "H1000", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean H100" in done.stderr
