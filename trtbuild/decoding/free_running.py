"""How long two decoders write the same when each reads what it wrote itself."""

from __future__ import annotations

from collections.abc import Sequence

from trtbuild.core.values import Result
from trtbuild.decoding.decoder import Decoder
from trtbuild.decoding.generation import Generation


class FreeAgreement(Result):
    """Greedy texts of two decoders, prompt by prompt."""

    lengths: list[int]
    """Tokens before the first difference; all that were written where there is none."""
    identical: float
    """The share of prompts with no difference at all."""

    @property
    def mean_length(self) -> float:
        """Mean of `lengths`."""
        return sum(self.lengths) / len(self.lengths)


def write_on(
    decoder: Decoder, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_tokens: Sequence[int] = ()
) -> list[list[int]]:
    """What a decoder writes behind each prompt, always the likeliest token. Raises DataError where a prompt does not
    fit its cache."""
    generation = Generation(decoder, prompts, max_new_tokens=max_new_tokens, stop_tokens=stop_tokens)
    for _ in generation:
        pass
    return generation.rows


def compare_written(mine: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> FreeAgreement:
    """Two decoders' texts behind the same prompts."""
    return FreeAgreement(
        lengths=[_common(first, second) for first, second in zip(mine, theirs, strict=True)],
        identical=sum(list(first) == list(second) for first, second in zip(mine, theirs, strict=True)) / len(mine),
    )


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    return next(
        (position for position, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]),
        min(len(first), len(second)),
    )
