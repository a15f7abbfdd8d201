"""Ranges of shapes, and which of them takes which inputs."""

from __future__ import annotations

import pytest

from trtbuild.backends.tensorrt.profiles import fitting, profiles_of
from trtbuild.core.errors import ModelError, RecipeError
from trtbuild.core.tensors import AxisRange, Shapes

SHAPES = Shapes(
    inputs={
        "ids": {"dtype": "int64", "dims": ["batch", "sequence"]},
        "bias": {"dtype": "float32", "dims": ["batch", 4]},
    },
    axes={"batch": {"min": 1, "opt": 8, "max": 16}, "sequence": {"min": 1, "opt": 128, "max": 512}},
)
ONE = AxisRange(min=1, opt=1, max=1)


def test_without_further_ones_there_is_the_range_of_the_shapes() -> None:
    (profile,) = profiles_of(SHAPES, {})
    assert profile.ranges == {"ids": ((1, 1), (8, 128), (16, 512)), "bias": ((1, 4), (8, 4), (16, 4))}


def test_a_further_profile_narrows_the_axes_it_names() -> None:
    decode, prefill = profiles_of(SHAPES, {"decode": {"sequence": ONE}, "prefill": {"batch": ONE}})
    assert decode.ranges["ids"] == ((1, 1), (8, 1), (16, 1))
    assert prefill.ranges == {"ids": ((1, 1), (1, 128), (1, 512)), "bias": ((1, 4), (1, 4), (1, 4))}


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"heads": ONE}, "there is no axis 'heads'"),
        ({"batch": AxisRange(min=1, opt=8, max=32)}, "batch of 1 to 32 leaves the recipe's range, 1 to 16"),
    ],
)
def test_a_profile_outside_the_shapes_is_refused(axes: dict, said: str) -> None:
    with pytest.raises(RecipeError, match=f"engine.profiles.wide: {said}"):
        profiles_of(SHAPES, {"wide": axes})


def test_a_call_takes_the_first_profile_that_holds_it() -> None:
    profiles = profiles_of(SHAPES, {"decode": {"sequence": ONE}, "prefill": {"batch": ONE}})
    assert fitting(profiles, {"ids": (16, 1), "bias": (16, 4)}) == 0
    assert fitting(profiles, {"ids": (1, 1), "bias": (1, 4)}) == 0
    assert fitting(profiles, {"ids": (1, 512), "bias": (1, 4)}) == 1
    with pytest.raises(ModelError, match=r"decode takes \[1, 1\] to \[16, 1\]; ids is \[2, 2\], prefill takes"):
        fitting(profiles, {"ids": (2, 2), "bias": (2, 4)})
    with pytest.raises(ModelError, match=r"bias is \[1, 5\]"):
        fitting(profiles, {"ids": (1, 1), "bias": (1, 5)})
