"""Tensors by name: the one `shapes:` declaration that export, profiles, samples and serving read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trtbuild.core.values import Value

DType = Literal["float32", "float16", "bfloat16", "float8e4m3fn", "int64", "int32", "int8", "uint8", "bool"]


class AxisRange(Value):
    """How long a dynamic axis may be: the least, the usual and the greatest length."""

    min: int = Field(ge=1)
    """The least length the engine must accept."""
    opt: int = Field(ge=1)
    """The length to optimize and measure for."""
    max: int = Field(ge=1)
    """The greatest length the engine must accept."""

    @model_validator(mode="after")
    def _ordered(self) -> AxisRange:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"needs min <= opt <= max, got {self.min}, {self.opt}, {self.max}")
        return self


class TensorSpec(Value):
    """One input tensor: its element type and its dimensions, fixed lengths or names of axes."""

    dtype: DType
    """Element type, as numpy spells it."""
    dims: list[int | str]
    """Each dimension: a fixed length, or the name of an axis in `shapes.axes`."""

    @property
    def numpy_dtype(self) -> str:
        """How numpy holds it, which has no FP8: those codes travel as the bytes they are."""
        return "uint8" if self.dtype == "float8e4m3fn" else self.dtype


class Shapes(Value):
    """Every input of the model, and the range of every axis that moves."""

    inputs: dict[str, TensorSpec] = Field(min_length=1)
    """Inputs by name, in the order in which the model takes them."""
    axes: dict[str, AxisRange] = {}
    """Dynamic axes by name; inputs that share an axis name always share its length."""

    @model_validator(mode="after")
    def _axes_declared(self) -> Shapes:
        for name, spec in self.inputs.items():
            for dim in spec.dims:
                if isinstance(dim, str) and dim not in self.axes:
                    known = ", ".join(self.axes) or "none"
                    raise ValueError(
                        f"input {name!r} uses axis {dim!r}, which axes does not declare (declared: {known})"
                    )
        return self

    def at(self, which: Literal["min", "opt", "max"]) -> dict[str, tuple[int, ...]]:
        """The shape of every input with each axis at its `min`, `opt` or `max`."""
        return {
            name: tuple(dim if isinstance(dim, int) else int(getattr(self.axes[dim], which)) for dim in spec.dims)
            for name, spec in self.inputs.items()
        }

    def misfit(self, name: str, dtype: str, shape: tuple[int, ...]) -> str | None:
        """Why an array cannot be input `name`, in words, or None where it fits."""
        spec = self.inputs.get(name)
        if spec is None:
            return f"there is no input {name!r}; the recipe declares {', '.join(self.inputs)}"
        if dtype != spec.dtype:
            return f"{name} is {dtype}, the recipe declares {spec.dtype}"
        if len(shape) != len(spec.dims):
            return f"{name} has shape {list(shape)}, the recipe declares {len(spec.dims)} dimensions {spec.dims}"
        for length, dim in zip(shape, spec.dims, strict=True):
            if isinstance(dim, int) and length != dim:
                return f"{name} has shape {list(shape)}, the recipe declares {spec.dims}"
            if isinstance(dim, str):
                axis = self.axes[dim]
                if not axis.min <= length <= axis.max:
                    return f"{name}: axis {dim} is {length}, the recipe allows {axis.min} to {axis.max}"
        return None
