"""PyTorch modules: written as ONNX by `torch.export`, and run to know the truth."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from trtbuild.core.errors import DataError, ModelError, TrtbuildError
from trtbuild.core.roles import Exporter
from trtbuild.core.tensor_file import Tensors
from trtbuild.core.tensors import AxisRange, Shapes

log = logging.getLogger(__name__)

EXTERNAL_DATA_BYTES = 1_500_000_000
"""Weights above this go beside the model: a protobuf message ends at 2 GB."""


class PyTorch(Exporter):
    """Exports with `torch.onnx.export(dynamo=True)`. Inputs are passed by name, so names are forward's parameters."""

    def export(self, module: Any, shapes: Shapes, opset: int, target: Path) -> None:
        """Write ONNX at `target`: inputs in the order of `shapes`, outputs by forward's names.

        Output names are the module's `output_names` where it has that attribute, the keys of a dictionary that forward
        returns, else `output`, or `output`, `output_1`, ... Every node carries its module path in the metadata
        `pkg.torch.onnx.name_scopes`. Raises ModelError with the exporter's own reason.
        """
        _check_parameters(module, list(shapes.inputs))
        inputs = example_inputs(shapes)
        moving = {name: axis for name, axis in shapes.axes.items() if axis.min < axis.max}
        ranges = {name: torch.export.Dim(name, min=axis.min, max=axis.max) for name, axis in moving.items()}
        with _quiet():
            try:
                program = _export(module, inputs, _dynamic(shapes, ranges), opset)
            except Exception as error:
                if "onstraints violated" not in str(error):
                    raise _explained(module, inputs, error) from error
                # A length that must be, say, a multiple of 8: then torch.export may find the relation by itself.
                try:
                    program = _export(module, inputs, _dynamic(shapes, {name: name for name in moving}), opset)
                except Exception as again:
                    raise _explained(module, inputs, again) from again
            _name_outputs(program, getattr(module, "output_names", None))
            size = sum(tensor.numel() * tensor.element_size() for tensor in [*module.parameters(), *module.buffers()])
            program.save(target, external_data=size > EXTERNAL_DATA_BYTES)

    def observe(self, module: Any, samples: Iterable[Tensors]) -> Iterator[Tensors]:
        """Yield the module's outputs for each sample: floating tensors in float32, others as they are."""
        for sample in samples:
            _check_parameters(module, list(sample))
            with torch.inference_mode():
                found = module(**{name: torch.from_numpy(array) for name, array in sample.items()})
            tensors = list(found.values()) if isinstance(found, Mapping) else found
            tensors = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
            if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
                raise ModelError(
                    f"{type(module).__name__}.forward returns {', '.join(type(tensor).__name__ for tensor in tensors)}",
                    hint="return a tensor, a tuple of tensors or a dictionary of tensors",
                )
            keys = list(found) if isinstance(found, Mapping) else None
            names = _output_names(getattr(module, "output_names", None), keys, len(tensors))
            yield {
                name: (tensor.float() if tensor.is_floating_point() else tensor).numpy()
                for name, tensor in zip(names, tensors, strict=True)
            }


def example_inputs(shapes: Shapes) -> dict[str, torch.Tensor]:
    """Tensors to trace with: near the `opt` shapes, normal numbers (seeded) for floating inputs, ones for others.

    torch.export takes lengths 0 and 1, and lengths that are equal, for constants of the model; so every moving axis
    gets a length of its own of at least 2, as far as its range allows.
    """
    lengths: dict[str, int] = {}
    for name, axis in shapes.axes.items():
        lengths[name] = _example_length(axis, set(lengths.values()))
    random = torch.Generator().manual_seed(0)
    inputs = {}
    for name, spec in shapes.inputs.items():
        dtype = getattr(torch, spec.dtype)
        shape = [lengths[dim] if isinstance(dim, str) else dim for dim in spec.dims]
        values = torch.randn(shape, generator=random) if dtype.is_floating_point else torch.ones(shape)
        inputs[name] = values.to(dtype)
    return inputs


def _example_length(axis: AxisRange, taken: set[int]) -> int:
    if axis.min == axis.max:
        return axis.max
    steps = range(len(taken) + 2)
    near = [axis.opt + sign * step for step in steps for sign in (1, -1)]
    return next((length for length in near if max(2, axis.min) <= length <= axis.max and length not in taken), axis.max)


