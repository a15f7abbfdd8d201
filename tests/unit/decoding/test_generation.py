"""The loop: what goes in, what comes out, and that rows of a batch do not meet."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.decoding.toy import VOCABULARY, Attention, attention, certain, layout_of, ruled
from trtbuild.core.errors import DataError, ModelError
from trtbuild.decoding.decoder import Decoder, padded
from trtbuild.decoding.generation import Generation, NewToken
from trtbuild.decoding.sampling import Sampling

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [9], [3, 3, 8, 1]]


def written(decoder: Decoder, prompts: list[list[int]], **settings: object) -> Generation:
    generation = Generation(decoder, prompts, **settings)  # type: ignore[arg-type]
    for _ in generation:
        pass
    return generation


def without_a_cache(prompt: list[int], tokens: int) -> list[int]:
    """Greedy text by reading everything anew for each token."""
    row = list(prompt)
    for _ in range(tokens):
        decoder = attention()
        decoder.start(1)
        row.append(int(decoder.advance(np.array([row]))[0, -1].argmax()))
    return row[len(prompt) :]


def test_greedy_text_is_that_of_a_decoder_without_a_cache() -> None:
    generation = written(attention(), PROMPTS, max_new_tokens=10)
    assert generation.rows == [without_a_cache(prompt, 10) for prompt in PROMPTS]
    assert len({tuple(row) for row in generation.rows}) == 3


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.5, top_k=12, top_p=0.95, seed=3)])
def test_a_ragged_batch_writes_what_its_rows_write_alone(sampling: Sampling) -> None:
    together = written(attention(), PROMPTS, max_new_tokens=12, sampling=sampling)
    for row, prompt in enumerate(PROMPTS):
        its_own = Sampling(sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed + row)
        assert written(attention(), [prompt], max_new_tokens=12, sampling=its_own).rows == [together.rows[row]]


def test_logits_of_prefill_are_those_of_steps() -> None:
    text = np.array([[1, 5, 2, 7, 7, 3], [4, 4, 0, 9, 1, 2]])
    decoder = attention()
    decoder.start(2)
    at_once = decoder.advance(text)
    decoder.start(2)
    by_steps = np.concatenate([decoder.advance(text[:, [place]]) for place in range(6)], axis=1)
    np.testing.assert_allclose(at_once, by_steps, rtol=1e-5, atol=1e-5)
    assert list(decoder.lengths) == [6, 6]


def test_padding_is_overwritten_and_never_counted() -> None:
    ids, counts = padded(PROMPTS)
    assert ids.shape == (3, 7)
    decoder = attention()
    decoder.start(3)
    decoder.advance(ids, counts)
    assert list(decoder.lengths) == [7, 1, 4]
    after = decoder.advance(np.array([[5], [5], [5]]))[1, 0]
    alone = attention()
    alone.start(1)
    np.testing.assert_allclose(after, alone.advance(np.array([[9, 5]]))[0, -1], rtol=1e-5, atol=1e-5)


def test_one_call_reads_the_prompts_and_one_writes_each_token_but_the_last() -> None:
    decoder = attention()
    assert isinstance(decoder.session, Attention)
    written(decoder, PROMPTS, max_new_tokens=4)
    assert decoder.session.calls == [(3, 7), (3, 1), (3, 1), (3, 1)]


def test_a_stop_token_ends_its_row_alone_and_is_not_shown() -> None:
    def counting(tokens: list[int]) -> np.ndarray:
        return certain((tokens[-1] + 1) % VOCABULARY)

    generation = Generation(ruled(counting), [[1], [8], [4, 5]], max_new_tokens=6, stop_tokens=[10])
    came = list(generation)
    assert generation.rows == [[2, 3, 4, 5, 6, 7], [9], [6, 7, 8, 9]]
    assert generation.endings == ["length", "stop", "stop"]
    assert came[:5] == [NewToken(0, 2), NewToken(1, 9), NewToken(2, 6), NewToken(0, 3), NewToken(2, 7)]
    assert [token for row, token in came if row == 0] == generation.rows[0]
    assert generation.speed().new_tokens == 6 + 2 + 5


def test_a_first_token_that_stops_leaves_an_empty_row() -> None:
    generation = written(ruled(lambda _: certain(3)), [[1], [2]], stop_tokens=[3])
    assert generation.rows == [[], []]
    assert generation.endings == ["stop", "stop"]
    assert generation.speed().decode_tokens_per_s == 0


def test_a_full_cache_ends_its_row_and_the_others_go_on() -> None:
    prompts = [[1] * 21, [2, 3]]
    generation = written(attention(24), prompts, max_new_tokens=10)
    # 21 tokens and 3 new ones fill 24 places; the fourth needs none of its own.
    assert [len(row) for row in generation.rows] == [4, 10]
    assert generation.endings == ["capacity", "length"]
    assert written(attention(24), prompts[1:], max_new_tokens=10).rows == [generation.rows[1]]


def test_a_prompt_that_fills_the_cache_has_one_token_behind_it() -> None:
    generation = written(attention(8), [[1] * 8, [2]], max_new_tokens=3)
    assert [len(row) for row in generation.rows] == [1, 3]


def test_equal_seeds_give_equal_texts_and_others_do_not() -> None:
    def text(seed: int) -> list[list[int]]:
        return written(attention(), PROMPTS, max_new_tokens=12, sampling=Sampling(temperature=2.0, seed=seed)).rows

    assert text(5) == text(5)
    assert len({tuple(text(seed)[0]) for seed in range(4)}) > 1


@pytest.mark.parametrize(
    ("prompts", "settings", "says"),
    [
        ([[1] * 25], {}, "prompt 0 has 25 tokens, the cache holds 24"),
        ([[1], []], {}, "prompt 1 has no tokens"),
        ([], {}, "there is no prompt"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_runs(
    prompts: list[list[int]], settings: dict[str, int], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        Generation(attention(24), prompts, **settings)  # type: ignore[arg-type]


def test_a_decoder_says_when_tokens_do_not_fit() -> None:
    decoder = attention(8)
    decoder.start(1)
    decoder.advance(np.ones((1, 6), np.int64))
    with pytest.raises(DataError, match="9 tokens do not fit the cache, which holds 8"):
        decoder.advance(np.ones((1, 3), np.int64))


def test_a_graph_without_a_cache_is_named() -> None:
    decoder = ruled(lambda _: certain(1))
    other = layout_of("float", ["float32", "float32"], 64)
    with pytest.raises(ModelError, match=r"no output 'cache\.1\.key\.out'"):
        written(Decoder(decoder.session, other), [[1]])


def test_nan_logits_are_an_error() -> None:
    with pytest.raises(DataError, match="NaN"):
        written(ruled(lambda _: np.full(4, np.nan)), [[1]])


def test_the_cost_is_counted() -> None:
    generation = written(attention(), PROMPTS, max_new_tokens=5)
    speed = generation.speed()
    assert (speed.prompt_tokens, speed.new_tokens) == (12, 15)
    assert speed.first_token_ms > 0
    assert speed.decode_tokens_per_s > 0
    assert speed.cache_bytes == 2 * speed.cache_bytes_fp16  # the toy's cache is FP32
