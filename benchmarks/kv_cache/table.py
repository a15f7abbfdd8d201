"""A results file as Markdown, beside the peers of peers-h200.json: `python table.py results-h200.json > results.md`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from workload import CONTEXTS, HEADS


def grid(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def attention(results: dict[str, Any], heads: tuple[int, int, int], peers: list[dict[str, Any]]) -> str:
    """Our rows, in microseconds and percent of the ceiling, then the peers'."""
    name = "/".join(map(str, heads))
    lines = []
    for kind in dict.fromkeys(row["cache"] for row in results["rows"]):
        mine = {
            (row["batch"], row["context"]): row
            for row in results["rows"]
            if row["cache"] == kind and (row["q_heads"], row["kv_heads"], row["head_dim"]) == heads
        }
        if mine:
            cells = [
                f"**{r['us']:.1f}** / {r['percent_of_ceiling']:.0f} %" if (r := mine.get(c)) else "-" for c in CONTEXTS
            ]
            lines.append([f"**trtbuild {kind}**", *cells, f"{max(row['rel_l2'] for row in mine.values()):.1e}"])
    for peer in peers:
        found = [peer["us"].get(f"{name} {b}x{s}") for b, s in CONTEXTS]
        if any(found):
            lines.append(
                [
                    f"{peer['kernel']} ({peer['cache']})",
                    *(f"{us:.1f}" if us else "-" for us in found),
                    f"{peer['rel_l2']:.1e}",
                ]
            )
    return grid([f"{name}: µs / % of ceiling", *(f"{b}x{s}" for b, s in CONTEXTS), "error"], lines)


def append(results: dict[str, Any]) -> str:
    """The append kernels' rows."""
    rows = [row for row in results["rows"] if row["q_heads"] == 0]
    steps = list(dict.fromkeys((row["batch"], row["context"]) for row in rows))
    lines = []
    for kind in dict.fromkeys(row["cache"] for row in rows):
        of = {(row["batch"], row["context"]): row for row in rows if row["cache"] == kind}
        lines.append([kind, *(f"{of[s]['us']:.1f} / {of[s]['percent_of_ceiling']:.0f} %" for s in steps)])
    return grid(["µs / % of ceiling", *(f"{b}x{n}" for b, n in steps)], lines)


def markdown(results: dict[str, Any]) -> str:
    """All of results.md."""
    field = json.loads((Path(__file__).parent / "peers-h200.json").read_text())
    ceilings = [
        [f"{int(n) >> 20} MiB", f"{us:.1f}", f"{int(n) / us / 1e6:.2f}"]
        for n, us in results["ceiling_us"].items()
        if not int(n) & int(n) - 1
    ]
    parts = [
        "# KV-cache kernels on an NVIDIA " + results["gpu"].upper(),
        f"Driver {results['driver']}. The shipped PTX, launched as the plugins declare it. Columns are batch x "
        "context, one new token a sequence. Times are medians of CUDA-graph replays that walk over caches of "
        "0.6 GB or more in all, so that every read comes from memory. % is of the fastest read-only stream of "
        "as many bytes (keys, values and scales), measured in the same run. Errors are of the worst head, "
        "against FP64 over the dequantized cache. Made by `run.py`.",
        f"Peers: {field['note']} Two H200s differ by 1 to 2 %.",
        "## Attention",
        *(attention(results, heads, field["peers"]) for heads in HEADS),
        "## Append",
        "Rows x new tokens, 8 heads of 128; % counts bytes read and written and is of a read-only stream of as many.",
        append(results),
        "## Ceilings",
        grid(["bytes", "µs", "TB/s"], ceilings),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())), end="")
