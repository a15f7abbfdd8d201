"""The metrics, on decoders whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.decoding.toy import attention, certain, layout_of, ruled
from trtbuild.core.errors import DataError
from trtbuild.core.kv_cache import CacheMode
from trtbuild.decoding.cache_directions import directions, least_cosine
from trtbuild.decoding.decoder import Decoder
from trtbuild.decoding.free_running import FreeAgreement, compare_written, write_on
from trtbuild.decoding.likelihood import forced_logits, perplexity
from trtbuild.decoding.needle import retrieval, trials
from trtbuild.decoding.teacher_forcing import LOGITS, Forced, ForcedAgreement, agreement


def compare_forced(decoder: Decoder, reference: Decoder, texts: list[np.ndarray], prompt: int) -> ForcedAgreement:
    found = []
    for each in (decoder, reference):
        session = Forced(each.session, each.layout, prompt)
        found.append([session.infer({"input_ids": text})[LOGITS] for text in texts])
    return agreement(*found)


def compare_free(decoder: Decoder, reference: Decoder, prompts: list[list[int]], max_new_tokens: int) -> FreeAgreement:
    return compare_written(*(write_on(each, prompts, max_new_tokens) for each in (decoder, reference)))


TEXT = np.random.default_rng(1).integers(0, 16, (3, 12))


def test_a_decoder_agrees_with_itself() -> None:
    found = compare_forced(attention(), attention(), [TEXT], prompt=4).means
    assert found["top1_agreement"] == 1
    assert found["logits_cosine_min"] == pytest.approx(1, abs=1e-12)
    assert found["kl_divergence"] == 0


def test_forced_logits_are_those_of_the_whole_text() -> None:
    steps = np.stack(list(forced_logits(attention(), TEXT, 5)), axis=1)
    decoder = attention()
    decoder.start(3)
    np.testing.assert_allclose(steps, decoder.advance(TEXT)[:, 4:], rtol=1e-5, atol=1e-5)


def test_more_noise_is_less_agreement_by_every_measure() -> None:
    small, large = (
        compare_forced(attention(noise=noise), attention(), [TEXT, TEXT[:, ::-1].copy()], prompt=4).means
        for noise in (0.003, 0.3)
    )
    assert 0 < small["kl_divergence"] < large["kl_divergence"]
    assert large["logits_cosine"] < small["logits_cosine"] < 1
    assert large["top1_agreement"] < small["top1_agreement"]


def test_divergence_and_agreement_of_known_distributions() -> None:
    """Truth (3/4, 1/4); the other says the same until it has read four tokens, then (1/4, 3/4)."""

    def late(tokens: list[int]) -> np.ndarray:
        return np.log([0.25, 0.75] if len(tokens) > 4 else [0.75, 0.25])

    found = compare_forced(ruled(late), ruled(lambda _: np.log([0.75, 0.25])), [np.zeros((2, 6), int)], prompt=3)
    assert found.rows == 2
    np.testing.assert_allclose(found.top1_agreement, [1, 1, 0, 0])
    np.testing.assert_allclose(found.logits_cosine, [1, 1, -1, -1], atol=1e-6)
    np.testing.assert_allclose(found.kl_divergence, [0, 0, 0.5 * np.log(3), 0.5 * np.log(3)], atol=1e-6)


def test_texts_of_several_lengths_cannot_be_forced_together() -> None:
    with pytest.raises(DataError, match="one length"):
        compare_forced(attention(), attention(), [TEXT, TEXT[:, :8]], prompt=4)
    with pytest.raises(DataError, match="at least one must be on each side"):
        compare_forced(attention(), attention(), [TEXT], prompt=12)


def test_perplexity_of_even_odds_is_their_number() -> None:
    assert perplexity(ruled(lambda _: np.zeros(16)), [TEXT]) == pytest.approx(16)


def test_perplexity_of_a_known_chance() -> None:
    """The successor of each token has a chance of 1/2, the fifteen others share the rest."""
    text = np.arange(12)[None] % 16

    def successor(tokens: list[int]) -> np.ndarray:
        chances = np.full(16, 0.5 / 15)
        chances[(tokens[-1] + 1) % 16] = 0.5
        return np.log(chances)

    assert perplexity(ruled(successor), [text]) == pytest.approx(2)
    assert perplexity(ruled(successor), [text[:, ::-1]]) == pytest.approx(30)


def test_perplexity_in_parts_is_that_of_one_call() -> None:
    whole = perplexity(attention(), [TEXT])
    assert perplexity(attention(), [TEXT], tokens_per_call=5) == pytest.approx(whole, rel=1e-6)
    assert perplexity(attention(), [TEXT], tokens_per_call=1) == pytest.approx(whole, rel=1e-6)


def test_free_texts_are_compared_to_their_first_difference() -> None:
    def counting(tokens: list[int]) -> np.ndarray:
        return certain((tokens[-1] + 1) % 16)

    def until_eight(tokens: list[int]) -> np.ndarray:
        return certain(0 if tokens[-1] == 8 else (tokens[-1] + 1) % 16)

    found = compare_free(ruled(until_eight), ruled(counting), [[1], [5], [9]], max_new_tokens=7)
    assert found.lengths == [7, 3, 7]
    assert found.identical == pytest.approx(2 / 3)
    assert found.mean_length == pytest.approx(17 / 3)


def quantized(decoder: Decoder, mode: CacheMode) -> Decoder:
    """The decoder with its cache in INT8, as an engine in that mode would hold it."""
    floats = {name: np.nan_to_num(array) for name, array in decoder.cache.items()}
    layout = layout_of(mode, ["int8", "int8"], decoder.layout.capacity, kv_heads=2, head_dim=4)
    made = Decoder(decoder.session, layout)
    made.start(len(decoder.lengths))
    made.lengths = decoder.lengths
    for name, array in floats.items():
        scale = np.abs(array).max(axis=-1) / 127
        if mode == "int8_static":
            scale = np.broadcast_to(scale.max(axis=(0, 2))[None, :, None], scale.shape)
        else:
            made.cache[f"{name}_scale"] = scale.astype(np.float32)
        made.cache[name] = np.rint(array / np.maximum(scale[..., None], 1e-9)).astype(np.int8)
    return made


def filled(noise: float = 0.0) -> Decoder:
    decoder = attention(noise=noise)
    decoder.start(3)
    decoder.advance(TEXT, np.array([12, 1, 6]))
    return decoder


def test_caches_are_compared_over_the_tokens_they_hold() -> None:
    assert worst(filled()) == pytest.approx(1)
    assert sorted(directions(filled())) == sorted(filled().cache)
    dynamic, static = (worst(quantized(filled(), mode)) for mode in ("int8", "int8_static"))
    assert 0.99 < static < dynamic < 1
    assert worst(filled(noise=0.1)) < dynamic


def worst(decoder: Decoder) -> float:
    return least_cosine([directions(decoder)], [directions(filled())])


def test_garbage_beyond_a_length_does_not_count() -> None:
    decoder = filled()
    for array in decoder.cache.values():
        array[1, :, 1:] = 1e9
    assert worst(decoder) == pytest.approx(1)


def test_the_cosine_of_a_layer_is_the_mean_of_its_heads_whatever_their_scales() -> None:
    decoder = filled()
    for name, array in decoder.cache.items():
        if name.endswith("key"):
            array[:, 0] *= 3.0
    assert worst(decoder) == pytest.approx(1)
    decoder.cache["cache.1.value"][2, 1] *= -1
    assert worst(decoder) == pytest.approx(-1)
    mine, theirs = (directions(each)["cache.1.value"] for each in (decoder, filled()))
    assert (mine * theirs).sum() / np.linalg.norm(mine) / np.linalg.norm(theirs) == pytest.approx((6 - 2) / 6)


KEY, END = [14, 15], [13]


def copying(reach: int) -> Decoder:
    """Goes on as it did behind the key's first place, unless that lies more than `reach` tokens back."""

    def follow(tokens: list[int]) -> np.ndarray:
        places = [place for place in range(1, len(tokens)) if tokens[place - 1 : place + 1] == KEY]
        if len(places) < 2 or len(tokens) - places[0] > reach:
            return certain(0)
        return certain(tokens[places[0] + len(tokens) - places[1]])

    return ruled(follow, capacity=64)


