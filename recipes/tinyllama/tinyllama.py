"""The text that tinyllama learns from and is judged on, its module, and the accuracy metric of a language model.

The text is Python's own documentation (`pydoc_data.topics`), so that the recipe needs no download; a token is a byte.
Text and weights differ a little between Python versions; perplexity ratios hardly do.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]

BOS, EOS, PAD = 256, 257, 258
"""Tokens that are no byte: a document's begin and its end, and what fills a short row."""
VOCABULARY = 264
"""256 bytes and the three above, rounded up to a multiple of eight."""
CONTEXT = 256
"""Positions that the model is trained on."""
HELD_OUT = 8
"""One document in this many is never trained on."""


def documents(split: str) -> list[str]:
    """The documentation topics of a split, `training` or `held_out`, in a fixed random order.

    The documentation repeats itself: a paragraph that an earlier topic has is left out of a later one, so that no
    paragraph of more than 60 characters is in both splits.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    found = []
    for _, text in sorted(topics.items()):
        kept = [part for part in text.split("\n\n") if len(part) <= 60 or part.strip() not in seen]
        seen.update(part.strip() for part in text.split("\n\n"))
        found.append("\n\n".join(kept).strip() + "\n")
    random.Random(0).shuffle(found)  # noqa: S311 - an order, not a secret
    return {
        "training": [text for number, text in enumerate(found) if number % HELD_OUT],
        "held_out": found[::HELD_OUT],
    }[split]


def token_ids(split: str) -> Array:
    """The documents of a split as one row of tokens, int64 [tokens]: each between BOS and EOS."""
    ids: list[int] = []
    for text in documents(split):
        ids += [BOS, *text.encode(), EOS]
    return np.array(ids, dtype=np.int64)


def passages(split: str, count: int, length: int = CONTEXT, rows: int = 8) -> Iterator[dict[str, Array]]:
    """Yield `count` passages of `length` tokens in batches of `rows`: `input_ids`, int64 [rows, length].

    `split` is `calibration`, from the training documents, or `evaluation`, from the held-out ones. Passages are spread
    evenly over the split's text and begin with BOS. Raises ValueError where the text has fewer without overlap.
    """
    text = token_ids({"calibration": "training", "evaluation": "held_out"}[split])
    body = length - 1
    room = len(text) // body
    if count > room:
        raise ValueError(f"the {split} split has {room} passages of {length} tokens, {count} are wanted")
    starts = [number * len(text) // count for number in range(count)]
    ids = np.array([[BOS, *text[start : start + body]] for start in starts], dtype=np.int64)
    for first in range(0, count, rows):
        yield {"input_ids": ids[first : first + rows]}


def model_folder() -> Path:
    """Where the trained weights lie: `trtbuild-tinyllama` in the user's cache folder, or `$TINYLLAMA`."""
    if named := os.environ.get("TINYLLAMA"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trtbuild-tinyllama"


def model() -> Any:
    """The trained `transformers.LlamaForCausalLM`, in FP32; trained first where the cache folder has none."""
    from train import train_once
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(train_once(model_folder()), dtype="float32").eval()


def language_modelling(
    outputs: Sequence[Tensors], reference_outputs: Sequence[Tensors], inputs: Sequence[Tensors], output: str = "logits"
) -> dict[str, float]:
    """How well a model predicts held-out text, alone and beside the reference.

    Each argument has one entry a batch; `output` is float [rows, tokens, vocabulary]. Returns

    - `perplexity`: exp of the mean negative log likelihood of each token given those before it, over all tokens;
    - `perplexity_ratio`: that over the reference's;
    - `top1_agreement`: the share of positions where both find the same token the likeliest;
    - `kl_divergence`: of the model's next-token distribution from the reference's, in nats, mean over positions.
    """
    nll, reference_nll, same, nats, positions = 0.0, 0.0, 0, 0.0, 0
    for mine, theirs, given in zip(outputs, reference_outputs, inputs, strict=True):
        found = _log_softmax(mine[output][:, :-1])
        expected = _log_softmax(theirs[output][:, :-1])
        following = given["input_ids"][:, 1:, None]
        nll -= float(np.take_along_axis(found, following, axis=-1).sum())
        reference_nll -= float(np.take_along_axis(expected, following, axis=-1).sum())
        same += int((found.argmax(axis=-1) == expected.argmax(axis=-1)).sum())
        nats += float((np.exp(expected) * (expected - found)).sum())
        positions += following.size
    return {
        "perplexity": float(np.exp(nll / positions)),
        "perplexity_ratio": float(np.exp((nll - reference_nll) / positions)),
        "top1_agreement": same / positions,
        "kl_divergence": max(nats / positions, 0.0),
    }


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
