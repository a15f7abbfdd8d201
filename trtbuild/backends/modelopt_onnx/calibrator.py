"""The calibrator of models that are ONNX files to begin with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtbuild.backends.modelopt_onnx import activations, blocks
from trtbuild.backends.modelopt_onnx.asked import asked
from trtbuild.backends.modelopt_onnx.weights_only import weights_only
from trtbuild.core.artifacts import OnnxModel, QuantizationPlan
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.formats import CALIBRATED_FORMATS, FORMATS, Format
from trtbuild.core.quantization import Plan
from trtbuild.core.roles import OnnxCalibrator
from trtbuild.core.tensor_file import Tensors
from trtbuild.graph import document, reading

REFUSED: dict[Format, str] = {
    "int4_gptq": "GPTQ updates a layer's weights column by column, which modelopt.onnx does not do",
    "w4a8_awq": "modelopt.onnx has no INT4 weights with FP8 activations",
    "nvfp4": "modelopt.onnx does not calibrate FP4",
    "mxfp8": "modelopt.onnx does not calibrate MXFP8",
}
"""Formats that an ONNX source cannot have, each with the reason."""
METHODS = ("max", "entropy")
"""How `modelopt.onnx` can choose the greatest activation."""


class ModelOptOnnx(OnnxCalibrator):
    """Calibrates with `modelopt.onnx.quantization`; its result is read back and thrown away."""

    def calibrate(
        self, model: OnnxModel, options: Any, samples: Sequence[Tensors], folder: Path, plan: QuantizationPlan
    ) -> None:
        """Write the plan of every matrix product and convolution with a constant weight; `model` stays as it is.

        `options` are a CalibrateOptions, `samples` inputs by name in batches of any shapes, `folder` is empty and gets
        the copies that ModelOpt works on. Modules that ModelOpt leaves alone are in `kept_high`.

        Raises DataError where there are no samples or a number is not finite, ModelError where the graph is quantized
        already, the format or the method is not there for ONNX sources, or ModelOpt fails.
        """
        form: Format = options.format
        _check(form, options.method, samples)
        graph = document.load(model.main)
        if reading.is_quantized(graph):
            raise ModelError(
                f"the graph is already quantized: {reading.describe(graph)}",
                hint="start from the model in high precision",
            )
        modules = asked(graph.graph, form, options.block_size)
        if not modules.nodes:
            found = {}
        elif form in ("w8a16", "fp8_block128"):
            found = weights_only(modules, form)
        elif form == "int4":
            found = blocks.rounded(model, modules, options.block_size, samples, folder)
        elif form == "int4_awq":
            found = blocks.activation_aware(model, modules, options.block_size, samples, folder)
        else:
            found = activations.activations(model, modules, options, samples, folder)
        rows = sum(_rows(sample) for sample in samples) if form in CALIBRATED_FORMATS else 0
        Plan(found, modules.kept_high, modules.classes, rows).write(plan)


def _check(form: Format, method: str, samples: Sequence[Tensors]) -> None:
    if (reason := REFUSED.get(form)) is not None:
        raise ModelError(
            f"format {form} is not there for ONNX sources: {reason}",
            hint="give the PyTorch model as the source, or take int4_awq, int8 or fp8",
        )
    if FORMATS[form].activation == "fp8" and method != "max":
        raise ModelError(
            f"calibration method {method} is for INT8: it spares steps that {form} does not have",
            hint="FP8 is as fine at any magnitude: write method: max",
        )
    if method not in METHODS and FORMATS[form].activation is not None:
        raise ModelError(
            f"calibration method {method} is not there for ONNX sources",
            hint=f"modelopt.onnx has {' and '.join(METHODS)}; the others need the PyTorch model as the source",
        )
    if form in CALIBRATED_FORMATS and not len(samples):
        raise DataError(
            f"format {form} needs calibration samples, and there are none",
            hint="set data.calibration to the number of rows to calibrate on, for example 256",
        )


def _rows(sample: Tensors) -> int:
    first = next(iter(sample.values()))
    return int(first.shape[0]) if first.ndim else 1
