"""All that is found out about one decoder alone: how likely it finds held-out texts, what it writes, what it finds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trtbuild.core.reading import Reading
from trtbuild.core.tensor_file import Array
from trtbuild.decoding.cache import float16_bytes, size_bytes
from trtbuild.decoding.decoder import Decoder
from trtbuild.decoding.free_running import write_on
from trtbuild.decoding.likelihood import negative_log_likelihood
from trtbuild.decoding.needle import Trial, retrieval


def read(
    decoder: Decoder,
    texts: Sequence[Array],
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    needles: Sequence[Trial],
) -> Reading:
    """Read `texts`, each int64 [rows, tokens], go on behind `prompts`, and look for needles where there are any.

    Raises DataError where a text or a prompt does not fit the cache.
    """
    nats, tokens = negative_log_likelihood(decoder, texts)
    cache_row_bytes = size_bytes(decoder.cache) // len(decoder.lengths)
    found = retrieval(decoder, needles) if needles else None
    return Reading(
        nats=nats if math.isfinite(nats) else None,
        tokens=tokens,
        written=write_on(decoder, prompts, new_tokens) if prompts else [],
        needles_found=None if found is None else found.found,
        needles_nats=None if found is None else found.nll,
        cache_row_bytes=cache_row_bytes,
        cache_row_bytes_fp16=float16_bytes(decoder.layout, 1),
    )
