"""Calibration of a model that has no other source than its graph."""

from __future__ import annotations

from trtbuild.core.artifacts import OnnxModel, QuantizationPlan, Samples
from trtbuild.core.errors import DataError
from trtbuild.core.formats import CALIBRATED_FORMATS
from trtbuild.core.roles import OnnxCalibrator
from trtbuild.core.stage import Workspace, stage
from trtbuild.stages.calibrate import CalibrateOptions


@stage(version=1)
def calibrate_onnx(
    model: OnnxModel, calibration: Samples, options: CalibrateOptions, calibrator: OnnxCalibrator, work: Workspace
) -> QuantizationPlan:
    """Calibrate the graph's quantization on samples."""
    from trtbuild.core.quantization import Plan  # numpy and safetensors: a plan must not load them
    from trtbuild.core.tensor_file import Batches

    plan = work.new(QuantizationPlan)
    batches = Batches(calibration.main)
    if not batches and options.format in CALIBRATED_FORMATS:
        raise DataError(
            f"format {options.format} needs calibration samples and the recipe asks for none",
            hint="set data.calibration to the number of rows to calibrate on, for example 256",
        )
    scratch = work.path / "scratch"
    scratch.mkdir()
    calibrator.calibrate(model, options, batches, scratch, plan)
    written = Plan.read(plan)
    if not written.modules:
        reasons = "; ".join(f"{module}: {reason}" for module, reason in list(written.kept_high.items())[:3])
        raise DataError(
            f"{options.said} leaves every module alone: {reasons or 'the model has no product with a weight'}",
            hint="choose another format or block_size: int8 and w8a16 quantize every product and convolution",
        )
    return plan
