"""kv_cache_append's shipped kernels: to the last bit, and timed."""

from __future__ import annotations

import math
from typing import Any

import torch
from ceilings import Ceilings
from driver import Module
from timing import graph_us
from workload import Cache, quantize

from trtbuild.plugins.kernels import choose

OPERATORS = {
    "int8": ("KVCacheAppendInt8PerToken", "int8"),
    "int8_static": ("KVCacheAppendInt8PerHead", "int8"),
    "fp8": ("KVCacheAppendFp8PerHead", "float8e4m3fn"),
    "fp16": ("KVCacheAppend", "float16"),
}
HEADS, DIM, SLOTS = 8, 128, 4096
STEPS = [(1, 1), (8, 1), (64, 1), (128, 1), (1, 2048), (8, 512), (64, 256)]
"""Rows and new tokens of each."""


class Append:
    """One node for fixed sizes."""

    def __init__(self, kind: str, rows: int, tokens: int) -> None:
        self._sizes = {"B": rows, "H": HEADS, "N": tokens, "S": SLOTS, "D": DIM}
        operator, stored = OPERATORS[kind]
        properties = torch.cuda.get_device_properties(0)
        capability = properties.major * 10 + properties.minor
        types = {"key": "float16", "value": "float16", "key_cache": stored, "value_cache": stored}
        self.variant = choose(operator, types, self._sizes, capability)
        architecture = self.variant.architecture(capability)
        assert architecture is not None  # choose() found one
        self._kernel = Module(self.variant.ptx(architecture)).kernel(self.variant.name)
        self._launch = self.variant.launch(self._sizes, {}, properties.multi_processor_count)
        self.counters = torch.full((rows, HEADS, 16 * tokens), 7, dtype=torch.int32, device="cuda")

    def launch(self, cache: Cache, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor) -> None:
        """Queues one launch that writes K and V [B, H, N, D] into the cache, in place."""
        scales = [] if cache.k_scale is None else [cache.k_scale, cache.v_scale]
        written = scales if cache.k_scale is not None and cache.k_scale.dim() > 1 else []
        inputs, outputs = [cache.k, cache.v, *scales, k, v, lengths], [cache.k, cache.v, *written, self.counters]
        launch = self._launch
        self._kernel.launch(launch.grid, launch.block, [*inputs, *launch.integers, *outputs], launch.shared_bytes)


def append_rows(ceilings: Ceilings, total_ms: float) -> list[dict[str, Any]]:
    """One row for each step and format; `context` is the number of new tokens."""
    return [_measured(kind, *step, ceilings, total_ms) for kind in OPERATORS for step in STEPS]


def _measured(kind: str, rows: int, tokens: int, ceilings: Ceilings, total_ms: float) -> dict[str, Any]:
    node = Append(kind, rows, tokens)
    elements = rows * HEADS * tokens * DIM
    scales = elements // DIM * 2 if kind == "int8" else 0
    size = 2 * (2 * elements + elements * (2 if kind == "fp16" else 1) + scales)
    copies = max(2, min(64, math.ceil((256 << 20) / size)), 1)
    random = torch.Generator("cuda").manual_seed(20261120)
    k, v = (torch.randn(copies, rows, HEADS, tokens, DIM, generator=random, device="cuda").half() for _ in range(2))
    lengths = torch.randint(0, SLOTS - tokens + 1, (rows,), generator=random, device="cuda")
    exact = quantize(k[0], v[0], kind)
    empty = quantize(
        torch.zeros(rows, HEADS, SLOTS, DIM, device="cuda"), torch.zeros(rows, HEADS, SLOTS, DIM, device="cuda"), kind
    )
    cache = (
        empty
        if empty.k_scale is None or empty.k_scale.dim() > 1
        else Cache(empty.k, empty.v, exact.k_scale, exact.v_scale)
    )
    node.launch(cache, k[0], v[0], lengths)
    at = lengths[:, None] + torch.arange(tokens, device="cuda")
    row = torch.arange(rows, device="cuda")[:, None]
    for stored, right in (
        (cache.k, exact.k),
        (cache.v, exact.v),
        (cache.k_scale, exact.k_scale),
        (cache.v_scale, exact.v_scale),
    ):
        if stored is not None and right is not None and right.dim() > 1:
            bits = torch.int8 if right.element_size() == 1 else torch.int16
            if not torch.equal(stored.view(bits)[row, :, at], right.view(bits).transpose(1, 2)):
                raise AssertionError(f"append {kind} {rows}x{tokens}: other bits than the reference's")
    if node.counters.any():
        raise AssertionError(f"append {kind} {rows}x{tokens}: counters are not zero")
    us = graph_us([lambda i=i: node.launch(cache, k[i], v[i], lengths) for i in range(copies)], total_ms)
    percent = 100 * ceilings.us(max(size // 16 * 16, 1 << 16)) / us
    print(
        f"append {kind:12} {rows:3}x{tokens:<5} {us:8.2f} us {size / us / 1e6:6.3f} TB/s {percent:5.1f} %", flush=True
    )
    return {
        **{"kernel": f"trtbuild {node.variant.name}", "cache": kind, "q_heads": 0, "kv_heads": HEADS, "head_dim": DIM},
        **{"batch": rows, "context": tokens, "us": round(us, 2), "tb_per_s": round(size / us / 1e6, 3)},
        **{"percent_of_ceiling": round(percent, 1), "rel_l2": 0.0},
    }
