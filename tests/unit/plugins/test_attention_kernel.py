"""How plugin.yaml launches the attention kernel.

What it computes is checked on a GPU: benchmarks/kv_cache/correctness.py.
"""

from __future__ import annotations

from itertools import product

import pytest

from trtbuild.plugins.declaration import shipped
from trtbuild.plugins.expressions import evaluate
from trtbuild.plugins.kernels import Variant, choose

CACHES = {
    "CachedAttentionPerToken": ["int8"],
    "CachedAttentionPerHead": ["int8", "float8e4m3fn"],
    "CachedAttention": ["float16"],
}
ATTRIBUTES = {"scale": 0.125, "window": 2**31 - 1}


def chosen(operator: str, cache: str, sizes: dict[str, int], query: str = "float16") -> Variant:
    return choose(operator, {"query": query, "key_cache": cache, "value_cache": cache}, sizes, 90)


def sizes_of(rows: int, group: int, heads: int, tokens: int, slots: int, dim: int) -> dict[str, int]:
    return {"B": rows, "Hq": group * heads, "H": heads, "N": tokens, "S": slots, "D": dim, "C": 16 * tokens}


@pytest.mark.parametrize(("operator", "cache"), [(o, c) for o, caches in CACHES.items() for c in caches])
@pytest.mark.parametrize("query", ["float16", "bfloat16"])
def test_every_head_size_and_group_has_a_kernel(operator: str, cache: str, query: str) -> None:
    for dim, group in product((64, 128, 256), range(1, 17)):
        variant = chosen(operator, cache, sizes_of(1, group, 2, 1, 4096, dim), query)
        rows = int(variant.macros["ROWS"])
        assert rows >= (8 if dim == 256 else group)
        assert variant.macros["HEAD_DIM"] == str(dim)


@pytest.mark.parametrize(
    ("heads", "expected"),
    [((4, 8, 128), [16, 32, 32, 4, 4, 1, 1]), ((7, 2, 64), [16, 64, 64, 8, 16, 1, 1])],
    ids=["32/8/128", "14/2/64"],
)
def test_blocks_of_a_head_are_those_that_were_fastest_on_an_h200(
    heads: tuple[int, int, int], expected: list[int]
) -> None:
    shapes = [(1, 4096), (1, 32768), (1, 131072), (8, 4096), (8, 32768), (64, 4096), (128, 2048)]
    group, of_keys, dim = heads
    launched = []
    for rows, slots in shapes:
        sizes = sizes_of(rows, group, of_keys, 1, slots, dim)
        grid = chosen("CachedAttentionPerHead", "int8", sizes).launch(sizes, ATTRIBUTES, 132).grid
        assert grid[1:] == (of_keys, rows)
        launched.append(grid[0])
    assert launched == expected


@pytest.mark.parametrize("multiprocessors", [20, 108, 132, 148])
def test_blocks_stay_within_their_counters_and_partials(multiprocessors: int) -> None:
    """A block writes ROWS records of D + 4 floats; each tile of rows of a head has a counter."""
    shape = shipped()["cached_attention"][1].operators["CachedAttention"].outputs["partials"].shape
    for rows, group, heads, tokens, slots, dim in product(
        (1, 3, 64), (1, 7, 8, 16), (1, 8), (1, 5, 64), (32, 4096, 131072), (64, 256)
    ):
        sizes = sizes_of(rows, group, heads, tokens, slots, dim)
        variant = chosen("CachedAttentionPerToken", "int8", sizes)
        launch = variant.launch(sizes, ATTRIBUTES, multiprocessors)
        tile = int(variant.macros["ROWS"])
        tiles = -(-group * tokens // tile)
        splits, rest = divmod(launch.grid[0], tiles)
        assert rest == 0
        assert 1 <= splits <= 64
        assert tiles <= sizes["C"]
        room = [evaluate(length, {**sizes, "multiprocessors": multiprocessors}) for length in shape]
        written = rows * heads * tiles * splits * tile * (dim + 4) if splits > 1 else 0
        assert [written] <= room
        assert launch.integers[:4] == (slots, group, tokens, 2**31 - 1)
