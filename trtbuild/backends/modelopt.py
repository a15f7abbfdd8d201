"""Calibration by NVIDIA ModelOpt: it decides the numbers, trtbuild writes the graph."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from trtbuild.core.artifacts import QuantizationPlan
from trtbuild.core.errors import DataError, ModelError, TrtbuildError
from trtbuild.core.formats import Format
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.core.roles import Calibrator
from trtbuild.core.tensor_file import Array, Tensors

with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")  # about transformers versions it has not been tested with
    import modelopt.torch.quantization as mtq

log = logging.getLogger(__name__)

WEIGHT = {"num_bits": 8, "axis": 0}
"""INT8, one scale per output channel of W [out, in]."""
INPUT = {"num_bits": 8, "axis": None}
"""INT8, one scale per tensor."""
ROOT = "0"
"""The name of the model inside the list that ModelOpt is given."""


class ModelOpt(Calibrator):
    """Calibrates linear modules with `modelopt.torch.quantization`."""

    def calibrate(self, module: Any, options: Any, samples: Sequence[Tensors], plan: QuantizationPlan) -> None:
        """Write the plan of every `torch.nn.Linear` (and transformers' Conv1D) of `module`, which is changed in place.

        `options` has `format` and `alpha` (SmoothQuant's migration strength); `samples` are inputs by name of forward's
        parameters, passed through the module one batch at a time. Linears that ModelOpt leaves alone, or that no sample
        reaches, are in `kept_high`. Raises DataError where there are no samples or a number is not finite, ModelError
        where the module does not take the samples.
        """
        form: Format = options.format
        linears = {path: layer for path, layer in module.named_modules() if _is_linear(layer)}
        kept_high = _left_alone(linears, form)
        wanted = [path for path in linears if path not in kept_high]
        rows = 0
        if wanted:
            rows = _run(module, options, samples, wanted, list(kept_high))
        modules: dict[str, ModuleQuantization] = {}
        for path in wanted:
            numbers = _numbers(path, module.get_submodule(path), form)
            if isinstance(numbers, str):
                kept_high[path] = numbers
            else:
                modules[path] = numbers
        Plan(modules=modules, kept_high=kept_high, samples=rows).write(plan)


def _is_linear(layer: Any) -> bool:
    # transformers' Conv1D (GPT-2) is linear with W transposed; told by name, so that transformers stays optional.
    return isinstance(layer, torch.nn.Linear) or (
        type(layer).__name__ == "Conv1D" and type(layer).__module__ == "transformers.pytorch_utils"
    )


def _left_alone(linears: dict[str, Any], form: Format) -> dict[str, str]:
    """Linears not to quantize, with the reason. Raises DataError where a weight is not finite."""
    kept: dict[str, str] = {}
    owners: dict[int, str] = {}
    for path, layer in linears.items():
        if not torch.isfinite(layer.weight).all():
            raise DataError(f"the weight of {path} holds NaN or infinity", hint="check the checkpoint")
        pattern = next((p for p in _modelopt_exclusions() if fnmatch.fnmatch(f"{path}.weight_quantizer", p)), None)
        if pattern:
            kept[path] = f"ModelOpt leaves modules named {pattern!r} in high precision"
        elif form == "int8_sq" and 1 in layer.weight.shape:
            kept[path] = f"SmoothQuant needs more than one channel, the weight is {list(layer.weight.shape)}"
        elif form == "int8_sq" and id(layer.weight) in owners:
            kept[path] = f"it shares its weight with {owners[id(layer.weight)]}, and a weight can be smoothed once only"
        owners.setdefault(id(layer.weight), path)
    return kept


def _modelopt_exclusions() -> list[str]:
    """The name patterns that every ModelOpt preset switches off: lm_head, routers, vision towers, ..."""
    entries = mtq.INT8_DEFAULT_CFG["quant_cfg"]
    names = [
        entry["quantizer_name"] for entry in entries if entry.get("enable") is False and not entry.get("parent_class")
    ]
    return [name for name in names if name != "*"]


def _run(module: Any, options: Any, samples: Sequence[Tensors], wanted: list[str], kept: list[str]) -> int:
    """Let ModelOpt quantize and calibrate; returns the rows of the first axis that it saw."""
    weights_only = options.format == "w8a16"
    if not weights_only and not len(samples):
        raise DataError(
            f"format {options.format} needs calibration samples, and there are none",
            hint="set data.calibration to the number of rows to calibrate on, for example 256",
        )
    smooth = options.format == "int8_sq"
    config = {
        # An ordered list, later entries win. Everything off first: ModelOpt's default is on, for norms and pooling too.
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "parent_class": "nn.Linear", "cfg": WEIGHT},
            *(
                []
                if weights_only
                else [{"quantizer_name": "*input_quantizer", "parent_class": "nn.Linear", "cfg": INPUT}]
            ),
            *({"quantizer_name": f"{ROOT}.{path}.*", "enable": False} for path in kept),
        ],
        "algorithm": {"method": "smoothquant", "alpha": options.alpha} if smooth else "max",
    }
    rows = 0

    def pass_samples(_: Any) -> None:
        nonlocal rows
        for sample in samples:
            first = next(iter(sample.values()))
            rows += int(first.shape[0]) if first.ndim else 1
            _forward(module, sample)

    said = io.StringIO()
    # Inside a list, because ModelOpt rewrites the attention of whatever it takes for a transformers model; the plan
    # wants linear layers only, and their inputs from the model's own forward.
    inside = torch.nn.ModuleList([module])
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), torch.no_grad():
            warnings.simplefilter("ignore")
            mtq.quantize(inside, config, None if weights_only else pass_samples)
    except TrtbuildError:
        raise
    except Exception as error:
        culprit = "" if weights_only else _first_non_finite(module, samples, wanted)
        if culprit:
            raise DataError(
                f"the input of {culprit} holds NaN or infinity on calibration samples",
                hint="check the samples, and that the model runs in FP32 on them",
            ) from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(f"ModelOpt cannot calibrate: {lines[0] if lines else type(error).__name__}") from error
    finally:
        log.debug("modelopt: %s", said.getvalue())
    return rows


def _forward(module: Any, sample: Tensors) -> None:
    try:
        with torch.no_grad():
            module(**{name: torch.from_numpy(array) for name, array in sample.items()})
    except TypeError as error:
        raise ModelError(
            f"{type(module).__name__}.forward does not take the samples: {error}",
            hint=f"samples are passed by name: {', '.join(sample)}",
        ) from error


def _first_non_finite(module: Any, samples: Sequence[Tensors], paths: list[str]) -> str:
    """The first linear module, in order of execution, whose input is not finite; empty where there is none."""
    guilty: list[str] = []

    def look(path: str) -> Any:
        def hook(_: Any, inputs: tuple[Any, ...]) -> None:
            if inputs and not torch.isfinite(inputs[0]).all():
                guilty.append(path)

        return hook

    handles = [module.get_submodule(path).register_forward_pre_hook(look(path)) for path in paths]
    try:
        for sample in samples:
            with contextlib.suppress(Exception):  # the quantizers may stop at the same value; the hooks saw it first
                _forward(module, sample)
            if guilty:
                return guilty[0]
    finally:
        for handle in handles:
            handle.remove()
    return ""


def _numbers(path: str, layer: Any, form: Format) -> ModuleQuantization | str:
    """What ModelOpt found for one module, or why there is nothing. Raises DataError where a number is not finite."""
    weight, inputs = getattr(layer, "weight_quantizer", None), getattr(layer, "input_quantizer", None)
    if weight is None or not weight.is_enabled or weight.amax is None:
        return f"ModelOpt has no quantized form of {type(layer).__name__}"
    if form == "w8a16":
        return ModuleQuantization(form, weight_amax=_checked(path, "weight amax", weight.amax).reshape(-1))
    if inputs is None or inputs.amax is None:
        return "no calibration sample reached it"
    amax = _checked(path, "input amax", inputs.amax)
    if not amax.any():
        return "its input was zero in every calibration sample"
    smooth = form == "int8_sq"
    return ModuleQuantization(
        form,
        weight_amax=_checked(path, "weight amax", weight.amax).reshape(-1),
        input_amax=amax.reshape(()),
        pre_quant_scale=_checked(path, "pre-quant scale", inputs.pre_quant_scale).reshape(-1) if smooth else None,
        input_channel_amax=_checked(path, "channel amax", inputs._amax_for_smoothing).reshape(-1) if smooth else None,
    )


def _checked(path: str, what: str, tensor: Any) -> Array:
    """The tensor as float32. Raises DataError where it is not finite."""
    array: Array = tensor.detach().float().cpu().numpy()
    if not np.isfinite(array).all():
        raise DataError(f"calibration found a {what} of {path} that is not finite", hint="check samples and weights")
    return array
