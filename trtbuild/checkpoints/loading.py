"""Tensors by name into a module, one after the other, and the first ten differences where they do not fit."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from trtbuild.checkpoints.opening import open_checkpoint
from trtbuild.checkpoints.reading import Checkpoint
from trtbuild.checkpoints.weight_norm import fold_weight_norm
from trtbuild.core.errors import ModelError

TOLD = 10
"""Differences that an error names."""


def load_checkpoint(
    module: Any,
    place: str | Path | Sequence[str] | Checkpoint,
    *,
    inside: str = "",
    rename: Callable[[str], str | None] = lambda name: name,
    ignore: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> Any:
    """Load a checkpoint's weights into a `torch.nn.Module`, in the module's own types, and return it for inference.

    The names are the module's own, after `rename`, which leaves a tensor out by returning None. `ignore` are patterns
    (`*`, `?`) of tensors in the checkpoint that the module does not need, `optional` of tensors of the module that may
    stay as they are. A weight that was saved by weight normalization becomes plain. Parameters on PyTorch's `meta`
    device take the checkpoint's tensors as they are, so that nothing is allocated twice.

    Weights that are quantized in the checkpoint come as the floats that they say, and each layer that has one can tell
    its codes: `checkpoint_codes` of it, a function that reads them.

    Raises ModelError where the checkpoint cannot be read, or names or shapes differ: it names the first ten.
    """
    found = place if isinstance(place, Checkpoint) else open_checkpoint(place, inside=inside)
    found = fold_weight_norm(found).renamed(rename)
    wanted = dict(_tensors(module))
    missing = [name for name in wanted if name not in found and not _matches(name, optional)]
    extra = [name for name in found if name not in wanted and not _matches(name, ignore)]
    shared = [name for name in wanted if name in found]
    differences = [*(f"missing {name}" for name in missing), *(f"extra {name}" for name in extra)]
    if not differences:
        shapes = ((name, tuple(found[name].shape), tuple(wanted[name].shape)) for name in shared)
        differences = [f"{name} is {has}, the module has {needs}" for name, has, needs in shapes if has != needs]
    if differences:
        raise ModelError(
            _sentence(found.place, type(module).__name__, differences, len(shared)), hint=_hint(differences)
        )
    with torch.no_grad():
        for name in shared:
            _assign(module, name, found[name], wanted[name])
            if name in found.quantized:
                module.get_submodule(name.rpartition(".")[0]).checkpoint_codes = found.quantized[name]
    if empty := [name for name, tensor in _tensors(module) if tensor.is_meta]:
        raise ModelError(f"{found.place} has no {empty[0]}, and the module was made without weights")
    return module.eval()


def _tensors(module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and those buffers that a state_dict has."""
    yield from module.state_dict(keep_vars=True).items()


def _assign(module: Any, name: str, tensor: torch.Tensor, into: torch.Tensor) -> None:
    if not into.is_meta:
        into.copy_(tensor)
        return
    owner, _, last = name.rpartition(".")
    place = module.get_submodule(owner)
    value = tensor.to(into.dtype)
    if last in place._parameters:
        place._parameters[last] = torch.nn.Parameter(value, requires_grad=False)
    else:
        place._buffers[last] = value


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _sentence(place: Path, kind: str, differences: Sequence[str], shared: int) -> str:
    more = f", and {len(differences) - TOLD} more" if len(differences) > TOLD else ""
    return f"{place} does not fit {kind} ({shared} tensors do): {'; '.join(differences[:TOLD])}{more}"


def _hint(differences: Sequence[str]) -> str:
    if any(" is (" in each for each in differences):
        return "the checkpoint is of another size: set the module's configuration to the checkpoint's"
    return "name the checkpoint of this very model, or list what it may lack or add (optional, ignore)"
