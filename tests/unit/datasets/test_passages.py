"""Passages of equal length, with a tokenizer whose tokens are words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trtbuild.core.errors import DataError
from trtbuild.core.sources import SAMPLE_IDS
from trtbuild.datasets.passages import of_documentation, of_files

tokenizers = pytest.importorskip("tokenizers")
LENGTH = 8


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """500 different words in one file, of which 62 passages of seven can be cut; a text begins with <bos>."""
    words = [f"w{number}" for number in range(500)]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<bos>": 0, **{word: number + 1 for number, word in enumerate(words)}}, "<bos>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text(" ".join(words))
    return [tmp_path / "text.txt", tmp_path / "tokenizer.json"]


def test_passages_are_pieces_of_the_text_behind_bos_and_no_split_has_another_s(files: list[Path]) -> None:
    rows = {}
    for split, count in (("calibration", 20), ("evaluation", 6)):
        batches = list(of_files(split, count, files, length=LENGTH, batch=4))
        assert [len(batch["input_ids"]) for batch in batches] == [4] * (count // 4) + [2] * (count % 4 > 0)
        assert all(batch["input_ids"].dtype == np.int64 for batch in batches)
        assert all(source.startswith("text.txt:") for batch in batches for source in batch[SAMPLE_IDS])
        rows[split] = np.concatenate([batch["input_ids"] for batch in batches])
        assert rows[split].shape == (count, LENGTH)
        assert (rows[split][:, 0] == 0).all()
        assert (np.diff(rows[split][:, 1:]) == 1).all()  # consecutive words
    starts = [set(found[:, 1]) for found in rows.values()]
    assert not starts[0] & starts[1]


def test_a_split_that_is_too_small_says_how_many_there_are(files: list[Path]) -> None:
    with pytest.raises(DataError, match="passages of 8 tokens"):
        list(of_files("evaluation", 60, files, length=LENGTH))


def test_without_a_tokenizer_nothing_is_cut(files: list[Path]) -> None:
    with pytest.raises(DataError, match=r"no file named tokenizer\.json"):
        list(of_files("evaluation", 1, files[:1], length=LENGTH))
    files[1].write_text("{}")
    with pytest.raises(DataError, match="is not a tokenizer"):
        list(of_files("evaluation", 1, files, length=LENGTH))


def test_the_documentation_needs_no_text(files: list[Path]) -> None:
    for split in ("calibration", "evaluation"):
        batches = list(of_documentation(split, 20, files[1:], length=64, batch=8))
        assert [batch["input_ids"].shape for batch in batches] == [(8, 64), (8, 64), (4, 64)]
    with pytest.raises(DataError, match="of_files"):
        list(of_documentation("evaluation", 10**6, files[1:], length=64))
