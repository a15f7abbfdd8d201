"""Advice follows from arithmetic that a person can repeat, and from what is legal on the target."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.models import write_onnx, write_tiny_recipe
from trtbuild.core.errors import RecipeError
from trtbuild.core.hardware import gpu_named
from trtbuild.core.requirements import TORCH_ONLY
from trtbuild.core.sources import HuggingFaceSource, OnnxSource, PythonSource
from trtbuild.core.tensors import Shapes
from trtbuild.pipeline.advise import advise
from trtbuild.pipeline.parameters import Parameters, parameters
from trtbuild.pipeline.roofline import bound, bytes_each, rows_at_opt, weight_bytes

H100, B300 = gpu_named("H100"), gpu_named("B300")
BILLION = Parameters(4 * 10**9, 10**9, 0, (4096,), 0, exact=True)

RECIPE = """\
recipe: words
model: {{huggingface: {{folder: model, outputs: [last_hidden_state]}}}}
shapes:
  axes: {{batch: {{min: 1, opt: {batch}, max: 64}}, sequence: {{min: 1, opt: {sequence}, max: 512}}}}
  inputs: {{input_ids: {{dtype: int64, dims: [batch, sequence]}}}}
data: {{generator: "generator:samples"}}
variants:
  fp16: {{precision: fp16}}
  mine: {{quantize: {{format: {format}}}}}
