"""From a recipe with files, and no Python, to checked and recorded samples; and docs/data.md held to its word."""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.unit.datasets.files import noise, write_lines, write_tokenizer, write_wav
from trtbuild.core.artifacts import Samples
from trtbuild.core.errors import DataError
from trtbuild.core.stage import Workspace
from trtbuild.core.tensor_file import Batches
from trtbuild.pipeline.decide import ingredients_of
from trtbuild.pipeline.file_digests import FileDigests
from trtbuild.pipeline.plan import Plan
from trtbuild.recipe.load import load
from trtbuild.recipe.schema import DataRecipe
from trtbuild.recipe.sources import sample_source
from trtbuild.stages.sample import Sampled, sample

RECIPE = """\
recipe: tiny
model: {{onnx: model.onnx}}
shapes:
  axes: {{batch: {{min: 1, opt: 4, max: 8}}, length: {{min: 1, opt: 8, max: 2000}}}}
  inputs: {inputs}
data: {data}
variants: {{fp32: {{}}}}
"""
TOKENS = "{input_ids: {dtype: int64, dims: [batch, length]}, attention_mask: {dtype: int64, dims: [batch, length]}}"
DOCUMENT = Path(__file__).parents[3] / "docs" / "data.md"


def write_recipe(folder: Path, inputs: str, **data: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(
        RECIPE.format(inputs=inputs, data=json.dumps({"calibration": 12, "evaluation": 8, **data}))
    )
    return folder


def sampled(folder: Path, work: Path) -> Sampled:
    loaded = load(folder)
    work.mkdir()
    return sample(sample_source(loaded), loaded.recipe.shapes, Workspace(work))


def key(folder: Path) -> dict[str, str]:
    """Everything that the cache key of the folder's `sample` step is made of."""
    loaded = load(folder)
    step = Plan("tiny").add("sample", sample, source=sample_source(loaded), shapes=loaded.recipe.shapes)
    return ingredients_of(step, {}, FileDigests(folder / "digests.sqlite"))


def text_recipe(folder: Path) -> Path:
    write_tokenizer(folder)
    for name, first in (("general.txt", 0), ("code.txt", 50)):
        write_lines(folder / "text" / name, [f"w{n} w{n + 1}" for n in range(first, first + 50)])
    arguments = {"max_length": 8, "batch": 4, "weights": {"general*": 3, "code*": 1}}
    return write_recipe(
        folder,
        TOKENS,
        generator="trtbuild.datasets.text:lines",
        files=["text/*.txt", "tokenizer.json"],
        arguments=arguments,
    )


def test_text_from_recipe_to_record(tmp_path: Path) -> None:
    both = sampled(text_recipe(tmp_path / "a"), tmp_path / "work")
    for split, rows in (("calibration", 12), ("evaluation", 8)):
        folder = getattr(both, split)
        facts = json.loads((folder.path / "samples.json").read_text())
        batches = Batches(folder.main)
        assert facts["rows"] == rows == len(facts["row_sha256"]) == len(facts["sources"])
        assert facts["batches"] == [{name: list(tensor.shape) for name, tensor in batch.items()} for batch in batches]
        assert set(batches[0]) == {"input_ids", "attention_mask"}
        assert sum(source.startswith("general.txt:") for source in facts["sources"]) == rows * 3 // 4
        first = int(facts["sources"][0].partition(":")[2]) + (49 if facts["sources"][0].startswith("code") else -1)
        assert batches[0]["input_ids"][0, 1] == first + 4


def test_the_same_files_elsewhere_give_the_same_bytes_and_the_same_key(tmp_path: Path) -> None:
    folders = [text_recipe(tmp_path / name) for name in ("here", "over/there")]
    works = [tmp_path / f"work{number}" for number in range(2)]
    for folder, work in zip(folders, works, strict=True):
        sampled(folder, work)
    for file in works[0].rglob("*.*"):
        assert file.read_bytes() == (works[1] / file.relative_to(works[0])).read_bytes()
    assert key(folders[0]) == key(folders[1])
    with (folders[1] / "text" / "code.txt").open("a") as text:
        text.write("w1000\n")
    changed = key(folders[1])
    assert {name for name, value in key(folders[0]).items() if changed.get(name) != value} == {
        "source.file.text/code.txt"
    }


def test_sound_and_tensors_from_recipe_to_record(tmp_path: Path) -> None:
    for seed in range(30):
        write_wav(tmp_path / "sound" / f"{seed}.wav", noise(seed))
    write_recipe(
        tmp_path / "sound",
        "{audio: {dtype: float32, dims: [batch, length]}}",
        generator="trtbuild.datasets.audio:clips",
        files=["*.wav"],
        evaluation=4,
        arguments={"input": "audio", "sample_rate": 16000, "seconds": 0.1, "batch": 4},
    )
    write_recipe(
        tmp_path / "arrays",
        "{x: {dtype: float32, dims: [batch, 3]}}",
        generator="trtbuild.datasets.tensors:files",
        files=["rows.npz"],
        arguments={"batch": 4},
    )
    np.savez(tmp_path / "arrays" / "rows.npz", x=np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32))
    for name, source in (("sound", r"\d+\.wav"), ("arrays", r"rows\.npz:\d+")):
        calibration, *_ = sampled(tmp_path / name, tmp_path / f"work-{name}")
        facts = json.loads((calibration.path / "samples.json").read_text())
        assert facts["rows"] == 12
        assert all(re.fullmatch(source, told) for told in facts["sources"])


