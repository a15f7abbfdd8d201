"""Text in passages of equal length, as decoders are calibrated and judged on: `trtbuild.datasets.passages:of_files`,
and `trtbuild.datasets.passages:of_documentation`, which needs no text.

A passage begins with what the tokenizer puts before a text, a BOS for most. Nothing is padded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trtbuild.core.errors import DataError
from trtbuild.core.sources import SAMPLE_IDS
from trtbuild.datasets.documentation import documents
from trtbuild.datasets.domains import domains
from trtbuild.datasets.files import library, named
from trtbuild.datasets.records import KINDS, records
from trtbuild.datasets.selection import HELD_OUT, batches, digest, take

Passage = tuple[str, list[int]]
"""Where it came from, and its tokens."""


def of_files(
    split: str,
    count: int,
    files: Sequence[Path],
    *,
    length: int,
    batch: int = 1,
    tokenizer: str = "tokenizer.json",
    field: str = "text",
    chat: str | Mapping[str, str] | None = None,
    weights: Mapping[str, float] | None = None,
    held_out: float = HELD_OUT,
) -> Iterator[dict[str, Any]]:
    """Yield `count` passages of `length` tokens of a split, `batch` rows at once: `input_ids`, int64 [rows, length].

    `files` are .txt files, cut from their begin, .jsonl files, whose texts stand one behind the other (the text `field`
    of each line, or with `chat` its `messages`), and the tokenizer's own file, named `tokenizer`; a decoder's recipe
    adds that of the model. Which split a passage belongs to is decided by its content.

    With `weights`, file name patterns and numbers such as `{"general*": 0.5, "code*": 0.5}`, each pattern's files give
    their share of `count`, exact to a passage, and batches mix them. Raises DataError where a file cannot be read or a
    split has too few passages, BackendMissing without `tokenizers`.
    """
    encoder, texts = _tokenizer(files, tokenizer), [file for file in map(Path, files) if file.name != tokenizer]
    chosen: list[tuple[bytes, Passage]] = []
    seen: set[bytes] = set()
    for domain in domains(named(texts, KINDS), count, weights):
        found = (
            (identity := digest(np.array(ids, dtype="<i8").tobytes()), (identity, (place, ids)))
            for name, file in domain.files.items()
            for place, ids in _cut(encoder, name, _read(name, file, field, chat), length)
        )
        what = f"passages of {length} tokens{domain.said}"
        chosen += take(found, split, domain.samples, held_out=held_out, what=what, seen=seen)
    if weights:
        chosen.sort()  # by the digest of the passage: domains are mixed, and always in the same way
    yield from _batches((passage for _, passage in chosen), batch)


def of_documentation(
    split: str, count: int, files: Sequence[Path], *, length: int, batch: int = 1, tokenizer: str = "tokenizer.json"
) -> Iterator[dict[str, Any]]:
    """The same of Python's own documentation, spread evenly over its topics; `files` hold the tokenizer alone."""
    encoder = _tokenizer(files, tokenizer)
    found = list(_cut(encoder, f"documentation ({split})", "".join(documents(split)), length))
    if len(found) < count:
        raise DataError(
            f"Python's documentation has {len(found)} passages of {length} tokens for {split}, {count} are wanted",
            hint="ask for fewer or shorter ones, or take your own text: generator: trtbuild.datasets.passages:of_files",
        )
    yield from _batches([found[number * len(found) // count] for number in range(count)], batch)


def _tokenizer(files: Sequence[Path], name: str) -> Any:
    found = [file for file in map(Path, files) if file.name == name]
    if len(found) != 1:
        there = "no file" if not found else f"{len(found)} files"
        raise DataError(
            f"data.files lists {there} named {name}, one is needed to tokenize",
            hint="list the model's tokenizer.json; a decoder's recipe takes that of model.huggingface.folder by itself",
        )
    tokenizers = library("tokenizers", "trtbuild.datasets.passages")
    try:
        encoder = tokenizers.Tokenizer.from_file(str(found[0]))
    except Exception as error:  # tokenizers raises bare Exception
        raise DataError(f"{name} is not a tokenizer that `tokenizers` reads: {error}") from error
    encoder.no_truncation()
    encoder.no_padding()
    return encoder


def _read(name: str, file: Path, field: str, chat: str | Mapping[str, str] | None) -> str:
    """The whole text; records of .jsonl with an empty line between them, and conversations as they are written."""
    if file.suffix.lower() == ".jsonl":
        return ("" if chat else "\n\n").join(text for _, text in records(name, file, field, chat) if text)
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _cut(encoder: Any, name: str, text: str, length: int) -> Iterator[Passage]:
    """The text's passages one behind the other; what is left at its end is dropped."""
    before = encoder.encode("").ids[:1]
    ids = encoder.encode(text, add_special_tokens=False).ids
    body = length - len(before)
    for start in range(0, len(ids) - body + 1, body):
        yield f"{name}:{start}", [*before, *ids[start : start + body]]


def _batches(passages: Iterable[Passage], rows: int) -> Iterator[dict[str, Any]]:
    for group in batches(list(passages), rows):
        yield {"input_ids": np.array([ids for _, ids in group], np.int64), SAMPLE_IDS: [place for place, _ in group]}
