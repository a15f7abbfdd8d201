"""Text to tokens, and back while they come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers

from trtbuild.core.errors import DataError
from trtbuild.decoding.tokenizer import ByteTokenizer, FileTokenizer, TextStream, stop_tokens_of, tokenizer_of

TEXT = "Grüße: 日本 🙂."


def streamed(tokenizer: ByteTokenizer | FileTokenizer, tokens: list[int]) -> list[str]:
    stream = TextStream(tokenizer)
    return [*(stream.take(token) for token in tokens), stream.end()]


def sentencepiece_like(folder: Path) -> Path:
    """Words that begin with a blank mark, of which the decoder drops the first."""
    file = folder / "tokenizer.json"
    words = {"▁the": 0, "▁cat": 1, "▁sat": 2, "<unk>": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    made.enable_truncation(2)
    made.save(str(file))
    return file


def test_bytes_come_back_as_whole_characters() -> None:
    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(TEXT)
    assert len(tokens) == len(TEXT.encode())
    parts = streamed(tokenizer, tokens)
    assert "".join(parts) == TEXT
    assert "�" not in "".join(parts)
    assert parts[2] == ""  # the first byte of ü


def test_a_text_that_ends_inside_a_character_says_so_once() -> None:
    parts = streamed(ByteTokenizer(), [65, 0xE6, 0x97])
    assert parts == ["A", "", "", "�"]


def test_tokens_above_bytes_are_no_text() -> None:
    assert streamed(ByteTokenizer(), [256, 72, 300, 105]) == ["", "H", "", "i", ""]


def test_a_blank_between_words_is_kept_while_streaming(tmp_path: Path) -> None:
    tokenizer = tokenizer_of_file(tmp_path)
    assert streamed(tokenizer, [0, 1, 2]) == ["the", " cat", " sat", ""]


def test_a_file_that_truncates_does_not_cut_a_prompt(tmp_path: Path) -> None:
    assert tokenizer_of_file(tmp_path).encode("the cat sat the cat") == [0, 1, 2, 0, 1]


def tokenizer_of_file(folder: Path) -> FileTokenizer:
    found = tokenizer_of(sentencepiece_like(folder).parent)
    assert isinstance(found, FileTokenizer)
    return found


def test_a_missing_or_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no tokenizer .*tokenizer\.json"):
        tokenizer_of(tmp_path)
    assert isinstance(tokenizer_of(tmp_path, "bytes"), ByteTokenizer)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is not a tokenizer"):
        tokenizer_of(tmp_path)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, []),
        ({"config.json": {"eos_token_id": 7}}, [7]),
        ({"config.json": {"eos_token_id": 7}, "generation_config.json": {"eos_token_id": [3, 4]}}, [3, 4]),
        ({"config.json": {"eos_token_id": 7}, "generation_config.json": {}}, [7]),
        ({"config.json": {"eos_token_id": None}}, []),
    ],
)
def test_stop_tokens_come_from_the_generation_config_first(
    tmp_path: Path, files: dict[str, dict[str, object]], expected: list[int]
) -> None:
    for name, facts in files.items():
        (tmp_path / name).write_text(json.dumps(facts))
    assert stop_tokens_of(tmp_path) == expected


def test_stop_tokens_that_are_no_numbers_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(DataError, match="eos_token_id"):
        stop_tokens_of(tmp_path)
