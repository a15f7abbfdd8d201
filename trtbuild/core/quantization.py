"""The quantization plan: what calibration decided for each module, and its file.

Calibration writes it, insertion reads it, so a plan can be cut down and inserted again without calibrating again.
`plan.json` holds formats and reasons, `plan.safetensors` the numbers, keyed `module:field`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields

import ml_dtypes
import numpy as np

from trtbuild.core.artifacts import QuantizationPlan
from trtbuild.core.errors import DataError
from trtbuild.core.formats import Algorithm, Format, NumberType
from trtbuild.core.kv_cache import LayerRanges
from trtbuild.core.tensor_file import Array, read_tensors, write_tensors


@dataclass(frozen=True)
class ModuleQuantization:
    """The numbers of one module with weight W: [out, in] of a linear, [out, in / groups, *kernel] of a convolution."""

    format: Format
    weight_amax: Array
    """float32, greatest |W| of what shares a scale, after `pre_quant_scale` was moved into W; scale = amax / the
    type's greatest number. [] per tensor, [out] per output channel, [out, ceil(in / block_size)] in blocks (a square
    tile's number stands in each of its rows)."""
    input_amax: Array | None = None
    """[] float32: greatest |x| of the (smoothed) input. None where activations stay as they are."""
    pre_quant_scale: Array | None = None
    """[in] float32: SmoothQuant's 1/s (Xiao et al. 2022, eq. 4) or AWQ's (Lin et al. 2023): x is multiplied by it, W's
    columns divided."""
    input_channel_amax: Array | None = None
    """[in] float32: greatest |x| per input channel before smoothing; lets consumers of one tensor share a scale."""
    weight_codes: Array | None = None
    """[out, in] int8: the codes to write, where an algorithm chose them (GPTQ, training); None to round W. Integers as
    they are, FP8 numbers by their bits."""
    block_size: int = 0
    """Neighbouring inputs that share a weight scale; 0 where scales are not in blocks."""


def shared_scale(scales: Array, algorithm: Algorithm) -> Array:
    """One pre-quant scale [in] for layers that read one tensor, of theirs [layers, in].

    SmoothQuant as if it had seen the weights stacked: 1/s = max|W|^(1-a) / max|x|^a per channel, so the greatest weight
    gives the greatest of the scales. AWQ searched each scale by itself, and gets their mean, as in ModelOpt's export.
    """
    return np.asarray(scales.mean(axis=0) if algorithm == "awq" else scales.max(axis=0))


def codes_of(values: Array, kind: NumberType) -> Array:
    """Numbers that a type can say, as int8 codes of the same shape."""
    if kind != "fp8":
        return values.astype(np.int8)
    return np.asarray(values.astype(ml_dtypes.float8_e4m3fn).view(np.int8))


def values_of(codes: Array, kind: NumberType) -> Array:
    """What int8 codes say, float32; the scale is still to be multiplied with."""
    said = np.ascontiguousarray(codes).view(ml_dtypes.float8_e4m3fn) if kind == "fp8" else codes
    return np.asarray(said).astype(np.float32)


@dataclass(frozen=True)
class Plan:
    """The plan of a whole model."""

    modules: dict[str, ModuleQuantization]
    """By module path."""
    kept_high: dict[str, str] = field(default_factory=dict)
    """Modules that were left alone, with the reason."""
    classes: dict[str, str] = field(default_factory=dict)
    """Class of each module, quantized or not: `Linear`, `Conv2d`, or an ONNX operator."""
    samples: int = 0
    """Rows of the first axis that calibration saw."""
    cache: dict[int, LayerRanges] = field(default_factory=dict)
    """By layer of a decoder, how far keys and values reach: what static scales of its cache are made of."""

    def write(self, artifact: QuantizationPlan) -> None:
        """Write into an artifact's folder."""
        tensors = {
            f"{module}:{name}": np.asarray(value, dtype=np.int8 if name == "weight_codes" else np.float32)
            for module, numbers in self.modules.items()
            for name in _TENSORS
            if (value := getattr(numbers, name)) is not None
        }
        facts = {
            "modules": {
                module: {"format": numbers.format, "block_size": numbers.block_size}
                for module, numbers in self.modules.items()
            },
            "kept_high": self.kept_high,
            "classes": self.classes,
            "samples": self.samples,
            "cache": {str(layer): ranges.model_dump() for layer, ranges in self.cache.items()},
        }
        artifact.main.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
        write_tensors(artifact.path / "plan.safetensors", tensors)

    @classmethod
    def read(cls, artifact: QuantizationPlan) -> Plan:
        """Read from an artifact's folder. Raises DataError where it is damaged."""
        try:
            facts = json.loads(artifact.main.read_text())
            cache = {int(layer): LayerRanges.model_validate(ranges) for layer, ranges in facts.get("cache", {}).items()}
        except (OSError, ValueError) as error:
            raise DataError(f"{artifact.main}: not a quantization plan: {error}") from error
        tensors = read_tensors(artifact.path / "plan.safetensors")
        modules = {
            module: ModuleQuantization(
                format=settings["format"],
                block_size=settings["block_size"],
                **{name: tensors[f"{module}:{name}"] for name in _TENSORS if f"{module}:{name}" in tensors},
            )
            for module, settings in facts["modules"].items()
        }
        return cls(
            modules=modules,
            kept_high=facts["kept_high"],
            classes=facts["classes"],
            samples=facts["samples"],
            cache=cache,
        )


_TENSORS = [entry.name for entry in fields(ModuleQuantization) if entry.name not in ("format", "block_size")]
