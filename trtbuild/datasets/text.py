"""Lines of text as token ids: `generator: trtbuild.datasets.text:lines`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from trtbuild.core.errors import DataError
from trtbuild.core.sources import SAMPLE_IDS
from trtbuild.datasets.domains import domains
from trtbuild.datasets.files import library, named
from trtbuild.datasets.records import KINDS, records
from trtbuild.datasets.selection import HELD_OUT, batches, digest, one_of, take

ENCODED_AT_ONCE = 512
"""Lines tokenized together: enough to keep the tokenizer's threads busy, few enough to stop soon after the last one."""
PADDING_TOKENS = ("[PAD]", "<pad>")
"""What is looked for where the tokenizer's file does not say what it pads with."""


class Padding(NamedTuple):
    """What fills a row that is shorter than its batch."""

    token_id: int
    type_id: int
    left: bool


class Row(NamedTuple):
    """One tokenized line."""

    source: str
    ids: list[int]
    types: list[int]


def lines(
    split: str,
    count: int,
    files: Sequence[Path],
    *,
    max_length: int,
    batch: int,
    tokenizer: str = "tokenizer.json",
    inputs: Sequence[str] | Mapping[str, str] = ("input_ids", "attention_mask"),
    padding: Literal["longest", "max_length"] = "longest",
    pad_token: str | None = None,
    special_tokens: bool = True,
    dtype: Literal["int64", "int32"] = "int64",
    field: str = "text",
    chat: str | Mapping[str, str] | None = None,
    weights: Mapping[str, float] | None = None,
    held_out: float = HELD_OUT,
) -> Iterator[dict[str, Any]]:
    """Yield `count` tokenized texts of a split, in batches of `batch` rows: each input [rows, tokens] of `dtype`.

    `files` are .txt files, where every line that is not empty is a sample, .jsonl files, where the text `field` of
    every line is one, or with `chat` its `messages` (`trtbuild.datasets.records`), and the tokenizer's own file, named
    `tokenizer`. Texts are cut at `max_length` tokens, special tokens included, and padded to the longest of their batch
    or to `max_length`. `inputs` names what to yield of input_ids, attention_mask and token_type_ids; as a mapping, the
    model's name of each: `{ids: input_ids}`.

    With `weights`, file name patterns and numbers such as `{"general*": 0.5, "code*": 0.5}`, each pattern's files
    give their share of `count`, exact to a row. Texts that give the same ids are one sample.

    Raises DataError where a file cannot be read or a split has too few texts, BackendMissing without `tokenizers`.
    """
    one_of("padding", padding, ("longest", "max_length"))
    one_of("dtype", dtype, ("int64", "int32"))
    wanted = dict(inputs) if isinstance(inputs, Mapping) else {name: name for name in inputs}
    for value in wanted.values():
        one_of("inputs", value, ("input_ids", "attention_mask", "token_type_ids"))
    tokenizer_files = [file for file in map(Path, files) if file.name == tokenizer]
    texts = named([file for file in map(Path, files) if file not in tokenizer_files], KINDS)
    encoder, fill = _tokenizer(tokenizer_files, tokenizer, max_length, pad_token)
    chosen: list[tuple[bytes, Row]] = []
    seen: set[bytes] = set()
    for domain in domains(texts, count, weights):
        found = _tokenized(encoder, _ordered(domain.files, field, chat), special_tokens)
        what = f"lines of text{domain.said}"
        chosen += take(found, split, domain.samples, held_out=held_out, what=what, seen=seen)
    chosen.sort()  # by the digest of the text: domains are mixed in each batch, and always in the same way
    for group in batches([row for _, row in chosen], batch):
        length = max_length if padding == "max_length" else max(len(row.ids) for row in group)
        tensors = _padded(group, length, fill)
        yield {name: tensors[value].astype(dtype) for name, value in wanted.items()} | {
            SAMPLE_IDS: [row.source for row in group]
        }


def _ordered(files: dict[str, Path], field: str, chat: str | Mapping[str, str] | None) -> list[tuple[bytes, str, str]]:
    """Digest, text and source of every different text, by digest."""
    found: dict[bytes, tuple[str, str]] = {}
    for name, file in files.items():
        for number, text in records(name, file, field, chat):
            if text:
                found.setdefault(digest(text.encode()), (text, f"{name}:{number}"))
    return [(identity, *found[identity]) for identity in sorted(found)]


def _tokenizer(found: list[Path], name: str, max_length: int, pad_token: str | None) -> tuple[Any, Padding | None]:
    if len(found) != 1:
        there = "no file" if not found else f"{len(found)} files"
        raise DataError(
            f"data.files lists {there} named {name}, one is needed to tokenize",
            hint="list the tokenizer.json of the model, for instance package://<package>/<path>/tokenizer.json",
        )
    (file,) = named(found, (Path(name).suffix.lower(),)).values()
    tokenizers = library("tokenizers", "trtbuild.datasets.text")
    try:
        encoder = tokenizers.Tokenizer.from_file(str(file))
        encoder.enable_truncation(max_length)
    except Exception as error:  # tokenizers raises bare Exception
        raise DataError(f"{name} is not a tokenizer that `tokenizers` reads: {error}") from error
    own = encoder.padding or {}
    encoder.no_padding()
    candidates = (pad_token,) if pad_token is not None else (own.get("pad_token"), *PADDING_TOKENS)
    known = [token for token in candidates if token is not None and encoder.token_to_id(token) is not None]
    if pad_token is not None and not known:
        raise DataError(f"the tokenizer has no token {pad_token!r}", hint="set data.arguments.pad_token to one it has")
    if not known:
        return encoder, None
    return encoder, Padding(encoder.token_to_id(known[0]), own.get("pad_type_id", 0), own.get("direction") == "left")


def _tokenized(
    encoder: Any, texts: list[tuple[bytes, str, str]], special_tokens: bool
) -> Iterator[tuple[bytes, tuple[bytes, Row]]]:
    """The rows by the digest of their ids: texts that differ in what the tokenizer drops are the same sample."""
    for start in range(0, len(texts), ENCODED_AT_ONCE):
        part = texts[start : start + ENCODED_AT_ONCE]
        encodings = encoder.encode_batch([text for _, text, _ in part], add_special_tokens=special_tokens)
        for (order, _, source), encoding in zip(part, encodings, strict=True):
            if encoding.ids:
                identity = digest(np.array(encoding.ids, dtype="<i8").tobytes())
                yield identity, (order, Row(source, encoding.ids, encoding.type_ids))


def _padded(rows: Sequence[Row], length: int, fill: Padding | None) -> dict[str, np.ndarray[Any, Any]]:
    if fill is None and any(len(row.ids) != length for row in rows):
        raise DataError(
            "the tokenizer names no padding token, and rows of one batch differ in length",
            hint="name one with data.arguments.pad_token; its positions are masked",
        )
    token_id, type_id, left = fill or Padding(0, 0, False)
    ids = np.full((len(rows), length), token_id)
    types = np.full((len(rows), length), type_id)
    mask = np.zeros((len(rows), length), dtype=np.int64)
    for number, row in enumerate(rows):
        here = slice(length - len(row.ids), None) if left else slice(len(row.ids))
        ids[number, here], types[number, here], mask[number, here] = row.ids, row.types, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
