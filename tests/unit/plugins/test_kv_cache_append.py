"""The ONNX functions of the cache append give the bits of the NumPy reference, whatever comes in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.plugins.single_node import FP8, Array, reference, run

REFERENCE = reference("kv_cache_append")
MODES = {
    "KVCacheAppend": np.dtype(np.float32),
    "KVCacheAppendInt8PerToken": np.dtype(np.int8),
    "KVCacheAppendInt8PerHead": np.dtype(np.int8),
    "KVCacheAppendFp8PerHead": FP8,
}


def garbage(shape: tuple[int, ...], dtype: np.dtype, seed: int = 5) -> Array:
    """What an unwritten cache may hold: any code, and NaN."""
    random = np.random.default_rng(seed)
    if dtype == FP8:
        codes = random.integers(0, 255, shape).astype(np.uint8)
        return np.where(codes == 0xFF, np.uint8(0x7F), codes).view(FP8)
    if dtype == np.int8:
        return random.integers(-128, 128, shape).astype(np.int8)
    found = random.normal(size=shape).astype(dtype)
    found.flat[::3] = np.nan
    return found


def check(operator: str, key: Array, lengths: list[int], capacity: int, dtype: np.dtype | None = None) -> None:
    """Values are the keys negated and reversed, so that a mix-up of the two shows."""
    dtype = dtype or MODES[operator]
    rows, heads, _, size = key.shape
    new = {"key": key, "value": np.ascontiguousarray(-key[..., ::-1])}
    feed = {f"{role}_cache": garbage((rows, heads, capacity, size), dtype, seed) for seed, role in enumerate(new)}
    wanted = []
    scale = np.linspace(0.01, 0.5, heads, dtype=np.float32)
    if operator == "KVCacheAppendInt8PerToken":
        scales = {role: garbage((rows, heads, capacity), np.dtype(np.float16), 7) for role in new}
        made = {role: REFERENCE.int8_per_token(x) for role, x in new.items()}
        wanted = [REFERENCE.append(feed[f"{role}_cache"], made[role][0], lengths) for role in new]
        wanted += [REFERENCE.append(scales[role], made[role][1], lengths) for role in new]
        feed |= {f"{role}_scale": scales[role] for role in new}
    elif operator == "KVCacheAppend":
        wanted = [REFERENCE.append(feed[f"{role}_cache"], x, lengths) for role, x in new.items()]
    else:
        feed |= {f"{role}_scale": scale * (1 + number) for number, role in enumerate(new)}
        encode = REFERENCE.fp8_per_head if dtype == FP8 else REFERENCE.int8_per_head
        wanted = [
            REFERENCE.append(feed[f"{role}_cache"], encode(x, feed[f"{role}_scale"]), lengths)
            for role, x in new.items()
        ]
    feed |= {**new, "lengths": np.array(lengths, np.int64)}
    found = run(operator, feed, wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.shape == theirs.shape
        assert mine.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("operator", MODES)
@pytest.mark.parametrize(
    ("lengths", "tokens", "capacity"),
    [
        pytest.param([0], 1, 1, id="a cache of one"),
        pytest.param([0, 3, 7], 1, 8, id="decode, one row at its end"),
        pytest.param([0, 0, 0], 8, 8, id="prefill to the brim"),
        pytest.param([0, 2, 5], 4, 8, id="a chunk, one row beyond the end"),
        pytest.param([8, 9, 1000], 3, 8, id="full rows drop what comes"),
        pytest.param([-1, -3, -1000], 3, 8, id="negative positions are dropped"),
        pytest.param([-2, 6, 0], 12, 8, id="more tokens than slots"),
        pytest.param([0, 63, 64], 65, 129, id="odd sizes"),
    ],
)
def test_tokens_go_to_their_slots_and_nowhere_else(
    operator: str, lengths: list[int], tokens: int, capacity: int
) -> None:
    key = np.random.default_rng(0).normal(size=(len(lengths), 2, tokens, 16)).astype(np.float32)
    check(operator, key, lengths, capacity)


EXTREMES = np.array(
    [
        [0.0] * 8,
        [-0.0, 0.0, 1e-45, -1e-45, 1e-40, 0, 0, 0],
        [1e-38, -1e-38, 3e-39, 1e-39, 0, 0, 0, 0],
        [3.4028235e38, -3.4028235e38, 1e38, 1, 0, -1, 1e30, 1e37],
        [np.inf, -np.inf, 1, -1, 0, 1e38, 0, 0],
        [np.nan, 1, -1, np.nan, 0.5, 0, 0, 0],
        [np.nan] * 8,
        [1000, 1, 0.5, -0.5, 3.937, -3.937, 0.1, 0.01],  # one outlier of x1000
        [127, 126.5, 125.5, 0.5, 1.5, 2.5, -0.5, -1.5],  # ties go to even
        [448, 449, 463.9, 464, 464.1, 480, 1e4, -1e4],  # E4M3 saturates where a cast makes NaN
        [2**-9, 2**-10, 1.5 * 2**-10, 2**-11, 0.0146484375, 17, 19, 21],  # E4M3 subnormals and ties
    ],
    dtype=np.float32,
)


@pytest.mark.parametrize("operator", MODES)
def test_extreme_heads(operator: str) -> None:
    key = np.stack([EXTREMES, EXTREMES[::-1]])[None]  # two heads, so that each has its own amax
    check(operator, np.ascontiguousarray(key), [3], 16)


@pytest.mark.parametrize("operator", MODES)
def test_half_precision_keys(operator: str) -> None:
    key = np.random.default_rng(2).normal(size=(2, 3, 5, 64)).astype(np.float16)
    key[0, 0, 0, :3] = [65504, np.inf, np.nan]
    check(operator, key, [0, 4], 8, np.dtype(np.float16) if operator == "KVCacheAppend" else None)


def test_a_half_precision_cache_rounds_what_comes_in_float32() -> None:
    key = np.random.default_rng(3).normal(size=(1, 2, 4, 16)).astype(np.float32)
    check("KVCacheAppend", key, [1], 6, np.dtype(np.float16))


@pytest.mark.parametrize("operator", MODES)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_any_shape_and_magnitude(operator: str, data: st.DataObject) -> None:
    rows, heads, tokens, capacity = (data.draw(st.integers(1, top)) for top in (4, 5, 7, 9))
    size = data.draw(st.sampled_from([64, 80, 96, 128, 256]))
    lengths = data.draw(st.lists(st.integers(-3, capacity + 3), min_size=rows, max_size=rows))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    magnitude = np.exp2(random.uniform(-40, 40, (rows, heads, tokens, 1)))
    key = (random.normal(size=(rows, heads, tokens, size)) * magnitude).astype(np.float32)
    check(operator, key, lengths, capacity)


POSITIVE_FLOAT16 = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16)


@pytest.mark.parametrize("ulps", [-1, 0, 1])
def test_every_float16_is_rounded_up_to_and_never_past(ulps: int) -> None:
    """Heads whose exact scale is each float16, and the float32 next to it on either side."""
    step = POSITIVE_FLOAT16.astype(np.float32)
    step = np.nextafter(step, np.float32(ulps * np.inf)) if ulps else step
    key = np.zeros((1, 1, len(step), 2), np.float32)
    key[0, 0, :, 0] = step * np.float32(127)
    check("KVCacheAppendInt8PerToken", key, [0], len(step))
    exact = np.maximum(np.minimum(np.abs(key[0, 0, :, 0]), REFERENCE.GREATEST) / np.float32(127), REFERENCE.LEAST_SCALE)
    scale = REFERENCE.int8_per_token(key)[1][0, 0]
    before = np.nextafter(scale, np.float16(0)).astype(np.float32)
    assert ((before < exact) & (exact <= scale.astype(np.float32))).all()


@pytest.mark.parametrize("exponent", range(-40, 24, 4))
def test_a_token_is_as_near_as_half_a_step_whatever_its_magnitude(exponent: int) -> None:
    """A step is amax / 127, up to 1/1024 more, or 2^-24 where float16 is no finer itself."""
    x = np.random.default_rng(exponent + 40).uniform(-1, 1, (2, 3, 50, 64)).astype(np.float32) * np.float32(
        2.0**exponent
    )
    x = np.clip(x, -REFERENCE.GREATEST, REFERENCE.GREATEST)
    codes, scale = REFERENCE.int8_per_token(x)
    assert scale.dtype == np.float16
    step = np.maximum(np.abs(x).max(-1) / 127 * (1 + 2**-10), 2.0**-24)
    coarse = np.where(step < 2**-14, step + 2.0**-24, step)
    assert (np.abs(codes * scale.astype(np.float64)[..., None] - x) <= coarse[..., None] * (0.5 + 1e-6)).all()
    assert np.abs(codes).max() <= 127


def test_what_no_scale_reaches_saturates_and_nothing_becomes_nan() -> None:
    x = np.array([[np.inf, -np.inf, 1e30, 8319008, 4e4, 1, np.nan, 0]], np.float32)[None, None]
    codes, scale = REFERENCE.int8_per_token(x)
    assert scale.item() == 65504
    assert codes.ravel().tolist() == [127, -127, 127, 127, 1, 0, 0, 0]
    codes, scale = REFERENCE.int8_per_token(np.zeros((1, 1, 1, 8), np.float32))
    assert (scale.item(), codes.any()) == (2**-24, False)
