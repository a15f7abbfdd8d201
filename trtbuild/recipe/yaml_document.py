"""YAML as plain values that know where they were written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trtbuild.core.errors import Problem, RecipeError

KeyPath = tuple[str | int, ...]
"""Where a value is inside a recipe: keys and list positions from the top."""

MAX_BYTES = 1_000_000
MAX_NODES = 50_000
"""Counted after aliases are expanded: nine lines of aliases can ask for a billion values."""
MAX_DEPTH = 60
"""libyaml's composer is recursive and crashes the process on deep nesting, so the depth is checked before."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # an order of magnitude faster, where PyYAML has libyaml
_TAG = "tag:yaml.org,2002:"
_CONSTRUCTED = {_TAG + name for name in ("null", "bool", "int", "float")}
_TEXT = {_TAG + name for name in ("str", "timestamp", "value")}
"""Plain text, and what YAML takes for something else that a recipe has no use for: `2024-01-01`, `=`."""


@dataclass(frozen=True)
class Place:
    """Where a value was written."""

    source: str
    """A file as the user would name it, or `--set path=value`."""
    folder: Path
    """What relative paths written here are relative to."""
    line: int = 0
    """From 1; 0 where the source has no lines."""
    column: int = 0
    text: str | None = None
    """The scalar as it was written, where the value is one."""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True)
class Document:
    """Plain values, and the place of each."""

    value: Any
    places: dict[KeyPath, Place] = field(default_factory=dict)


def read_document(file: Path, shown: str = "") -> Document:
    """Read a YAML file. Raises RecipeError with the file and line of everything wrong with it."""
    shown = shown or str(file)
    try:
        if (size := file.stat().st_size) > MAX_BYTES:
            raise RecipeError([Problem(shown, f"is {size:,} bytes; a recipe has at most {MAX_BYTES:,}")])
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RecipeError([Problem(shown, f"cannot be read: {error.strerror or error}")]) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RecipeError([Problem(f"{shown}:{line}", "is not UTF-8 text", "save the file as UTF-8")]) from error
    return parse_document(text, Place(shown, file.resolve().parent, line=1))


def parse_document(text: str, origin: Place) -> Document:
    """Parse YAML text that was written at `origin`; lines are counted where the origin has lines."""
    return _Reader(origin).read(text)


