"""plugin.yaml as values: what a plugin's operators take and give, and which kernels compute them."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field

from trtbuild.core.values import Value

ElementType = Literal["float32", "float16", "bfloat16", "int8", "float8e4m3fn", "int32", "int64"]
FLOATS: tuple[ElementType, ...] = ("float32", "float16", "bfloat16")
"""What `float` stands for."""

PACKAGE = Path(__file__).parents[1]
FILE = "plugin.yaml"


class Tensor(Value):
    """One input."""

    type: ElementType | Literal["float"] | list[ElementType]
    """Its element type, or those it may have."""
    shape: list[str]
    """A letter for each axis; equal letters are equal lengths."""

    @property
    def types(self) -> tuple[ElementType, ...]:
        """The element types that it may have."""
        if isinstance(self.type, list):
            return tuple(self.type)
        return FLOATS if self.type == "float" else (self.type,)


class Output(Value):
    """One output: like an input, or of a type and shape of its own."""

    like: str | None = None
    """The input whose type and shape it has."""
    same_address: bool = False
    """Whether a runtime should bind it to that input's memory."""
    type: ElementType | None = None
    shape: list[str] = []
    """An expression over the operator's letters for each axis."""


class Attribute(Value):
    """One attribute of a node."""

    type: Literal["float", "int"]
    meaning: str


class Operator(Value):
    """What a node of this name takes and gives; the order is the node's and the kernels'."""

    summary: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Output]
    attributes: dict[str, Attribute]


class Kernel(Value):
    """One kernel of kernel.cu and its variants. All expressions are those of `trtbuild.plugins.expressions`."""

    name: str
    """The entry and the PTX file of a variant, with what it is for in braces."""
    operator: str
    variants: dict[str, list[ElementType] | list[int]] = Field(alias="for")
    """The types of inputs (roles) and the sizes (letters) that it is compiled for, all combinations of them."""
    source: str = "kernel.cu"
    define: dict[str, str | int]
    """The compiler's macros, with what the variant is for in braces; types as C++ calls them."""
    architectures: list[int]
    """Compute capabilities (80 is 8.0) that PTX is made for. A GPU takes the greatest that it reaches."""
    when: str = "True"
    """What sizes must hold, as far as a network fixes them; false where it needs one that is not fixed."""
    integers: list[str]
    """The int32 arguments between inputs and outputs."""
    grid: tuple[str | int, str | int, str | int]
    block: tuple[str | int, str | int, str | int]
    shared_bytes: str | int = 0

    def combinations(self) -> list[dict[str, str | int]]:
        """What each variant is for, by role and letter."""
        return [dict(zip(self.variants, values, strict=True)) for values in product(*self.variants.values())]


class Plugin(Value):
    """One folder of `plugins/`."""

    name: str
    summary: str
    namespace: str
    version: str
    reference: str
    operators: dict[str, Operator]
    kernels: list[Kernel] = []


def shipped_folder() -> Path:
    """The folder of our plugins: beside the package in a checkout, inside it where a wheel was installed."""
    installed = PACKAGE / "_plugins"  # as setup.py maps it
    return installed if installed.is_dir() else PACKAGE.parent / "plugins"


@cache
def shipped() -> dict[str, tuple[Path, Plugin]]:
    """Our plugins by name, each with its folder."""
    files = sorted(shipped_folder().glob(f"*/{FILE}"))
    return {file.parent.name: (file.parent, Plugin.model_validate(yaml.safe_load(file.read_text()))) for file in files}
