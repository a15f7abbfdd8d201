"""The arrays of a cache, and what codes stand for."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.unit.decoding.toy import layout_of
from trtbuild.core.kv_cache import CacheMode, CacheType
from trtbuild.decoding.cache import FP8_VALUES, empty, float16_bytes, numbers, size_bytes


def test_every_byte_of_fp8_means_what_ml_dtypes_says() -> None:
    np.testing.assert_array_equal(
        FP8_VALUES, np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    )


def test_int8_has_a_scale_a_token_and_head_beside_its_codes() -> None:
    layout = layout_of("int8", ["int8", "float16"], 10, kv_heads=2, head_dim=64)
    arrays = empty(layout, 3)
    assert {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == {
        "cache.0.key": ("int8", (3, 2, 10, 64)),
        "cache.0.value": ("int8", (3, 2, 10, 64)),
        "cache.0.key_scale": ("float16", (3, 2, 10)),
        "cache.0.value_scale": ("float16", (3, 2, 10)),
        "cache.1.key": ("float16", (3, 2, 10, 64)),
        "cache.1.value": ("float16", (3, 2, 10, 64)),
    }
    assert size_bytes(arrays) == 3 * 2 * 2 * 10 * (64 + 2 + 2 * 64)
    assert float16_bytes(layout, 3) == 2 * (3 * 2 * 2 * 10 * 2 * 64)


@pytest.mark.parametrize(("mode", "dtype"), [("int8_static", "int8"), ("fp8", "float8e4m3fn")])
def test_static_modes_take_half_of_fp16(mode: CacheMode, dtype: CacheType) -> None:
    layout = layout_of(mode, [dtype, dtype], 10, kv_heads=2, head_dim=64)
    assert 2 * size_bytes(empty(layout, 1)) == float16_bytes(layout, 1)


def test_dynamic_codes_are_read_with_their_scales() -> None:
    layout = layout_of("int8", ["int8"], 2, head_dim=2)
    cache = empty(layout, 1)
    cache["cache.0.key"][0, 0] = [[10, -20], [1, 2]]
    cache["cache.0.key_scale"][0, 0] = [0.5, 4]
    np.testing.assert_array_equal(numbers(cache, layout, 0, "key")[0, 0], [[5, -10], [4, 8]])


def test_fp8_codes_are_read_from_bytes() -> None:
    layout = layout_of("fp8", ["float8e4m3fn"], 2, head_dim=2)
    cache = empty(layout, 1)
    cache["cache.0.value"][0, 0] = np.array([[1.5, -448], [0, 2**-9]], ml_dtypes.float8_e4m3fn).view(np.uint8)
    np.testing.assert_array_equal(numbers(cache, layout, 0, "value")[0, 0], [[1.5, -448], [0, 2**-9]])


def test_bf16_is_read_from_bits() -> None:
    layout = layout_of("float", ["bfloat16"], 2, head_dim=2)
    cache = empty(layout, 1)
    cache["cache.0.value"][0, 0] = np.array([[1.5, -448], [0, 2**-9]], ml_dtypes.bfloat16).view(np.uint16)
    np.testing.assert_array_equal(numbers(cache, layout, 0, "value")[0, 0], [[1.5, -448], [0, 2**-9]])
    assert size_bytes(cache) == float16_bytes(layout, 1)
