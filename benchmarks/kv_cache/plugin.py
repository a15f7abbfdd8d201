"""The shipped kernels of cached_attention, launched with exactly the plugin's arguments."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from driver import Kernel, Module
from workload import Cache

from trtbuild.plugins.declaration import shipped
from trtbuild.plugins.expressions import evaluate
from trtbuild.plugins.kernels import Variant, choose

UNLIMITED = 2**31 - 1
OPERATORS = {
    "int8": ("CachedAttentionPerToken", "int8"),
    "int8_static": ("CachedAttentionPerHead", "int8"),
    "fp8": ("CachedAttentionPerHead", "float8e4m3fn"),
    "fp16": ("CachedAttention", "float16"),
}
"""The operator for each of FORMATS, and the cache's element type."""


@cache
def _loaded(entry: str, ptx: Path) -> Kernel:
    return Module(ptx).kernel(entry)


class Attention:
    """One node: its kernel for fixed sizes, its counters and partial results.

    `splits` overrides how many blocks share a head, which plugin.yaml decides otherwise.
    """

    def __init__(
        self, kind: str, q_shape: torch.Size, cache_shape: torch.Size, dtype: torch.dtype, splits: int | None = None
    ) -> None:
        (rows, q_heads, tokens, dim), (_, heads, slots, _) = q_shape, cache_shape
        self._sizes = {"B": rows, "Hq": q_heads, "H": heads, "N": tokens, "S": slots, "D": dim, "C": 16 * tokens}
        operator, stored = OPERATORS[kind]
        types = {"query": str(dtype).removeprefix("torch."), "key_cache": stored, "value_cache": stored}
        properties = torch.cuda.get_device_properties(0)
        capability = properties.major * 10 + properties.minor
        self.multiprocessors = properties.multi_processor_count
        self.variant: Variant = choose(operator, types, self._sizes, capability)
        architecture = self.variant.architecture(capability)
        assert architecture is not None  # choose() found one
        self._kernel = _loaded(self.variant.name, self.variant.ptx(architecture))
        self.splits = splits
        self.counters = torch.zeros(rows, heads, 16 * tokens, dtype=torch.int32, device="cuda")
        names = {**self._sizes, "multiprocessors": self.multiprocessors}
        shape = shipped()["cached_attention"][1].operators[operator].outputs["partials"].shape
        floats = [evaluate(length, names) for length in shape]
        if splits is not None:  # more than the plugin would use
            floats = [rows * heads * (q_heads // heads * tokens + 16) * splits * (dim + 4)]
        self.partials = torch.full(floats, float("nan"), device="cuda")

    def launch(
        self,
        q: torch.Tensor,
        cache: Cache,
        lengths: torch.Tensor,
        out: torch.Tensor,
        scale: float,
        window: int = UNLIMITED,
    ) -> None:
        """Queues one launch: q and out [B, HQ, N, D], lengths int64 [B] without the new tokens."""
        launch = self.variant.launch(self._sizes, {"scale": scale, "window": window}, self.multiprocessors)
        grid = list(launch.grid)
        if self.splits is not None:
            one = self.variant.launch(
                {**self._sizes, "B": 1 << 20}, {"scale": scale, "window": window}, self.multiprocessors
            )
            grid[0] = one.grid[0] * self.splits  # so many heads are not split: the tiles of rows remain
        scales = [] if cache.k_scale is None else [cache.k_scale, cache.v_scale]
        inputs = [q, cache.k, cache.v, *scales, lengths, self.counters]
        self._kernel.launch(grid, launch.block, [*inputs, *launch.integers, out, self.partials], launch.shared_bytes)
