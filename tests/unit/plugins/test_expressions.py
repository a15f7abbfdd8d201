"""Launch expressions: the same value in integers as in any algebra, and nothing but arithmetic gets in."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbuild.plugins.expressions import Algebra, bits, evaluate, holds

SIZES = {"B": 3, "N": 17, "D": 128}


class Symbol:
    """A size that has the operators TensorRT's has, and no others: none reflected."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __add__(self, other: Symbol) -> Symbol:
        return Symbol(self.value + other.value)

    def __sub__(self, other: Symbol) -> Symbol:
        return Symbol(self.value - other.value)

    def __mul__(self, other: Symbol) -> Symbol:
        return Symbol(self.value * other.value)

    def __floordiv__(self, other: Symbol) -> Symbol:
        return Symbol(self.value // other.value)


SYMBOLS = Algebra(
    Symbol,
    {
        "cdiv": lambda a, b: Symbol(-(-a.value // b.value)),
        "min": lambda a, b: Symbol(min(a.value, b.value)),
        "max": lambda a, b: Symbol(max(a.value, b.value)),
    },
)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (7, 7),
        ("B * N + 2", 53),
        ("cdiv(B * N * D, 1024)", 7),
        ("max(1, 264 // (B * N))", 5),
        ("min(B, N) - 1", 2),
        ("multiprocessors * 2", 264),
    ],
)
def test_values(expression: str | int, value: int) -> None:
    names = {**SIZES, "multiprocessors": 132}
    assert evaluate(expression, names) == value
    symbolic = evaluate(expression, {**names, "N": Symbol(17), "B": Symbol(3)}, SYMBOLS)
    assert (symbolic.value if isinstance(symbolic, Symbol) else symbolic) == value


def test_what_is_fixed_is_computed_in_integers_though_another_size_is_not() -> None:
    assert evaluate("cdiv(D, 16) * 2", {"D": 128, "N": Symbol(3)}, SYMBOLS) == 16


@pytest.mark.parametrize(
    ("condition", "true"),
    [
        ("D % 8 == 0 and D <= 256", True),
        ("N == 1 or not B < 3", True),
        ("N > 100", False),
        ("G <= 8", False),  # not known
        ("True", True),
    ],
)
def test_conditions(condition: str, true: bool) -> None:
    assert holds(condition, SIZES) is true


@given(st.floats(width=32, allow_nan=False))
def test_a_float_travels_as_its_bits(number: float) -> None:
    carried = evaluate("bits(scale)", {"scale": number})
    assert -(2**31) <= carried < 2**31
    assert struct.unpack("<f", struct.pack("<i", carried))[0] == number
    assert bits(1.0) == 0x3F800000


@pytest.mark.parametrize("text", ["__import__('os')", "B.__class__", "open(B, N)", "[B]", "'x'", "B ** N", "B < N"])
def test_nothing_else_is_an_expression(text: str) -> None:
    with pytest.raises(ValueError, match="no expression"):
        evaluate(text, SIZES)