def needles() -> list:
    haystack = np.random.default_rng(3).integers(0, 2, 200)
    return trials(haystack, 40, key=KEY, alphabet=range(2, 12), end=END, value_tokens=3, depths=(0, 0.5, 1), seed=7)


def test_needles_lie_where_they_should() -> None:
    asked = needles()
    assert len(asked) == 12
    assert {len(trial.prompt) for trial in asked} == {40}
    assert {trial.prompt.index(14) for trial in asked if trial.depth == 0} == {0}
    assert {trial.prompt.index(14) for trial in asked if trial.depth == 1} == {32}
    for trial in asked:
        place = trial.prompt.index(14)
        assert trial.prompt[place : place + 6] == [*KEY, *trial.value, *END]
        assert trial.prompt[-2:] == KEY
    assert asked == needles()
    assert len({tuple(trial.value) for trial in asked}) > 6


def test_a_decoder_that_remembers_everything_finds_every_needle() -> None:
    found = retrieval(copying(reach=64), needles(), rows=5)
    assert (found.found, found.tokens_found) == (1, 1)
    assert found.nll < 1e-6
    assert found.found_at == {"0": 1, "0.5": 1, "1": 1}


def test_a_decoder_that_forgets_finds_the_late_ones_alone() -> None:
    found = retrieval(copying(reach=30), needles())
    assert found.found_at == {"0": 0, "0.5": 1, "1": 1}
    assert found.found == pytest.approx(2 / 3)
    assert found.nll > 10


def test_a_haystack_must_be_long_enough() -> None:
    with pytest.raises(DataError, match="haystack"):
        trials([1] * 20, 40, key=KEY, alphabet=[2], depths=[0])
