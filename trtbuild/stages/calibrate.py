"""Calibration: run the model on samples, and let ModelOpt decide the numbers of a quantization."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trtbuild.core.artifacts import QuantizationPlan, Samples
from trtbuild.core.errors import DataError
from trtbuild.core.formats import FORMATS, Format
from trtbuild.core.roles import Calibrator, Loader
from trtbuild.core.sources import HuggingFaceSource, PythonSource
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.values import Options


class CalibrateOptions(Options):
    """What calibration decides."""

    format: Format
    """Quantization format of the layers."""
    alpha: float = Field(default=1.0, ge=0.0, le=1.0)
    """SmoothQuant's migration strength: 1 moves all difficulty from activations to weights (ModelOpt's default)."""
    method: Literal["max", "percentile", "entropy", "mse"] = "max"
    """How the greatest activation that INT8 can say is chosen: the greatest seen, a percentile of what was seen, or the
    value with the least Kullback-Leibler divergence or squared error of the histogram."""
    percentile: float = Field(default=99.99, gt=50.0, le=100.0)
    """For `method: percentile`."""
    rounding: Literal["nearest", "gptq", "checkpoint"] = "nearest"
    """How the weights of linear layers are rounded: each to the nearest code, or by GPTQ, which lets the weights still
    to be rounded make up for each error on the calibration samples. `int4_gptq` is `int4` with `rounding: gptq`.
    `checkpoint` rounds nothing: the model's checkpoint is quantized already, and its codes and scales are taken as they
    are (docs/checkpoints.md)."""
    block_size: Literal[16, 32, 64, 128, 256] = 128
    """Neighbouring weights that share a scale, for the INT4 formats. It must divide each layer's inputs."""

    @property
    def needs_samples(self) -> bool:
        """Whether calibration must run the model. Of a checkpoint's codes only reading it can tell."""
        if self.rounding == "checkpoint":
            return False
        return FORMATS[self.format].needs_samples or self.rounding == "gptq"

    @property
    def said(self) -> str:
        """The format in words for messages."""
        return f"format {self.format}" + (f" with rounding {self.rounding}" if self.rounding != "nearest" else "")


@stage(version=2)
def calibrate(
    source: PythonSource | HuggingFaceSource,
    calibration: Samples,
    options: CalibrateOptions,
    loader: Loader,
    calibrator: Calibrator,
    work: Workspace,
) -> QuantizationPlan:
    """Calibrate the quantization on samples."""
    from trtbuild.core.quantization import Plan  # numpy and safetensors: a plan must not load them
    from trtbuild.core.tensor_file import Batches

    plan = work.new(QuantizationPlan)
    batches = Batches(calibration.main)
    if not batches and options.needs_samples:
        raise DataError(
            f"{options.said} needs calibration samples and the recipe asks for none",
            hint="set data.calibration to the number of rows to calibrate on, for example 256",
        )
    calibrator.calibrate(loader.load(source), options, batches, plan)
    written = Plan.read(plan)
    if not written.modules:
        reasons = "; ".join(f"{module}: {reason}" for module, reason in list(written.kept_high.items())[:3])
        raise DataError(
            f"{options.said} leaves every module alone: {reasons or 'the model has no linear and no convolution'}",
            hint="choose another format or block_size: int8 and w8a16 quantize every linear and convolution",
        )
    return plan
