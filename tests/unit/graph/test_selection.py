"""Who stays in high precision: excluded, kept by a default, or not there at all."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.graph.examples import make_plan, sample
from trtbuild.core.errors import ModelError
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.graph import document, insertion, selection

pytest.importorskip("torch")
CLASSES = {"stem": "Conv2d", "grouped": "Conv2d", "up": "ConvTranspose2d", "head": "Linear", "first": "BatchNorm2d"}


def inserted(exported, **options):
    path = exported("cnn")
    plan = make_plan(path, sample("cnn"), "int8")
    plan = Plan(plan.modules, kept_high={"first": "a norm"}, classes=CLASSES)
    return insertion.insert(document.load(path), plan, **options)


def modules(coverage):
    return [layer.module for layer in coverage.layers if layer.inserted]


def test_the_first_convolution_stays_high_unless_included(exported):
    coverage = inserted(exported)
    assert modules(coverage) == ["grouped", "up", "head"]
    assert coverage.kept_high == {
        "first": "a norm",
        "stem": "the first convolution reads the graph's input; `include` overrides it",
    }
    assert modules(inserted(exported, include=["stem"])) == ["stem", "grouped", "up", "head"]


def test_exclude_wins_over_include(exported):
    coverage = inserted(exported, include=["*"], exclude=["s*"])
    assert modules(coverage) == ["grouped", "up", "head"]
    assert coverage.kept_high["stem"] == "excluded by pattern 's*'"


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("class:Conv2d", ["up", "head"]),
        ("class:Conv*", ["head"]),
        ("class:ConvTranspose", ["grouped", "head"]),
        ("class:Linear", ["grouped", "up"]),
    ],
)
def test_a_class_is_that_of_the_module_or_of_its_node(exported, pattern, left):
    assert modules(inserted(exported, exclude=[pattern])) == left


@pytest.mark.parametrize("option", ["exclude", "include"])
def test_a_pattern_that_matches_nothing_suggests_names(exported, option):
    with pytest.raises(ModelError, match=rf"(?s){option}: no module matches 'gruoped'.*did you mean grouped"):
        inserted(exported, **{option: ["gruoped"]})
    with pytest.raises(ModelError, match=r"(?s)no module matches 'class:Conv3d'.*class:Conv2d"):
        inserted(exported, **{option: ["class:Conv3d"]})


def test_what_calibration_left_alone_cannot_be_included(exported):
    with pytest.raises(ModelError, match="calibration left first alone, so there are no numbers for it: a norm"):
        inserted(exported, include=["first"])


def test_nothing_left_is_an_error(exported):
    with pytest.raises(ModelError, match=r"nothing is left to quantize: stem and 4 more: excluded by pattern"):
        inserted(exported, exclude=["*"])


@pytest.mark.parametrize(
    ("module", "kept"),
    [
        ("lm_head", True),
        ("model.lm_head", True),
        ("transformer.proj_out", True),
        ("layers.3.mlp.gate", True),
        ("layers.3.mlp.gate_proj", False),
        ("layers.3.block_sparse_moe.gate", True),
        ("router.classifier", True),
        ("visual.blocks.0.attn.qkv", True),
        ("output", True),
        ("encoder.layer.0.output.dense", False),
        ("encoder.layer.0.attention.self.query", False),
    ],
)
def test_names_that_modelopt_leaves_alone(module, kept):
    graph = ir.Graph([], [], nodes=[])
    found = selection.keep_high({module: {"Linear"}}, graph, exclude=[], include=[])
    assert (module in found) is kept
    assert all("ModelOpt's default" in reason and "`include` overrides it" in reason for reason in found.values())
    assert selection.keep_high({module: {"Linear"}}, graph, exclude=[], include=[module]) == {}


def test_the_defaults_are_those_of_the_installed_modelopt():
    recipes = pytest.importorskip("modelopt_recipes")
    yaml = pytest.importorskip("yaml")
    from pathlib import Path

    folder = Path(next(iter(recipes.__path__)))
    text = (folder / "configs/ptq/units/default_disabled_quantizers.yaml").read_text()
    names = [entry["quantizer_name"] for entry in yaml.safe_load(text) if "parent_class" not in entry]
    assert set(names) == set(selection.MODELOPT_DEFAULTS)


def vocoder(stretch=1, repeat=1):
    value = helper.make_tensor_value_info
    weight = np.random.default_rng(0).standard_normal
    shapes = {"pre": (16, 8, 3), "up": (16, 16, 4), "block": (16, 16, 3), "post": (1, 16, 3)}
    nodes, read = [], "x"
    for name in shapes:
        kind = "ConvTranspose" if name == "up" else "Conv"
        strides = [stretch] if name == "up" else [1]
        if name == "up":
            nodes.append(helper.make_node("Resize", [read, "", "scales"], ["repeated"], name="repeat/Resize"))
            read = "repeated"
        nodes.append(
            helper.make_node(kind, [read, f"{name}.weight"], [f"{name}_y"], name=f"{name}/{kind}", strides=strides)
        )
        nodes.append(helper.make_node("Tanh", [f"{name}_y"], [f"{name}_t"], name=f"{name}/Tanh"))
        read = f"{name}_t"
    nodes[-1].output[0] = "y"
    weights = [
        numpy_helper.from_array(weight(shape).astype(np.float32), f"{name}.weight") for name, shape in shapes.items()
    ]
    weights.append(numpy_helper.from_array(np.array([1, 1, repeat], np.float32), "scales"))
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [1, 8, 20])], [value("y", TensorProto.FLOAT, [1, 1, None])], weights
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)), shapes


def plan_of(shapes):
    out = {name: 16 if name == "up" else shape[0] for name, shape in shapes.items()}
    return Plan({name: ModuleQuantization("int8", np.ones(out[name], np.float32), np.float32(1)) for name in shapes})


@pytest.mark.parametrize(("stretch", "repeat"), [(16, 1), (1, 16), (4, 4)])
def test_what_writes_a_waveform_is_quantized_only_where_it_is_asked_for(stretch, repeat):
    model, shapes = vocoder(stretch, repeat)
    coverage = insertion.insert(model, plan_of(shapes), include=["block"])
    assert modules(coverage) == ["block"]
    model, shapes = vocoder(stretch, repeat)
    with pytest.raises(ModelError) as caught:
        insertion.insert(model, plan_of(shapes))
    assert "block: the graph makes 16 steps of one, so it writes a waveform; `include`" in caught.value.message


def test_a_vocoder_keeps_its_ends_and_its_upsampling():
    model, shapes = vocoder(stretch=15)
    coverage = insertion.insert(model, plan_of(shapes))
    assert modules(coverage) == ["block"]
    assert {name: reason.split(";")[0] for name, reason in coverage.kept_high.items()} == {
        "pre": "the first convolution reads the graph's input",
        "up": "a transposed convolution over time writes waveforms",
        "post": "the last convolution writes the graph's output",
    }
