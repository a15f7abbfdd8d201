"""Checks and times the shipped append kernels on a GPU: the bits of the reference, and the time of a plain copy.

    PYTHONPATH=. python benchmarks/kv_cache/append.py --out append.json

Each kernel is launched through CUDA's driver exactly as its plugin launches it. `floor_us` is the time of a kernel that
does nothing but read and write as many bytes in all (PyTorch's elementwise `bitwise_not`), timed the same way: graph
replays over rotating buffers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from driver import Int32, Kernel, Module
from timing import graph_time

from trtbuild.plugins.declaration import shipped
from trtbuild.plugins.kernels import choose, operators

ROTATION_BYTES = 256 << 20
"""Summed size of the buffers that a timing walks over, as far as `MOST_COPIES` of them reach."""
MOST_COPIES = 64
MODES = {
    "fp16": ("KVCacheAppend", "float16", torch.float16),
    "int8": ("KVCacheAppendInt8PerToken", "int8", torch.int8),
    "int8_static": ("KVCacheAppendInt8PerHead", "int8", torch.int8),
    "fp8": ("KVCacheAppendFp8PerHead", "float8e4m3fn", torch.uint8),
}
INPUTS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Case:
    """`N` new tokens for each of `B` rows, in caches of `S` slots."""

    H: int
    D: int
    B: int
    N: int
    S: int

    @property
    def elements(self) -> int:
        """New elements of keys and values together."""
        return 2 * self.B * self.H * self.N * self.D


DECODE = [Case(heads, size, batch, 1, 1024) for heads, size in ((8, 128), (2, 64)) for batch in (1, 8, 64, 128)]
CHUNKS = [Case(8, 128, batch, tokens, tokens + 64) for batch, tokens in ((1, 256), (1, 1024), (1, 4096), (8, 2048))]
CHECKED = [
    *(Case(8, 128, 3, 1, 96), Case(2, 64, 5, 33, 40), Case(3, 80, 2, 17, 65), Case(1, 256, 4, 7, 9)),
    Case(5, 96, 1, 300, 310),
]


class Append:
    """One kernel with the tensors of one case: caches as they lie, and `copies` of what comes new."""

    def __init__(self, mode: str, source: str, case: Case, copies: int, wild: bool) -> None:
        self.operator, cache_type, self.stored = MODES[mode]
        self.case, self.mode = case, mode
        sizes = {letter: getattr(case, letter) for letter in "BHNSD"}
        properties = torch.cuda.get_device_properties(0)
        capability = properties.major * 10 + properties.minor
        types = {"key": source, "key_cache": cache_type}
        variant = choose(self.operator, types, sizes, capability)
        self.launch = variant.launch(sizes, {}, properties.multi_processor_count)
        architecture = variant.architecture(capability)
        assert architecture is not None
        self.kernel: Kernel = Module(variant.ptx(architecture)).kernel(variant.name)
        self.new = [self._new(INPUTS[source], wild) for _ in range(copies)]
        slots = (case.B, case.H, case.S)
        self.caches = {role: self._garbage((*slots, case.D), self.stored) for role in ("key_cache", "value_cache")}
        self.scales: dict[str, torch.Tensor] = {}
        if mode == "int8":
            self.scales = {role: self._garbage(slots, torch.float16) for role in ("key_scale", "value_scale")}
        elif mode != "fp16":
            of_head = torch.linspace(0.004, 0.03, case.H, device="cuda")
            self.scales = {"key_scale": of_head, "value_scale": of_head * 2}
        last = max(case.S - case.N, 0)
        lengths = [(37 * row) % (last + 1) for row in range(case.B)]
        if wild:
            lengths[-1], lengths[0] = case.S - case.N // 2, -2
        self.lengths = torch.tensor(lengths, dtype=torch.int64, device="cuda")
        self.counters = torch.full((case.B, case.H, 16 * case.N), -1, dtype=torch.int32, device="cuda")

    def _new(self, dtype: torch.dtype, wild: bool) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (self.case.B, self.case.H, self.case.N, self.case.D)
        x = torch.randn((2, *shape), device="cuda")
        if wild:
            x *= torch.exp2(torch.empty((2, *shape[:3], 1), device="cuda").uniform_(-22, 12))
            flat = x.view(-1)
            for value, step in ((float("nan"), 97), (float("inf"), 1009), (-float("inf"), 1511), (-0.0, 53)):
                flat[::step] = value
        return x[0].to(dtype).contiguous(), x[1].to(dtype).contiguous()

    @staticmethod
    def _garbage(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        size = torch.tensor([], dtype=dtype).element_size()
        return torch.randint(0, 255, (*shape, size), dtype=torch.uint8, device="cuda").view(dtype).squeeze(-1)

    def run(self, copy: int = 0, caches: dict[str, torch.Tensor] | None = None) -> None:
        """Queue one launch; `caches` are the outputs, where they are not the caches themselves."""
        key, value = self.new[copy]
        given = {**self.caches, **self.scales, "key": key, "value": value, "lengths": self.lengths}
        written = {**given, **(caches or {}), "counters": self.counters}
        declared = operators()[self.operator][1]
        arguments = [given[role] for role in declared.inputs]
        arguments += [Int32(number) for number in self.launch.integers]
        arguments += [written[role.removesuffix("_out")] for role in declared.outputs]
        self.kernel.launch(self.launch.grid, self.launch.block, arguments)

    @property
    def moved_bytes(self) -> int:
        """Read and written at the least."""
        case, read = self.case, self.new[0][0].element_size()
        written = torch.tensor([], dtype=self.stored).element_size()
        per_token = 2 * 2 * case.B * case.H * case.N if self.mode == "int8" else 0
        return case.elements * (read + written) + per_token + self.counters.numel() * 4


def reference() -> ModuleType:
    """plugins/kv_cache_append/reference.py"""
    folder = shipped()["kv_cache_append"][0]
    spec = importlib.util.spec_from_file_location("reference", folder / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(mode: str, source: str, case: Case, in_place: bool) -> int:
    """How many bytes differ from the reference, in caches, scales and counters; NaN of a float cache are all one."""
    append, numpy = Append(mode, source, case, 1, wild=True), reference()
    lengths = append.lengths.cpu().numpy()
    wanted = {}
    for role, new in zip(("key", "value"), append.new[0], strict=True):
        x, cache = new.float().cpu().numpy(), append.caches[f"{role}_cache"].cpu().numpy()
        if mode == "int8":
            codes, scale = numpy.int8_per_token(x)
            held = append.scales[f"{role}_scale"].cpu().numpy()
            wanted[f"{role}_scale"] = numpy.append(held, scale, lengths)
        elif mode == "fp16":
            with np.errstate(over="ignore"):
                codes = x.astype(np.float16)
        else:
            scale = append.scales[f"{role}_scale"].cpu().numpy()
            codes = numpy.int8_per_head(x, scale) if mode == "int8_static" else numpy.fp8_per_head(x, scale)
        codes = codes.view(np.uint8) if mode == "fp8" else codes
        wanted[f"{role}_cache"] = numpy.append(cache, codes, lengths)
    before = {**append.caches, **(append.scales if mode == "int8" else {})}
    outputs = before if in_place else {role: torch.full_like(x, 77) for role, x in before.items()}
    append.run(caches=outputs)
    torch.cuda.synchronize()
    wrong = int((append.counters != 0).sum())
    for role, array in wanted.items():
        wrong += int((bits(outputs[role].cpu().numpy()) != bits(array)).sum())
    return wrong


def bits(array: np.ndarray) -> np.ndarray:
    """Bytes, one NaN for all of them."""
    if array.dtype == np.float16:
        array = np.where(np.isnan(array), np.float16(0), array)
    return array.view(np.uint8)


def copy_us(size: int) -> float:
    """The time of a kernel that reads size / 2 bytes and writes as many."""
    half = max(size // 2, 16) // 4
    copies = max(2, min(MOST_COPIES, ROTATION_BYTES // size))
    buffers = [torch.randint(-9, 9, (2, half), dtype=torch.int32, device="cuda") for _ in range(copies)]
    return graph_time([lambda b=b: torch.bitwise_not(b[0], out=b[1]) for b in buffers])[0].median_us


def timed(mode: str, source: str, case: Case) -> dict[str, object]:
    """One row of the result."""
    bytes_each = case.elements * torch.tensor([], dtype=INPUTS[source]).element_size()
    append = Append(mode, source, case, max(2, min(MOST_COPIES, ROTATION_BYTES // bytes_each)), wild=False)
    timing, _ = graph_time([lambda i=i: append.run(i) for i in range(len(append.new))])
    floor = copy_us(append.moved_bytes)
    return {
        "kernel": f"trtbuild append, {mode} from {source}",
        **{"cache": mode, "kv_heads": case.H, "head_dim": case.D, "batch": case.B, "tokens": case.N},
        **{"moved_mb": append.moved_bytes / 1e6, "us": timing.median_us, "floor_us": floor},
        **{"times_floor": timing.median_us / floor, "tb_per_s": append.moved_bytes / timing.median_us / 1e6},
    }


def copied(mode: str) -> dict[str, object]:
    """One token for each of 8 rows where cache and output lie at two addresses, so that all slots are copied."""
    case = Case(8, 128, 8, 1, 8192)
    append = Append(mode, "float16", case, 2, wild=False)
    shared = {**append.caches, **(append.scales if mode == "int8" else {})}
    elsewhere = {role: torch.empty_like(x) for role, x in shared.items()}
    timing, _ = graph_time([lambda i=i: append.run(i, elsewhere) for i in range(2)])
    moved = 2 * sum(x.numel() * x.element_size() for x in shared.values())
    return {"cache": mode, "moved_mb": moved / 1e6, "us": timing.median_us, "tb_per_s": moved / timing.median_us / 1e6}


def rounded(value: Any) -> Any:
    """The same with at most four digits behind the point."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    """Check, then time; the exit status says whether a bit was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", action="store_true", help="check only")
    options = parser.parse_args()
    torch.manual_seed(0)
    checks = [
        {
            "cache": mode,
            "from": source,
            "case": str(case),
            "in_place": in_place,
            "wrong": check(mode, source, case, in_place),
        }
        for mode in MODES
        for source in INPUTS
        for case in CHECKED
        for in_place in (True, False)
    ]
    wrong = [each for each in checks if each["wrong"]]
    print(f"{len(checks)} checks, {len(wrong)} wrong", *wrong[:20], sep="\n", flush=True)
    if not options.check:
        result = {"gpu": torch.cuda.get_device_name(0), "checks": len(checks), "wrong": wrong, "rows": [], "copied": []}
        print(f"{'cache':12}{'heads':>7}{'batch':>6}{'tokens':>7}{'MB':>8}{'us':>8}{'floor':>8}{'times':>6}{'TB/s':>6}")
        for case in [*DECODE, *CHUNKS]:
            for mode in MODES:
                row = timed(mode, "float16", case)
                result["rows"].append(row)
                print(
                    f"{mode:12}{case.H:>3}/{case.D:<3}{case.B:>6}{case.N:>7}{row['moved_mb']:>8.2f}{row['us']:>8.2f}"
                    f"{row['floor_us']:>8.2f}{row['times_floor']:>6.2f}{row['tb_per_s']:>6.2f}",
                    flush=True,
                )
        for mode in MODES:
            result["copied"].append(copied(mode))
            print("to another address:", result["copied"][-1], flush=True)
        if options.out:
            options.out.write_text(json.dumps(rounded(result), indent=1) + "\n")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
