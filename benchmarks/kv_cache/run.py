"""Times the shipped kernels on this machine's GPU and writes results-<gpu>.json and results.md beside this file.

    PYTHONPATH=../.. python run.py [--out FOLDER] [--formats int8,fp8] [--shapes "32/8/128"]

Needs PyTorch with CUDA, cuda-bindings, nvcc, PyYAML and pydantic. Each shape is checked against FP64, and its
percentages are of what the same machine's memory gave in the same run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import torch
from append import append_rows
from ceilings import Ceilings
from plugin import Attention
from table import markdown
from timing import graph_us
from workload import FORMATS, SHAPES, Shape, Workload, relative_error


def attention_rows(
    shapes: list[Shape], formats: list[str], ceilings: Ceilings, total_ms: float
) -> list[dict[str, Any]]:
    """One row for each shape and format: time, bandwidth, share of the ceiling, error."""
    rows = []
    caches: dict[tuple[int, int, int, int], list[Shape]] = {}
    for shape in shapes:
        caches.setdefault((shape.HKV, shape.D, shape.B, shape.S), []).append(shape)
    for alike in caches.values():
        workload = Workload(alike[0])
        lengths = torch.full((alike[0].B,), alike[0].S - 1, dtype=torch.int64, device="cuda")
        for shape in alike:
            q = workload.queries(shape.HQ)
            for kind in formats:
                rows.append(_measured(shape, kind, workload, q, lengths, ceilings, total_ms))
        del workload, q
        torch.cuda.empty_cache()
    return rows


def _measured(
    s: Shape, kind: str, workload: Workload, q: torch.Tensor, lengths: torch.Tensor, ceilings: Ceilings, total_ms: float
) -> dict[str, Any]:
    cache, out = workload.cache(kind), torch.full_like(q, float("nan"))
    node = Attention(kind, q.shape[1:], cache.k.shape[1:], q.dtype)
    copies = [cache.of(i) for i in range(workload.copies)]
    launches = [lambda i=i: node.launch(q[i], copies[i], lengths, out[i], s.D**-0.5) for i in range(workload.copies)]
    us = graph_us(launches, total_ms)
    checked = min(s.B, 4)  # of the last copy, which the last replay wrote
    error = relative_error(out[-1, :checked], workload.oracle(q, kind, workload.copies - 1, checked))
    if not error < 1e-3:
        raise AssertionError(f"{kind} {s.name}: error {error:.3g}")
    size = s.read_bytes(kind)
    row = {
        **{
            "kernel": f"trtbuild {node.variant.name}",
            "cache": kind,
            "q_heads": s.HQ,
            "kv_heads": s.HKV,
            "head_dim": s.D,
        },
        **{"batch": s.B, "context": s.S, "us": round(us, 2), "tb_per_s": round(size / us / 1e6, 3)},
        **{"percent_of_ceiling": round(100 * ceilings.us(size) / us, 1), "rel_l2": float(f"{error:.2g}")},
    }
    rates = f"{row['tb_per_s']:6.3f} TB/s {row['percent_of_ceiling']:5.1f} %"
    print(f"{kind:12} {s.name:18} {us:8.2f} us {rates}  {error:.1e}", flush=True)
    return row


def main() -> None:
    """Ceilings, attention, append; then both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--shapes", default="", help="only shapes whose name contains this")
    parser.add_argument("--total-ms", type=float, default=40, help="time spent on one number")
    options = parser.parse_args()
    name = torch.cuda.get_device_name().removeprefix("NVIDIA ").lower().replace(" ", "-")
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    ceilings = Ceilings()
    shapes = [s for s in SHAPES if options.shapes in s.name]
    rows = attention_rows(shapes, options.formats.split(","), ceilings, options.total_ms)
    rows += append_rows(ceilings, options.total_ms)
    sizes = sorted({1 << p for p in range(20, 31)} | {s.read_bytes(kind) for s in shapes for kind in FORMATS})
    results = {
        "gpu": name,
        "driver": driver,
        "ceiling_us": {str(n): round(ceilings.us(n), 2) for n in sizes},
        "rows": rows,
    }
    file = options.out / f"results-{name}.json"
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    head = json.dumps({key: value for key, value in results.items() if key != "rows"}, indent=1)
    file.write_text(head.removesuffix("\n}") + f',\n "rows": [\n{lines}\n ]\n}}\n')
    (options.out / "results.md").write_text(markdown(results))
    print(f"{file}: {len(rows)} rows")


if __name__ == "__main__":
    main()
