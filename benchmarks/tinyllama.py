"""What each mode of the KV cache, alone and with each format of the weights, costs tinyllama and saves.

`python benchmarks/tinyllama.py [STORE]` builds both recipes, writes what their reports say to benchmarks/tinyllama.json
and prints the tables of docs/llm.md. It trains the model where the store has none; all takes a quarter of an hour on
two cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from trtbuild import build
from trtbuild.core import machine
from trtbuild.core.report import BuildReport
from trtbuild.pipeline.generate import generate

ROOT = Path(__file__).parents[1]
RECIPES = (ROOT / "recipes" / "tinyllama", ROOT / "recipes" / "tinyllama" / "weights.yaml")
PROMPT = "The with statement is used to"
COLUMNS = {
    "perplexity": ("perplexity", ".4f"),
    "perplexity_ratio": ("of FP16", ".4f"),
    "top1_agreement": ("top-1 agreement", ".2%"),
    "kl_divergence": ("KL divergence, nats", ".1e"),
    "free_running_tokens": ("equal tokens of 96", ".0f"),
    "kv_bytes_ratio": ("bytes of the cache, of FP16", ".3f"),
}
"""Metrics of the tables: heading and format."""


def main() -> None:
    """Build both recipes and write what they say."""
    found: dict[str, Any] = {name: fact() for name, fact in machine.FACTS.items() if name in ("processor", "python")}
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "store"
        for recipe in RECIPES:
            report = build(recipe, store=store, output=Path(scratch))
            found[report.recipe] = {variant.name: _numbers(variant) for variant in report.variants}
            print(_table(report), flush=True)
            for variant in report.variants:
                text = generate(Path(variant.engine).parent, [PROMPT], max_new_tokens=96).texts[0].text
                found[report.recipe][variant.name]["text"] = text
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


def _numbers(variant: Any) -> dict[str, Any]:
    return {
        **{name: round(value, 6) for name, value in variant.accuracy.items()},
        "coverage": f"{variant.coverage.asked}/{variant.coverage.inserted}/{variant.coverage.ran}",
        "engine_bytes": variant.size_bytes,
        "cache_bytes": variant.cache_bytes,
        "verdict": variant.verdict,
    }


def _table(report: BuildReport) -> str:
    headings = ["variant", *(heading for heading, _ in COLUMNS.values()), "coverage"]
    lines = [f"| {' | '.join(headings)} |", "| --- " * len(headings) + "|"]
    for variant in report.variants:
        values = [f"{variant.accuracy[name]:{form}}" for name, (_, form) in COLUMNS.items()]
        coverage = variant.coverage
        told = f"{coverage.asked}/{coverage.inserted}/{coverage.ran}" if coverage.asked else "-"
        lines.append(f"| {' | '.join([variant.name, *values, told])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
