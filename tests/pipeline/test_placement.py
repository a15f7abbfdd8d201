"""`engine.placement`, with engines that ONNX Runtime really builds and times: an encoder of two layers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtbuild.core.artifacts import QuantizationPlan
from trtbuild.core.dialects import ONNX_RUNTIME
from trtbuild.core.errors import RecipeError
from trtbuild.core.placement import PLACEMENTS, Choice, PlacementChoice
from trtbuild.core.quantization import Plan
from trtbuild.core.results import Coverage
from trtbuild.graph import document, insertion
from trtbuild.pipeline.build import build, prepare
from trtbuild.pipeline.compose import compose
from trtbuild.pipeline.job import RESULT_FILE
from trtbuild.pipeline.store import Store
from trtbuild.recipe.load import load
from trtbuild.reports.console import placements

WIDTH, TOKENS = 32, 16
RECIPE = f"""\
recipe: encoder
model: {{onnx: model.onnx}}
shapes:
  axes: {{batch: {{min: 1, opt: 2, max: 4}}}}
  inputs:
    x: {{dtype: float32, dims: [batch, {TOKENS}, {WIDTH}]}}
data: {{generator: "generator:samples", calibration: 4, evaluation: 4}}
engine: {{tactics: default, placement: auto}}
measure: {{runs: 3, warm_up: 1}}
reference: fp32
gates: {{accuracy: {{cosine_min: {{min: 0.9}}}}, pays: "no"}}
variants:
  fp32: {{precision: fp32}}
  int8: {{quantize: {{format: int8}}}}
"""
GENERATOR = f"""
import numpy as np

def samples(split, count):
    rng = np.random.default_rng({{"calibration": 0, "evaluation": 1}}[split])
    for _ in range(0, count, 2):
        yield {{"x": rng.standard_normal((2, {TOKENS}, {WIDTH})).astype(np.float32)}}
