"""Variants with everything resolved."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from trtbuild.core.errors import RecipeError
from trtbuild.recipe.expand import MOST_VARIANTS, reference, variants
from trtbuild.recipe.schema import Recipe
from trtbuild.stages.calibrate import CalibrateOptions
from trtbuild.stages.insert import InsertOptions

BASE = """
recipe: tiny
model: {factory: tiny:make}
shapes: {inputs: {x: {dtype: float32, dims: [1, 8]}}}
data: {generator: tiny:samples}
"""


def recipe(text: str) -> Recipe:
    return Recipe.model_validate({**yaml.safe_load(BASE), **yaml.safe_load(text)})


def test_settings_of_the_recipe_reach_every_variant() -> None:
    found = variants(
        recipe("""
quantize: {format: int8_sq, alpha: 0.5, exclude: [head]}
engine: {threads: 4, backend: onnxruntime}
gates: {accuracy: {cosine_mean: {min: 0.9}}, margin: 0.1}
variants:
  fp16: {precision: fp16, engine: {threads: 1}}
  int8: {quantize: {}}
  light: {quantize: {format: w8a16, exclude: []}, gates: {accuracy: {cosine_min: {min: 0.8}}}, measure: {runs: 5}}
""")
    )
    assert found["fp16"].quantize is None
    assert found["fp16"].engine.threads == 1
    assert found["fp16"].engine.backend == "onnxruntime"
    int8, light = found["int8"].quantize, found["light"].quantize
    assert int8 is not None
    assert light is not None
    assert int8.calibrate("int8_sq") == CalibrateOptions(format="int8_sq", alpha=0.5)
    assert int8.insert == InsertOptions(exclude=["head"])
    assert (light.format, light.alpha, light.exclude) == ("w8a16", 0.5, [])
    assert set(found["light"].gates.accuracy) == {"cosine_mean", "cosine_min"}
    assert (found["light"].gates.margin, found["light"].measure.runs, found["int8"].measure.runs) == (0.1, 5, 20)


def test_the_matrix_multiplies_what_is_silent() -> None:
    made = recipe("""
variants:
  fp16: {precision: fp16}
  sq: {quantize: {format: int8_sq}}
  fixed: {quantize: {format: int8_sq, alpha: 0.7}}
matrix: {quantize.alpha: [0.5, 1.0], engine.threads: [1, 4]}
""")
    found = variants(made)
    assert list(found) == [
        *("fp16-1", "fp16-4", "sq-0.5-1", "sq-0.5-4", "sq-1.0-1", "sq-1.0-4", "fixed-1", "fixed-4"),
    ]
    sq, fixed = found["sq-0.5-4"], found["fixed-1"].quantize
    assert sq.quantize is not None
    assert fixed is not None
    assert (sq.quantize.alpha, sq.engine.threads, sq.spelled, fixed.alpha) == (0.5, 4, "sq", 0.7)
    assert reference(made, found) == "fp16-1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("variants: {a: {}, a-1: {engine: {threads: 2}}}\nmatrix: {engine.threads: [1]}", "two variants are named a-1"),
        ("variants: {a: {quantize: {}}}", "has no format"),
        (f"variants: {{a: {{}}}}\nmatrix: {{engine.threads: {list(range(MOST_VARIANTS + 1))}}}", "more than"),
    ],
)
def test_variants_that_cannot_be_resolved(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        variants(recipe(text))


@pytest.mark.parametrize(
    ("value", "name"), [("fp32", "a-fp32"), (["x", "Y"], "a-x_y"), (None, "a-null"), (True, "a-true"), ({}, "a-none")]
)
def test_names_of_matrix_values(value: Any, name: str) -> None:
    from trtbuild.recipe.expand import _multiplied

    assert [made for made, _ in _multiplied("a", {}, {"precision": [value]})] == [name]


def test_settings_that_a_format_does_not_read_do_not_split_its_calibration() -> None:
    found = variants(
        recipe("""
gates: {accuracy: {cosine_min: {min: 0.9}}}
quantize: {alpha: 0.7, percentile: 99.0}
variants:
  fp16: {}
  light: {quantize: {format: w8a16, alpha: 0.3, block_size: 64}}
  mixed: {quantize: {format: auto, auto: {formats: [int4, w8a16]}, overrides: {head: int8_sq, tail: high}}}
""")
    )
    light, mixed = found["light"].quantize, found["mixed"].quantize
    assert light is not None
    assert mixed is not None
    assert light.calibrate("w8a16") == mixed.calibrate("w8a16") == CalibrateOptions(format="w8a16")
    assert mixed.formats == ["int4", "w8a16", "int8_sq"]
    assert mixed.calibrate("int8_sq") == CalibrateOptions(format="int8_sq", alpha=0.7)


def test_another_projects_name_becomes_ours_and_says_what_is_lost() -> None:
    found = variants(
        recipe("""
variants:
  fp16: {}
  marlin: {quantize: {format: int4-g128-marlin}}
  sgl: {quantize: {format: fp8-sgl}}
  gptq: {quantize: {format: W8A16_GPTQ}}
""")
    )
    marlin, sgl, gptq = found["marlin"], found["sgl"], found["gptq"]
    assert marlin.quantize is not None
    assert sgl.quantize is not None
    assert gptq.quantize is not None
    assert (gptq.quantize.format, gptq.quantize.rounding) == ("w8a16", "gptq")
    assert (marlin.quantize.format, marlin.quantize.block_size, marlin.approximates) == ("int4", 128, "")
    assert sgl.quantize.format == "fp8_pc_pt"
    assert sgl.approximates.startswith("fp8-sgl (LightX2V): ")
