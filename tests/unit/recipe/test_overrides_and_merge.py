"""`--set` and `extends`: one value over another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.models import write_tiny_recipe
from trtbuild.core.errors import RecipeError
from trtbuild.recipe.load import load
from trtbuild.recipe.merge import merged, merged_documents
from trtbuild.recipe.overrides import overridden
from trtbuild.recipe.yaml_document import Document, Place, parse_document

FILE = Place("r.yaml", Path(), line=1)
TEXT = """\
engine: {threads: 1}
shapes: {inputs: {x: {dims: [a, 8]}}}
variants: {fp16: {}}
matrix: {engine.threads: [1]}
recipe: t
"""

SLOW_START = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

keys = st.sampled_from("abc")
values = st.recursive(
    st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=8
)
mappings = st.dictionaries(keys, values, max_size=3)


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("engine.threads=4", ["engine", "threads"], 4),
        ("shapes.inputs.x.dims.1=16", ["shapes", "inputs", "x", "dims", 1], 16),
        ("gates.accuracy.cosine_mean.min=0.9", ["gates", "accuracy", "cosine_mean", "min"], 0.9),
        ("matrix.engine.threads=[1, 2]", ["matrix", "engine.threads"], [1, 2]),
        ("matrix.engine.threads.0=3", ["matrix", "engine.threads", 0], 3),
        ("matrix.quantize.alpha=[1]", ["matrix", "quantize.alpha"], [1]),
        ("variants.fp32={precision: fp32}", ["variants", "fp32", "precision"], "fp32"),
        ('engine.target="10.10"', ["engine", "target"], "10.10"),
        ("description=a=b", ["description"], "a=b"),
        ("metric=", ["metric"], None),
    ],
)
def test_set(setting: str, path: list[str | int], value: Any) -> None:
    before = parse_document(TEXT, FILE)
    document, problems = overridden(before, [setting], Path())
    found = document.value
    for key in path:
        found = found[key]
    assert (found, problems) == (value, [])
    assert str(document.places[tuple(path)]) == f"--set {setting}"
    assert before.value == parse_document(TEXT, FILE).value


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("engine.threads", "is not path=value"),
        ("=3", "is not path=value"),
        ("variants.fp61.precision=fp32", "did you mean fp16?"),
        ("shapes.inputs.x.dims.2=1", "a list of 2"),
        ("recipe.x=1", "recipe is 't', which has no 'x' inside"),
        ("engine.threads=[", "is not YAML"),
        ("extends=x", "can only be written in a recipe"),
    ],
)
def test_a_set_that_is_refused(setting: str, words: str) -> None:
    _, (problem,) = overridden(parse_document(TEXT, FILE), [setting], Path())
    assert problem.place == f"--set {setting}"
    assert words in str(problem)


@given(mappings, mappings)
@SLOW_START
def test_the_last_wins_and_nothing_else_changes(one: dict[str, Any], two: dict[str, Any]) -> None:
    both = merged(one, two)
    assert set(both) == set(one) | set(two)
    assert merged(both, two) == both
    assert merged(one, {}) == merged({}, one) == merged(one, one) == one
    for key in both:
        if not (isinstance(one.get(key), dict) and isinstance(two.get(key), dict)):
            assert both[key] == (two if key in two else one)[key]


@SLOW_START
@given(mappings, mappings)
def test_every_merged_value_has_a_place(one: dict[str, Any], two: dict[str, Any]) -> None:
    document = merged_documents(_placed(one, "one"), _placed(two, "two"))
    assert set(document.places) == set(_placed(document.value, "").places)
    for path in _placed(two, "").places:
        assert document.places[path].source == "two"


def _placed(value: Any, source: str) -> Document:
    def paths(value: Any, at: tuple[str, ...]) -> list[tuple[str, ...]]:
        return (
            [at] + [path for key in value for path in paths(value[key], (*at, key))]
            if isinstance(value, dict)
            else [at]
        )

    return Document(value, {path: Place(source, Path()) for path in paths(value, ())})


def test_a_version_that_yaml_reads_as_a_number_is_text_where_nothing_of_it_is_lost(tmp_path: Path) -> None:
    folder = write_tiny_recipe(tmp_path / "tiny")
    assert load(folder, ["engine.target=8.6"]).recipe.engine.target == "8.6"
    assert load(folder, ["variants.fp32.engine.target=11"]).recipe.variants["fp32"].engine.target == "11"
    with pytest.raises(RecipeError, match=r'write "10.10" in quotes'):
        load(folder, ["engine.target=10.10"])
