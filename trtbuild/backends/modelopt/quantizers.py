"""ModelOpt's quantizers: set by a format's traits, calibrated on samples, and read."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from trtbuild.backends.modelopt.layers import TRANSPOSED, block_size_of
from trtbuild.core.errors import DataError, ModelError, TrtbuildError
from trtbuild.core.formats import FORMATS, Format, NumberType, Traits
from trtbuild.core.tensor_file import Array

with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")  # about transformers versions it has not been tested with
    import modelopt.torch.quantization as mtq
    from modelopt.torch.quantization.utils import reduce_block_amax

log = logging.getLogger(__name__)

NUM_BITS: dict[NumberType, int | tuple[int, int]] = {"int8": 8, "int4": 4, "fp8": (4, 3), "fp4": (2, 1)}
"""How ModelOpt says a type: the bits of an integer, or those of exponent and mantissa."""

_SCALE_BITS: dict[NumberType, tuple[int, int]] = {"fp4": (4, 3), "fp8": (8, 0)}
"""Exponent and mantissa of the scales of dynamic blocks, as in NVFP4_DEFAULT_CFG and MXFP8_DEFAULT_CFG."""


def insert(module: Any, layers: dict[str, Any], formats: dict[str, Format], block_size: int) -> Any:
    """Convert a module for ModelOpt, in place, and switch on the quantizers of these layers by their formats.

    Returns what to calibrate: the module inside a list, because ModelOpt rewrites the attention of whatever it takes
    for a transformers model, and the plan wants the inputs of layers from the model's own forward.
    """
    # ModelOpt puts back the mode of what it is given, and a new list is in training mode: dropout would run.
    inside = torch.nn.ModuleList([module]).eval()
    with _quietly():
        # Everything off first: ModelOpt's default is on, for norms and pooling too.
        mtq.quantize(inside, {"quant_cfg": [{"quantizer_name": "*", "enable": False}], "algorithm": None})
        for path, layer in layers.items():
            traits = FORMATS[formats[path]]
            if hasattr(layer, "weight_quantizer"):  # ModelOpt knows the class
                layer.weight_quantizer.set_from_attribute_config(_weight(layer, traits, block_size))
                if traits.needs_input_range and traits.algorithm != "awq":  # AWQ's search looks at weights alone
                    layer.input_quantizer.set_from_attribute_config(_input(traits))
    return inside


def _input(traits: Traits) -> dict[str, Any]:
    if traits.dynamic:
        return _dynamic(traits)
    assert traits.activation is not None
    return {"num_bits": NUM_BITS[traits.activation], "axis": None, "enable": True}


def _dynamic(traits: Traits) -> dict[str, Any]:
    sizes = {-1: traits.block, "type": "dynamic", "scale_bits": _SCALE_BITS[traits.weight]}
    return {"num_bits": NUM_BITS[traits.weight], "block_sizes": sizes, "enable": True}


def _weight(layer: Any, traits: Traits, block_size: int) -> dict[str, Any]:
    if traits.dynamic:
        return _dynamic(traits)
    size = block_size_of(traits, block_size)
    granularity: dict[str, dict[str, Any]] = {
        "tensor": {"axis": None},
        "channel": {"axis": 1 if isinstance(layer, TRANSPOSED) else 0},
        "block": {"block_sizes": {-1: size}},
        "tile": {"block_sizes": {-1: size, -2: size}},
    }
    return {"num_bits": NUM_BITS[traits.weight], "enable": True, **granularity[traits.granularity]}


def algorithm(traits: Traits, alpha: float) -> str | dict[str, Any]:
    """ModelOpt's spelling of a format's algorithm. AWQ's scales only: where to clip is decided in `clip`."""
    named: dict[str, str | dict[str, Any]] = {
        "smoothquant": {"method": "smoothquant", "alpha": alpha},
        "awq": {"method": "awq_lite", "alpha_step": 0.1},
    }
    return named.get(traits.algorithm, "max")


def calibrate(inside: Any, how: str | dict[str, Any], pass_samples: Callable[[], None] | None) -> None:
    """Let ModelOpt find the numbers; it may pass the samples several times. Raises ModelError where it cannot."""
    try:
        with _quietly(), torch.no_grad():
            mtq.calibrate(inside, how, (lambda _: pass_samples()) if pass_samples else None)
    except TrtbuildError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(f"ModelOpt cannot calibrate: {lines[0] if lines else type(error).__name__}") from error


def switch_off(inside: Any) -> None:
    """Let a calibrated module answer as the unquantized one again. Pre-quant scales stay, and so do the weights that
    were divided by them: together they change nothing."""
    with _quietly():
        mtq.disable_quantizer(inside, "*")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """What ModelOpt prints goes to the log: standard output is for results."""
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said):
            warnings.simplefilter("ignore")
            yield
    finally:
        if said.getvalue():
            log.debug("modelopt: %s", said.getvalue())


def has_weight_amax(layer: Any, traits: Traits) -> bool:
    """Whether ModelOpt found what a layer needs; for dynamic blocks the weight alone tells."""
    quantizer = getattr(layer, "weight_quantizer", None)
    return quantizer is not None and quantizer.is_enabled and (traits.dynamic or quantizer.amax is not None)


def weight_amax(path: str, layer: Any, traits: Traits) -> Array:
    """float32, as a plan has it: [] per tensor, [out] per output channel, [out, blocks] in blocks and tiles."""
    if traits.dynamic:  # ModelOpt keeps the greatest of all, and finds those of blocks when it exports
        blocks = reduce_block_amax(layer.weight.detach().float(), block_sizes={-1: traits.block})
        return checked(path, "weight amax", blocks)
    amax = checked(path, "weight amax", layer.weight_quantizer.amax)
    if traits.granularity == "tensor":
        return amax.reshape(())
    if traits.granularity == "channel":
        return amax.reshape(-1)
    if traits.granularity == "block":
        return amax.reshape(layer.weight.shape[0], -1)
    out = layer.weight.shape[0]
    tiles = amax.reshape(-(-out // traits.block), -1)  # ModelOpt gives a scalar where there is one tile
    return np.repeat(tiles, traits.block, axis=0)[:out]


def checked(path: str, what: str, tensor: Any) -> Array:
    """The tensor as float32. Raises DataError where it is not finite."""
    array: Array = tensor.detach().float().cpu().numpy()
    if not np.isfinite(array).all():
        raise DataError(f"calibration found a {what} of {path} that is not finite", hint="check samples and weights")
    return array
