"""What a recipe takes from outside: found without importing, or missed with a place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trtbuild.core.errors import Problem, RecipeError
from trtbuild.core.sources import HuggingFaceSource, OnnxSource, PythonSource
from trtbuild.recipe.load import LoadedRecipe, load
from trtbuild.recipe.sources import metric_source, model_source, sample_source, sources

REVISION = "0123456789" * 4
TEXT = """\
recipe: tiny
model:
  {model}
shapes:
  inputs: {{x: {{dtype: float32, dims: [1, 8]}}}}
data:
  generator: {generator}
  files: {files}
metric: {metric}
variants: {{fp32: {{}}}}
"""


def recipe(
    folder: Path,
    model: str = "factory: tiny:make",
    generator: str = "tiny:samples",
    files: str = "[]",
    metric: str = "null",
) -> LoadedRecipe:
    (folder / "recipe.yaml").write_text(TEXT.format(model=model, generator=generator, files=files, metric=metric))
    (folder / "tiny.py").write_text("raise RuntimeError('imported')\n")
    return load(folder)


def missing(found: LoadedRecipe) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        sources(found)
    return caught.value.problems


def hugging_face(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_python_sources_name_the_files_that_decide(tmp_path: Path) -> None:
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    for name in ("a.txt", "b.txt", "deep/c.txt"):
        (tmp_path / "texts" / name).write_text(name)
    found = recipe(tmp_path, files="[texts/**/*.txt]", metric="{entry: 'tiny:agree', arguments: {k: 3}}")
    model, samples, metric = sources(found)
    assert isinstance(model, PythonSource)
    assert (model.entry, model.folder, model.files) == ("tiny:make", tmp_path, [tmp_path / "tiny.py"])
    assert [file.name for file in samples.files] == ["tiny.py", "a.txt", "b.txt", "c.txt"]
    assert (samples.calibration, samples.evaluation) == (256, 128)
    assert metric.python is not None
    assert metric.python.arguments == {"k": 3}
    assert "tiny" not in sys.modules


def test_a_package_beside_the_recipe_is_all_its_modules(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    for name in ("__init__.py", "more.py"):
        (tmp_path / "pack" / name).touch()
    assert [file.name for file in sample_source(recipe(tmp_path, generator="pack:f")).files] == [
        "__init__.py",
        "more.py",
    ]
    assert sample_source(recipe(tmp_path, generator="pack.more:f")).files == [tmp_path / "pack" / "more.py"]


def test_an_installed_module_is_found_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site"
    (installed / "far_away").mkdir(parents=True)
    (installed / "far_away" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (installed / "far_away" / "inner.py").touch()
    monkeypatch.syspath_prepend(str(installed))
    found = recipe(tmp_path, generator="far_away.inner:f", metric="far_away:g")
    assert sample_source(found).files == [installed / "far_away" / "inner.py"]
    assert metric_source(found).files == [installed / "far_away" / "__init__.py"]
    hugging_face(installed / "far_away" / "model")
    source = model_source(recipe(tmp_path, "huggingface: {folder: 'package://far_away/model', outputs: [y]}"))
    assert isinstance(source, HuggingFaceSource)
    assert source.folder == installed / "far_away" / "model"


def test_hugging_face_from_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    found = recipe(tmp_path, f"huggingface: {{hub: org/name, revision: '{REVISION}', class: AutoModelX, outputs: [y]}}")
    (problem,) = missing(found)
    assert problem.place.endswith("recipe.yaml:3")
    assert f"hf download org/name --revision {REVISION}" in problem.hint
    folder = hugging_face(tmp_path / "hf" / "hub" / "models--org--name" / "snapshots" / REVISION)
    source = model_source(found)
    assert source == HuggingFaceSource(folder=folder, auto_class="AutoModelX", outputs=["y"])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("onnx: m.onnx", ["there is no file", "recipe.yaml"]),
        ("onnx: pointer.onnx", ["Git LFS pointer", "git lfs pull"]),
        ("onnx: package://not_installed_x/m.onnx", ["not_installed_x is not installed", "pip install not-installed-x"]),
        ("huggingface: {folder: nowhere, outputs: [y]}", ["there is no folder"]),
        ("huggingface: {folder: ., outputs: [y]}", ["no config.json"]),
        ("factory: tinny:make", ["no module 'tinny'", "tiny.py"]),
        ("factory: os.nothing:make", ["no module 'os.nothing'"]),
    ],
)
def test_a_missing_model(tmp_path: Path, model: str, words: list[str]) -> None:
    (tmp_path / "pointer.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (problem,) = missing(recipe(tmp_path, model))
    assert problem.place.endswith("recipe.yaml:3")
    for word in words:
        assert word in str(problem)


def test_everything_missing_is_said_at_once(tmp_path: Path) -> None:
    found = recipe(tmp_path, "onnx: m.onnx", generator="nowhere:f", files="[tiny.py, '*.txt']", metric="nothing:g")
    assert [problem.place.rpartition(":")[2] for problem in missing(found)] == ["3", "7", "8", "9"]


def test_paths_are_relative_to_the_file_that_spells_them(tmp_path: Path) -> None:
    family, child = tmp_path / "family", tmp_path / "child"
    family.mkdir()
    child.mkdir()
    (family / "m.onnx").write_bytes(b"onnx")
    recipe(family, "onnx: m.onnx")
    (child / "recipe.yaml").write_text("recipe: child\nextends: ../family\ndata: {generator: 'own:f'}\n")
    (child / "own.py").touch()
    model, samples, _ = sources(load(child))
    assert model == OnnxSource(file=family / "m.onnx")
    assert samples.files == [child / "own.py"]
