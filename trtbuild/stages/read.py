"""What each decoder alone makes of the held-out texts: the engine's reading, and the FP32 model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from trtbuild.core.artifacts import Engine, Samples
from trtbuild.core.errors import DataError
from trtbuild.core.kv_cache import KvCache
from trtbuild.core.reading import Reading
from trtbuild.core.roles import Exporter, Loader, Runner
from trtbuild.core.sources import HuggingFaceSource, PythonSource
from trtbuild.core.stage import stage
from trtbuild.core.values import Options

if TYPE_CHECKING:
    from pathlib import Path

    from trtbuild.core.tensor_file import Array
    from trtbuild.decoding.needle import Trial


class NeedleOptions(Options):
    """A test of long context: values are hidden in held-out text, each behind a key, and asked for by the key."""

    context: int = Field(ge=64)
    """Tokens of a haystack with its needle."""
    key: str = "\nThe pass key is "
    """What stands before a hidden value, and at the end of the text that asks for it."""
    alphabet: str = "0123456789"
    """Characters that values are made of."""
    value_tokens: int = Field(default=4, ge=1)
    """How many of them a value has."""
    repeats: int = Field(default=4, ge=1)
    """Needles at each of five depths."""


class ReadOptions(Options):
    """What is read and written."""

    prompt: int = Field(ge=1)
    """Tokens of a text that the decoder is given to go on from."""
    new_tokens: int = Field(ge=1)
    """Tokens to write behind them."""
    texts: int = Field(default=8, ge=0)
    """How many texts to go on writing."""
    needle: NeedleOptions | None = None
    """The test of long context, where it is wanted."""


@stage(version=1)
def read(engine: Engine, evaluation: Samples, options: ReadOptions, runner: Runner) -> Reading:
    """Let the engine read held-out texts and go on writing.

    Raises DataError where there are none, or they do not fit the cache.
    """
    from trtbuild.decoding.decoder import Decoder
    from trtbuild.decoding.reading import read as read_all

    texts = read_texts(evaluation)
    rows = [row for ids in texts for row in ids][: options.texts]
    if short := [row for row in rows if len(row) < options.prompt]:
        raise DataError(
            f"an evaluation text has {len(short[0])} tokens, and decoder.prompt asks for {options.prompt}",
            hint="let the generator yield longer texts, or set decoder.prompt",
        )
    needles = _needles(options.needle, texts, engine.path) if options.needle else []
    session = runner.open(engine, threads=0)
    try:
        decoder = Decoder(session, KvCache.read(engine.path))
        prompts = [row[: options.prompt].tolist() for row in rows]
        return read_all(decoder, texts, prompts, options.new_tokens, needles)
    finally:
        session.close()


@stage(version=1)
def read_in_fp32(
    source: PythonSource | HuggingFaceSource, evaluation: Samples, loader: Loader, exporter: Exporter
) -> Reading:
    """Let the FP32 model read held-out texts."""
    from trtbuild.core.tensor_file import Batches  # numpy and safetensors: a plan must not load them
    from trtbuild.decoding.likelihood import surprise

    texts = read_texts(evaluation)
    outputs = exporter.observe(loader.load(source), Batches(evaluation.main))
    found = [surprise(output["logits"], ids) for output, ids in zip(outputs, texts, strict=True)]
    return Reading(nats=sum(nats for nats, _ in found), tokens=sum(tokens for _, tokens in found))


def read_texts(samples: Samples) -> list[Array]:
    """The token ids of each batch, int64 [rows, tokens]. Raises DataError where there is none."""
    from trtbuild.core.tensor_file import Batches

    texts = [batch["input_ids"] for batch in Batches(samples.main)]
    if not texts:
        raise DataError("there are no evaluation texts", hint="set data.evaluation, for example 32")
    return texts


def _needles(options: NeedleOptions, texts: list[Array], folder: Path) -> list[Trial]:
    from trtbuild.decoding.needle import trials
    from trtbuild.decoding.tokenizer import tokenizer_of

    tokenizer = tokenizer_of(folder)
    return trials(
        [int(token) for ids in texts for row in ids for token in row],
        options.context,
        key=tokenizer.encode_inside(options.key),
        alphabet=sorted({tokenizer.encode_inside(character)[-1] for character in options.alphabet}),
        value_tokens=options.value_tokens,
        repeats=options.repeats,
    )
