"""Is a decoder's engine right? Teacher-forced beside its reference, step by step, and by what each read and wrote."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from trtbuild.core.artifacts import Engine, Samples
from trtbuild.core.errors import DataError
from trtbuild.core.kv_cache import KvCache
from trtbuild.core.reading import Reading
from trtbuild.core.results import Comparison
from trtbuild.core.roles import Compared, Comparer, Runner, Session
from trtbuild.core.stage import stage
from trtbuild.core.values import Options
from trtbuild.stages.read import read_texts

if TYPE_CHECKING:
    from trtbuild.core.tensor_file import Tensors


class ForcedOptions(Options):
    """How far both are led through the same texts."""

    prompt: int = Field(ge=1)
    """Tokens read in one call before the steps begin."""
    steps: int = Field(ge=1)
    """Tokens read one by one behind them."""
    texts: int = Field(default=32, ge=1)
    """How many texts. Their logits are held in memory: texts x steps x vocabulary x 4 bytes, twice."""


@stage(version=1)
def validate_decoder(
    engine: Engine,
    reference: Engine,
    evaluation: Samples,
    truth: Reading,
    reading: Reading,
    reference_reading: Reading,
    options: ForcedOptions,
    runner: Runner,
    comparer: Comparer,
) -> Comparison:
    """Compare the decoder with its reference, step by step."""
    texts = _cut(evaluation, options)
    compared = comparer.compare(
        partial(_forced, engine, options.prompt, runner),
        partial(_forced, reference, options.prompt, runner),
        texts,
        None,
    )
    found = compared.comparison
    if reading.nats is None and not found.non_finite:  # further on in the texts than both were led
        found = found.model_copy(update={"non_finite": {"logits": found.samples}})
    if found.non_finite:
        return found  # of NaN nothing else can be said; the gates say it
    nats = [each.nats for each in (reading, reference_reading, truth)]
    if None in nats or not found.against_reference:
        raise DataError(
            "the reference's logits hold NaN or infinity, so nothing can be compared with it",
            hint="build the reference in fp32, or choose another: reference: NAME",
        )
    metrics = {
        **_likelihood(reading.tokens, *(each or 0.0 for each in nats)),
        **_agreement(compared),
        **_alone(reading, reference_reading),
    }
    # Tables show the first ones.
    ordered = {name: metrics.pop(name) for name in ("perplexity", "perplexity_ratio", "top1_agreement")} | metrics
    return found.model_copy(update={"task_metrics": ordered})


def _forced(engine: Engine, prompt: int, runner: Runner) -> Session:
    from trtbuild.decoding.teacher_forcing import Forced

    return Forced(runner.open(engine, threads=0), KvCache.read(engine.path), prompt)


def _cut(evaluation: Samples, options: ForcedOptions) -> list[Tensors]:
    """The first texts, all of one length. Raises DataError where one leaves no step behind the prompt."""
    from trtbuild.core.row_limit import first_rows

    texts = first_rows([{"input_ids": ids} for ids in read_texts(evaluation)], options.texts)
    shortest = min(text["input_ids"].shape[1] for text in texts)
    if shortest <= options.prompt:
        raise DataError(
            f"an evaluation text has {shortest} tokens, and decoder.prompt takes {options.prompt} of them",
            hint="let the generator yield longer texts, or set decoder.prompt",
        )
    length = min(shortest, options.prompt + options.steps)
    return [{"input_ids": text["input_ids"][:, :length]} for text in texts]


def _likelihood(tokens: int, nats: float, reference: float, truth: float) -> dict[str, float]:
    return {
        "perplexity": math.exp(nats / tokens),
        "perplexity_ratio": math.exp((nats - reference) / tokens),
        "perplexity_ratio_to_model": math.exp((nats - truth) / tokens),
    }


def _agreement(compared: Compared) -> dict[str, float]:
    from trtbuild.decoding.cache_directions import least_cosine
    from trtbuild.decoding.teacher_forcing import LOGITS, agreement

    mine, theirs = ([output[LOGITS] for output in run] for run in (compared.outputs, compared.reference))
    return {
        **agreement(mine, theirs).means,
        "cache_cosine_min": least_cosine(compared.outputs, compared.reference),
    }


def _alone(reading: Reading, reference: Reading) -> dict[str, float]:
    from trtbuild.decoding.free_running import compare_written

    found = {"kv_bytes_ratio": reading.cache_row_bytes / reading.cache_row_bytes_fp16}
    if reading.written:
        free = compare_written(reading.written, reference.written)
        found |= {"free_running_tokens": free.mean_length, "free_running_identical": free.identical}
    if reading.needles_found is not None and reading.needles_nats is not None:
        found |= {"needles_found": reading.needles_found, "needles_nats": reading.needles_nats}
    return found
