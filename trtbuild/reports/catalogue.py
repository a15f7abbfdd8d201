"""The catalogue of recipes as lines for a terminal and as the page recipes/README.md.

python -m trtbuild.reports.catalogue > recipes/README.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from trtbuild.core.errors import RecipeError
from trtbuild.recipe.catalogue import Listed, Measured, catalogue
from trtbuild.recipe.shipped import shipped_folder

_HEAD = """\
# Recipes

Generated from the recipes by `make docs`. Each builds by its name from anywhere, with your weights and data:
`trtbuild build wan/dit --set ...`; its README has the exact commands. Parts to compose your own from are in
[blocks](blocks/README.md).

ONNX Runtime runs every format below on any CPU. What a format needs of TensorRT is in the second table.
"""
_MEASURED = """
## Measured

Against each recipe's FP16 reference on the same device. What is not here was not measured on the model's real weights.
"""


def catalogue_lines(found: Sequence[Listed]) -> Iterator[str]:
    """Some lines for each recipe: what it is, its variants, what is known of it."""
    for entry in found:
        yield f"{entry.name}: {entry.problem or entry.description}"
        if entry.variants:
            yield f"  builds {', '.join(entry.variants)}"
        if entry.formats:
            yield "  needs  " + "; ".join(f"{form}: {needed}" for form, needed in entry.formats.items())
        for measured in entry.measured:
            yield f"  {measured.variant} on {measured.device}: {_said(measured)}"
        if entry.proven:
            yield f"  proven {entry.proven}"


def catalogue_page(found: Sequence[Listed]) -> str:
    """The page, as Markdown."""
    lines = [_HEAD, "| recipe | model | formats | KV cache | proven |", "| --- | --- | --- | --- | --- |"]
    for entry in found:
        formats, caches = ", ".join(f"`{form}`" for form in entry.formats), ", ".join(entry.kv_cache)
        proven = entry.proven or "nothing yet"
        lines.append(f"| [{entry.name}]({entry.name}) | {entry.description} | {formats} | {caches} | {proven} |")
    lines += ["", "| format | TensorRT needs |", "| --- | --- |"]
    needed = {form: said for entry in found for form, said in entry.formats.items()}
    lines += [f"| `{form}` | {said} |" for form, said in sorted(needed.items())]
    measured = [(entry, each) for entry in found for each in entry.measured]
    if measured:
        lines += [_MEASURED, "| recipe | variant | device | speed | MB | accuracy | file |"]
        lines.append("| --- | --- | --- | --: | --: | --- | --- |")
        for entry, each in measured:
            speed = "" if each.speedup is None else f"{each.speedup:.2f} x"
            accuracy = f"{each.metric} {each.value:.4f}" if each.value is not None else ""
            row = (entry.name, each.variant, each.device, speed, f"{each.size_bytes / 1e6:.1f}", accuracy)
            lines.append(f"| {' | '.join(row)} | [{Path(each.source).name}](../{each.source}) |")
    return "\n".join(lines) + "\n"


def _said(measured: Measured) -> str:
    parts = [f"{measured.size_bytes / 1e6:.1f} MB"]
    parts += [] if measured.speedup is None else [f"{measured.speedup:.2f} x the reference's speed"]
    parts += [] if measured.value is None else [f"{measured.metric} {measured.value:.4f}"]
    return ", ".join(parts)


if __name__ == "__main__":
    if (folder := shipped_folder()) is None:
        raise RecipeError("this installation has no recipes")
    sys.stdout.write(catalogue_page(catalogue(folder, folder.parent / "benchmarks")))