def test_files_that_do_not_fit_the_shapes_are_a_data_error(tmp_path: Path) -> None:
    folder = text_recipe(tmp_path / "a")
    text = (folder / "recipe.yaml").read_text().replace("max: 2000", "max: 8").replace('"batch": 4', '"batch": 9')
    (folder / "recipe.yaml").write_text(text)
    with pytest.raises(DataError, match=r"input_ids: axis batch is 9, the recipe allows 1 to 8"):
        sampled(folder, tmp_path / "work")


def generator_recipe(folder: Path, code: str, **data: Any) -> Path:
    write_recipe(folder, "{x: {dtype: float32, dims: [batch, 2]}}", generator=f"{folder.name}:samples", **data)
    (folder / f"{folder.name}.py").write_text(f"import numpy as np\n{code}")
    return folder


def test_a_generator_of_ones_own_gets_the_files_it_asks_for(tmp_path: Path) -> None:
    code = """
def samples(split, count, files, scale=1.0):
    assert [file.name for file in files] == ["a.txt", "b.txt", "c.bin"], files
    assert all(file.is_absolute() for file in files)
    for start in range(0, count, 4):
        seed = start + (split == "evaluation") * 1000
        ids = [f"{files[0].name}:{start + row}" for row in range(4)]
        yield {"x": np.random.default_rng(seed).random((4, 2), dtype=np.float32), "__ids__": ids}
"""
    folder = generator_recipe(tmp_path / "asks_for_files", code, files=["c.bin", "*.txt", "a.*"])
    for name in ("a.txt", "b.txt", "c.bin"):
        (folder / name).write_text(name)
    calibration, *_ = sampled(folder, tmp_path / "work")
    facts = json.loads((calibration.path / "samples.json").read_text())
    assert facts["sources"] == [f"a.txt:{row}" for row in range(12)]
    assert facts["batches"] == [{"x": [4, 2]}] * 3


@pytest.mark.parametrize(
    ("signature", "arguments"),
    [("split, count", {}), ("split, count, **more", {}), ("split, count, files", {"files": 0})],
)
def test_one_that_does_not_ask_or_has_its_own_is_called_as_before(
    tmp_path: Path, signature: str, arguments: dict[str, Any]
) -> None:
    code = f"""
def samples({signature}):
    assert "more" not in dir() or not more
    assert "files" not in dir() or files == 0
    yield {{"x": np.full((2, 2), len(split), np.float32)}}
"""
    name = f"does_not_{len(signature)}_{len(arguments)}"
    folder = generator_recipe(tmp_path / name, code, files=["recipe.yaml"], arguments=arguments)
    calibration, *_ = sampled(folder, tmp_path / "work")
    assert json.loads((calibration.path / "samples.json").read_text())["sources"] == [None, None]


@pytest.mark.parametrize("ids", ["['a']", "'ab'", "[1, 2]", "{'a', 'b'}"])
def test_ids_that_do_not_fit_the_rows(tmp_path: Path, ids: str) -> None:
    code = f"def samples(split, count):\n    yield {{'x': np.zeros((2, 2), np.float32), '__ids__': {ids}}}\n"
    folder = generator_recipe(tmp_path / f"ids_{abs(hash(ids))}", code)
    with pytest.raises(DataError, match="calibration sample 0: __ids__ must be a list of 2 texts"):
        sampled(folder, tmp_path / "work")


SHOWN = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)]
SNIPPETS = [snippet for snippet in SHOWN if "data" in snippet]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet["data"]["generator"])
def test_what_the_page_shows_can_be_pasted(snippet: dict[str, Any]) -> None:
    data = DataRecipe.model_validate(snippet["data"])
    module, _, function = data.generator.partition(":")
    signature = inspect.signature(getattr(import_module(module), function))
    signature.bind("calibration", data.calibration, [], **data.arguments)


def test_the_page_shows_every_generator_and_its_arguments() -> None:
    page = DOCUMENT.read_text()
    for module in ("text", "images", "audio", "tensors"):
        name = next(each for each in re.findall(rf"trtbuild\.datasets\.{module}:(\w+)", page))
        function = getattr(import_module(f"trtbuild.datasets.{module}"), name)
        assert any(snippet["data"]["generator"].endswith(f"{module}:{name}") for snippet in SNIPPETS)
        for argument in set(inspect.signature(function).parameters) - {"split", "count"}:
            assert f"`{argument}`" in page, f"{module}:{name} has {argument}"


def test_selection_samples_are_kept_from_calibration(tmp_path: Path) -> None:
    whole = sampled(text_recipe(tmp_path / "a"), tmp_path / "one")
    folder = text_recipe(tmp_path / "b")
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace('"calibration": 12', '"calibration": 9, "selection": 3'))
    parted = sampled(folder, tmp_path / "two")
    assert len(rows_of(parted.selection)) == 3
    assert rows_of(parted.calibration) + rows_of(parted.selection) == rows_of(whole.calibration)
    assert rows_of(whole.selection) == []


def rows_of(samples: Samples) -> list[str]:
    rows: list[str] = json.loads((samples.path / "samples.json").read_text())["row_sha256"]
    return rows
