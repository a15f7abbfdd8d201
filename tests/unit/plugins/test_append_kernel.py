"""The append kernel's source, run on the host as its warps would run it, writes the bits of the NumPy reference."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.plugins.append_on_host import of_append, run
from tests.unit.plugins.single_node import FP8, Array, reference
from tests.unit.plugins.test_kv_cache_append import EXTREMES, garbage
from trtbuild.plugins.kernels import Variant

REFERENCE = reference("kv_cache_append")
VARIANTS = of_append()
TYPES = {name: np.dtype(name) for name in ("float32", "float16", "int8")} | {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8e4m3fn": FP8,
}


def cache_type(variant: Variant) -> np.dtype:
    operator = variant.kernel.operator
    if operator == "KVCacheAppend":
        return TYPES[str(variant.given["key_cache"])]
    return FP8 if operator == "KVCacheAppendFp8PerHead" else np.dtype(np.int8)


def check(
    name: str, key: Array, lengths: list[int], slots: int, scale: Array | None = None, in_place: bool = True
) -> None:
    """Values are the keys reversed. With `in_place` each cache and its output are one array."""
    variant = VARIANTS[name]
    operator, dtype = variant.kernel.operator, cache_type(variant)
    rows, heads, _, size = key.shape
    with np.errstate(over="ignore"):
        key = key.astype(TYPES[str(variant.given["key"])])
    new = {"key": key, "value": np.ascontiguousarray(key[..., ::-1])}
    feed: dict[str, Array] = {**new, "lengths": np.array(lengths, np.int64)}
    wanted: dict[str, Array] = {}
    for seed, (role, x) in enumerate(new.items()):
        cache = garbage((rows, heads, slots, size), dtype, seed)
        feed[f"{role}_cache"] = cache
        if operator == "KVCacheAppend":
            with np.errstate(over="ignore"):
                codes = x.astype(dtype)
        elif operator == "KVCacheAppendInt8PerToken":
            codes, made = REFERENCE.int8_per_token(x)
            feed[f"{role}_scale"] = garbage((rows, heads, slots), np.dtype(np.float16), 7 + seed)
            wanted[f"{role}_scale_out"] = REFERENCE.append(feed[f"{role}_scale"], made, lengths)
        else:
            of_head = np.linspace(0.01, 0.5, heads, dtype=np.float32) if scale is None else scale
            feed[f"{role}_scale"] = of_head
            encode = REFERENCE.fp8_per_head if dtype == FP8 else REFERENCE.int8_per_head
            codes = encode(x, of_head)
        wanted[f"{role}_cache_out"] = REFERENCE.append(cache, codes, lengths)
    found = {}
    for role, array in wanted.items():
        of_input = feed[role.removesuffix("_out")]
        found[role] = of_input if in_place else np.full_like(array.view(np.uint8), 0xA5).view(array.dtype)
    found["counters"] = np.full((rows, heads, 16 * key.shape[2]), -1, np.int32)
    wanted["counters"] = np.zeros_like(found["counters"])
    run(variant, feed, found)
    for role, array in wanted.items():
        differs = _bits(found[role]) != _bits(array)
        assert not differs.any(), f"{role}: {int(differs.sum())} differ, first at {np.argwhere(differs)[0]}"


def _bits(array: Array) -> Array:
    """Bits, one NaN for all of them: a conversion between floats may change a NaN's payload."""
    bits = array.view(np.dtype(f"u{array.dtype.itemsize}"))
    return np.where(np.isnan(array), bits.dtype.type(0), bits) if array.dtype.itemsize > 1 else bits


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "copied"])
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    ("lengths", "tokens", "slots", "size"),
    [
        pytest.param([0], 1, 1, 64, id="a cache of one"),
        pytest.param([0, 3, 7, 8, -1], 1, 8, 128, id="decode, rows at the end, full and idle"),
        pytest.param([0, 2, 5, -2], 12, 8, 80, id="more tokens than slots, padded heads"),
        pytest.param([0, 30, 60], 33, 65, 256, id="a chunk"),
        pytest.param([-(2**40), 2**40], 3, 5, 96, id="lengths beyond 32 bits"),
    ],
)
def test_tokens_go_to_their_slots_and_nowhere_else(
    name: str, lengths: list[int], tokens: int, slots: int, size: int, in_place: bool
) -> None:
    key = np.random.default_rng(0).normal(size=(len(lengths), 3, tokens, size))
    check(name, key, lengths, slots, in_place=in_place)


QUANTIZED = [name for name, variant in VARIANTS.items() if variant.kernel.operator != "KVCacheAppend"]


@pytest.mark.parametrize("name", VARIANTS)
def test_extreme_elements(name: str) -> None:
    check(name, np.pad(np.stack([EXTREMES, EXTREMES[::-1]])[None], ((0, 0), (0, 0), (0, 0), (0, 8))), [3], 16)


