"""`quantize.qat` through the whole pipeline: a model whose convolution stays high, its linears trained in INT4."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from trtbuild.core.errors import ModelError
from trtbuild.core.report import BuildReport
from trtbuild.pipeline.build import build

pytest.importorskip("torch")

from tests import diffusion

INT4 = {"format": "int4", "block_size": 16}
QAT = {"steps": 40, "learning_rate": 3e-4}


def write_recipe(folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(diffusion.__file__, folder)
    recipe = {
        "recipe": "trained",
        "model": {"factory": {"entry": "diffusion:make"}},
        "shapes": {
            "axes": {"batch": {"min": 1, "opt": 4, "max": 8}},
            "inputs": {
                "latent": {"dtype": "float32", "dims": ["batch", 4, 8, 8]},
                "timestep": {"dtype": "float32", "dims": ["batch"]},
            },
        },
        "data": {"generator": "diffusion:samples", "calibration": 64, "evaluation": 16},
        "engine": {"tactics": "default"},
        "measure": {"runs": 3, "warm_up": 0},
        "gates": {"pays": "no", "coverage": 1.0},
        "variants": {
            "fp32": {"precision": "fp32"},
            "int4": {"quantize": INT4},
            "int4-qat": {"quantize": {**INT4, "qat": QAT}},
            "w8a16-conv": {"quantize": {"format": "w8a16", "include": ["patches"], "qat": {"steps": 1}}},
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("qat") / "trained")


@pytest.fixture(scope="module")
def report(recipe: Path) -> BuildReport:
    return build(recipe, variants=["int4", "int4-qat"], store=recipe.parent / "store", output=None)


def test_training_brings_int4_nearer_and_covers_the_same_modules(report: BuildReport) -> None:
    plain, trained = report.variants
    assert report.passed, [variant.reasons for variant in report.variants]
    assert trained.accuracy["snr_db"] > plain.accuracy["snr_db"] + 1.0
    assert plain.coverage == trained.coverage
    assert trained.coverage.asked == trained.coverage.ran == 7
    assert {"patches", "proj_out"} <= set(trained.kept_high), "they stayed high, and nothing was trained in their stead"


def test_a_convolution_that_is_to_be_quantized_is_refused(recipe: Path, report: BuildReport) -> None:
    with pytest.raises(ModelError, match="qat trains linear layers, and patches is a Conv2d") as caught:
        build(recipe, variants=["w8a16-conv"], store=recipe.parent / "store", output=None)
    assert "exclude: [patches]" in caught.value.hint
