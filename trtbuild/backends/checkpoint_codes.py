"""Quantization plans out of checkpoints that are quantized already: their codes as they are, nothing rounded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from trtbuild.backends.modelopt import layers
from trtbuild.backends.modelopt.histogram import Histogram
from trtbuild.backends.modelopt.inputs import Inputs
from trtbuild.backends.modelopt.passes import Passes
from trtbuild.checkpoints.quantized import FloatsOnly, QuantizedWeight
from trtbuild.core.artifacts import QuantizationPlan
from trtbuild.core.errors import DataError
from trtbuild.core.formats import FORMATS, GREATEST, Format
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.core.roles import Calibrator
from trtbuild.core.tensor_file import Array, Tensors


class CheckpointCodes(Calibrator):
    """Reads the codes that `load_checkpoint` left at the layers; finds the ranges of inputs that no file tells."""

    def calibrate(self, module: Any, options: Any, samples: Sequence[Tensors], plan: QuantizationPlan) -> None:
        """Write the plan of every layer that is quantized in the checkpoint, in the format of `options`.

        A static input scale of the checkpoint is taken as it is. Where it has none, since its kernels scale each token
        while they run, the range of the input is calibrated on the samples: one scale for the tensor. A layer whose
        codes the format cannot say is in `kept_high`, with the reason. Raises DataError where no layer has codes, or
        ranges are needed and there are no samples.
        """
        found = layers.find(module)
        if not any(hasattr(layer, "checkpoint_codes") for layer in found.values()):
            raise DataError(
                "rounding checkpoint takes the codes of a quantized checkpoint, and no layer of this one is quantized",
                hint="drop rounding; or name the quantized checkpoint, which a factory loads with "
                "trtbuild.checkpoints.load_checkpoint",
            )
        read = {path: _numbers(layer, options.format, options.block_size) for path, layer in found.items()}
        rows = _calibrate_inputs(module, found, read, options, samples)
        Plan(
            modules={path: each for path, each in read.items() if isinstance(each, ModuleQuantization)},
            kept_high={path: each for path, each in read.items() if isinstance(each, str)},
            classes=layers.classes(found),
            samples=rows,
        ).write(plan)


def _numbers(layer: Any, form: Format, block_size: int) -> ModuleQuantization | str:
    """A layer's own codes in a format, its input's range only where the checkpoint tells; or why there are none."""
    if not hasattr(layer, "checkpoint_codes"):
        return "the checkpoint has it in high precision"
    weight: QuantizedWeight | FloatsOnly = layer.checkpoint_codes()
    if isinstance(weight, FloatsOnly):
        return f"{weight.reason}; to round its floats anew, drop `rounding: checkpoint`"
    traits = FORMATS[form]
    amax = _amax(weight, form, layers.block_size_of(traits, block_size))
    if isinstance(amax, str):
        return amax
    scale, static = weight.pre_quant_scale, weight.input_scale if traits.activation == weight.kind else None
    return ModuleQuantization(
        form,
        weight_amax=amax.numpy(),
        input_amax=None if static is None else np.asarray(static * GREATEST[weight.kind], np.float32),
        pre_quant_scale=None if scale is None else scale.numpy(),
        weight_codes=weight.codes.contiguous().view(torch.int8).numpy(),
        block_size=layers.block_size_of(traits, block_size),
    )


def _amax(weight: QuantizedWeight, form: Format, size: int) -> torch.Tensor | str:
    """The scales as the format lays them, as greatest magnitudes: a coarse one may be said several times. In words, why
    that cannot be."""
    traits, (outputs, inputs) = FORMATS[form], weight.codes.shape
    amax, has = weight.amax, weight.granularity
    if traits.weight == weight.kind and not traits.dynamic:
        if traits.granularity == has == "tile" or traits.granularity == has == "tensor":
            return amax
        if traits.granularity == "channel" and has in ("tensor", "channel"):
            return amax.expand(outputs).contiguous()
        if traits.granularity == "block" and has in ("tensor", "channel", "block"):
            own = weight.block_size or inputs
            if own % size == 0:
                rows = amax if amax.ndim == 2 else amax.reshape(-1, 1).expand(outputs, 1)
                return rows.repeat_interleave(own // size, 1).contiguous()
            return f"the checkpoint has {weight.said}: set block_size to a divisor of {own}"
    return f"the checkpoint has {weight.said}, which {form} cannot say: set format to {_fitting(weight)}"


def _fitting(weight: QuantizedWeight) -> str:
    """The formats that say such a weight exactly."""
    coarse = ("tensor", "channel") if weight.granularity == "tensor" else (weight.granularity,)
    fits = [
        name
        for name, traits in FORMATS.items()
        if traits.weight == weight.kind and not traits.dynamic and traits.granularity in coarse
    ]
    if weight.kind == "int4" and weight.granularity == "channel":
        fits = ["int4"]
    return " or ".join(fits) or "none: leave it in high precision, or drop `rounding: checkpoint`"


def _calibrate_inputs(
    module: Any,
    found: dict[str, Any],
    read: dict[str, ModuleQuantization | str],
    options: Any,
    samples: Sequence[Tensors],
) -> int:
    """Give `read` the input ranges that the checkpoint does not tell, in place; the rows that they were seen on."""
    if not FORMATS[options.format].needs_input_range:
        return 0
    lacking = {
        path: each for path, each in read.items() if isinstance(each, ModuleQuantization) and each.input_amax is None
    }
    if not lacking:
        return 0
    if not len(samples):
        raise DataError(
            f"the checkpoint has no static input scale for {len(lacking)} layers, first {next(iter(lacking))}, and "
            f"format {options.format} needs one: it is calibrated, and there are no samples",
            hint="set data.calibration to the number of rows to calibrate on, for example 256",
        )
    inputs: Inputs[Any] = Inputs(Histogram if options.method != "max" else None)
    passes = Passes(module, samples)
    with inputs.watching({path: found[path] for path in lacking}):
        passes()
    for path, numbers in lacking.items():
        read[path] = inputs.unseen(path) or replace(numbers, input_amax=_input_amax(path, numbers, options, inputs))
    print(
        f"{len(lacking)} layers have no static input scale in the checkpoint: approximated by one scale a tensor, "
        f"calibrated on {passes.rows} rows",
        flush=True,
    )
    return passes.rows


def _input_amax(path: str, numbers: ModuleQuantization, options: Any, inputs: Inputs[Any]) -> Array:
    """[] float32: the greatest input that the type should say, after the checkpoint's own pre-quant scale."""
    if numbers.pre_quant_scale is not None:
        return np.asarray((inputs.amax[path].numpy() * numbers.pre_quant_scale).max(), np.float32)
    if options.method != "max":
        return np.asarray(inputs.statistics[path].amax(options.method, options.percentile), np.float32)
    return np.asarray(inputs.amax[path].max(), np.float32)