"""


def words(folder: Path, *, batch: int, sequence: int, width: int = 256, form: str = "w8a16") -> Path:
    """A recipe on a model folder that holds weights and no code."""
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text("{}")
    tensors = {
        "embeddings.word_embeddings.weight": np.zeros((1000, width), np.float32),
        "layer.0.dense.weight": np.zeros((4 * width, width), np.float32),
        "layer.0.dense.bias": np.zeros(4 * width, np.float32),
    }
    save_file(tensors, folder / "model/model.safetensors")
    (folder / "generator.py").write_text("def samples(split, count):\n    yield {}\n")
    (folder / "recipe.yaml").write_text(RECIPE.format(batch=batch, sequence=sequence, format=form))
    return folder


def order(advice) -> list[str]:
    return [proposal.format for proposal in advice.proposals]


def test_one_row_is_bound_by_memory_and_many_by_compute() -> None:
    one = bound(None, BILLION, 1, H100)
    assert one.by == "memory"
    assert one.ms == pytest.approx(2e9 / 3350e9 * 1e3)
    many = bound(None, BILLION, 4096, H100)
    assert many.by == "compute"
    assert many.ms == pytest.approx(2 * 1e9 * 4096 / 989e12 * 1e3)


def test_what_a_format_gains_depends_on_what_binds() -> None:
    def gain(form, rows):
        return bound(None, BILLION, rows, H100).ms / bound(form, BILLION, rows, H100).ms

    assert gain("int4_awq", 1) == pytest.approx(2 / bytes_each("int4_awq"))
    assert gain("int4_awq", 4096) == 1
    assert gain("fp8", 4096) == pytest.approx(1979 / 989)
    assert gain("w8a16", 1) == 1  # no fused product is documented
    assert bound("int8", BILLION, 4096, B300).ms > bound(None, BILLION, 4096, B300).ms


def test_bytes_count_scales_and_leave_tables_in_16_bits() -> None:
    assert bytes_each("int8") == 1
    assert bytes_each("int4", 128) == 0.5 + 2 / 128
    assert bytes_each("nvfp4") == 0.5 + 1 / 16
    size = Parameters(0, 1000, 500, (), 0, exact=True)
    assert weight_bytes("int8", size) == 1000 + 1000


@pytest.mark.parametrize(
    ("dtype", "dims", "rows"),
    [
        ("int64", ["batch", 128], 16 * 128),
        ("float32", ["batch", 64], 16),
        ("float32", ["batch", 100, 64], 1600),
        ("float32", ["batch", 3, 224, 224], 16 * 14 * 14),
    ],
)
def test_rows_come_from_the_opt_shapes(dtype: str, dims: list, rows: int) -> None:
    shapes = Shapes.model_validate(
        {"axes": {"batch": {"min": 1, "opt": 16, "max": 32}}, "inputs": {"x": {"dtype": dtype, "dims": dims}}}
    )
    assert rows_at_opt(shapes)[0] == rows


def test_parameters_are_counted_from_headers(tmp_path: Path) -> None:
    words(tmp_path, batch=1, sequence=1)
    found = parameters(HuggingFaceSource(folder=tmp_path / "model", outputs=["x"]))
    assert found == Parameters(
        stored_bytes=4 * (256_000 + 262_144 + 1024),
        multiplied=262_144,
        gathered=256_000,
        widths=(256,),
        kernels=0,
        exact=True,
    )
    write_onnx(tmp_path / "model.onnx", width=64)
    found = parameters(OnnxSource(file=tmp_path / "model.onnx"))
    assert found is not None
    assert (found.multiplied, found.gathered, found.widths) == (3 * 64 * 64, 0, (64,))


def test_a_function_that_makes_its_weights_has_no_known_size(tmp_path: Path) -> None:
    assert parameters(PythonSource(entry="a:b", folder=tmp_path)) is None
    (tmp_path / "w.pt").write_bytes(bytes(4000))
    found = parameters(PythonSource(entry="a:b", folder=tmp_path, files=[tmp_path / "w.pt"]))
    assert found is not None
    assert (found.total, found.exact) == (1000, False)


def test_few_rows_are_advised_small_weights_and_many_fast_products(tmp_path: Path) -> None:
    recipe = words(tmp_path, batch=1, sequence=1)
    few = advise(recipe, "latency", "H100")
    assert order(few)[0] == "int4_awq"
    assert few.proposals[0].bound_by == "memory"
    many = advise(recipe, "latency", "H100", sets=["shapes.axes.batch.opt=64", "shapes.axes.sequence.opt=512"])
    assert order(many)[:2] == ["fp8_pc_pt", "fp8"]
    assert (many.rows, many.proposals[0].bound_by) == (64 * 512, "compute")


def test_each_goal_has_its_order(tmp_path: Path) -> None:
    recipe = words(tmp_path, batch=16, sequence=128)
    assert order(advise(recipe, "accuracy", "A100"))[0] == "w8a16"
    assert order(advise(recipe, "memory", "A100"))[0] == "int4_awq"
    assert order(advise(recipe, "latency", "A100"))[0] == "int8_sq"
    assert order(advise(recipe, "latency", "B200"))[0] == "nvfp4"
    assert order(advise(recipe, "latency", "cpu"))[0] == "int8_sq"


def test_what_cannot_run_is_refused_with_what_can(tmp_path: Path) -> None:
    recipe = words(tmp_path, batch=16, sequence=128)
    refused = {one.format: one for one in advise(recipe, "latency", "A100").refused}
    assert refused["fp8"].nearest == "int8_sq"
    assert "SM 8.9" in refused["fp8"].reason
    refused = {one.format: one for one in advise(recipe, "latency", "H100").refused}
    assert "SM 10.0 (Blackwell)" in refused["nvfp4"].reason
    assert refused["nvfp4"].nearest == "fp8"
    old = advise(recipe, "latency", "H100", sets=['engine.target="8.6"'])
    assert order(old) == ["int8_sq", "int8"]
    assert "TensorRT 8.6" in old.target


def test_a_format_that_the_recipe_has_needs_no_lines(tmp_path: Path) -> None:
    recipe = words(tmp_path, batch=16, sequence=128)
    lines = {one.format: (one.variant, one.recipe_lines) for one in advise(recipe, "accuracy", "H100").proposals}
    assert lines["w8a16"] == ("mine", "")
    assert lines["int8"] == ("int8", "  int8:\n    quantize: {format: int8}\n")


def test_the_block_size_divides_the_layers(tmp_path: Path) -> None:
    recipe = words(tmp_path, batch=16, sequence=128, width=320)
    advice = advise(recipe, "memory", "H100")
    (awq,) = [one for one in advice.proposals if one.format == "int4_awq"]
    assert "block_size: 64" in awq.recipe_lines
    assert not any("no block divides" in trap for trap in awq.traps)


def test_the_pasted_lines_load(tmp_path: Path) -> None:
    recipe = words(tmp_path, batch=16, sequence=128)
    advice = advise(recipe, "latency", "H100")
    file = recipe / "recipe.yaml"
    file.write_text(file.read_text() + "".join(one.recipe_lines for one in advice.proposals))
    again = advise(recipe, "latency", "H100")
    assert order(again) == order(advice)
    assert not any(one.recipe_lines for one in again.proposals)


def test_an_onnx_source_is_advised_what_it_can_have(tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path / "tiny")
    advice = advise(recipe, "latency", "H100")
    assert advice.parameters == 3 * 64 * 64
    assert not TORCH_ONLY.keys() & set(order(advice))
    assert "the model is ONNX" in next(one.reason for one in advice.refused if one.format == "int4_gptq")


def test_known_traps_are_named(tmp_path: Path) -> None:
    recipe = words(tmp_path, batch=16, sequence=128)
    traps = {one.format: " ".join(one.traps) for one in advise(recipe, "latency", "B300").proposals}
    assert "multiplies INT8 slower than FP16" in traps["int8"]
    assert "no documented fused product" in traps["w8a16"]
    assert any("starting kernels" in note for note in advise(recipe, "latency", "H100").notes)
    with pytest.raises(RecipeError, match="no GPU"):
        advise(recipe, "latency", "TPU")


def test_advice_imports_no_framework(tmp_path: Path) -> None:
    recipe = words(tmp_path, batch=16, sequence=128)
    code = (
        "import sys, json; from trtbuild.pipeline.advise import advise;"
        f"advise({str(recipe)!r}, 'latency', 'H100'); print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "onnx", "numpy", "safetensors", "transformers"} & set(json.loads(done.stdout))
