"""Every format through the whole pipeline, on the kinds of model that quantization meets: covered, close, and run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from trtbuild.core.report import BuildReport, VariantReport
from trtbuild.pipeline.build import build
from trtbuild.pipeline.store import Store
from trtbuild.reports.console import left_high

torch = pytest.importorskip("torch")

from tests import diffusion, encoder_decoder, vision  # noqa: E402 - they need torch

QUANTIZE: dict[str, dict[str, Any]] = {
    "int8": {"format": "int8"},
    "int8-gptq": {"format": "int8", "rounding": "gptq"},
    "int8_sq": {"format": "int8_sq", "alpha": 0.5},
    "fp8": {"format": "fp8"},
    "fp8-gptq": {"format": "fp8", "rounding": "gptq"},
    "w8a16": {"format": "w8a16"},
    "int4": {"format": "int4", "block_size": 16},
    "int4_awq": {"format": "int4_awq", "block_size": 16},
    "int4_awq-gptq": {"format": "int4_awq", "block_size": 16, "rounding": "gptq"},
    "int4_gptq": {"format": "int4_gptq", "block_size": 16},
}
NEEDS_TORCH = {name for name, quantize in QUANTIZE.items() if "gptq" in name}
FLOORS = {"w8a16": 0.9999, "int8": 0.9995, "fp8": 0.999, "int4_": 0.998, "int4": 0.997}
"""Least cosine to the FP32 model of any sample, by how the format's name begins."""


@dataclass
class Kind:
    """A model of a kind, with its module counts: asked for in every 8-bit format, and in every INT4 format."""

    source: dict[str, Any]
    shapes: dict[str, Any]
    generator: str
    asked: int
    asked_int4: int
    attention_fp8: int = 0
    """Attentions whose products FP8 takes as well."""
    kept: set[str] = field(default_factory=set)
    """Modules that stay high by default in every format."""


IMAGES = {
    "axes": {"batch": {"min": 1, "opt": 4, "max": 8}},
    "inputs": {"image": {"dtype": "float32", "dims": ["batch", 3, 16, 16]}},
}
VISION = """
from pathlib import Path
import torch
from vision import Gratings, gratings

def make():
    model = Gratings()
    model.load_state_dict(torch.load(Path(__file__).with_name("weights.pt"), weights_only=True))
    return model.eval()
"""
GRATINGS = """
import numpy as np

def samples(split, count):
    images = np.load(__file__.replace("data.py", f"{split}.npy"))
    for start in range(0, count, 4):
        yield {"image": images[start:start + 4]}
"""
KINDS = {
    "cnn": Kind(
        {"factory": {"entry": "model:make", "files": ["vision.py", "weights.pt"]}},
        IMAGES, "data:samples", asked=6, asked_int4=1, kept={"stem"},
    ),
    "cnn_onnx": Kind({"onnx": "model.onnx"}, IMAGES, "data:samples", asked=6, asked_int4=1, kept={"stem"}),
    "encoder_decoder": Kind(
        {"factory": {"entry": "encoder_decoder:make"}},
        {
            "axes": {
                "batch": {"min": 1, "opt": 4, "max": 8},
                "source": {"min": 2, "opt": 12, "max": 32},
                "target": {"min": 2, "opt": 7, "max": 32},
            },
            "inputs": {
                "source_ids": {"dtype": "int64", "dims": ["batch", "source"]},
                "target_ids": {"dtype": "int64", "dims": ["batch", "target"]},
            },
        },
        "encoder_decoder:samples", asked=16, asked_int4=16, attention_fp8=3,
        kept={"lm_head", "encoder.mlp.gate", "decoder.mlp.gate"},
    ),
    "diffusion": Kind(
        {"factory": {"entry": "diffusion:make"}},
        {
            "axes": {"batch": {"min": 1, "opt": 4, "max": 8}},
            "inputs": {
                "latent": {"dtype": "float32", "dims": ["batch", 4, 8, 8]},
                "timestep": {"dtype": "float32", "dims": ["batch"]},
            },
        },
        "diffusion:samples", asked=7, asked_int4=7, attention_fp8=1, kept={"patches", "proj_out"},
    ),
}  # fmt: skip


