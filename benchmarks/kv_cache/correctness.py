"""Every case in which decode attention could be wrong, on the shipped kernels: exit status 1 if one is.

    PYTHONPATH=../.. python correctness.py
    compute-sanitizer --tool racecheck --report-api-errors no --kernel-name kns=cached_attention \\
        python correctness.py --few

Errors are ||out - oracle|| / ||oracle|| of the worst (sequence, head, token); the oracle is FP64 over what the codes
stand for. Slots that nobody sees hold NaN, in the codes or their scales; outputs and partial results hold NaN before
each run. `--few` is a choice for tools that make a program slow.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import torch
from plugin import UNLIMITED, Attention
from workload import FORMATS, Cache, attend, quantize, relative_error

BOUNDS = {torch.float16: 1e-3, torch.bfloat16: 4e-3}
EDGES = [-1, 0, 1, 14, 15, 16, 30, 31, 32, 62, 63, 64, 94, 95, 96, 300, -40, 10**9]
GROUPS = [(g, 1) for g in (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32, 64)] + [(2, 3), (1, 7), (3, 5), (4, 16)]
"""Query heads of a key head, and new tokens."""
WINDOWS_AND_SPLITS = [(UNLIMITED, None), (UNLIMITED, 1), (UNLIMITED, 7), (1, 2), (33, None), (700, 64)]
"""Splits are blocks that share a head; None leaves them to plugin.yaml."""

Finding = tuple[str, float, float]
"""What was checked, its error and the bound."""


def normal(*size: int, seed: int = 0) -> torch.Tensor:
    """Unit-normal numbers, the same for a seed."""
    return torch.randn(*size, generator=torch.Generator("cuda").manual_seed(seed), device="cuda")


def visible(lengths: torch.Tensor, tokens: int, slots: int, window: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Begin and end of what each token sees, [B, N]."""
    after = lengths[:, None] + torch.arange(tokens, device="cuda") + 1
    return (after - window).clamp_min(0), after.clamp(0, slots)


def poisoned(cache: Cache, end: torch.Tensor) -> Cache:
    """The cache with garbage in all slots from end[b] on."""
    beyond = torch.arange(cache.k.shape[2], device="cuda") >= end[:, None]  # [B, S]

    def spoil(x: torch.Tensor, value: float) -> torch.Tensor:
        x = x.clone()
        raw = x.view(torch.uint8) if x.element_size() == 1 else x
        raw[beyond[:, None].expand(x.shape[:3])] = 0x7F if x.element_size() == 1 else value
        return x

    k, v = spoil(cache.k, float("nan")), spoil(cache.v, float("nan"))
    if cache.k_scale is None or cache.v_scale is None or cache.k_scale.dim() == 1:
        return Cache(k, v, cache.k_scale, cache.v_scale)
    return Cache(k, v, spoil(cache.k_scale, float("nan")), spoil(cache.v_scale, float("inf")))


