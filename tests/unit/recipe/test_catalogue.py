"""The catalogue says of each recipe what it builds, what that needs, and what is known of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.models import write_tiny_recipe
from trtbuild.recipe.catalogue import PROVEN, catalogue
from trtbuild.reports.catalogue import catalogue_lines, catalogue_page

ROOT = Path(__file__).parents[3]


def test_the_page_is_up_to_date() -> None:
    page = catalogue_page(catalogue(ROOT / "recipes", ROOT / "benchmarks"))
    assert (ROOT / "recipes" / "README.md").read_text() == page, "run `make docs`"


def test_every_shipped_recipe_loads_and_says_what_it_is() -> None:
    found = catalogue(ROOT / "recipes")
    assert [entry.name for entry in found if entry.problem] == []
    assert [entry.name for entry in found if not entry.description] == []
    assert {"bert", "vit", "resnet", "t5", "unet", "whisper/encoder", "whisper/decoder", "wan/dit"} <= {
        entry.name for entry in found
    }


def test_an_entry_has_formats_measurements_and_proof(tmp_path: Path) -> None:
    folder = write_tiny_recipe(tmp_path / "recipes" / "tiny")
    text = (folder / "recipe.yaml").read_text() + "  small: {quantize: {format: int4}}\n"
    (folder / "recipe.yaml").write_text(text)
    (folder / "README.md").write_text(f"# tiny\n\n{PROVEN}\n\nA test builds it. And more.\n")
    (tmp_path / "benchmarks").mkdir()
    variant = {
        "name": "small",
        "size_bytes": 2_000_000,
        "speedup_vs_reference": 1.5,
        "accuracy": {"cosine_min": 0.9991},
    }
    report = {"recipe": "tiny", "device": "a GPU", "variants": [variant]}
    (tmp_path / "benchmarks" / "tiny.json").write_text(json.dumps(report))
    (tmp_path / "benchmarks" / "other.json").write_text("[1, 2]")
    (tmp_path / "recipes" / "broken").mkdir()
    (tmp_path / "recipes" / "broken" / "recipe.yaml").write_text("recipe: broken\n")
    broken, tiny = catalogue(tmp_path / "recipes", tmp_path / "benchmarks")
    assert broken.problem
    assert tiny.variants == ["fp32", "small"]
    assert tiny.formats == {"int4": "Ampere, TensorRT 10.0"}
    (measured,) = tiny.measured
    assert (measured.speedup, measured.metric, measured.value) == (1.5, "cosine_min", 0.9991)
    assert measured.source == "benchmarks/tiny.json"
    assert tiny.proven == "A test builds it."
    lines = "\n".join(catalogue_lines([broken, tiny]))
    assert "small on a GPU: 2.0 MB, 1.50 x the reference's speed, cosine_min 0.9991" in lines
    assert "| tiny | small | a GPU | 1.50 x | 2.0 | cosine_min 0.9991 | [tiny.json](../benchmarks/tiny.json) |" in (
        catalogue_page([tiny])
    )


def test_the_command_lists_them_as_text_and_as_json(tmp_path: Path) -> None:
    write_tiny_recipe(tmp_path / "tiny")
    asked = [sys.executable, "-m", "trtbuild", "recipes", str(tmp_path)]
    (entry,) = json.loads(subprocess.run([*asked, "--json"], capture_output=True, check=True, cwd=ROOT).stdout)
    assert (entry["name"], entry["path"], entry["variants"]) == ("tiny", str(tmp_path / "tiny"), ["fp32"])
    told = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert told.startswith("tiny: Three linear layers")
