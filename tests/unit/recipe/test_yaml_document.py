"""YAML that is hostile, or only unusual."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trtbuild.core.errors import Problem, RecipeError
from trtbuild.recipe.yaml_document import MAX_BYTES, Document, Place, parse_document, read_document


def parse(text: str) -> Document:
    return parse_document(text, Place("r.yaml", Path(), line=1))


def problems(text: str) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        parse(text)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 2024-01-01", {"a": "2024-01-01"}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("a: [1, 2.5, true, null, text, '10.10']", {"a": [1, 2.5, True, None, "text", "10.10"]}),
        ("", None),
    ],
)
def test_plain_values(text: str, value: Any) -> None:
    assert parse(text).value == value


def test_places_are_those_of_the_keys() -> None:
    places = parse("a:\n  b:\n    - 1\n    - {c: x}\n").places
    assert {path: place.line for path, place in places.items()} == {
        (): 1,
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "b", 0): 3,
        ("a", "b", 1): 4,
        ("a", "b", 1, "c"): 4,
    }
    assert places[("a", "b", 1, "c")].text == "x"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3", 3, "first on line 1, again on line 3"),
        ("a: 1\nb: [", 2, "is not YAML"),
        ("a: \tx\n\tb: 1", 2, "is not YAML"),
        ("a: 1\n---\nb: 2", 2, "a second one begins here"),
        ("a: *nowhere", 1, "is not YAML"),
        ("a: !mine x", 1, "tag !mine is not allowed"),
        ("a: !!set {x}", 1, "tag !!set is not allowed"),
        ("a: !!int abc", 1, "is not what its tag says"),
        ("a: 1\nno: 2", 2, "YAML reads the key no as False"),
        ("? [1]\n: 2", 1, "a key must be text"),
        ("a: &x [*x]", 1, "an alias to itself"),
        ("a:\n  <<: 3", 2, "<< takes a mapping"),
        ("[" * 5000, 1, "nests deeper"),
        ("a: \x01", 1, "is not YAML"),
    ],
)
def test_what_is_refused(text: str, line: int, words: str) -> None:
    (problem,) = problems(text)
    assert problem.place == f"r.yaml:{line}"
    assert words in problem.message


@pytest.mark.parametrize("empty", ["[x]", "{}"])
def test_an_alias_bomb_is_refused(empty: str) -> None:
    merge = empty == "{}"
    lines = [f"a0: &a0 {empty}"]
    for level in range(1, 30):
        twice = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} " + (f"{{<<: [{twice}]}}" if merge else f"[{twice}]"))
    (problem,) = problems("\n".join(lines))
    assert "aliases expanded" in problem.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    for content, words in ((b"a: " + b"x" * MAX_BYTES, "bytes"), (b"a: 1\nb: \xff", "not UTF-8")):
        file.write_bytes(content)
        with pytest.raises(RecipeError, match=words):
            read_document(file)
    with pytest.raises(RecipeError, match="cannot be read"):
        read_document(tmp_path / "none.yaml")
    file.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_document(file).value == {"a": 1}
