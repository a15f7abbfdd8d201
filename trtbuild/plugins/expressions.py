"""Grids and integers as text over a launch's sizes: `cdiv(B * H * N * D, 1024)`.

One text serves three readers: tests and benchmarks evaluate it in integers; TensorRT gets the same as a symbolic
expression of its own where a size is dynamic. So it knows only what both know: + - * // cdiv, min and max, and `bits`
of an attribute. Conditions are over integers alone and also know %, comparisons, and, or, not.
"""

from __future__ import annotations

import ast
import operator
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Algebra(NamedTuple):
    """How to compute with sizes that are not integers."""

    lift: Callable[[int], Any]
    """An integer as such a size."""
    functions: Mapping[str, Callable[[Any, Any], Any]]
    """`cdiv`, `min` and `max`."""


def _no_symbols(_: int) -> Any:
    raise TypeError("a size that is no integer needs an algebra")


INTEGERS = Algebra(_no_symbols, {"cdiv": lambda a, b: -(-a // b), "min": min, "max": max})
"""Plain integers."""

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,  # of integers: symbols have none
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def evaluate(expression: str | int, sizes: Mapping[str, Any], symbols: Algebra = INTEGERS) -> Any:
    """An expression's value: an int where all that it names are ints, else one of `symbols`.

    Raises KeyError for a name that `sizes` lacks, ValueError for what is no expression.
    """
    return _value(ast.parse(str(expression), mode="eval").body, sizes, symbols)


def holds(condition: str, sizes: Mapping[str, int]) -> bool:
    """Whether a condition is true; it is not where it needs a size that is not known."""
    try:
        return _truth(ast.parse(condition, mode="eval").body, sizes)
    except KeyError:
        return False


def bits(number: float) -> int:
    """A float32's bits as an int32: how a kernel whose only scalars are integers is given a float."""
    return int(struct.unpack("<i", struct.pack("<f", number))[0])


def _value(node: ast.expr, sizes: Mapping[str, Any], symbols: Algebra) -> Any:
    match node:
        case ast.Constant(value=int() as number):
            return number
        case ast.Name(id=name):
            return sizes[name]
        case ast.BinOp(left, kind, right) if type(kind) in _ARITHMETIC:
            return _ARITHMETIC[type(kind)](*_alike(left, right, sizes, symbols))
        case ast.Call(ast.Name("bits"), [argument], []):
            return bits(_value(argument, sizes, symbols))
        case ast.Call(ast.Name(name), [left, right], []) if name in INTEGERS.functions:
            a, b = _alike(left, right, sizes, symbols)
            return (INTEGERS if isinstance(a, int) else symbols).functions[name](a, b)
    raise ValueError(f"{ast.unparse(node)!r} is no expression over sizes")


def _truth(node: ast.expr, sizes: Mapping[str, int]) -> bool:
    match node:
        case ast.Constant(value=bool() as known):
            return known
        case ast.Compare(left, [kind], [right]):
            return _COMPARISONS[type(kind)](_value(left, sizes, INTEGERS), _value(right, sizes, INTEGERS))
        case ast.BoolOp(ast.And(), parts):
            return all(_truth(part, sizes) for part in parts)
        case ast.BoolOp(ast.Or(), parts):
            return any(_truth(part, sizes) for part in parts)
        case ast.UnaryOp(ast.Not(), part):
            return not _truth(part, sizes)
    raise ValueError(f"{ast.unparse(node)!r} is no condition over sizes")


def _alike(left: ast.expr, right: ast.expr, sizes: Mapping[str, Any], symbols: Algebra) -> tuple[Any, Any]:
    """Both values, as integers or, where either is none, as symbols: those have no reflected operators."""
    values = _value(left, sizes, symbols), _value(right, sizes, symbols)
    if all(isinstance(value, int) for value in values):
        return values
    a, b = (symbols.lift(value) if isinstance(value, int) else value for value in values)
    return a, b
