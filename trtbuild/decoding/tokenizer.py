"""Text to tokens and back, and text as its tokens come."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtbuild.core.errors import BackendMissing, DataError

TOKENIZER_FILE = "tokenizer.json"
BYTES = "bytes"
"""The tokenizer that needs no file: a token is a byte of UTF-8, and tokens above 255 are no text."""
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Tokenizer(ABC):
    """What turns text into tokens."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The tokens of a text, with those that the model expects before it."""

    @abstractmethod
    def encode_inside(self, text: str) -> list[int]:
        """The tokens of a text that stands inside another: without special ones."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; a character that is cut in the middle becomes U+FFFD."""


class ByteTokenizer(Tokenizer):
    """UTF-8, byte by byte."""

    def encode(self, text: str) -> list[int]:
        """The bytes of the text."""
        return list(text.encode())

    encode_inside = encode

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the bytes."""
        return bytes(token for token in tokens if token < 256).decode(errors="replace")


class FileTokenizer(Tokenizer):
    """A `tokenizer.json`, through the `tokenizers` library."""

    def __init__(self, file: Path) -> None:
        """Raises DataError where the file is none, BackendMissing without the library."""
        try:
            library: Any = importlib.import_module("tokenizers")
        except ImportError as error:
            raise BackendMissing(
                f"{file.name} needs tokenizers, which this environment lacks",
                hint="install it: pip install 'trtbuild[datasets]'",
            ) from error
        try:
            self._tokenizer = library.Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exception
            raise DataError(f"{file} is not a tokenizer that `tokenizers` reads: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()  # a prompt that is cut in silence would be answered as another one

    def encode(self, text: str) -> list[int]:
        """The tokens of the text, with the special ones that the file's post-processor adds."""
        return list(self._tokenizer.encode(text).ids)

    def encode_inside(self, text: str) -> list[int]:
        """The tokens of the text alone."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the tokens, special ones left out."""
        return str(self._tokenizer.decode(list(tokens)))


def tokenizer_of(folder: Path, named: str | None = None) -> Tokenizer:
    """The tokenizer of an engine's folder, or the one that was named: a file, or `bytes`. Raises DataError."""
    if named == BYTES:
        return ByteTokenizer()
    file = folder / TOKENIZER_FILE if named is None else Path(named)
    if not file.is_file():
        raise DataError(
            f"there is no tokenizer {file}",
            hint=f"copy the model's {TOKENIZER_FILE} there, or name one: --tokenizer FILE; a byte-level model needs no "
            f"file: --tokenizer {BYTES}",
        )
    return FileTokenizer(file)


def stop_tokens_of(folder: Path) -> list[int]:
    """The tokens that end a text: `eos_token_id` of `generation_config.json`, else of `config.json`, else none.

    Raises DataError where it is no number or list of numbers.
    """
    for name in ("generation_config.json", "config.json"):
        if not (folder / name).is_file():
            continue
        try:
            found = json.loads((folder / name).read_text()).get("eos_token_id")
            tokens = [int(token) for token in (found if isinstance(found, list) else [found]) if token is not None]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{folder / name} names no eos_token_id that is a number: {error}") from error
        if tokens:
            return tokens
    return []


class TextStream:
    """The text of a row as its tokens come: whole characters only, and each but once.

    Tokens are decoded behind those just before them, because a token's text may depend on where it stands (the blank
    of SentencePiece); only a short tail is decoded each time.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tail: list[int] = []
        self._shown = 0
        """How many tokens of the tail have been given as text."""

    def take(self, token: int) -> str:
        """What may be shown once this token is known; nothing while a character is not whole."""
        self._tail.append(token)
        text = self._unshown()
        if not text or text.endswith(_UNFINISHED):
            return ""
        self._tail, self._shown = self._tail[self._shown :], len(self._tail) - self._shown
        return text

    def end(self) -> str:
        """What was held back."""
        text = self._unshown()
        self._tail, self._shown = [], 0
        return text

    def _unshown(self) -> str:
        before = self._tokenizer.decode(self._tail[: self._shown])
        return self._tokenizer.decode(self._tail)[len(before) :]
