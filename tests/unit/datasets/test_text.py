"""Lines of text as token ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.datasets.files import LFS_POINTER, write_lines, write_tokenizer
from trtbuild.core.errors import BackendMissing, DataError
from trtbuild.datasets.text import lines

FIRST_WORD = 4
"""The id of `w0`."""


def made(files: list[Path], split: str = "calibration", count: int = 8, **arguments: Any) -> list[dict[str, Any]]:
    return list(lines(split, count, files, **{"max_length": 16, "batch": 4, **arguments}))


def rows(batches: list[dict[str, Any]]) -> list[tuple[int, ...]]:
    """The unpadded ids of every row."""
    return [
        tuple(ids[mask == 1].tolist())
        for batch in batches
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


def corpus(folder: Path, name: str = "corpus.txt", first: int = 0, count: int = 100) -> Path:
    """Lines of one to four words, each with a first word of its own."""
    return write_lines(folder / name, [" ".join([f"w{n}", *["w0"] * (n % 4)]) for n in range(first, first + count)])


def test_rows_are_tokenized_padded_and_say_where_they_came_from(tmp_path: Path) -> None:
    files = [write_tokenizer(tmp_path), corpus(tmp_path)]
    batches = made(files, count=10)
    assert [len(batch["input_ids"]) for batch in batches] == [4, 4, 2]
    for batch in batches:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert ids.dtype == mask.dtype == np.int64
        assert ids.shape == mask.shape == (len(batch["__ids__"]), mask.sum(axis=1).max())
        assert (ids[mask == 0] == 0).all()
        for source, row in zip(batch["__ids__"], ids, strict=True):
            name, _, number = source.partition(":")
            assert name == "corpus.txt"
            assert row[:2].tolist() == [2, FIRST_WORD + int(number) - 1]


def test_the_choice_follows_from_the_content_not_from_files_and_their_order(tmp_path: Path) -> None:
    tokenizer, whole = write_tokenizer(tmp_path), corpus(tmp_path)
    text = whole.read_text().splitlines()
    parts = [
        write_lines(tmp_path / "elsewhere" / "b.txt", text[::-2]),
        write_lines(tmp_path / "a.txt", ["", "  ", *text[-2::-2], *text[:7]]),  # with empty and repeated lines
    ]
    for split in ("calibration", "evaluation"):
        one = made([tokenizer, whole], split, 16)
        several = made([*parts, tokenizer], split, 16)
        for batch, other in zip(one, several, strict=True):
            np.testing.assert_array_equal(batch["input_ids"], other["input_ids"])


def test_the_splits_share_no_row_even_where_the_tokenizer_makes_texts_equal(tmp_path: Path) -> None:
    text = corpus(tmp_path).read_text()
    files = [write_tokenizer(tmp_path), write_lines(tmp_path / "both.txt", (text + text.upper()).splitlines())]
    calibration, evaluation = (set(rows(made(files, split, 20))) for split in ("calibration", "evaluation"))
    assert len(calibration) == len(evaluation) == 20
    assert not calibration & evaluation
    with pytest.raises(DataError, match=r"evaluation split has \d\d lines of text, 60 are wanted \(of 100 different"):
        made(files, "evaluation", 60)


def test_jsonl_and_txt_give_the_same(tmp_path: Path) -> None:
    tokenizer, plain = write_tokenizer(tmp_path), corpus(tmp_path)
    records = [json.dumps({"body": line, "id": 1}) for line in plain.read_text().splitlines()]
    stored = write_lines(tmp_path / "corpus.jsonl", ["", *records])
    batches = made([tokenizer, stored], field="body")
    assert rows(batches) == rows(made([tokenizer, plain]))
    assert all(source.startswith("corpus.jsonl:") for batch in batches for source in batch["__ids__"])


def test_settings_of_the_rows(tmp_path: Path) -> None:
    files = [write_tokenizer(tmp_path), corpus(tmp_path)]
    (batch,) = made(
        files,
        batch=8,
        padding="max_length",
        max_length=4,
        special_tokens=False,
        dtype="int32",
        inputs={"ids": "input_ids", "types": "token_type_ids", "mask": "attention_mask"},
    )
    assert set(batch) == {"ids", "types", "mask", "__ids__"}
    assert {batch[name].shape for name in ("ids", "types", "mask")} == {(8, 4)}
    assert batch["ids"].dtype == np.int32
    assert batch["ids"][:, 0].min() >= FIRST_WORD
    (cut,) = made(files, batch=8, max_length=3)
    assert cut["input_ids"].shape == (8, 3)
    assert (cut["input_ids"][:, -1] == 3).all(), "the last special token stays"


def test_padding_stands_where_the_tokenizer_says(tmp_path: Path) -> None:
    for batch in made([write_tokenizer(tmp_path, left=True), corpus(tmp_path)]):
        assert (batch["attention_mask"][:, -1] == 1).all()
        assert (np.diff(batch["attention_mask"], axis=1) >= 0).all()


def test_a_tokenizer_without_a_padding_token(tmp_path: Path) -> None:
    files = [write_tokenizer(tmp_path, padded=False), corpus(tmp_path)]
    with pytest.raises(DataError, match="names no padding token") as caught:
        made(files)
    assert "pad_token" in caught.value.hint
    assert rows(made(files, pad_token="w7")) == rows(made(files, batch=1))
    with pytest.raises(DataError, match="no token 'nothing'"):
        made(files, pad_token="nothing")


def test_weights_are_kept_to_the_row(tmp_path: Path) -> None:
    files = [
        write_tokenizer(tmp_path),
        corpus(tmp_path, "general-a.txt"),
        corpus(tmp_path, "general-b.txt", 100),
        corpus(tmp_path, "code.txt", 200),
        corpus(tmp_path, "code-copy.txt", 200),
    ]
    batches = made(files, count=21, weights={"general*": 2, "code*": 1})
    names = [source.partition(":")[0] for batch in batches for source in batch["__ids__"]]
    assert sum(name.startswith("general") for name in names) == 14
    assert sum(name.startswith("code") for name in names) == 7
    assert {name[:4] for name in names[:7]} == {"gene", "code"}, "domains are mixed in each batch"
    swapped = made(files[::-1], count=21, weights={"code*": 1, "general*": 2})
    assert rows(swapped) == rows(batches)


def test_a_line_of_two_domains_counts_for_one(tmp_path: Path) -> None:
    files = [write_tokenizer(tmp_path), corpus(tmp_path, "a.txt"), corpus(tmp_path, "b.txt", 50)]
    found = rows(made(files, count=60, weights={"a*": 1, "b*": 1}))
    assert len(set(found)) == len(found) == 60


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"a*": 1}, "b.txt is matched by no pattern"),
        ({"a*": 1, "*": 1}, r"a.txt is matched by .* and "),
        ({"*": 1, "c*": 1}, r"'c\*' matches no file"),
        ({"a*": 1, "b*": 0}, "weight of 'b"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, weights: dict[str, float], words: str) -> None:
    files = [write_tokenizer(tmp_path), corpus(tmp_path, "a.txt"), corpus(tmp_path, "b.txt", 100)]
    with pytest.raises(DataError, match=words):
        made(files, weights=weights)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"w1\n\xff\xfe\n", r"a.txt is not UTF-8 text"),
        ("a.txt", LFS_POINTER.encode(), r"a.txt is a Git LFS pointer"),
        ("a.csv", b"w1\n", r"a.csv cannot be read: it is no .txt, .jsonl file"),
        ("a.jsonl", b'{"text": "w1"}\n{"text": \n', r"a.jsonl:2 is not JSON"),
        ("a.jsonl", b'{"body": "w1"}\n', r"a.jsonl:1 has no text 'text'"),
        ("a.jsonl", b'["w1"]\n', r"a.jsonl:1 has no text 'text'"),
        ("a.txt", b"\n \n", r"calibration split has 0 lines"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        made([write_tokenizer(tmp_path), tmp_path / name])


def test_no_text_no_tokenizer_two_tokenizers_a_broken_one(tmp_path: Path) -> None:
    tokenizer, text = write_tokenizer(tmp_path), corpus(tmp_path)
    with pytest.raises(DataError, match="lists no file to read samples from"):
        made([tokenizer])
    with pytest.raises(DataError, match=r"lists no file named tokenizer.json"):
        made([text])
    with pytest.raises(DataError, match="lists 2 files named"):
        made([text, tokenizer, write_tokenizer(tmp_path / "other")])
    tokenizer.write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer.json is not a tokenizer"):
        made([text, tokenizer])


@pytest.mark.parametrize(
    "arguments", [{"padding": "long"}, {"dtype": "int8"}, {"inputs": ["position_ids"]}, {"held_out": 1.0}, {"batch": 0}]
)
def test_settings_out_of_range(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(arguments))):
        made([write_tokenizer(tmp_path), corpus(tmp_path)], **arguments)


def test_without_the_library_the_command_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [write_tokenizer(tmp_path), corpus(tmp_path)]
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(BackendMissing, match="needs tokenizers") as caught:
        made(files)
    assert "pip install 'trtbuild[datasets]'" in caught.value.hint
