from pathlib import Path

import pytest

from trtbuild.core.errors import ModelError
from trtbuild.core.kv_cache import FILE, KvCache

CACHE = KvCache(
    mode="int8",
    layers=2,
    kv_heads=2,
    head_dim=64,
    capacity=16,
    dtypes=["int8", "float16"],
    excluded=[1],
    windows=[None, 8],
)


def test_tensors_come_in_the_order_of_the_graph() -> None:
    tensors = [(tensor.name, tensor.dtype, tensor.row_shape) for layer in range(2) for tensor in CACHE.tensors(layer)]
    assert tensors == [
        ("cache.0.key", "int8", (2, 16, 64)),
        ("cache.0.value", "int8", (2, 16, 64)),
        ("cache.0.key_scale", "float16", (2, 16)),
        ("cache.0.value_scale", "float16", (2, 16)),
        ("cache.1.key", "float16", (2, 16, 64)),
        ("cache.1.value", "float16", (2, 16, 64)),
    ]


def test_the_file_says_it_all(tmp_path: Path) -> None:
    CACHE.write(tmp_path)
    assert KvCache.read(tmp_path) == CACHE


@pytest.mark.parametrize("text", [None, "", "{}", '{"mode": "int3"}'])
def test_a_missing_or_damaged_file_is_a_clear_error(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / FILE).write_text(text)
    with pytest.raises(ModelError, match=r"cache\.json: not the description of a cache"):
        KvCache.read(tmp_path)
