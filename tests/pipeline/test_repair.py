"""The repair loop, on a model with one layer that INT8 ruins and one that overflows in FP16."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trtbuild.core.report import BuildReport
from trtbuild.pipeline.build import build
from trtbuild.pipeline.repair import build_and_repair
from trtbuild.recipe.load import load

pytest.importorskip("torch")

MODEL = '''
import numpy as np
import torch
from torch import nn


class Outlier(nn.Module):
    """One input channel is a thousand times the others, and the weight makes up for it: fine in 16 bits, but INT8 has
    one scale for all channels of an activation."""

    def __init__(self, width):
        super().__init__()
        self.dense = nn.Linear(width, width)
        scale = torch.full((width,), 1e-3)
        scale[3] = 1.0
        self.register_buffer("scale", scale)
        with torch.no_grad():
            self.dense.weight /= scale

    def forward(self, x):
        return self.dense(x * self.scale)


class Model(nn.Module):
    """`wide` makes numbers beyond 65504, which `settle` brings back to about 1."""

    def __init__(self, width=64):
        super().__init__()
        self.first, self.second, self.outlier = nn.Linear(width, width), nn.Linear(width, width), Outlier(width)
        self.wide, self.settle = nn.Linear(width, width), nn.LayerNorm(width)
        with torch.no_grad():
            self.wide.weight.normal_()

    def forward(self, x):
        x = x + torch.relu(self.first(x))
        x = x + self.outlier(x)
        x = x + self.second(x)
        return self.settle(self.wide(x))


def make():
    torch.manual_seed(0)
    return Model()


def samples(split, count):
    """AutoCast tries numbers between 0 and 1, for which nothing overflows; these are larger."""
    rng = np.random.default_rng({"calibration": 0, "evaluation": 1}[split])
    for _ in range(0, count, 4):
        yield {"x": (8000 * rng.standard_normal((4, 16, 64))).astype(np.float32)}


def agreement(outputs, reference_outputs, inputs):
    """A task's own metric, which is no number where an output is none."""
    pairs = zip(outputs, reference_outputs)
    return {"distance": float(np.mean([np.abs(mine["output"] - theirs["output"]).mean() for mine, theirs in pairs]))}
