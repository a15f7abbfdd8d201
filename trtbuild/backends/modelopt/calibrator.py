"""Calibration: run a module on samples, and write down the numbers of a quantization by module path."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from trtbuild.backends.modelopt import layers, quantizers, rounding, sharing
from trtbuild.backends.modelopt.clip import BlockHessians, best_amax
from trtbuild.backends.modelopt.histogram import Histogram
from trtbuild.backends.modelopt.inputs import Inputs
from trtbuild.backends.modelopt.passes import Passes
from trtbuild.core.artifacts import QuantizationPlan
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.formats import FORMATS, Format, Traits
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.core.roles import Calibrator
from trtbuild.core.tensor_file import Array, Tensors


class ModelOpt(Calibrator):
    """Calibrates linears and convolutions with `modelopt.torch.quantization`; GPTQ with our own rounding."""

    def calibrate(self, module: Any, options: Any, samples: Sequence[Tensors], plan: QuantizationPlan) -> None:
        """Write the plan of every linear and convolution of `module`, which is changed in place.

        `options` is a CalibrateOptions; `samples` are inputs by name of forward's parameters, passed through the module
        one batch at a time. Layers that the format cannot hold, or that no sample reaches, are in `kept_high`. Layers
        that a build rather leaves alone, such as an `lm_head`, have numbers too: insertion chooses. Raises DataError
        where there are no samples or a number is not finite, ModelError where the format cannot be calibrated here or
        the module does not take the samples.
        """
        form: Format = options.format
        _check(form, options)
        found = layers.find(module)
        classes = layers.classes(found)
        kept_high = layers.left_alone(found, form, options.block_size)
        wanted = {path: layer for path, layer in found.items() if path not in kept_high}
        passes = Passes(module, samples)
        if wanted and options.needs_samples and not len(samples):
            raise DataError(
                f"{options.said} needs calibration samples, and there are none",
                hint="set data.calibration to the number of rows to calibrate on, for example 256",
            )
        modules: dict[str, ModuleQuantization] = {}
        for path, numbers in _numbers_of(wanted, options, passes) if wanted else ():
            if isinstance(numbers, str):
                kept_high[path] = numbers
            else:
                modules[path] = numbers
        Plan(modules=modules, kept_high=kept_high, classes=classes, samples=passes.rows).write(plan)


def _check(form: Format, options: Any) -> None:
    """Raises ModelError for what cannot be calibrated here."""
    traits = FORMATS[form]
    if options.rounding == "gptq" and traits.dynamic:
        raise ModelError(
            f"rounding gptq is for one scale a tensor, channel or INT4 block, and {form} has scales of its own kind",
            hint="leave `rounding` out",
        )
    if options.method != "max" and traits.activation and form != "int8":
        raise ModelError(
            f"method {options.method!r} is for format int8; {form} takes the greatest value of its inputs",
            hint="leave `method` out, or use format int8",
        )


def _numbers_of(wanted: dict[str, Any], options: Any, passes: Passes) -> Iterator[tuple[str, ModuleQuantization | str]]:
    """By module path the numbers, or why there are none."""
    traits = FORMATS[options.format]
    formats = {path: layers.format_of(layer, options.format) for path, layer in wanted.items()}
    inside = quantizers.insert(passes.module, wanted, formats, options.block_size)
    inputs: Inputs[Any] = _watch_for(traits, options)
    watched = False

    def pass_samples() -> None:
        nonlocal watched
        with contextlib.nullcontext() if watched else inputs.watching(wanted):
            passes()
        watched = True  # a later pass sees the same inputs

    how = quantizers.algorithm(traits, options.alpha)
    quantizers.calibrate(inside, how, pass_samples if traits.needs_samples else None)
    if options.rounding == "nearest" and traits.algorithm != "gptq":
        for path, layer in wanted.items():
            yield path, _numbers(path, layer, formats[path], options, inputs)
        return
    found = {path: _numbers(path, layer, formats[path], options, inputs) for path, layer in wanted.items()}
    yield from ((path, reason) for path, reason in found.items() if isinstance(reason, str))
    numbers = {path: one for path, one in found.items() if isinstance(one, ModuleQuantization)}
    numbers = sharing.share(wanted, numbers, inputs.together)
    quantizers.switch_off(inside)
    yield from rounding.compensate({path: wanted[path] for path in numbers}, numbers, passes)


def _watch_for(traits: Traits, options: Any) -> Inputs[Any]:
    if traits.algorithm == "awq":
        return Inputs(functools.partial(BlockHessians, layers.block_size_of(traits, options.block_size)))
    return Inputs(Histogram if traits.activation and options.method != "max" else None)


def _numbers(path: str, layer: Any, form: Format, options: Any, inputs: Inputs[Any]) -> ModuleQuantization | str:
    """What ModelOpt found for one layer, or why there is nothing."""
    traits = FORMATS[form]
    if not quantizers.has_weight_amax(layer, traits):
        return f"ModelOpt has no quantized form of {type(layer).__name__}"
    if traits.needs_samples and (reason := inputs.unseen(path)):
        return reason
    scaled = traits.algorithm in ("smoothquant", "awq")
    quantizer = layer.input_quantizer
    return ModuleQuantization(
        form,
        weight_amax=_weight_amax(path, layer, traits, inputs),
        input_amax=_input_amax(path, layer, options, inputs) if traits.needs_input_range else None,
        pre_quant_scale=_vector(path, "pre-quant scale", quantizer.pre_quant_scale) if scaled else None,
        input_channel_amax=_vector(path, "channel amax", inputs.amax[path]) if scaled else None,
        block_size=layers.block_size_of(traits, options.block_size),
    )


def _weight_amax(path: str, layer: Any, traits: Traits, inputs: Inputs[Any]) -> Array:
    if traits.algorithm != "awq":
        return quantizers.weight_amax(path, layer, traits)
    hessians = inputs.statistics.pop(path).scaled(layer.input_quantizer.pre_quant_scale)
    return quantizers.checked(path, "weight amax", best_amax(layer.weight, hessians))


def _input_amax(path: str, layer: Any, options: Any, inputs: Inputs[Any]) -> Array:
    """[] float32: the greatest input that the type should say."""
    if FORMATS[options.format].algorithm == "awq":  # ModelOpt searched for the scale without quantizing the input
        smoothed = inputs.amax[path] * layer.input_quantizer.pre_quant_scale
        return quantizers.checked(path, "input amax", smoothed.amax())
    if options.method != "max":
        return np.asarray(inputs.statistics[path].amax(options.method, options.percentile), np.float32)
    return quantizers.checked(path, "input amax", layer.input_quantizer.amax).reshape(())


def _vector(path: str, what: str, tensor: Any) -> Array:
    return quantizers.checked(path, what, tensor).reshape(-1)