def _dynamic(shapes: Shapes, axes: dict[str, Any]) -> dict[str, dict[int, Any]]:
    """For each input, what stands for each of its moving dimensions. An axis of one length only is a constant."""
    return {
        name: {position: axes[dim] for position, dim in enumerate(spec.dims) if isinstance(dim, str) and dim in axes}
        for name, spec in shapes.inputs.items()
    }


def _export(module: Any, inputs: dict[str, torch.Tensor], dynamic: dict[str, dict[int, Any]], opset: int) -> Any:
    return torch.onnx.export(
        module,
        (),
        kwargs=inputs,
        dynamo=True,
        opset_version=opset,
        input_names=list(inputs),
        dynamic_shapes=dynamic,
        verbose=False,
    )


def _name_outputs(program: Any, given: Iterable[str] | None) -> None:
    """Rename the graph's outputs; a value inside that already has such a name gives way."""
    outputs = program.model.graph.outputs
    structure = program.exported_program.call_spec.out_spec
    names = _output_names(given, structure.context if structure.type is dict else None, len(outputs))
    wanted = dict(zip(names, outputs, strict=True))
    for node in program.model.graph:
        for value in node.outputs:
            if value.name in wanted and value is not wanted[value.name]:
                value.name = f"{value.name}_value"
    for name, value in wanted.items():
        if value.is_graph_input():  # renaming it would rename the input
            raise ModelError(f"output {name!r} is the input {value.name!r} itself", hint="leave it out of the outputs")
        value.name = name


def _output_names(given: Iterable[str] | None, keys: Iterable[str] | None, count: int) -> list[str]:
    names = list(given or keys or ["output", *(f"output_{number}" for number in range(1, count))])
    if len(names) != count:
        raise ModelError(f"the model returns {count} tensors, but {len(names)} output names: {', '.join(names)}")
    return names


def _check_parameters(module: Any, names: list[str]) -> None:
    """Raise DataError where forward does not take these inputs by name."""
    parameters = inspect.signature(module.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    if unknown := [name for name in names if name not in parameters]:
        raise DataError(
            f"{type(module).__name__}.forward has no parameter {unknown[0]!r}",
            hint=f"its parameters are {', '.join(parameters)}; inputs in shapes must have these names",
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let PyTorch's exporter talk to the log only."""
    said = io.StringIO()
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx", "torch._dynamo", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        log.debug("torch.onnx.export: %s", said.getvalue())


def _explained(module: Any, inputs: dict[str, torch.Tensor], error: BaseException) -> TrtbuildError:
    """The exporter's essential message, and where in the model the trouble is."""
    root: BaseException = error
    while (cause := root.__cause__ or root.__context__) is not None:
        if isinstance(cause, TrtbuildError):
            return cause
        root = cause
    if isinstance(error, TrtbuildError):
        return error
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    reason = lines[0] if lines else type(root).__name__
    if operator := re.search(r"OpOverload\(op='([\w.]+)'", str(root)):
        reason = f"there is no ONNX operator for {operator[1]}"
        place = _place_of(module, inputs, operator[1])
        hint = "write that part with other operators, or leave it out of the exported model"
    else:
        found = re.findall(r'File "([^"]+)", line (\d+)', str(root))
        place = f" (at {found[-1][0]}:{found[-1][1]})" if found else ""
        hint = "make forward traceable: `torch.export.export(module, (), inputs)` shows the whole trouble"
    return ModelError(f"cannot export {type(module).__name__}: {reason}{place}", hint=hint)


def _place_of(module: Any, inputs: dict[str, torch.Tensor], operator: str) -> str:
    """Module path and source line of the first call of an operator, for an error message; empty where not found."""
    with contextlib.suppress(Exception):
        for node in torch.export.export(module, (), inputs).graph.nodes:
            if str(node.target).startswith(operator):
                paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
                lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace", ""))
                at = f" at {lines[-1][0]}:{lines[-1][1]}" if lines else ""
                return f" (in module {paths[-1] or 'the root'!r}{at})" if paths else at
    return ""