def write_recipe(folder: Path, name: str) -> Path:
    kind = KINDS[name]
    folder.mkdir()
    if name == "cnn_onnx":
        vision.export(folder)
    elif name == "cnn":
        shutil.copy(vision.__file__, folder)
        (folder / "model.py").write_text(VISION)
        torch.save(vision.trained().state_dict(), folder / "weights.pt")
    if name.startswith("cnn"):
        (folder / "data.py").write_text(GRATINGS)
        for seed, split in enumerate(("calibration", "evaluation")):
            vision.np.save(folder / f"{split}.npy", vision.gratings(32, seed)[0])
    else:
        shutil.copy({"encoder_decoder": encoder_decoder, "diffusion": diffusion}[name].__file__, folder)
    recipe = {
        "recipe": name,
        "model": kind.source,
        "shapes": kind.shapes,
        "data": {"generator": kind.generator, "calibration": 32, "evaluation": 16},
        "engine": {"tactics": "default"},
        "measure": {"runs": 3, "warm_up": 0},
        "gates": {"pays": "no", "coverage": 1.0},
        "variants": {"fp32": {"precision": "fp32"}}
        | {
            form: {"quantize": quantize, "gates": {"accuracy": {"cosine_min": {"min": floor(form)}}}}
            for form, quantize in QUANTIZE.items()
            if name != "cnn_onnx" or form not in NEEDS_TORCH
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder


def floor(form: str) -> float:
    return next(least for prefix, least in FLOORS.items() if form.startswith(prefix))


@pytest.fixture(scope="module", params=KINDS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, BuildReport]:
    folder = tmp_path_factory.mktemp(request.param)
    recipe = write_recipe(folder / request.param, request.param)
    return request.param, folder / "store", build(recipe, store=folder / "store", output=folder / "engines")


def quantized(report: BuildReport) -> dict[str, VariantReport]:
    return {variant.name: variant for variant in report.variants if variant.name != "fp32"}


def test_every_format_is_covered_and_passes_its_gates(built: tuple[str, Path, BuildReport]) -> None:
    name, _, report = built
    kind = KINDS[name]
    assert report.passed, [f"{variant.name}: {variant.reasons}" for variant in report.variants]
    for form, variant in quantized(report).items():
        asked = kind.asked_int4 if form.startswith("int4") else kind.asked
        asked += kind.attention_fp8 if form.startswith("fp8") else 0
        coverage = variant.coverage
        assert (coverage.asked, coverage.inserted, coverage.ran) == (asked, asked, asked), form


def test_quantization_shows_in_the_numbers(built: tuple[str, Path, BuildReport]) -> None:
    _, _, report = built
    found = {form: variant.accuracy["snr_db"] for form, variant in quantized(report).items()}
    assert max(found.values()) < 60 < report.variants[0].accuracy["snr_db"]
    assert found["w8a16"] > max(found["int8"], found["fp8"]), "what leaves activations alone is nearer"
    assert min(found["int8"], found["fp8"]) > found["int4"]
    assert found["int4_awq"] > found["int4"]
    if "int4_gptq" in found:
        assert found["int4_gptq"] > found["int4"]


def test_what_stays_high_by_default_is_told_with_the_reason(built: tuple[str, Path, BuildReport]) -> None:
    name, _, report = built
    for form, variant in quantized(report).items():
        expected = KINDS[name].kept
        assert set(variant.kept_high) >= expected, form
        assert all(variant.kept_high.values())
        if not form.startswith("int4"):  # which leaves convolutions as well
            assert set(variant.kept_high) == expected, form
    for module in KINDS[name].kept:
        reason = quantized(report)["int8"].kept_high[module]
        assert reason.endswith("`include` overrides it")
        assert any(module in line and reason in line for line in left_high(report.variants))


def test_each_calibration_ran_once_and_the_second_build_runs_nothing(built: tuple[str, Path, BuildReport]) -> None:
    name, store, report = built
    steps = [action.step for _, action in Store(store).actions()]
    assert sum(step.startswith("calibrate-") for step in steps) == len(quantized(report))
    assert sum(step in ("export", "adopt") for step in steps) == 1
    assert build(store.parent / name, store=store, output=None).steps_run == 0
