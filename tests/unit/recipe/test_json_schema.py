"""What editors are told about the language."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.machine_speed import slowness
from trtbuild.core.tensors import Shapes
from trtbuild.recipe.expand import variants
from trtbuild.recipe.json_schema import json_schema, json_schema_text
from trtbuild.recipe.load import load
from trtbuild.recipe.reference import reference
from trtbuild.recipe.starter import recipe_name, starter_recipe

RECIPES = Path(__file__).parents[3] / "recipes"
SHAPES = Shapes.model_validate(
    {
        "axes": {"batch": {"min": 1, "opt": 2, "max": 4}, "no": {"min": 1, "opt": 8, "max": 9}},
        "inputs": {"x:0": {"dtype": "float32", "dims": ["batch", 3, "no"]}},
    }
)


def errors(recipe: Any) -> list[str]:
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(json_schema())
    return [error.message for error in Draft202012Validator(json_schema()).iter_errors(recipe)]


def test_the_checked_in_schema_is_current() -> None:
    checked_in = (RECIPES / "recipe.schema.json").read_text()
    assert json.loads(checked_in) == json.loads(json_schema_text()), "run python -m trtbuild.recipe.json_schema"


def test_every_field_is_documented() -> None:
    schema = json_schema()
    for name, part in {"Recipe": schema, **schema["$defs"]}.items():
        assert part.get("description"), name
        for key, declared in part.get("properties", {}).items():
            assert declared.get("description") or "$ref" in declared, f"{name}.{key}"  # a $ref brings its own


def test_minilm_is_a_recipe() -> None:
    assert errors(yaml.safe_load((RECIPES / "minilm" / "recipe.yaml").read_text())) == []
    found = variants(load(RECIPES / "minilm").recipe)
    assert list(found) == ["fp16", "int8", "int8_sq", "fp8", "w8a16", "int4_awq", "int4_auto", "auto"]
    assert (
        (RECIPES / "minilm" / "recipe.yaml").read_text().startswith("# yaml-language-server: $schema=../recipe.schema")
    )


@pytest.mark.parametrize("change", [{"engine": {"target": 10.1}}, {"recipe": "A B"}, {"metric": 3}, {"unknown": 1}])
def test_the_schema_refuses_what_loading_refuses(change: dict[str, Any]) -> None:
    recipe = yaml.safe_load((RECIPES / "minilm" / "recipe.yaml").read_text())
    assert errors({**recipe, **change})
    assert errors({**recipe, "metric": {"entry": "a:b", "arguments": {"k": 1}}}) == []


@pytest.mark.parametrize("source", [{"onnx": "models/my model.onnx"}, {"folder": "./model", "outputs": ["y", "no"]}])
def test_a_starter_recipe_loads(tmp_path: Path, source: dict[str, Any]) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(starter_recipe("My Model.v2", SHAPES, **source))
    recipe = load(file).recipe
    assert (recipe.recipe, recipe.shapes) == ("my-model-v2", SHAPES)
    assert recipe.model.onnx == source.get("onnx")
    if recipe.model.huggingface:
        assert (recipe.model.huggingface.folder, recipe.model.huggingface.outputs) == ("./model", ["y", "no"])
    assert errors(yaml.safe_load(file.read_text())) == []
    assert recipe_name("---") == "model"


def test_a_starter_needs_one_source() -> None:
    with pytest.raises(ValueError, match="either an ONNX file or"):
        starter_recipe("a", SHAPES)


def test_loading_is_quick_and_imports_nothing_heavy() -> None:
    heavy = {"numpy", "onnx", "onnx_ir", "onnxruntime", "torch", "safetensors", "transformers", "rich", "tokenizers"}
    code = f"""
import sys, time
began = time.process_time()
from trtbuild.recipe.load import load
load({str(RECIPES / "minilm")!r})
print(time.process_time() - began, *({heavy!r} & set(sys.modules)))
"""
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    spent = [run.stdout.split() for run in runs]
    assert spent[0][1:] == []
    assert min(float(run[0]) for run in spent) < 0.5 * slowness()


def test_the_reference_page_is_current_and_knows_every_key() -> None:
    page = (RECIPES.parent / "docs" / "recipe.md").read_text()
    assert page == reference(), "run `make docs`"
    for key in ("`recipe`", "`calibration`", "`alpha`", "`opset`", "`class`", "`margin`"):
        assert f"| {key} |" in page
