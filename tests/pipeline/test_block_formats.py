"""NVFP4 and MXFP8 through the pipeline: written here for a Blackwell GPU, and built, run and judged on a CPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest

from trtbuild.core.errors import RecipeError
from trtbuild.core.formats import Format
from trtbuild.core.report import BuildReport
from trtbuild.core.results import Coverage, LayerCoverage
from trtbuild.graph import document
from trtbuild.graph.lint import lint
from trtbuild.pipeline.build import build, prepare
from trtbuild.pipeline.store import Store

pytest.importorskip("torch")

from tests import diffusion

RECIPE = """\
recipe: diffusion
model: {factory: {entry: "diffusion:make"}}
shapes:
  axes: {batch: {min: 1, opt: 4, max: 8}}
  inputs:
    latent: {dtype: float32, dims: [batch, 4, 8, 8]}
    timestep: {dtype: float32, dims: [batch]}
data: {generator: "diffusion:samples", calibration: 16, evaluation: 16}
engine: {tactics: default}
measure: {runs: 3, warm_up: 0}
gates: {pays: "no", coverage: 1.0}
variants:
  fp32: {precision: fp32}
  mxfp8: {quantize: {format: mxfp8}, gates: {accuracy: {cosine_min: {min: 0.998}}}}
  nvfp4: {quantize: {format: nvfp4}, gates: {accuracy: {cosine_min: {min: 0.98}}}}
  some: {quantize: {format: nvfp4, overrides: {"block.*": mxfp8}}, gates: {accuracy: {cosine_min: {min: 0.98}}}}
"""
LINEARS = 7
"""All but the first and the last layer of the model, which stay high by default."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe") / "diffusion"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "diffusion.py").write_text(Path(diffusion.__file__).read_text())
    return folder


@pytest.fixture(scope="module")
def built(recipe: Path) -> BuildReport:
    return build(recipe, store=recipe.parent / "store", output=recipe.parent / "engines")


def test_a_cpu_runs_every_layer_and_says_that_it_emulates(recipe: Path, built: BuildReport) -> None:
    assert built.passed, [f"{variant.name}: {variant.reasons}" for variant in built.variants]
    found = {}
    for variant in built.variants[1:]:
        coverage = variant.coverage
        assert (coverage.asked, coverage.inserted, coverage.ran) == (LINEARS,) * 3, variant.name
        found[variant.name] = Counter((layer.format, layer.ran) for layer in layers(recipe, variant.name))
    fp4, fp8 = ("nvfp4", "fp4 in float32"), ("mxfp8", "fp8 in float32")
    assert found == {"mxfp8": {fp8: LINEARS}, "nvfp4": {fp4: LINEARS}, "some": {fp8: 5, fp4: 2}}


def layers(recipe: Path, variant: str) -> list[LayerCoverage]:
    """What the engine says of each layer."""
    store = Store(recipe.parent / "store")
    action = store.last("diffusion", f"{variant}/build")
    assert action is not None
    (file,) = store.folder_of(action.outputs["coverage"].digest).glob("*.json")
    return Coverage.model_validate_json(file.read_text()).layers


def test_fewer_bits_cost_more(built: BuildReport) -> None:
    snr_db = {variant.name: variant.accuracy["snr_db"] for variant in built.variants}
    assert snr_db["fp32"] > 60 > snr_db["mxfp8"] > snr_db["nvfp4"] > 10


@pytest.mark.parametrize(("form", "target"), [("nvfp4", "10.8"), ("nvfp4", "11.4"), ("mxfp8", "10.12")])
def test_a_graph_for_blackwell_is_written_without_one(recipe: Path, form: Format, target: str) -> None:
    store, sets = recipe.parent / "blackwell", [f"engine.target={target}", "engine.gpu=B200"]
    report = prepare(recipe, until="insert", sets=sets, variants=[form], store=store)
    assert (report.backend, report.variants) == ("tensorrt", [form])
    action = Store(store).last("diffusion", f"{form}/insert")
    assert action is not None
    file = Store(store).folder_of(action.outputs["model"].digest) / "model.onnx"
    assert lint(document.load(file)) == []
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert {types[node.input[0]] for node in products} == {onnx.TensorProto.FLOAT16}
    counts = Counter(node.op_type for node in model.graph.node)
    if form == "nvfp4":
        assert counts["TRT_FP4DynamicQuantize"] == LINEARS
        assert counts["DequantizeLinear"] == 4 * LINEARS
        stored = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT4E2M1]
        assert [len(tensor.raw_data) * 2 == tensor.dims[0] * tensor.dims[1] for tensor in stored] == [True] * LINEARS
    else:
        assert counts["TRT_MXFP8DynamicQuantize"] == LINEARS
        assert counts["TRT_MXFP8DequantizeLinear"] == 2 * LINEARS


@pytest.mark.parametrize(
    ("form", "gpu", "target", "said"),
    [
        ("nvfp4", "H200", "11.4", "needs a GPU of SM 10.0 (Blackwell)"),
        ("mxfp8", "B200", "10.8", "needs TensorRT 10.12"),
    ],
)
def test_other_targets_are_refused_with_what_runs(
    recipe: Path, tmp_path: Path, form: Format, gpu: str, target: str, said: str
) -> None:
    sets = [f"engine.target={target}", f"engine.gpu={gpu}"]
    with pytest.raises(RecipeError, match=form) as refused:
        prepare(recipe, until="insert", sets=sets, variants=[form], store=tmp_path)
    assert said in str(refused.value)
    assert "the nearest that runs: fp8" in str(refused.value)