@pytest.mark.parametrize("name", [name for name in QUANTIZED if "per_head" in name])
@pytest.mark.parametrize("exponent", [-140, -126, -80, -60, -59, -14, 0, 20, 59, 60, 90, 126])
def test_scales_of_any_magnitude(name: str, exponent: int) -> None:
    """Beyond 2^60 and 2^-60 quotients are divided; ratios of any magnitude come, tiny, usual and too great."""
    random = np.random.default_rng(exponent + 200)
    scale = np.ldexp(random.uniform(1, 2, 4).astype(np.float32), exponent)
    ratio = random.uniform(-2, 2, (1, 4, 16, 64)) * np.exp2(random.integers(-40, 12, (1, 4, 16, 64)))
    with np.errstate(over="ignore", under="ignore"):
        key = (ratio * scale[:, None, None].astype(np.float64)).astype(np.float32)
    check(name, key, [0], 16, scale)


@pytest.mark.parametrize("name", [name for name in QUANTIZED if "float32" in name and "per_head" in name])
def test_quotients_are_rounded_once(name: str) -> None:
    """Elements at every rounding border of every scale's codes, and the four floats on either side of each."""
    border = np.arange(-126.5, 127) if "int8" in name else _e4m3_borders()
    random = np.random.default_rng(1)
    float16 = (np.arange(2**10, 2**11) / 2**10).astype(np.float32)
    scale = np.concatenate([float16, random.uniform(1, 2, 1024).astype(np.float32)])
    at = (scale[:, None].astype(np.float64) * border).astype(np.float32)
    near = [at]
    for direction in (np.float32(-np.inf), np.float32(np.inf)):
        beside = at
        for _ in range(4):
            beside = np.nextafter(beside, direction)
            near.append(beside)
    key = np.concatenate(near, 1)  # [scales, elements]
    key = np.pad(key, ((0, 0), (0, -key.shape[1] % 256)))
    check(name, key.reshape(1, len(scale), -1, 256), [0], key.shape[1] // 256, scale)


@pytest.mark.parametrize("name", [name for name in QUANTIZED if "float32" in name and "per_head" in name])
def test_the_hardest_quotients(name: str) -> None:
    """Every quotient for which the kernel's one correction might be too little: a proof by going through them all.

    Between a border of codes b, of 24 bits, and the next float lies M, of 25: the quotient's side of M decides. With
    the significands S of a scale and X of an element, S M = X 2^j + r, and r counts the distance in units of 2^-25 to
    2^-24 of an ulp. After the correction the quotient is wrong by less than 2.25 2^-24 of an ulp, so |r| < 5, and each
    r has at most one scale: S = r / M modulo 2^j.
    """
    border = np.arange(0.5, 127) if "int8" in name else _e4m3_borders()
    cases = []
    for b in np.unique(np.abs(border)):
        exponent = int(np.frexp(b)[1]) - 24
        for middle in (2 * int(b / 2.0**exponent) + side for side in (-1, 1)):
            for j, r in ((j, r) for j in (24, 25) for r in range(-6, 7) if r):
                scale = r * pow(middle, -1, 2**j) % 2**j
                element = (scale * middle - r) >> j
                if 2**23 <= scale < 2**24 and 2**23 <= element < 2**24:
                    cases.append((scale * 2.0**-24, np.ldexp(float(element), j + exponent - 1 - 24)))
    assert len(cases) > 400
    scale, at = (np.array(column) for column in zip(*cases, strict=True))
    key = np.zeros((1, len(cases), 1, 16), np.float32)
    key[0, :, 0, 0], key[0, :, 0, 1] = at, -at
    assert (key[0, :, 0, 0] == at).all()
    check(name, key, [0], 1, scale.astype(np.float32))


def _e4m3_borders() -> Array:
    codes = np.arange(0x7F, dtype=np.uint8).view(FP8).astype(np.float64)
    between = (codes[1:] + codes[:-1]) / 2
    return np.concatenate([between, -between])


@pytest.mark.parametrize("name", [name for name in QUANTIZED if "per_token" in name])
def test_every_scale_of_a_token(name: str) -> None:
    """Heads whose exact scale is each float16: their elements at the borders between codes."""
    scale = np.arange(1, 0x7C00, 7, dtype=np.uint16).view(np.float16).astype(np.float64)
    key = np.zeros((1, 1, len(scale), 64))
    key[0, 0, :, 0] = scale * 127
    key[0, 0, :, 1:] = scale[:, None] * (np.arange(63) * 4 + 0.5 - 126)
    check(name, key, [0], len(scale))


@pytest.mark.parametrize("name", QUANTIZED)
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_any_shape_and_magnitude(name: str, data: st.DataObject) -> None:
    rows, heads, tokens, slots = (data.draw(st.integers(1, top)) for top in (4, 5, 7, 9))
    size = 16 * data.draw(st.integers(1, 16))
    lengths = data.draw(st.lists(st.integers(-3, slots + 3), min_size=rows, max_size=rows))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    magnitude = np.exp2(random.uniform(-40, 40, (rows, heads, tokens, 1)))
    check(name, random.normal(size=(rows, heads, tokens, size)) * magnitude, lengths, slots)
