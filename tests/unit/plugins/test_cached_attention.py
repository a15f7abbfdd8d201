"""The ONNX functions of cached attention agree with the FP64 reference on the dequantized cache to 1e-5."""

import numpy as np
import pytest

from tests.unit.plugins.single_node import FP8, Array, reference, run

REFERENCE = reference("cached_attention")
APPEND = reference("kv_cache_append")
MODES = ("CachedAttention", "CachedAttentionPerToken", "CachedAttentionPerHead int8", "CachedAttentionPerHead fp8")
UNLIMITED = 2**31 - 1
LIMIT = 1e-5


def stored(mode: str, x: Array) -> tuple[Array, Array | None, Array]:
    """Codes, scales and what they stand for, of keys or values [B, H, S, D]."""
    if mode == "CachedAttention":
        return x, None, x
    if mode == "CachedAttentionPerToken":
        codes, scale = APPEND.int8_per_token(x)
        return codes, scale, REFERENCE.per_token(codes, scale)
    encode, greatest = (APPEND.fp8_per_head, 448) if mode.endswith("fp8") else (APPEND.int8_per_head, 127)
    amax = np.abs(x).max((0, 2, 3))
    scale = np.where(amax > 0, amax / greatest, 1).astype(np.float32)
    codes = encode(x, scale)
    return codes, scale, REFERENCE.per_head(codes, scale)


def spoil(codes: Array, scale: Array | None, filled: list[int]) -> None:
    """Put the worst into slots that no row has reached."""
    for row, length in enumerate(filled):
        behind = max(length, 0)
        codes[row, :, behind:] = np.nan if codes.dtype != np.int8 else -128
        if scale is not None and scale.ndim == 3:
            scale[row, :, behind:] = np.nan


def check(mode: str, query: Array, keys: Array, values: Array, lengths: list[int], window: int = UNLIMITED) -> None:
    operator, scale = mode.partition(" ")[0], 1 / np.sqrt(query.shape[-1])
    feed: dict[str, Array] = {"query": query}
    meant = {}
    filled = [length + query.shape[2] for length in lengths]
    for role, x in (("key", keys), ("value", values)):
        codes, scales, meant[role] = stored(mode, x)
        spoil(codes := codes.copy(), scales, filled)
        feed[f"{role}_cache"] = codes
        if scales is not None:
            feed[f"{role}_scale"] = scales
    feed["lengths"] = np.array(lengths, np.int64)
    wanted = REFERENCE.attend(query, meant["key"], meant["value"], lengths, np.float32(scale), window)
    (found,) = run(operator, feed, [query], scale=float(scale), window=window)
    assert found.dtype == query.dtype
    assert not np.isnan(found).any()
    limit = LIMIT if query.dtype == np.float32 else 1e-3
    for mine, theirs in zip(found.reshape(-1, query.shape[-1]), wanted.reshape(-1, query.shape[-1]), strict=True):
        length = np.linalg.norm(theirs)
        assert np.linalg.norm(mine - theirs) <= limit * length  # and exactly zero where the reference is


def tensors(rows: int, heads: int, group: int, tokens: int, capacity: int, size: int = 16) -> tuple[Array, ...]:
    random = np.random.default_rng(1)
    query = random.normal(size=(rows, heads * group, tokens, size))
    cache = random.normal(size=(2, rows, heads, capacity, size))
    return query.astype(np.float32), cache[0].astype(np.float32), cache[1].astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("lengths", "tokens", "capacity"),
    [
        pytest.param([0], 1, 1, id="a cache of one"),
        pytest.param([0, 14, 15, 16, 31], 1, 32, id="decode, ragged, one row at its end"),
        pytest.param([0, 0], 17, 32, id="prefill"),
        pytest.param([0, 0], 16, 16, id="prefill to the brim"),
        pytest.param([3, 0, 12], 4, 16, id="a chunk"),
        pytest.param([-1, -5, 2], 1, 8, id="idle rows"),
        pytest.param([-2, 7, 9], 3, 8, id="positions before the first slot and behind the last"),
    ],
)
def test_lengths(mode: str, lengths: list[int], tokens: int, capacity: int) -> None:
    check(mode, *tensors(len(lengths), 2, 2, tokens, capacity), lengths)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("heads", "group"), [(1, 1), (1, 2), (2, 3), (1, 5), (2, 7), (4, 1), (1, 16), (1, 64)])
