"""The ranges of shapes that an engine takes: TensorRT's optimization profiles, from the recipe's `shapes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtbuild.core.errors import ModelError, RecipeError
from trtbuild.core.tensors import AxisRange, Shapes

if TYPE_CHECKING:
    import tensorrt

Shape = tuple[int, ...]
Range = tuple[Shape, Shape, Shape]
"""The least, usual and greatest shape of one input."""


@dataclass(frozen=True)
class Profile:
    """One optimization profile: a range for each input."""

    name: str
    ranges: dict[str, Range]

    def misfit(self, shapes: Mapping[str, Shape]) -> str | None:
        """Why inputs of these shapes are outside, in words; None where all are inside."""
        for name, (least, _, greatest) in self.ranges.items():
            shape = shapes[name]
            inside = len(shape) == len(least) and all(
                low <= length <= high for low, length, high in zip(least, shape, greatest, strict=True)
            )
            if not inside:
                return f"{name} is {list(shape)}, {self.name} takes {list(least)} to {list(greatest)}"
        return None


def profiles_of(shapes: Shapes, further: Mapping[str, Mapping[str, AxisRange]]) -> list[Profile]:
    """The profiles to build: that of `shapes`, or the `further` ones, each narrowing some axes.

    Raises RecipeError where one names an unknown axis, or leaves the range that `shapes` allows.
    """
    if not further:
        return [_profile("shapes", shapes)]
    for name, axes in further.items():
        for axis, narrowed in axes.items():
            whole = shapes.axes.get(axis)
            if whole is None:
                raise RecipeError(
                    f"engine.profiles.{name}: there is no axis {axis!r}",
                    hint=f"shapes.axes declares {', '.join(shapes.axes) or 'none'}",
                )
            if narrowed.min < whole.min or narrowed.max > whole.max:
                raise RecipeError(
                    f"engine.profiles.{name}: {axis} of {narrowed.min} to {narrowed.max} leaves the recipe's range, "
                    f"{whole.min} to {whole.max}",
                    hint=f"narrow it, or widen shapes.axes.{axis}",
                )
    return [
        _profile(name, shapes.model_copy(update={"axes": {**shapes.axes, **axes}})) for name, axes in further.items()
    ]


def add_profiles(
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    profiles: Sequence[Profile],
) -> None:
    """Give the builder's configuration these profiles.

    Raises ModelError where the network takes other inputs than they have, or an input whose values decide shapes.
    """
    inputs = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        inputs[tensor.name] = tensor
    declared = profiles[0].ranges
    if inputs.keys() != declared.keys():
        raise ModelError(
            f"the network takes {', '.join(inputs) or 'nothing'}, the recipe declares {', '.join(declared)}",
            hint="correct shapes.inputs in the recipe",
        )
    for name, tensor in inputs.items():
        if tensor.is_shape_tensor:
            raise ModelError(
                f"the values of input {name!r} decide the shapes of other tensors, which trtbuild cannot give a range",
                hint="make it a constant of the model, or take the lengths from another input's shape",
            )
    for ranges in profiles:
        profile = builder.create_optimization_profile()
        for name, (least, usual, greatest) in ranges.ranges.items():
            profile.set_shape(name, least, usual, greatest)
        if config.add_optimization_profile(profile) < 0:
            raise ModelError(
                f"TensorRT refuses the optimization profile {ranges.name}: {ranges.ranges}",
                hint="check that the graph's fixed dimensions are those of shapes.inputs",
            )


def fitting(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> int:
    """The index of the first profile that takes inputs of these shapes. Raises ModelError where none does."""
    misfits = []
    for index, profile in enumerate(profiles):
        misfit = profile.misfit(shapes)
        if misfit is None:
            return index
        misfits.append(misfit)
    raise ModelError(
        f"no optimization profile of the engine takes these inputs: {'; '.join(misfits)}",
        hint="feed shapes inside the range, or widen shapes.axes and build again",
    )


def _profile(name: str, shapes: Shapes) -> Profile:
    least, usual, greatest = (shapes.at(which) for which in ("min", "opt", "max"))
    return Profile(name, {each: (least[each], usual[each], greatest[each]) for each in shapes.inputs})
