"""What a recipe says of a decoder, merged, multiplied and checked; nothing is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtbuild.core.errors import RecipeError
from trtbuild.recipe.expand import Variant, reference, variants
from trtbuild.recipe.load import load

RECIPE = """\
recipe: words
model: {huggingface: {folder: model}}
decoder: {capacity: 96}
data: {generator: "trtbuild.datasets.passages:of_documentation"}
kv_cache: {exclude: [-1]}
variants:
  fp16: {precision: fp16}
  kv: {kv_cache: int8}
  all: {kv_cache: {mode: fp8, percentile: 99.9, exclude: []}}
"""


def expanded(folder: Path, *sets: str) -> dict[str, Variant]:
    (folder / "recipe.yaml").write_text(RECIPE)
    return variants(load(folder, sets).recipe)


def test_a_mode_alone_and_a_mapping_go_over_the_recipe_s(tmp_path: Path) -> None:
    found = {name: variant.kv_cache.model_dump() for name, variant in expanded(tmp_path).items()}
    assert found == {
        "fp16": {"mode": "float", "exclude": [-1], "percentile": 99.99},
        "kv": {"mode": "int8", "exclude": [-1], "percentile": 99.99},
        "all": {"mode": "fp8", "exclude": [], "percentile": 99.9},
    }


def test_another_project_s_name_of_a_mode_becomes_ours_and_says_what_it_loses(tmp_path: Path) -> None:
    exact = expanded(tmp_path, "variants.kv.kv_cache=triton_int8kv")["kv"]
    assert (exact.kv_cache.mode, exact.approximates) == ("int8", "")
    static = expanded(tmp_path, "variants.all.kv_cache.mode='kv:int8'")["all"]
    assert (static.kv_cache.mode, static.kv_cache.percentile) == ("int8_static", 99.9)
    assert static.approximates.startswith("kv:int8 (TensorRT-LLM): one calibrated scale a head")
    both = expanded(tmp_path, "variants.kv={quantize: {format: fp8-sgl}, kv_cache: 'kv:fp8'}")["kv"]
    assert [part.split(" (")[0] for part in both.approximates.split("; ") if " (" in part] == ["fp8-sgl", "kv:fp8"]
    assert not both.is_plain
    with pytest.raises(RecipeError, match=r"kv:nvfp4 .* is not possible") as caught:
        expanded(tmp_path, "variants.kv.kv_cache='kv:nvfp4'")
    assert "the nearest is fp8" in str(caught.value)


def test_modes_multiply_with_formats(tmp_path: Path) -> None:
    more = ["variants={fp16: {kv_cache: float}, w: {quantize: {}}}", "quantize.format=w8a16"]
    found = expanded(tmp_path, *more, "matrix={kv_cache: [float, int8, {mode: fp8}]}")
    modes = {name: variant.kv_cache.mode for name, variant in found.items()}
    assert list(modes.values()) == ["float", "float", "int8", "fp8"]
    assert list(modes)[:3] == ["fp16", "w-float", "w-int8"]
    recipe = load(tmp_path, [*more, "matrix={kv_cache: [float, int8]}"]).recipe
    assert reference(recipe, variants(recipe)) == "fp16"


def test_shapes_follow_from_capacity_batch_and_prompt(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    shapes = load(tmp_path, ["decoder.batch={min: 1, opt: 2, max: 4}"]).recipe.shapes
    assert shapes.at("opt") == {"input_ids": (2, 24), "lengths": (2,)}
    assert shapes.at("max") == {"input_ids": (4, 96), "lengths": (4,)}
    assert load(tmp_path, ["decoder.prompt=7"]).recipe.shapes.at("opt")["input_ids"] == (1, 7)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("decoder.capacity=1", "decoder.capacity"),
        ("decoder.capacity=many", "decoder.capacity: must be a whole number"),
        ("kv_cache=int7", "int7"),
        ("variants.kv.kv_cache={mod: int8}", "unknown key variants.kv.kv_cache.mod"),
        ("variants.kv.kv_cache={mode: int8, percentile: 3}", "percentile"),
        ("variants={kv: {kv_cache: int8}}", "every variant is quantized"),
        ("reference=kv", "variant kv is quantized"),
        ("model.huggingface.outputs=[hidden]", "a decoder gives its logits"),
        ("model={onnx: m.onnx}", "exported from PyTorch"),
        ("model.huggingface.made_by=train:train", "exactly one of folder, hub and made_by"),
        ("engine.placement=auto", "placement auto is not for decoders"),
    ],
)
def test_a_mistake_is_one_problem_and_shapes_are_none_of_it(tmp_path: Path, setting: str, says: str) -> None:
    with pytest.raises(RecipeError) as raised:
        expanded(tmp_path, setting)
    assert says in str(raised.value)
    assert "shapes" not in str(raised.value)
