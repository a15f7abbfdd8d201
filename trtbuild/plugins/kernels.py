"""The variants of each kernel: which one fits an operator's types and sizes, where its PTX is, how it is launched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trtbuild.core.errors import ModelError
from trtbuild.plugins.declaration import Kernel, Operator, Plugin, shipped
from trtbuild.plugins.expressions import INTEGERS, Algebra, evaluate, holds

C_TYPES = {
    "float32": "float",
    "float16": "__half",
    "bfloat16": "__nv_bfloat16",
    "int8": "int8_t",
    "float8e4m3fn": "uint8_t",  # its bytes: kernels convert them themselves
    "int32": "int32_t",
    "int64": "int64_t",
}


@dataclass(frozen=True)
class Launch:
    """One launch. Numbers are ints, or symbols where a size is one."""

    grid: tuple[Any, Any, Any]
    block: tuple[Any, Any, Any]
    shared_bytes: Any
    integers: tuple[Any, ...]
    """The int32 arguments between the pointers of inputs and those of outputs."""


@dataclass(frozen=True)
class Variant:
    """One kernel, compiled for one combination of types and sizes."""

    folder: Path
    kernel: Kernel
    given: Mapping[str, str | int]
    """What it is for: element types by role, sizes by letter."""

    @property
    def name(self) -> str:
        """Its entry in the PTX, and the file's name."""
        return self.kernel.name.format(**self.given)

    @property
    def macros(self) -> dict[str, str]:
        """The compiler's macros."""
        spelled = {key: C_TYPES.get(str(value), value) for key, value in self.given.items()}
        return {"KERNEL": self.name} | {key: str(value).format(**spelled) for key, value in self.kernel.define.items()}

    def ptx(self, architecture: int) -> Path:
        """The shipped PTX for a compute capability that the kernel lists."""
        return self.folder / "ptx" / f"{self.name}.sm_{architecture}.ptx"

    def architecture(self, capability: int) -> int | None:
        """The greatest architecture of its PTX that a GPU of this compute capability (90 is 9.0) runs, if any."""
        return max((known for known in self.kernel.architectures if known <= capability), default=None)

    def fits(self, types: Mapping[str, str], sizes: Mapping[str, int]) -> bool:
        """Whether it is for these element types, by role, and these sizes, as far as they are fixed."""
        have = {**types, **sizes}
        return all(have.get(key) == value for key, value in self.given.items()) and holds(self.kernel.when, sizes)

    def launch(
        self, sizes: Mapping[str, Any], attributes: Mapping[str, Any], multiprocessors: int, symbols: Algebra = INTEGERS
    ) -> Launch:
        """How to launch it for these sizes (by letter) on a GPU with so many multiprocessors."""
        names = {**sizes, **attributes, "multiprocessors": multiprocessors}

        def value(expression: str | int) -> Any:
            return evaluate(expression, names, symbols)

        x, y, z = (value(part) for part in self.kernel.grid)
        block_x, block_y, block_z = (value(part) for part in self.kernel.block)
        return Launch(
            (x, y, z),
            (block_x, block_y, block_z),
            value(self.kernel.shared_bytes),
            tuple(value(part) for part in self.kernel.integers),
        )


@cache
def variants() -> tuple[Variant, ...]:
    """Every variant of every shipped plugin, in the order of choice."""
    return tuple(
        Variant(folder, kernel, given)
        for folder, plugin in shipped().values()
        for kernel in plugin.kernels
        for given in kernel.combinations()
    )


def operators() -> dict[str, tuple[Plugin, Operator]]:
    """Every operator that has a kernel, by name."""
    return {
        name: (plugin, operator)
        for _, plugin in shipped().values()
        for name, operator in plugin.operators.items()
        if any(kernel.operator == name for kernel in plugin.kernels)
    }


def choose(operator: str, types: Mapping[str, str], sizes: Mapping[str, int], capability: int) -> Variant:
    """The first variant for these types (by role) and fixed sizes (by letter) that a GPU of this capability runs.

    Raises ModelError where there is none.
    """
    fitting = [each for each in variants() if each.kernel.operator == operator and each.fits(types, sizes)]
    for variant in fitting:
        if variant.architecture(capability) is not None:
            return variant
    if fitting:
        least = min(architecture for each in fitting for architecture in each.kernel.architectures)
        raise ModelError(
            f"the plugin {operator} needs a GPU of compute capability {least / 10} for these types, this one has "
            f"{capability / 10}",
            hint="keep the cache in another type",
        )
    of = ", ".join([f"{role} {name}" for role, name in types.items()] + [f"{key} = {n}" for key, n in sizes.items()])
    raise ModelError(
        f"the plugin {operator} has no kernel for {of}",
        hint="plugins/README.md lists what there are kernels for; ONNX Runtime takes every type and size",
    )
