"""The decode-attention workload: shapes, random caches in every format, and the FP64 oracle.

Notation: B sequences, HQ query heads, HKV key/value heads, D head size, S cached tokens. Caches are
[B, HKV, S, D]. A *copy* is one full K and V cache: a timing walks over several, so that each read comes from memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

ROTATION_BYTES = 640 << 20
"""Summed size of the copies of one 8-bit workload. An H200 has 60 MB of L2 cache."""

FORMATS = ("int8", "int8_static", "fp8", "fp16")


@dataclass(frozen=True)
class Shape:
    """One decode step: `B` queries of one token against `S` cached tokens each."""

    HQ: int
    HKV: int
    D: int
    B: int
    S: int

    @property
    def name(self) -> str:
        """As the tables call it."""
        return f"{self.HQ}/{self.HKV}/{self.D} {self.B}x{self.S}"

    @property
    def elements(self) -> int:
        """Elements of K and V together."""
        return 2 * self.B * self.S * self.HKV * self.D

    def read_bytes(self, cache: str) -> int:
        """Bytes of K, V and their scales per token that one decode step must read."""
        scales = self.elements // self.D * 2 if cache == "int8" else 0
        return self.elements * (2 if cache == "fp16" else 1) + scales


HEADS = [(32, 8, 128), (64, 8, 128), (14, 2, 64)]
CONTEXTS = [(1, 4096), (1, 32768), (1, 131072), (8, 4096), (8, 32768), (64, 4096), (128, 2048)]
SHAPES = [Shape(*heads, batch, tokens) for heads in HEADS for batch, tokens in CONTEXTS]


@dataclass
class Cache:
    """K and V: codes [..., HKV, S, D]; scales [..., HKV, S] in float16, [HKV] in float32, or none."""

    k: torch.Tensor
    v: torch.Tensor
    k_scale: torch.Tensor | None = None
    v_scale: torch.Tensor | None = None

    def of(self, copy: int) -> Cache:
        """One copy."""
        per_token = self.k_scale is not None and self.k_scale.dtype == torch.float16
        scales = (self.k_scale[copy], self.v_scale[copy]) if per_token else (self.k_scale, self.v_scale)
        return Cache(self.k[copy], self.v[copy], *scales)

    def first(self, rows: int) -> Cache:
        """The first sequences of one copy."""
        per_token = self.k_scale is not None and self.k_scale.dtype == torch.float16
        scales = (self.k_scale[:rows], self.v_scale[:rows]) if per_token else (self.k_scale, self.v_scale)
        return Cache(self.k[:rows], self.v[:rows], *scales)

    def dequantized(self) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V in FP64."""

        def values(codes: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
            if scale is None:
                return codes.double()
            return codes.double() * (scale[..., None] if scale.dim() > 1 else scale[:, None, None]).double()

        return values(self.k, self.k_scale), values(self.v, self.v_scale)


def quantize(k: torch.Tensor, v: torch.Tensor, cache: str) -> Cache:
    """The cache that `append` would have written for K and V [..., HKV, S, D]."""
    if cache == "fp16":
        return Cache(k.half(), v.half())
    sides = [_per_token(x) if cache == "int8" else _per_head(x, cache) for x in (k, v)]
    return Cache(sides[0][0], sides[1][0], sides[0][1], sides[1][1])


def _per_token(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    step = (x.abs().amax(-1).float() / 127).clamp_min(2**-24)
    nearest = step.half()
    up = (nearest.view(torch.int16) + 1).view(torch.float16)  # the next float16 above
    scale = torch.where(nearest.float() < step, up, nearest)
    codes = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    for part, of, factor in zip(codes.flatten(0, -3), x.flatten(0, -3), scale.flatten(0, -2), strict=True):
        part.copy_((of.float() / factor.float()[:, None]).round_().clamp_(-127, 127))
    return codes, scale


def _per_head(x: torch.Tensor, cache: str) -> tuple[torch.Tensor, torch.Tensor]:
    top = 448.0 if cache == "fp8" else 127.0
    amax = x.abs().movedim(-3, 0).flatten(1).amax(1).float()
    scale = torch.ones_like(amax) if cache == "fp8" else amax / top
    codes = torch.empty(x.shape, dtype=torch.float8_e4m3fn if cache == "fp8" else torch.int8, device=x.device)
    heads = x.shape[-3]
    for i, (part, of) in enumerate(zip(codes.flatten(0, -3), x.flatten(0, -3), strict=True)):
        ratio = (of.float() / scale[i % heads] + 0.0).clamp_(-top, top)  # no -0.0
        part.copy_(ratio if cache == "fp8" else ratio.round_())
    return codes, scale


def attend(q: torch.Tensor, cache: Cache, begin: torch.Tensor, end: torch.Tensor, scale: float) -> torch.Tensor:
    """FP64 softmax(scale q K^T) V, [B, HQ, N, D]: token n of sequence b sees slots begin[b, n] to end[b, n]."""
    k, v = cache.dequantized()
    rows, heads, _, dim = q.shape
    slot = torch.arange(k.shape[2], device=q.device)
    seen = (slot >= begin[..., None]) & (slot < end[..., None])  # [B, N, S]
    seen = (
        seen[:, None, None].expand(-1, k.shape[1], heads // k.shape[1], -1, -1).reshape(rows, k.shape[1], -1, len(slot))
    )
    scores = scale * q.double().view(rows, k.shape[1], -1, dim) @ k.transpose(2, 3)
    weights = torch.softmax(scores.masked_fill(~seen, -math.inf), -1).nan_to_num(nan=0.0)
    return (weights @ v).view(q.shape)


class Workload:
    """Random queries and caches of one shape, on the GPU, from a fixed seed. K and V are unit-normal."""

    def __init__(self, shape: Shape, rotation_bytes: int = ROTATION_BYTES) -> None:
        self.shape, s = shape, shape
        self.copies = max(2, math.ceil(rotation_bytes / s.elements))
        self._random = torch.Generator("cuda").manual_seed(20261120)
        self._float = [self._normal(s.B, s.HKV, s.S, s.D) for _ in range(2)]
        self._caches: dict[str, Cache] = {}

    def _normal(self, *size: int) -> torch.Tensor:
        return torch.randn(self.copies, *size, generator=self._random, device="cuda", dtype=torch.float16)

    def queries(self, heads: int) -> torch.Tensor:
        """[copies, B, heads, 1, D]"""
        return self._normal(self.shape.B, heads, 1, self.shape.D)

    def cache(self, kind: str) -> Cache:
        """All copies in one of FORMATS."""
        if kind not in self._caches:
            self._caches[kind] = quantize(*self._float, kind)
        return self._caches[kind]

    def oracle(self, q: torch.Tensor, kind: str, copy: int, rows: int) -> torch.Tensor:
        """FP64 attention of the first `rows` sequences of one copy, over what the codes stand for."""
        begin = torch.zeros(rows, 1, dtype=torch.int64, device="cuda")
        few = self.cache(kind).of(copy).first(rows)
        return attend(q[copy, :rows], few, begin, begin + self.shape.S, self.shape.D**-0.5)


def relative_error(out: torch.Tensor, reference: torch.Tensor) -> float:
    """||out - ref|| / ||ref|| of the worst (sequence, head, token)."""
    difference = (out.double() - reference).norm(dim=-1)
    return float((difference / reference.norm(dim=-1).clamp_min(1e-30)).max())