class _Reader:
    """One document being read."""

    def __init__(self, origin: Place) -> None:
        self.origin = origin
        self.places: dict[KeyPath, Place] = {}
        self.problems: list[Problem] = []
        self.nodes = 0
        self.constructor = yaml.constructor.SafeConstructor()

    def read(self, text: str) -> Document:
        try:
            self._check_depth(text)
            node = _Loader(text).get_single_node()
        except yaml.YAMLError as error:
            raise self._syntax_error(error, text) from error
        if node is None:
            return Document(None, {(): self.origin})
        self.places[()] = self._place(node, node)
        value = self._value(node, (), ())
        if self.problems:
            raise RecipeError(self.problems)
        return Document(value, self.places)

    def _check_depth(self, text: str) -> None:
        loader, depth = _Loader(text), 0
        while loader.check_event():
            event = loader.get_event()
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise RecipeError([Problem(self._shown(event.start_mark), f"nests deeper than {MAX_DEPTH} levels")])

    def _syntax_error(self, error: yaml.YAMLError, text: str) -> RecipeError:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        if mark is None and isinstance(position := getattr(error, "position", None), int):
            before = text.encode()[:position].decode(errors="ignore")
            mark = yaml.Mark(self.origin.source, position, before.count("\n"), 0, "", 0)
        if isinstance(error, yaml.composer.ComposerError) and "single document" in str(error):
            what = "a recipe is one YAML document, and a second one begins here"
        context = f" {found}" if (found := getattr(error, "context", None)) and "document" not in what else ""
        if mark is not None and mark.line > (last := text.rstrip().count("\n")):  # libyaml's end of the text
            mark = yaml.Mark(self.origin.source, 0, last, 0, "", 0)
        return RecipeError([Problem(self._shown(mark), f"is not YAML:{context} {what}".replace("  ", " "))])

    def _value(self, node: yaml.Node, path: KeyPath, around: tuple[int, ...]) -> Any:
        self._count(node)
        if id(node) in around:
            raise RecipeError([Problem(self._shown(node.start_mark), "an anchor holds an alias to itself")])
        around = (*around, id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path, around)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            items = []
            for number, item in enumerate(node.value):
                at = (*path, number)
                self.places[at] = self._place(item, item)
                items.append(self._value(item, at, around))
            return items
        return self._scalar(node)

    def _count(self, node: yaml.Node) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise RecipeError(
                [Problem(self._shown(node.start_mark), f"holds more than {MAX_NODES:,} values, aliases expanded")]
            )

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, around: tuple[int, ...]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in self._merged_first(node, around):
            key = self._key(key_node)
            if key is None:
                continue
            own = any(key_node is mine for mine, _ in node.value)
            if own and key in lines:
                message = (
                    f"{key!r} is here twice: first on line {lines[key]}, again on line {key_node.start_mark.line + 1}"
                )
                self.problems.append(Problem(self._shown(key_node.start_mark), message, "keep one of them"))
                continue
            if own:
                lines[key] = key_node.start_mark.line + 1
            here = (*path, key)
            if key in mapping:  # a merged key that is overridden here: forget where its parts were
                self.places = {at: place for at, place in self.places.items() if at[: len(path) + 1] != here}
            self.places[here] = self._place(key_node, value_node)
            mapping[key] = self._value(value_node, here, around)
        return mapping

    def _merged_first(self, node: yaml.MappingNode, around: tuple[int, ...]) -> Iterator[tuple[yaml.Node, yaml.Node]]:
        """The mapping's pairs, those of `<<` first so that the mapping's own win."""
        self._count(node)
        for key, value in node.value:
            if key.tag != _TAG + "merge":
                continue
            merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for other in reversed(merged):
                if not isinstance(other, yaml.MappingNode) or id(other) in around:
                    self.problems.append(
                        Problem(self._shown(key.start_mark), "<< takes a mapping, or a list of mappings")
                    )
                else:
                    yield from self._merged_first(other, (*around, id(other)))
        yield from ((key, value) for key, value in node.value if key.tag != _TAG + "merge")

    def _key(self, node: yaml.Node) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.tag in _TEXT:
            return str(node.value)
        if isinstance(node, yaml.ScalarNode) and node.tag in _CONSTRUCTED:
            message, hint = (
                f"YAML reads the key {node.value} as {self._scalar(node)!r}, not as text",
                f'write "{node.value}" in quotes',
            )
        else:
            message, hint = "a key must be text", ""
        self.problems.append(Problem(self._shown(node.start_mark), message, hint))
        return None

    def _scalar(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.tag in _TEXT:
            return node.value
        if isinstance(node, yaml.ScalarNode) and node.tag in _CONSTRUCTED:
            try:
                return self.constructor.construct_object(node)
            except (ValueError, LookupError):
                self.problems.append(Problem(self._shown(node.start_mark), f"{node.value!r} is not what its tag says"))
                return None
        tag = node.tag.replace(_TAG, "!!")
        self.problems.append(
            Problem(self._shown(node.start_mark), f"the tag {tag} is not allowed", "a recipe has plain values only")
        )
        return None

    def _place(self, key: yaml.Node, value: yaml.Node) -> Place:
        text = value.value if isinstance(value, yaml.ScalarNode) else None
        line = key.start_mark.line + 1 if self.origin.line else 0
        return Place(self.origin.source, self.origin.folder, line, key.start_mark.column + 1, text)

    def _shown(self, mark: yaml.Mark | None) -> str:
        return f"{self.origin.source}:{mark.line + 1}" if mark and self.origin.line else self.origin.source
