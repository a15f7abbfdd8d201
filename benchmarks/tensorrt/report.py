"""The results as Markdown: one table a network, and in words which placement is the fastest."""

from __future__ import annotations

from typing import Any


def markdown(results: dict[str, Any]) -> str:
    """The page `results.md`."""
    machine = results["environment"]
    lines = [
        "# TensorRT benchmark",
        "",
        f"TensorRT {machine['tensorrt']} on {machine['gpu']}, driver {machine['driver']}, {machine['date']}; "
        f"truth by ONNX Runtime {machine['onnxruntime']}.",
        "",
        *(f"    {command}" for command in dict.fromkeys(results["commands"])),
        "",
        "GPU time of one call at the shapes named. Cosine: the worst batch against ONNX Runtime on the same graph.",
        "Rebuild: the same build again, with the timing cache that the first one left.",
    ]
    for found in results["models"].values():
        lines += ["", f"## {found['title']}", "", *_table(found["engines"]), "", *_verdict(found["engines"])]
    return "\n".join(lines) + "\n"


def _table(engines: dict[str, Any]) -> list[str]:
    lines = [
        "| engine | ms | p95 ms | against FP16 | plan MB | build s | rebuild s | cosine | INT8 layers that ran |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in engines.items():
        if "error" in row:
            lines.append(f"| {name} | failed: {' '.join(row['error'].split())[:200]} |" + " |" * 7)
            continue
        (asked, _, ran), untold = row["coverage"], row.get("untold", 0)
        lines.append(
            f"| {name} | {row['median_ms']:.3f} | {row['p95_ms']:.3f} | {row['speedup_vs_fp16']:.2f} x | "
            f"{row['plan_mb']:.1f} | {row['build_s']:.1f} | {row['rebuild_s']:.1f} | {row['cosine_to_onnx']:.5f} | "
            f"{f'{ran} of {asked}' if asked else ''}{f', {untold} untold' if untold else ''} |"
        )
    return lines


def _verdict(engines: dict[str, Any]) -> list[str]:
    """Which engine to take, and why no other."""
    right = {name: row for name, row in engines.items() if "error" not in row and not row["wrong"]}
    integer = {name: row for name, row in right.items() if row["coverage"][0]}
    if not integer or "fp16" not in right:
        return []
    best = min(integer, key=lambda name: integer[name]["median_ms"])
    speedup = integer[best]["speedup_vs_fp16"]
    if speedup > 1.02:
        lines = [f"INT8 pays: `{best}` is {speedup:.2f} x as fast as FP16."]
    else:
        lines = [
            f"INT8 does not pay: its fastest placement, `{best}`, has {speedup:.2f} x the speed of FP16. Ship FP16."
        ]
    for name, row in engines.items():
        for module, reason in list(row.get("not_quantized", {}).items())[:3]:
            lines.append(f"- `{name}`: {module}: {reason}")
    return lines