def check(name: str, kind: str, q: torch.Tensor, cache: Cache, lengths: torch.Tensor, window: int = UNLIMITED,
          splits: int | None = None, scale: float | None = None) -> Iterator[Finding]:  # fmt: skip
    """One launch, twice: right, the same bits again, counters back at zero."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    begin, end = visible(lengths, q.shape[2], cache.k.shape[2], window)
    oracle = attend(q, cache, begin, end, scale)
    node = Attention(kind, q.shape, cache.k.shape, q.dtype, splits)
    runs = []
    for _ in range(2):
        node.partials.fill_(float("nan"))
        out = torch.full_like(q, float("nan"))
        node.launch(q, poisoned(cache, end.amax(1)), lengths, out, scale, window)
        runs.append(out)
    nothing = (begin >= end)[:, None].expand(q.shape[:3])
    if nothing.any():
        yield f"{name}: zeros where nothing is seen", float(runs[0][nothing].abs().max().nan_to_num(nan=9.0)), 0.0
    if not nothing.all():
        yield name, relative_error(runs[0][~nothing], oracle[~nothing]), BOUNDS[q.dtype]
    yield (
        f"{name}: bits that differ in a second run",
        float((runs[0].view(torch.int16) != runs[1].view(torch.int16)).sum()),
        0.0,
    )
    yield f"{name}: counters left", float(node.counters.abs().max()), 0.0


def shapes(kind: str, groups: list[tuple[int, int]] = GROUPS) -> Iterator[Finding]:
    """All head sizes, groups and lengths, with and without a window, however many blocks share a head."""
    for dim in (64, 128, 256):
        for group, tokens in groups:
            for dtype in BOUNDS:
                for slots, some in ((96, EDGES), (2048, [2047, 5, 1000, 2040, -1])):
                    lengths = torch.tensor(some, dtype=torch.int64, device="cuda")
                    cache = quantize(normal(len(some), 2, slots, dim), normal(len(some), 2, slots, dim, seed=1), kind)
                    q = normal(len(some), 2 * group, tokens, dim, seed=2).to(dtype)
                    for window, splits in WINDOWS_AND_SPLITS:
                        name = f"{kind} d{dim} {group}x{tokens} {dtype} {slots} slots, window {window}, splits {splits}"
                        yield from check(name, kind, q, cache, lengths, window, splits)


def numbers(kind: str) -> Iterator[Finding]:
    """Data that strains float16."""
    slots, dim = 4096, 128
    lengths = torch.tensor([slots - 1, 1700], dtype=torch.int64, device="cuda")
    k, v, q = normal(2, 2, slots, dim), normal(2, 2, slots, dim, seed=1), normal(2, 8, 1, dim, seed=2).half()
    ones = torch.ones_like(k)
    outlier_token, outlier_channel, zeros = ones.clone(), ones.clone(), ones.clone()
    outlier_token[:, :, 77], outlier_channel[..., 5], zeros[:, :, ::3] = 1000, 1000, 0
    positive = (
        v.abs()
    )  # where one number decides the error, or float16 its rounding, it must not be near zero by chance
    cases = {
        "an outlier token": (k, v * outlier_token, q),
        "an outlier channel": (k, positive * outlier_channel, q),
        "zero tokens": (k * zeros, v * zeros, q),
        "tiny values": (k, positive * 1e-3, q),
        "values of 30000": (k, v.clamp(-3, 3) * 1e4, q),
        "values over 12 powers of ten": (k, v * 10 ** (normal(2, 2, slots, 1, seed=3).clamp(-2, 2) * 3 - 4), q),
        "identical keys": (k[:, :, :1].expand_as(k).contiguous(), v, q),
        "one dominant key": (torch.where(torch.arange(slots, device="cuda")[:, None] == 900, 9.0, 0.1) * k, v, q),
        "logits near 10000": (k * 300, v, q * 3),
    }
    for name, (keys, values, queries) in cases.items():
        if kind in ("int8_static", "fp8") and name in (
            "tiny values",
            "values of 30000",
            "values over 12 powers of ten",
        ):
            continue  # a scale of a head cannot say them: nothing of a kernel would be tested
        cache = quantize(keys, values, kind)
        yield from check(f"{kind} {name}", kind, queries, cache, lengths)
    long = 131072
    k, v = normal(1, 1, 1, dim).expand(1, 1, long, dim).contiguous(), normal(1, 1, long, dim, seed=1)
    cache, lengths = quantize(k, v, kind), torch.tensor([long - 1], dtype=torch.int64, device="cuda")
    yield from check(f"{kind} 131072 identical keys", kind, normal(1, 4, 1, dim).half(), cache, lengths)


def repeats(kind: str) -> Iterator[Finding]:
    """1,000 replays of one graph, and two streams at once, each with counters of its own."""
    lengths = torch.tensor([4095, 1234], dtype=torch.int64, device="cuda")
    cache = quantize(normal(2, 4, 4096, 128), normal(2, 4, 4096, 128, seed=1), kind)
    q = normal(2, 16, 1, 128, seed=2).half()
    nodes = [Attention(kind, q.shape, cache.k.shape, q.dtype, splits) for splits in (None, 13)]
    outs = [torch.full_like(q, float("nan")) for _ in nodes]
    firsts = []
    for node, out in zip(nodes, outs, strict=True):
        node.launch(q, cache, lengths, out, 128**-0.5)
        firsts.append(out.clone())
    streams = [torch.cuda.Stream() for _ in nodes]
    torch.cuda.synchronize()
    graphs = []
    for node, out, stream in zip(nodes, outs, streams, strict=True):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            node.launch(q, cache, lengths, out, 128**-0.5)
        graphs.append(graph)
    wrong = torch.zeros(len(nodes), dtype=torch.int64, device="cuda")
    for _ in range(1000):
        for i, (graph, stream) in enumerate(zip(graphs, streams, strict=True)):
            with torch.cuda.stream(stream):
                outs[i].fill_(float("nan"))
                graph.replay()
                wrong[i] += (outs[i].view(torch.int16) != firsts[i].view(torch.int16)).sum()
    torch.cuda.synchronize()
    yield f"{kind} 1000 replays on each of two streams: bits that differ", float(wrong.sum()), 0.0
    yield f"{kind} 1000 replays: counters left", float(max(node.counters.abs().max() for node in nodes)), 0.0


def main() -> None:
    """Runs everything; prints each failure and a line for each format."""
    few = "--few" in sys.argv[1:]
    failed = 0
    for kind in FORMATS:
        count, worst = 0, dict.fromkeys(BOUNDS.values(), 0.0)
        for part in [lambda kind: shapes(kind, [(7, 1)])] if few else [shapes, numbers, repeats]:
            for name, error, bound in part(kind):
                count += 1
                if bound:
                    worst[bound] = max(worst[bound], 9.0 if math.isnan(error) else error)
                if not error <= bound:
                    failed += 1
                    print(f"WRONG {name}: {error:.3g}, at most {bound:g}", flush=True)
        print(
            f"{kind:12} {count} checks; worst error " + ", ".join(f"{e:.1e} of {b:g}" for b, e in worst.items()),
            flush=True,
        )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
