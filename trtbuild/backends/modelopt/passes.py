"""Samples on their way through a module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from trtbuild.core.errors import ModelError
from trtbuild.core.tensor_file import Tensors


class Passes:
    """Passes of all samples through the module, in inference mode."""

    def __init__(self, module: Any, samples: Sequence[Tensors]) -> None:
        self.module = module.eval()
        self.rows = 0
        """Rows of the first axis in one pass."""
        self._samples = samples

    def __call__(self) -> None:
        """One pass. Raises ModelError where the module does not take the samples."""
        self.rows = 0
        with plain_attention(), torch.no_grad():
            for sample in self._samples:
                first = next(iter(sample.values()))
                self.rows += int(first.shape[0]) if first.ndim else 1
                try:
                    self.module(**{name: torch.from_numpy(array) for name, array in sample.items()})
                except TypeError as error:
                    raise ModelError(
                        f"{type(self.module).__name__}.forward does not take the samples: {error}",
                        hint=f"samples are passed by name: {', '.join(sample)}",
                    ) from error


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """torch's fused encoder layer calls none of its linears, so no one would see their inputs."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