def test_query_heads_share_key_heads(mode: str, heads: int, group: int) -> None:
    check(mode, *tensors(2, heads, group, 2, 9), [0, 6])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [64, 80, 96, 112, 128, 192, 256])
def test_head_sizes(mode: str, size: int) -> None:
    check(mode, *tensors(2, 2, 2, 2, 9, size), [0, 6])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("window", [1, 2, 7, 8, 9, 16, 17, UNLIMITED])
def test_windows(mode: str, window: int) -> None:
    check(mode, *tensors(3, 2, 2, 4, 16), [0, 5, 12], window)


def test_a_window_behind_a_full_cache_sees_less_and_then_nothing() -> None:
    check("CachedAttention", *tensors(3, 1, 1, 2, 8), [7, 9, 20], 3)


@pytest.mark.parametrize("mode", MODES)
def test_all_zero_heads_and_tokens(mode: str) -> None:
    query, keys, values = tensors(2, 2, 2, 2, 9)
    keys[:, 0] = values[:, 0] = 0
    values[0, 1, 3] = 0
    query[1, 2] = 0
    check(mode, query, keys, values, [0, 6])


@pytest.mark.parametrize("mode", MODES)
def test_identical_keys_give_the_mean(mode: str) -> None:
    query, keys, values = tensors(1, 1, 2, 1, 4096)
    keys[:] = keys[:, :, :1]
    check(mode, query, keys, values + 1, [4095])


@pytest.mark.parametrize("mode", MODES)
def test_one_key_dominates_with_scores_of_ten_thousand(mode: str) -> None:
    query, keys, values = tensors(2, 1, 2, 1, 33)
    query *= 100
    keys *= 20
    keys[:, :, 11] = query[:, :1, 0] * 5
    check(mode, query, keys, values, [32, 20])


@pytest.mark.parametrize("mode", MODES)
def test_an_outlier_of_a_thousand_in_one_token_and_one_channel(mode: str) -> None:
    query, keys, values = tensors(1, 2, 2, 2, 17)
    keys[:, :, 0] *= 8  # a sink
    values[:, :, 0] *= 0.05
    keys[..., 3] *= 1000
    query[..., 3] /= 1000  # or scores would be in the thousands, where FP32 has no 1e-5 left
    values[:, :, 5] *= 1000
    check(mode, query, keys, values, [15])


@pytest.mark.parametrize("mode", MODES)
def test_huge_and_tiny_values(mode: str) -> None:
    query, keys, values = tensors(1, 2, 1, 2, 9)
    check(mode, query * np.float32(1e-10), keys * np.float32(1e10), values * np.float32(1e30), [7])
    check(mode, query, keys, values * np.float32(1e-30), [7])


@pytest.mark.parametrize("mode", MODES)
def test_half_precision_queries(mode: str) -> None:
    query, keys, values = tensors(2, 2, 2, 2, 9)
    check(mode, query.astype(np.float16), keys, values, [0, 6])


def test_a_half_precision_cache() -> None:
    query, keys, values = tensors(2, 2, 2, 2, 9)
    check("CachedAttention", query, keys.astype(np.float16), values.astype(np.float16), [0, 6])


def test_the_reference_is_plain_attention() -> None:
    """Against a softmax written with a mask: the reference itself must not be what is wrong."""
    query, keys, values = (x.astype(np.float64) for x in tensors(2, 2, 3, 4, 9))
    lengths, window = [0, 5], 3
    position = np.array(lengths)[:, None] + np.arange(4)
    slot = np.arange(9)
    hidden = (slot > position[..., None]) | (slot <= position[..., None] - window)
    scores = np.einsum("bhtd,bhsd->bhts", query, keys.repeat(3, 1)) * 0.3
    scores[np.broadcast_to(hidden[:, None], scores.shape)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    wanted = np.einsum("bhts,bhsd->bhtd", weights, values.repeat(3, 1))
    found = REFERENCE.attend(query, keys, values, lengths, 0.3, window)
    assert np.allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_fp8_codes_are_e4m3fn() -> None:
    assert FP8.itemsize == 1
    assert REFERENCE.per_head(np.array([[[[0x7E]]]], np.uint8).view(FP8), np.ones(1, np.float32)).item() == 448
