"""What the inputs of layers looked like on the samples: their greatest magnitudes, and whatever else is asked for."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

import torch

from trtbuild.backends.modelopt.layers import is_linear
from trtbuild.core.errors import DataError


class Statistic(Protocol):
    """Something that is summed up over tensors."""

    def add(self, x: torch.Tensor) -> None:
        """Take one more input into account."""


StatisticT = TypeVar("StatisticT", bound=Statistic)


class Inputs(Generic[StatisticT]):
    """Facts by module path. A layer that no sample reaches has none."""

    def __init__(self, statistic: Callable[[], StatisticT] | None = None) -> None:
        self.amax: dict[str, torch.Tensor] = {}
        """float32: greatest |x| of each input channel [in] of a linear, [] of a convolution."""
        self.statistics: dict[str, StatisticT] = {}
        self.together: list[list[str]] = []
        """Layers that were given the very same tensor when first called, in the order of execution."""
        self._tensors: list[tuple[weakref.ref[torch.Tensor], list[str]]] = []
        self._statistic = statistic

    @contextlib.contextmanager
    def watching(self, layers: dict[str, Any]) -> Iterator[None]:
        """Look at the input of each call of these layers. Raises DataError out of the model's forward where an input is
        not finite; since calls come in the order of execution, it names the first such layer."""
        handles = [
            layer.register_forward_pre_hook(self._hook(path, layer), with_kwargs=True) for path, layer in layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def unseen(self, path: str) -> str:
        """Why the samples say nothing about a layer; empty where they do."""
        if path not in self.amax:
            return "no calibration sample reached it"
        return "" if self.amax[path].any() else "its input was zero in every calibration sample"

    def _hook(self, path: str, layer: Any) -> Any:
        linear = is_linear(layer)

        def look(_: Any, inputs: tuple[Any, ...], by_name: dict[str, Any]) -> None:
            x: torch.Tensor = (inputs or tuple(by_name.values()))[0].detach()
            if not x.numel():  # an expert that got no token
                return
            magnitude = x.abs()
            amax = (magnitude.flatten(0, -2).amax(0) if linear and x.ndim > 1 else magnitude).float()
            amax = amax if linear else amax.amax()
            if not torch.isfinite(amax).all():
                raise DataError(
                    f"the input of {path} holds NaN or infinity on calibration samples",
                    hint="check the samples, and that the model runs in FP32 on them",
                )
            if path not in self.amax:
                self._group(path, (inputs or tuple(by_name.values()))[0])
            self.amax[path] = torch.maximum(self.amax[path], amax) if path in self.amax else amax
            if self._statistic:
                if path not in self.statistics:
                    self.statistics[path] = self._statistic()
                self.statistics[path].add(x)

        return look

    def _group(self, path: str, x: torch.Tensor) -> None:
        self._tensors = [known for known in self._tensors if known[0]() is not None]
        group = next((group for tensor, group in self._tensors if tensor() is x), None)
        if group is None:
            group = []
            self.together.append(group)
            self._tensors.append((weakref.ref(x), group))
        group.append(path)
