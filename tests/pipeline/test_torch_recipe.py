"""The whole way from a PyTorch module: export, calibration, Q/DQ, engines, verdicts."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from trtbuild.core.errors import ModelError
from trtbuild.core.report import BuildReport
from trtbuild.pipeline.build import build
from trtbuild.pipeline.store import Store

pytest.importorskip("torch")

MODEL = '''
import numpy as np
import torch
from torch import nn


class Block(nn.Module):
    """A transformer block after the first papers: norms behind the residual sums."""

    def __init__(self, width=64, heads=4):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        split = lambda t: t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        p = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
        x = self.first(x + self.out((p @ v).transpose(1, 2).flatten(-2)))
        return self.second(x + self.down(nn.functional.gelu(self.up(x))))


class Encoder(nn.Module):
    def __init__(self, outlier=1.0):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def make(seed=0):
    torch.manual_seed(seed)
    return Encoder()


def samples(split, count):
    rng = np.random.default_rng({"calibration": 0, "evaluation": 1}[split])
    for _ in range(0, count, 4):
        yield {"x": rng.standard_normal((4, 16, 64)).astype(np.float32)}
'''

RECIPE = """\
recipe: encoder
model: {factory: {entry: "model:make", arguments: {seed: 0}}}
shapes:
  axes:
    batch: {min: 1, opt: 4, max: 8}
    sequence: {min: 2, opt: 16, max: 32}
  inputs:
    x: {dtype: float32, dims: [batch, sequence, 64]}
data: {generator: "model:samples", calibration: 32, evaluation: 16}
measure: {runs: 3, warm_up: 1}
gates: {accuracy: {cosine_min: {min: 0.99}}, pays: "no"}
variants:
  fp16: {}
  int8: {quantize: {format: int8}}
  int8_sq: {quantize: {format: int8_sq}}
  w8a16: {quantize: {format: w8a16}}
  some: {quantize: {format: int8, exclude: ["blocks.0.*"]}}
"""


def write_recipe(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, BuildReport]:
    folder = tmp_path_factory.mktemp("torch")
    recipe = write_recipe(folder / "encoder")
    return recipe, folder / "store", build(recipe, store=folder / "store", output=folder / "engines")


def test_every_variant_passes_with_full_coverage(built: tuple[Path, Path, BuildReport]) -> None:
    _, _, report = built
    coverage = {variant.name: variant.coverage for variant in report.variants}
    assert report.passed, [variant.reasons for variant in report.variants]
    assert (coverage["fp16"].asked, coverage["fp16"].ran) == (0, 0)
    for name in ("int8", "int8_sq", "w8a16"):
        assert (coverage[name].asked, coverage[name].inserted, coverage[name].ran) == (12, 12, 12)
    assert (coverage["some"].asked, coverage["some"].ran) == (6, 6)


def test_one_export_and_one_calibration_a_format_serve_all_variants(built: tuple[Path, Path, BuildReport]) -> None:
    _, store, _ = built
    steps = [action.step for _, action in Store(store).actions()]
    assert steps.count("export") == steps.count("autocast-fp16") == steps.count("observe") == 1
    assert sorted(step for step in steps if step.startswith("calibrate")) == [
        "calibrate-int8",
        "calibrate-int8_sq",
        "calibrate-w8a16",
    ]


def test_the_engine_of_a_quantized_variant_multiplies_integers(built: tuple[Path, Path, BuildReport]) -> None:
    _, _, report = built
    engine = next(variant.engine for variant in report.variants if variant.name == "int8_sq")
    operators = [node.op_type for node in onnx.load(engine).graph.node]
    assert operators.count("MatMulIntegerToFloat") == 12
    assert operators.count("Mul") == 3, "a SmoothQuant scale stays behind each Gelu, and behind the graph's own input"


def test_the_same_module_in_another_folder_gives_the_same_bytes(
    built: tuple[Path, Path, BuildReport], tmp_path: Path
) -> None:
    _, store, _ = built
    recipe = write_recipe(tmp_path / "somewhere" / "else")
    other = tmp_path / "store"
    build(recipe, variants=["fp16"], store=other, output=None)

    def exported(root: Path) -> str:
        return next(a.outputs["onnxmodel"].digest for _, a in Store(root).actions() if a.step == "export")

    assert exported(store) == exported(other)


def test_an_exclusion_that_matches_nothing_is_an_error_with_a_suggestion(
    built: tuple[Path, Path, BuildReport],
) -> None:
    recipe, store, _ = built
    with pytest.raises(ModelError, match=r"no module matches 'block\.0\.\*'") as caught:
        build(
            recipe, variants=["some"], sets=['variants.some.quantize.exclude=["block.0.*"]'], store=store, output=None
        )
    assert "did you mean" in caught.value.hint