"""


def encoder(layers: int = 2) -> onnx.ModelProto:
    """Attention with one head, then a linear layer, each with its residual addition."""
    rng, nodes, weights = np.random.default_rng(0), [], []

    def op(module: str, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"{module}/{op_type}"
        name += f"_{len(nodes)}" if any(node.name == name for node in nodes) else ""
        nodes.append(helper.make_node(op_type, inputs, [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"

    def linear(module: str, x: str) -> str:
        weight = (rng.standard_normal((WIDTH, WIDTH)) * WIDTH**-0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"{module}.weight"))
        return op(module, "MatMul", x, f"{module}.weight")

    x = "x"
    for number in range(layers):
        layer = f"layer.{number}"
        query, key, value = (linear(f"{layer}.attention.{part}", x) for part in ("query", "key", "value"))
        turned = op(f"{layer}.attention", "Transpose", key, perm=[0, 2, 1])
        scores = op(f"{layer}.attention", "MatMul", query, turned)
        attended = op(f"{layer}.attention", "MatMul", op(f"{layer}.attention", "Softmax", scores, axis=-1), value)
        x = op(layer, "Add", linear(f"{layer}.attention.out", attended), x)
        x = op(layer, "Add", linear(f"{layer}.fc", x), x)
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", TOKENS, WIDTH])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", TOKENS, WIDTH])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    onnx.save(encoder(), str(folder / "model.onnx"))
    (folder / "generator.py").write_text(GENERATOR)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def test_every_placement_is_built_and_one_is_kept_with_its_reasons(recipe: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    report = build(recipe, store=store, output=tmp_path / "engines")
    variant = report.variants[1]
    assert report.passed
    found = variant.placement
    assert found is not None
    tried = {one.placement: one for one in found.tried}
    assert {"high", *PLACEMENTS} <= set(tried)
    assert all(one.median_ms and one.median_ms > 0 for one in tried.values() if not one.refused)
    assert found.kept in (*PLACEMENTS, "mixed")
    assert set(found.blocks) >= {"", "layer.0", "layer.1"}
    assert next(placements([variant])).startswith(f"int8: placement {found.kept} is kept; ")
    assert variant.coverage.inserted == variant.coverage.asked >= 10
    again = build(recipe, store=store, output=tmp_path / "engines")
    assert again.steps_run == 0
    assert again.variants[1].placement == found


def test_insertions_are_done_elsewhere_and_the_choice_where_engines_are_built(recipe: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    prepare(recipe, until="insert", store=store)
    done = {action.step for _, action in Store(store).actions()}
    assert {f"int8/insert-{placement}" for placement in PLACEMENTS} <= done
    assert not {step for step in done if "attempt" in step or "place" in step.split("/")[-1].split("-")}
    coverages = {
        action.step.removeprefix("int8/insert-"): Coverage.model_validate_json(
            (Store(store).folder_of(action.outputs["coverage"].digest) / RESULT_FILE).read_bytes()
        )
        for _, action in Store(store).actions()
        if action.step.startswith("int8/insert-")
    }
    assert {name: coverage.asked for name, coverage in coverages.items()} == {
        "layers": 10,
        "layers+attention": 12,
        "layers+residual": 10,
        "layers+attention+residual": 12,
    }


def test_each_block_is_quantized_as_it_was_placed(recipe: Path, tmp_path: Path) -> None:
    prepare(recipe, until="calibrate", store=tmp_path / "store")
    store = Store(tmp_path / "store")
    found = {action.step: action.outputs for _, action in store.actions()}
    plan = Plan.read(QuantizationPlan(store.folder_of(found["calibrate-int8"]["quantizationplan"].digest)))
    ranges = json.loads((store.folder_of(found["ranges"]["operandranges"].digest) / RESULT_FILE).read_text())["amax"]
    blocks: dict[str, Choice] = {"": "layers", "layer.0": "layers+attention", "layer.1": "high"}
    placement = PlacementChoice(kept="mixed", because="", best="layers", blocks=blocks, tried=[])

    def inserted(choice: PlacementChoice | None) -> tuple[list[str], Coverage]:
        graph = document.load(store.folder_of(found["adopt"]["onnxmodel"].digest) / "model.onnx")
        coverage = insertion.insert(
            graph, plan, attention="int8", residual="int8", ranges=ranges, placement=choice, dialect=ONNX_RUNTIME
        )
        return [node.name or "" for node in graph.graph if node.op_type == "QuantizeLinear"], coverage

    quantizers, coverage = inserted(placement)
    assert quantizers
    assert all(name.startswith("layer.0.") for name in quantizers), "no residual of layer.0, nothing of layer.1"
    assert {layer.module for layer in coverage.layers if layer.format == "attention_int8"} == {"layer.0.attention"}
    assert len(coverage.kept_high) == 5
    assert {*coverage.kept_high.values()} == {"auto: placement measured its block faster in high precision"}
    assert coverage.kept_by_default == {}, "the recipe's auto decided it"
    everything = placement.model_copy(update={"blocks": {"": PLACEMENTS[-1]}, "kept": PLACEMENTS[-1]})
    assert inserted(everything) == inserted(None)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_placement_by_name_is_that_of_quantize(recipe: Path, placement: str) -> None:
    def inserted(*sets: str):
        return compose(load(recipe, sets)).plan.steps["int8/insert"].settings["options"]

    asked = [f"variants.int8.quantize.{name}=int8" for name in ("attention", "residual") if name in placement]
    by_hand = inserted("engine.placement=asked", *asked)
    by_name = inserted(f"engine.placement={placement}")
    assert by_name.residual == by_hand.residual
    assert by_name.attention == (by_hand.attention if "attention" in placement else "high")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("variants.int8.quantize.attention=int8", "decides where Q/DQ stand, and quantize says it too"),
        ("variants.int8.quantize.residual=int8", "decides where Q/DQ stand, and quantize says it too"),
        ("engine.placement=everywhere", "placement"),
    ],
)
def test_what_does_not_go_together_is_refused(recipe: Path, setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(recipe, [setting])