'''

RECIPE = """\
recipe: flawed
model: {factory: "model:make"}
shapes:
  axes: {batch: {min: 1, opt: 4, max: 8}}
  inputs:
    x: {dtype: float32, dims: [batch, 16, 64]}
data: {generator: "model:samples", calibration: 32, evaluation: 16}
engine: {tactics: default}
measure: {runs: 3, warm_up: 1}
metric: "model:agreement"
gates: {accuracy: {cosine_min: {min: 0.995}, distance: {max: 0.1}}, pays: "no"}
variants:
  fp16: {precision: fp16}      # what others are compared with
  # the small one
  int8:
    quantize: {format: int8}   # per tensor
"""


def write_recipe(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuildReport]:
    """The folder of a repaired build: its recipe in `flawed`, its store, its engines."""
    folder = tmp_path_factory.mktemp("repair")
    recipe = write_recipe(folder / "flawed")
    return folder, build_and_repair(recipe, store=folder / "store", output=folder / "engines")


def test_both_variants_fail_at_first_and_pass_in_the_end(repaired: tuple[Path, BuildReport]) -> None:
    _, report = repaired
    first = {repair.variant: repair.reasons[0] for repair in report.repairs}
    assert first["fp16"] == "output output held NaN or infinity in 4 of 4 batches"
    assert first["int8"].startswith("cosine_min is 0.")
    assert report.passed, [variant.reasons for variant in report.variants]
    assert {repair.outcome for repair in report.repairs} == {"repaired"}


def test_exactly_the_guilty_layers_are_touched(repaired: tuple[Path, BuildReport]) -> None:
    _, report = repaired
    fp16, int8 = report.repairs
    assert [(guilty.node, guilty.operator) for guilty in fp16.guilty] == [("wide/MatMul", "MatMul")]
    assert fp16.guilty[0].amax_fp32 is not None
    assert fp16.guilty[0].amax_fp32 > 65504
    # What is made in FP32 because it does not fit must be read in FP32 as well.
    assert list(fp16.keep_fp32) == ["wide", "settle"]
    assert not fp16.high
    assert list(int8.high) == ["outlier.dense"]
    assert not int8.keep_fp32
    coverage = next(variant.coverage for variant in report.variants if variant.name == "int8")
    assert (coverage.asked, coverage.ran) == (3, 3)
    assert int8.accuracy_before["cosine_min"] < 0.995 < int8.accuracy_after["cosine_min"]


def test_the_recipe_is_untouched_and_the_patch_says_what_and_why(repaired: tuple[Path, BuildReport]) -> None:
    folder, report = repaired
    assert (folder / "flawed" / "recipe.yaml").read_text() == RECIPE
    assert report.patch is not None
    patch = Path(report.patch.file).read_text()
    assert patch.startswith("--- a/recipe.yaml\n+++ b/recipe.yaml\n")
    added = [line[1:].strip() for line in patch.splitlines()[2:] if line.startswith("+")]
    assert "fp16:  # what others are compared with" in added
    assert any(line.startswith("- wide  # makes up to ") for line in added)
    assert any(line.startswith("outlier.dense: high  # int8: ") for line in added)
    assert "# the small one" not in added, "a line that need not change does not"
    kept = json.loads((folder / "engines" / "flawed" / "report.json").read_text())
    assert [repair["outcome"] for repair in kept["repairs"]] == ["repaired", "repaired"]


def test_a_second_repair_runs_nothing(repaired: tuple[Path, BuildReport]) -> None:
    folder, report = repaired
    again = build_and_repair(folder / "flawed", store=folder / "store", output=folder / "engines")
    assert again.steps_run == 0
    assert again.repairs == report.repairs


@pytest.mark.parametrize("tool", ["git", "patch"])
def test_the_patch_applies_and_the_patched_recipe_builds_green(
    repaired: tuple[Path, BuildReport], tool: str, tmp_path: Path
) -> None:
    folder, report = repaired
    recipe = write_recipe(tmp_path / "flawed")
    assert report.patch is not None
    commands = {
        "git": ["git", "-C", str(recipe), "apply", report.patch.file],
        "patch": ["patch", "-p1", "-d", str(recipe), "-i", report.patch.file],
    }
    subprocess.run(commands[tool], check=True, capture_output=True)
    assert "# per tensor" in (recipe / "recipe.yaml").read_text()
    built = build(recipe, store=folder / "store", output=tmp_path / "engines")
    assert built.passed
    assert built.steps_run == 0, "the repaired build made the very same things"


def test_a_gate_that_precision_cannot_help_is_said_to_be_one(
    repaired: tuple[Path, BuildReport], tmp_path: Path
) -> None:
    folder, _ = repaired
    recipe = write_recipe(tmp_path / "flawed")
    sets = ["gates.pays=faster", "gates.margin=1000.0", "gates.accuracy={}"]
    report = build_and_repair(recipe, sets=sets, variants=["int8"], store=folder / "store", output=tmp_path / "engines")
    assert not report.passed
    assert report.patch is None
    (repair,) = report.repairs
    assert repair.outcome == "impossible"
    assert "gates.pays" in repair.because


def test_write_changes_the_recipe_itself(repaired: tuple[Path, BuildReport], tmp_path: Path) -> None:
    folder, _ = repaired
    recipe = write_recipe(tmp_path / "flawed")
    command = ["build", str(recipe), "--repair", "--write", "--store", str(folder / "store"), "-o", str(tmp_path / "o")]
    run = subprocess.run([sys.executable, "-m", "trtbuild", *command, "-q"], capture_output=True, text=True, check=True)
    assert "int8 repaired: outlier.dense left in high precision" in run.stdout
    changed = load(recipe).recipe.variants
    assert changed["fp16"].keep_fp32 == ["wide", "settle"]
    assert changed["int8"].quantize is not None
    assert changed["int8"].quantize.overrides == {"outlier.dense": "high"}
