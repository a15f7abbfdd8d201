"""Quantization formats by the field's names, and what each does to a layer: number types, granularity, algorithm.

Everything that depends on a format reads it here: calibration, insertion, legality, coverage, documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Format = Literal[
    "int8",
    "int8_sq",
    "fp8",
    "fp8_pc_pt",
    "fp8_block128",
    "int4",
    "int4_awq",
    "int4_gptq",
    "w8a16",
    "w4a8_awq",
    "nvfp4",
    "mxfp8",
]
"""The formats that a recipe can name. `FORMATS` says what each is."""

NumberType = Literal["int8", "int4", "fp8", "fp4"]
"""`fp8` is E4M3 (OCP 8-bit floating point, finite, greatest 448), `fp4` is E2M1."""

Granularity = Literal["tensor", "channel", "block", "tile"]
"""How many numbers of a weight [out, in] share a scale: all; a row; `block` neighbours of a row; a square of
`block` x `block`."""

Algorithm = Literal["max", "smoothquant", "awq", "gptq"]


@dataclass(frozen=True)
class Traits:
    """What a format does to one layer."""

    weight: NumberType
    granularity: Granularity
    activation: NumberType | None
    """The type of the layer's input, one static scale per tensor unless `dynamic`; None where it is left alone."""
    algorithm: Algorithm
    meaning: str
    """One sentence for people."""
    block: int = 0
    """Weights per scale where the format fixes it; 0 where there are no blocks, or `block_size` says."""

    @property
    def dynamic(self) -> bool:
        """Whether inputs are scaled in blocks while the engine runs, as the weights were beforehand."""
        return self.granularity == "block" and self.activation == self.weight

    @property
    def static_activation(self) -> NumberType | None:
        """The type of the layer's input where one calibrated scale stands for the tensor."""
        return None if self.dynamic else self.activation

    @property
    def needs_input_range(self) -> bool:
        """Whether calibration finds the range of a layer's input. NVFP4's block scales are FP8, and the tensor's range
        keeps them in what FP8 says; MXFP8's are powers of two and reach everything."""
        return self.activation is not None and not (self.dynamic and self.weight == "fp8")

    @property
    def needs_samples(self) -> bool:
        """Whether calibration must run the model."""
        return self.needs_input_range or self.algorithm != "max"


FORMATS: dict[Format, Traits] = {
    "int8": Traits("int8", "channel", "int8", "max", "INT8 weights per output channel, INT8 activations per tensor"),
    "int8_sq": Traits("int8", "channel", "int8", "smoothquant", "INT8 weights and activations after SmoothQuant"),
    "fp8": Traits("fp8", "tensor", "fp8", "max", "FP8 weights and activations per tensor"),
    "fp8_pc_pt": Traits(
        "fp8", "channel", "fp8", "max", "FP8 weights per output channel; activations per tensor instead of per token"
    ),
    "fp8_block128": Traits(
        "fp8", "tile", None, "max", "FP8 weights in 128 x 128 tiles, activations untouched", block=128
    ),
    "int4": Traits("int4", "block", None, "max", "INT4 weights in blocks, rounded to nearest"),
    "int4_awq": Traits("int4", "block", None, "awq", "INT4 weights in blocks after activation-aware scaling"),
    "int4_gptq": Traits("int4", "block", None, "gptq", "INT4 weights in blocks, rounding errors compensated"),
    "w8a16": Traits("int8", "channel", None, "max", "INT8 weights per output channel, activations untouched"),
    "w4a8_awq": Traits("int4", "block", "fp8", "awq", "INT4 weights in blocks, FP8 activations per tensor"),
    "nvfp4": Traits("fp4", "block", "fp4", "max", "FP4 weights and inputs in blocks of 16 with FP8 scales", block=16),
    "mxfp8": Traits("fp8", "block", "fp8", "max", "FP8 weights and inputs in blocks of 32 scaled by 2^e", block=32),
}

CALIBRATED_FORMATS: frozenset[Format] = frozenset(name for name, traits in FORMATS.items() if traits.needs_samples)
"""Formats that need samples to calibrate on."""

GREATEST: dict[NumberType, float] = {"int8": 127.0, "int4": 7.0, "fp8": 448.0, "fp4": 6.0}
"""The greatest magnitude that each type spells; scale = amax / greatest. The one code below -127 or -7 stays unused
in weights, so that zero is exact and negation never overflows."""
