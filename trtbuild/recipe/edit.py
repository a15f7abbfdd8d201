"""Values written into a recipe's text: lines are added, what a person wrote stays as it is.

YAML libraries that keep comments still lay out afresh what they write. Here the parser only says where things stand.
An entry on one line, `int8: {quantize: {format: int8}}`, is opened into lines where something goes inside it; all else
is an insertion. The result is parsed again and must say exactly what was wanted.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trtbuild.core.errors import RecipeError
from trtbuild.recipe.yaml_document import Place, parse_document

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_STEP = 2
"""Columns by which lines go in where the recipe does not show its own habit."""


class NotEditable(Exception):
    """The text cannot be edited so that it says what is wanted; the message says why."""


@dataclass(frozen=True)
class Addition:
    """One value to add to a mapping, or to a list where `key` is empty."""

    path: tuple[str, ...]
    """Where the mapping or list stands; what is missing on the way is made."""
    key: str
    value: str
    comment: str
    """Why, in a few words."""


def edited(text: str, additions: Sequence[Addition]) -> str:
    """The recipe's text with the additions. Raises NotEditable where anchors, merge keys or the layout forbid it."""
    wanted = _plain(text)
    result = text
    for addition in additions:
        _add(wanted, addition)
        result = _edited(result, addition)
    try:
        same = _plain(result) == wanted
    except RecipeError:
        same = False
    if not same:
        raise NotEditable("the recipe is written in a way that cannot be edited safely")
    return result


def unified_diff(old: str, new: str, name: str) -> str:
    """A patch from one text to the other that `git apply` and `patch -p1` take, run in the file's folder."""
    lines = difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def as_lines(additions: Sequence[Addition]) -> str:
    """The additions as a piece of YAML, to be written by hand."""
    tree: dict[str, Any] = {}
    for addition in additions:
        _add(tree, addition)
    return str(yaml.safe_dump(tree, sort_keys=False, default_flow_style=False))


def _plain(text: str) -> Any:
    return copy.deepcopy(parse_document(text, Place("recipe", Path(), line=1)).value)


def _add(root: dict[str, Any], addition: Addition) -> None:
    here: Any = root
    for depth, word in enumerate(addition.path):
        last = depth == len(addition.path) - 1
        if here.get(word) is None:
            here[word] = [] if last and not addition.key else {}
        here = here[word]
    if addition.key:
        here[addition.key] = addition.value
    else:
        here.append(addition.value)


def _edited(text: str, addition: Addition) -> str:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    lines = text.splitlines(keepends=True)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise NotEditable("the recipe is no mapping in lines of its own")
    shared = _shared(root)
    node: yaml.Node = root
    for depth, word in enumerate(addition.path):
        assert isinstance(node, yaml.MappingNode)
        pair = next((pair for pair in node.value if pair[0].value == word), None)
        rest = addition.path[depth + 1 :]
        if pair is None:
            column = node.value[0][0].start_mark.column
            return _inserted(lines, node, _new(addition, addition.path[depth:], column, _step(root)))
        key, value = pair
        if id(value) in shared or value.start_mark.index < key.end_mark.index:
            raise NotEditable(f"{'.'.join(addition.path[: depth + 1])} is shared with other keys by a YAML anchor")
        if isinstance(value, yaml.CollectionNode) and not value.flow_style and value.value:
            node = value
            continue
        return _opened(
            text, lines, key, value, list(_inside(text, value, rest, addition, key.start_mark.column, _step(root)))
        )
    column = node.start_mark.column
    return _inserted(lines, node, [" " * column + _entry(addition)])


def _shared(root: yaml.Node) -> set[int]:
    """Nodes that more than one place refers to."""
    counts: dict[int, int] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        counts[id(node)] = counts.get(id(node), 0) + 1
        if counts[id(node)] == 1 and isinstance(node, yaml.CollectionNode):
            for item in node.value:
                waiting += item if isinstance(item, tuple) else [item]
    return {identity for identity, count in counts.items() if count > 1}


