"""Which SmoothQuant alpha suits MiniLM, asked on sentences that the recipe neither calibrates nor validates on.

`python benchmarks/minilm_alpha.py` builds recipes/minilm at several alphas with the held-out set moved to other lines,
and writes benchmarks/minilm_alpha.json.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from trtbuild.pipeline.build import build

ROOT = Path(__file__).parents[1]
ALPHAS = [0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0]


def main() -> None:
    """Build every alpha and write the accuracy of each."""
    with tempfile.TemporaryDirectory() as scratch:
        report = build(
            ROOT / "recipes" / "minilm",
            sets=[
                "data.arguments.held_out_from=2000",
                "data.evaluation=768",
                "measure.runs=3",
                "variants.int8_sq={quantize: {format: int8_sq}}",
                f"matrix={{quantize.alpha: {ALPHAS}}}",
            ],
            store=Path(scratch),
            output=None,
        )
    found = {
        variant.name: {name: round(value, 5) for name, value in variant.accuracy.items() if "cosine" in name}
        for variant in report.variants
        if variant.name.startswith("int8_sq")
    }
    (ROOT / "benchmarks" / "minilm_alpha.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
