"""The names of quantization formats."""

from __future__ import annotations

from typing import Literal

Format = Literal["int8", "int8_sq", "w8a16"]
"""`int8`: INT8 weights per output channel, INT8 activations per tensor. `int8_sq`: the same after SmoothQuant.
`w8a16`: INT8 weights per output channel, activations untouched."""

CALIBRATED_FORMATS: frozenset[Format] = frozenset({"int8", "int8_sq"})
"""Formats that quantize activations, and so need samples to calibrate on."""