def _step(root: yaml.MappingNode) -> int:
    """The recipe's own indentation."""
    for _, value in root.value:
        if isinstance(value, yaml.MappingNode) and not value.flow_style and value.value:
            return int(value.start_mark.column) or _STEP
    return _STEP


def _new(addition: Addition, path: Sequence[str], column: int, step: int) -> list[str]:
    """Lines that make what is missing on the way, and the entry."""
    opening = [" " * (column + step * depth) + f"{_quoted(word)}:" for depth, word in enumerate(path)]
    return [*opening, " " * (column + step * len(path)) + _entry(addition)]


def _entry(addition: Addition) -> str:
    value = _quoted(addition.value)
    entry = f"{_quoted(addition.key)}: {value}" if addition.key else f"- {value}"
    return f"{entry}  # {addition.comment}" if addition.comment else entry


def _inside(
    text: str, value: yaml.Node, rest: Sequence[str], addition: Addition, column: int, step: int
) -> Iterator[str]:
    """The lines of a value that stood on its key's line, with the addition inside; `column` is the key's."""
    inner = " " * (column + step)
    if isinstance(value, yaml.SequenceNode):
        yield from (f"{inner}- {_source(text, item)}" for item in value.value)
    pairs = value.value if isinstance(value, yaml.MappingNode) else []
    met = False
    for key, own in pairs:
        if rest and key.value == rest[0]:
            met = True
            yield f"{inner}{_source(text, key)}:"
            yield from _inside(text, own, rest[1:], addition, column + step, step)
        else:
            yield f"{inner}{_source(text, key)}: {_source(text, own)}".rstrip()
    if not met:
        yield from _new(addition, rest, column + step, step)


def _source(text: str, node: yaml.Node) -> str:
    return " ".join(text[node.start_mark.index : node.end_mark.index].split("\n")).strip()


def _opened(text: str, lines: list[str], key: yaml.Node, value: yaml.Node, inside: list[str]) -> str:
    """The text with an entry that stood on its key's line spread over lines; a comment behind it stays on the first."""
    first, last = key.start_mark.line, max(key.end_mark.line, value.end_mark.line)
    head = lines[first][: key.end_mark.column]
    behind = lines[last][value.end_mark.column if value.end_mark.line == last else 0 :].strip()
    if value.end_mark.index == value.start_mark.index:
        behind = lines[first][key.end_mark.column :].partition(":")[2].strip()
    if head.strip() != _source(text, key) or (behind and not behind.startswith("#")):
        raise NotEditable(f"{key.value} shares its line with other keys")
    opening = f"{head}:  {behind}" if behind else f"{head}:"
    return "".join([*lines[:first], *_ended([opening, *inside], lines), *lines[last + 1 :]])


def _inserted(lines: list[str], node: yaml.Node, added: list[str]) -> str:
    """The text with lines behind the last one of a mapping's or list's content."""
    last = _last_line(node) + 1
    before = lines[:last]
    if not before[-1].endswith("\n"):
        before[-1] += "\n"
    return "".join([*before, *_ended(added, lines), *lines[last:]])


def _ended(added: list[str], lines: list[str]) -> list[str]:
    end = "\r\n" if lines[0].endswith("\r\n") else "\n"
    return [line + end for line in added]


def _last_line(node: yaml.Node) -> int:
    """The line on which a node's content ends, comments behind it not counted."""
    if isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        if not isinstance(last, tuple):
            return _last_line(last)
        key, value = last
        alias = value.start_mark.index < key.end_mark.index
        return int(key.end_mark.line) if alias else max(int(key.end_mark.line), _last_line(value))
    mark = node.end_mark
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">") and mark.column == 0:
        return int(mark.line) - 1
    return int(mark.line)


def _quoted(text: str) -> str:
    """Text as YAML reads it back: bare where it is an ordinary word, else in quotes."""
    bare = _PLAIN.fullmatch(text) and yaml.safe_load(text) == text
    return text if bare else json.dumps(text)
