"""Rounding to a small float type in float32 arithmetic: the same numbers, for a processor without that type.

A handful of float operations is exact for a type with a bits of exponent and m of mantissa:

* Above its least normal number, it keeps m + 1 significant bits. Veltkamp's splitting (T. J. Dekker, "A floating-point
  technique for extending the available precision", 1971) rounds a float32 to its leading 24 - s bits: with
  a = (2^s + 1) x, that is a - (a - x); here s = 23 - m.
* Below, it has a fixed step 2^-k: adding and subtracting 1.5 * 2^(23 - k), whose neighbours lie 2^-k apart, rounds to
  it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from trtbuild.core.formats import GREATEST, NumberType
from trtbuild.graph import initializers


@dataclass(frozen=True)
class Grid:
    """The numbers that a float type says."""

    name: str
    number_type: NumberType
    mantissa_bits: int
    least_normal: float

    @property
    def split(self) -> float:
        """Veltkamp's factor."""
        return float(2 ** (23 - self.mantissa_bits) + 1)

    @property
    def magic(self) -> float:
        """A number whose neighbours lie as far apart as the type's least ones."""
        return float(1.5 * 2**23 * self.least_normal / 2**self.mantissa_bits)


E4M3 = Grid("E4M3", "fp8", 3, 2.0**-6)
E2M1 = Grid("E2M1", "fp4", 1, 1.0)
_STEPS = {f".To{grid.name}.": grid.number_type for grid in (E4M3, E2M1)}
"""What stands in the name of each node added, between the name of the node replaced and the step's."""
_RESULTS = ("Codes", "Rounded", "FromFloat")


def rounded_type(node: ir.Node) -> NumberType | None:
    """The type that a node's output was rounded to by such steps, scaled back or not; None where it was not."""
    return _type_in(node) if (node.name or "").endswith(tuple(f".{step}" for step in _RESULTS)) else None


def is_step(node: ir.Node) -> bool:
    """Whether a node is a step of such a rounding."""
    return _type_in(node) is not None


def _type_in(node: ir.Node) -> NumberType | None:
    return next((kind for mark, kind in _STEPS.items() if mark in (node.name or "")), None)


class Steps:
    """Float32 nodes put before another and named after it."""

    def __init__(self, graph: ir.Graph, before: ir.Node, grid: Grid) -> None:
        self.prefix = f"{before.name or before.op_type}.To{grid.name}."
        self._graph, self._before, self._grid = graph, before, grid
        self._constants = f"{before.name or before.op_type}."

    def add(self, op_type: str, *inputs: ir.Value, suffix: str = "", **attributes: int) -> ir.Value:
        """The output of a new node, with the first input's shape."""
        label = f"{self.prefix}{suffix or op_type}"
        output = ir.Value(name=f"{label}:0", type=ir.TensorType(ir.DataType.FLOAT), shape=inputs[0].shape)
        if op_type == "Less":
            output.type = ir.TensorType(ir.DataType.BOOL)
        extra = [ir.AttrInt64(key, number) for key, number in attributes.items()]
        self._graph.insert_before(self._before, ir.Node("", op_type, inputs, extra, outputs=[output], name=label))
        return output

    def number(self, suffix: str, constant: float) -> ir.Value:
        """A float32 constant."""
        return initializers.add(self._graph, f"{self._constants}{suffix}", np.array(constant, np.float32))

    def codes(self, scaled: ir.Value) -> ir.Value:
        """The nearest numbers that the type says, half to even, saturated."""
        greatest = GREATEST[self._grid.number_type]
        scaled = self.add("Clip", scaled, self.number("least", -greatest), self.number("greatest", greatest))
        split = self.add("Mul", scaled, self.number("split", self._grid.split), suffix="Split")
        normal = self.add("Sub", split, self.add("Sub", split, scaled, suffix="Rest"), suffix="Normal")
        magic = self.number("magic", self._grid.magic)
        subnormal = self.add("Sub", self.add("Add", scaled, magic), magic, suffix="Subnormal")
        small = self.add("Less", self.add("Abs", scaled), self.number("least_normal", self._grid.least_normal))
        return self.add("Where", small, subnormal, normal, suffix="Codes")

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """A rounded result in the type of the graph around it."""
        result = self.add("Cast", value, suffix="FromFloat", to=int(dtype))
        result.type = ir.TensorType(dtype)
        return result
