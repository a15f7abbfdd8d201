"""Recipes as files: every mistake is reported with its place, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtbuild.core.errors import Problem, RecipeError
from trtbuild.recipe.load import LoadedRecipe, load

BASE = """\
recipe: tiny
model:
  factory: tiny:make
shapes:
  axes: {batch: {min: 1, opt: 2, max: 4}}
  inputs:
    x: {dtype: float32, dims: [batch, 8]}
data:
  generator: tiny:samples
variants:
  fp16: {precision: fp16}
  small: {quantize: {format: w8a16}}
"""


def write(folder: Path, text: str = BASE, name: str = "recipe.yaml") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def loaded(folder: Path, text: str = BASE, sets: tuple[str, ...] = ()) -> LoadedRecipe:
    return load(write(folder, text), sets)


def problems(folder: Path, text: str = BASE, sets: tuple[str, ...] = ()) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        loaded(folder, text, sets)
    assert caught.value.exit_code == 2
    return caught.value.problems


def only(found: list[Problem], line: int, *words: str) -> None:
    """Exactly one problem, on the line, with the words in its text."""
    assert len(found) == 1, found
    assert found[0].place.endswith(f"recipe.yaml:{line}"), found[0]
    for word in words:
        assert word in str(found[0]), found[0]


def test_a_folder_or_a_file_is_a_recipe(tmp_path: Path) -> None:
    file = write(tmp_path)
    assert load(tmp_path).recipe == load(str(file)).recipe
    assert load(tmp_path).file == file.resolve()
    assert load(tmp_path).folder == tmp_path.resolve()


def test_the_origin_of_every_value(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, sets=("engine.threads=2",))
    assert recipe.origin("variants.small.quantize.format").endswith("recipe.yaml:12")
    assert recipe.origins["shapes.inputs.x.dims.0"].endswith("recipe.yaml:7")
    assert recipe.origin("engine.threads") == "--set engine.threads=2"
    assert recipe.origin("engine.tactics") == "default"


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        (
            "  fp16: {precision: fp16}",
            "  fp16: {precison: fp16}",
            11,
            ["unknown key variants.fp16.precison", "did you mean precision?"],
        ),
        (
            "format: w8a16",
            "format: int8_qs",
            12,
            ["there is no format 'int8_qs'", "did you mean int8_sq,"],
        ),
        ("  generator: tiny:samples\n", "  calibration: 8\n", 8, ["data.generator is missing"]),
        ("tiny:samples", "samples", 9, ["must be module:function", "'samples'"]),
        ("recipe: tiny", "recipe: Tiny Model", 1, ["lowercase letters, digits, - and _"]),
        ("recipe: tiny", "recipe: no", 1, ["must be text, not false", 'write "no" in quotes']),
        (
            "recipe: tiny",
            "recipe: tiny\nengine: {target: 10.10}",
            2,
            ["YAML reads 10.10 as the number 10.1", 'write "10.10" in quotes'],
        ),
        (
            "recipe: tiny",
            "recipe: tiny\ngates: {pays: no}",
            2,
            ["YAML reads no as the truth value false", 'write "no" in quotes'],
        ),
        ("recipe: tiny", "recipe: tiny\nengine: tensorrt", 2, ["engine: must be a mapping"]),
        (
            "recipe: tiny",
            "recipe: tiny\nengine: {threads: yes}",
            2,
            ["engine.threads: must be a whole number, not true"],
        ),
        (
            "recipe: tiny",
            "recipe: tiny\nexport: {opset: 9}",
            2,
            ["export.opset: must be greater than or equal to 18, not 9"],
        ),
        ("recipe: tiny", "recipe: tiny\ngates: {margin: 1e3}", 2, ["must be a number", "1.0e+3"]),
        ("[batch, 8]", "[batsh, 8]", 4, ["axis 'batsh'", "batch"]),
        ("[batch, 8]", "[batch, no]", 7, ["shapes.inputs.x.dims.1: must be a whole number or text, not false"]),
        ("min: 1, opt: 2", "min: 3, opt: 2", 5, ["min <= opt <= max"]),
        ("  fp16: {", "  FP16: {", 11, ["variants.FP16", "lowercase letters"]),
        ("  factory: tiny:make", "  factory: tiny:make\n  onnx: m.onnx", 2, ["exactly one of", "factory and onnx"]),
        ("  factory: tiny:make", "  huggingface: {outputs: [y]}", 3, ["exactly one of folder, hub and made_by"]),
        ("  factory: tiny:make", "  huggingface: {hub: a/b, outputs: [y]}", 3, ["hub needs a revision"]),
        (
            "  factory: tiny:make",
            "  huggingface: {hub: a/b, revision: main, outputs: [y]}",
            3,
            ["40 hexadecimal digits"],
        ),
        (
            "  factory: tiny:make",
            "  huggingface: {folder: m, outputs: [y], options: {trust_remote_code: true}}",
            3,
            ["trust_remote_code"],
        ),
        ("format: w8a16", "format: w4a8_mxfp4_fp8", 12, ["is not possible", "the nearest is"]),
        (
            "format: w8a16}}",
            "format: nvfp4}, engine: {target: '10.3', backend: tensorrt}}",
            12,
            ["variant small: nvfp4", "the nearest that runs: fp8"],
        ),
        ("format: w8a16", "format: nvfp4, rounding: gptq", 12, ["not for nvfp4", "drop rounding"]),
        ("format: w8a16", "format: int4, block_size: 100", 12, ["block_size", "is not one of 16, 32, 64, 128, 256"]),
        ("format: w8a16", "format: auto", 12, ["no gate asks for one", "set gates.accuracy"]),
        ("format: w8a16", "format: int8_sq, qat: {}", 12, ["qat cannot train int8_sq", "train int8"]),
        ("format: w8a16", "format: int8, attention: int8, qat: {}", 12, ["sees nothing of attention in int8", "high"]),
        ("format: w8a16", "format: w8a16, overrides: {head: int9}", 12, ["int9"]),
        ("recipe: tiny", "recipe: tiny\nengine: {gpu: H10O}", 2, ["H10O", "did you mean H100"]),
        ("recipe: tiny", "recipe: tiny\nreference: fp61", 2, ["there is no variant fp61", "did you mean fp16?"]),
        ("recipe: tiny", "recipe: tiny\nreference: small", 2, ["variant small is quantized", "there is: fp16"]),
        ("  fp16: {precision: fp16}\n", "", 10, ["every variant is quantized"]),
        ("{quantize: {format: w8a16}}", "{quantize: {}}", 12, ["variants.small.quantize has no format"]),
        (
            "recipe: tiny",
            "recipe: tiny\nmatrix: {quantize.alfa: [1]}",
            2,
            ["quantize.alfa is no path", "did you mean quantize.alpha?"],
        ),
        (
            "recipe: tiny",
            "recipe: tiny\nmatrix: {quantize.alpha: [0.5, 7]}",
            2,
            ["must be less than or equal to 1, not 7"],
        ),
        ("recipe: tiny", "recipe: tiny\nmatrix: {precision: []}", 2, ["matrix.precision: must not be empty"]),
        ("{precision: fp16}", "", 11, ["variants.fp16: must be a mapping, not empty", "write {}"]),
        ("recipe: tiny", "recipe: [tiny", 2, ["is not YAML"]),
        (
            "recipe: tiny",
            "recipe: tiny\nrecipe: tiny2",
            2,
            ["'recipe' is here twice: first on line 1, again on line 2"],
        ),
        ("recipe: tiny", "recipe: !!python/name:os.system x", 1, ["tag", "not allowed"]),
    ],
)
def test_a_mistake_names_its_line_and_the_repair(
    tmp_path: Path, old: str, new: str, line: int, words: list[str]
) -> None:
    assert old in BASE
    only(problems(tmp_path, BASE.replace(old, new, 1)), line, *words)


@pytest.mark.parametrize("form", ["int8", "int8_sq"])
def test_a_calibrated_format_without_samples(tmp_path: Path, form: str) -> None:
    text = BASE.replace("w8a16", form).replace("tiny:samples", "tiny:samples\n  calibration: 0")
    only(problems(tmp_path, text), 10, "data.calibration is 0", form)
    assert loaded(tmp_path, BASE.replace("tiny:samples", "tiny:samples\n  calibration: 0")).recipe.data.calibration == 0


def test_all_mistakes_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        BASE.replace("recipe: tiny", "recipe: Tiny")
        .replace("float32", "float23")
        .replace("precision: fp16", "precision: fp61")
    )
    found = problems(tmp_path, text, sets=("engin.threads=1", "nonsense"))
    assert [problem.place.rpartition(":")[2] for problem in found[:3]] == ["1", "7", "11"]
    assert "did you mean float32?" in str(found[1])
    assert (found[3].place, found[3].hint) == ("--set engin.threads=1", "did you mean engine?")
    assert found[4].place == "--set nonsense"


def test_a_missing_section_points_at_the_recipe(tmp_path: Path) -> None:
    found = problems(tmp_path, "# a comment\nrecipe: tiny\n")
    assert {problem.message for problem in found} == {
        f"{key} is missing" for key in ("model", "shapes", "data", "variants")
    }
    assert all(problem.place.endswith("recipe.yaml:2") and problem.hint for problem in found)


@pytest.mark.parametrize(("text", "words"), [("", "is empty"), ("- a\n", "is not a mapping"), ("# only\n", "is empty")])
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, words: str) -> None:
    only(problems(tmp_path, text), 1, words)


def test_missing_recipes_name_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "minilm")
    write(tmp_path / "other", name="fast.yaml")
    with pytest.raises(RecipeError, match="there is no recipe") as caught:
        load(tmp_path / "minilmm")
    assert caught.value.hint == "did you mean minilm?"
    with pytest.raises(RecipeError, match=r"has no recipe\.yaml") as caught:
        load(tmp_path / "other")
    assert caught.value.hint == "there is: fast.yaml"
    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "nowhere" / "x")
    assert "there is no folder" in caught.value.hint


def test_extends_merges_deeply_and_keeps_places(tmp_path: Path) -> None:
    write(tmp_path / "family", BASE)
    child = write(
        tmp_path / "child",
        "extends: ../family\nrecipe: child\nvariants:\n"
        "  small: {quantize: {alpha: 0.5}}\n  fp16: null\n  fp32: {precision: fp32}\n",
    )
    recipe = load(child)
    assert recipe.recipe.recipe == "child"
    assert list(recipe.recipe.variants) == ["small", "fp32"]
    small = recipe.recipe.variants["small"].quantize
    assert small is not None
    assert (small.format, small.alpha) == ("w8a16", 0.5)
    assert recipe.origin("variants.small.quantize.alpha") == f"{child}:4"
    assert recipe.origin("variants.small.quantize.format").endswith("family/recipe.yaml:12")
    assert recipe.origin("variants.fp16") == "default"


def test_of_several_parents_the_last_has_the_last_word(tmp_path: Path) -> None:
    write(tmp_path / "family", BASE)
    (tmp_path / "eight.yaml").write_text("variants:\n  eight: {quantize: {format: int8_sq, alpha: 0.5}}\n")
    (tmp_path / "milder.yaml").write_text("variants: {eight: {quantize: {alpha: 0.7}}, small: null}\n")
    child = write(tmp_path / "child", "recipe: child\nextends: [../family, ../eight.yaml, ../milder.yaml]\n")
    recipe = load(child)
    assert list(recipe.recipe.variants) == ["fp16", "eight"]
    eight = recipe.recipe.variants["eight"].quantize
    assert eight is not None
    assert (eight.format, eight.alpha) == ("int8_sq", 0.7)
    assert recipe.origin("variants.eight.quantize.format").endswith("eight.yaml:2")
    assert recipe.origin("variants.eight.quantize.alpha").endswith("milder.yaml:1")
    only(problems(tmp_path, "recipe: x\nextends: [../eight.yaml, 3]\n"), 2, "there is no recipe")


def test_a_shipped_recipe_is_extended_by_name(tmp_path: Path) -> None:
    child = write(tmp_path / "child", "recipe: child\nextends: [trtbuild://llm, trtbuild://blocks/server_llm.yaml]\n")
    assert "w8a8_kv_int8" in load(child).recipe.variants
    for name, said in (
        ("trtbuild://lml", "there is no trtbuild://lml"),
        ("trtbuild://../setup.py", "is no name of a shipped recipe"),
        ("trtbuild:///etc/passwd", "is no name of a shipped recipe"),
    ):
        (problem,) = problems(tmp_path, f"recipe: x\nextends: {name}\n")
        assert said in problem.message


def test_extends_in_a_circle_or_to_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a", "recipe: a\nextends: ../b\n")
    write(tmp_path / "b", "recipe: b\n\nextends: ../a\n")
    with pytest.raises(RecipeError, match="in turn") as caught:
        load(tmp_path / "a")
    assert caught.value.problems[0].place.endswith("b/recipe.yaml:3")
    only(problems(tmp_path, "recipe: x\nextends: ./zzz\n"), 2, "there is no recipe", "known here: a, b")


def test_a_mistake_in_the_extended_recipe_names_that_file(tmp_path: Path) -> None:
    write(tmp_path / "family", BASE.replace("w8a16", "w8a61"))
    child = write(tmp_path / "child", "recipe: child\nextends: ../family\n")
    with pytest.raises(RecipeError) as caught:
        load(child)
    assert [problem.place for problem in caught.value.problems] == [f"{tmp_path}/family/recipe.yaml:12"]


@pytest.mark.parametrize(
    "text", ["a: 1", "variants: {}", "shapes: {inputs: {}}", "model: {}", "variants: [1]", "matrix: 3"]
)
def test_no_mistake_speaks_in_the_validators_words(tmp_path: Path, text: str) -> None:
    for problem in problems(tmp_path, text):
        assert not {"Input", "validation", "Value error"} & set(problem.message.split())


def test_a_misspelled_section_is_unknown_and_the_right_one_missing(tmp_path: Path) -> None:
    missing, unknown = problems(tmp_path, BASE.replace("data:\n", "dat:\n"))
    assert (missing.message, missing.place.rpartition(":")[2]) == ("data is missing", "1")
    assert (unknown.message, unknown.hint, unknown.place.rpartition(":")[2]) == (
        "unknown key dat",
        "did you mean data?",
        "8",
    )
