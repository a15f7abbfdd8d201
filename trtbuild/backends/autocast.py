"""FP32 to 16 bits by ModelOpt's AutoCast, which keeps in FP32 what would overflow."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.errors import ModelError
from trtbuild.core.roles import Caster
from trtbuild.core.tensor_file import Array, Tensors
from trtbuild.graph import document, external_data, weights_as_inputs
from trtbuild.graph.protobuf import write_model

with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")  # about transformers and Python versions it has not been tested with
    from modelopt.onnx.autocast import convert_to_mixed_precision

log = logging.getLogger(__name__)

GREATEST_FP16 = 65504.0

LARGE_BYTES = 1 << 28
"""From so many bytes of weights on, AutoCast sees the larger ones as inputs: it copies a model six times and more."""


class AutoCast(Caster):
    """Casts with `modelopt.onnx.autocast`. Node names stay; metadata is lost."""

    def cast(
        self,
        model: OnnxModel,
        precision: Literal["fp16", "bf16"],
        keep_io_types: bool,
        target: Path,
        keep_fp32: Sequence[str] = (),
    ) -> None:
        """Write the cast model at `target`, weights beside it where they are large. Raises ModelError.

        Nodes named in `keep_fp32` stay FP32, and those whose weights leave FP16's range. BF16 raises the opset to 22 at
        least.
        """
        if _weight_bytes(model) < LARGE_BYTES:
            onnx.save(_cast(model.main, None, precision, keep_io_types, keep_fp32), target)
            return
        graph = document.load(model.main)
        hidden = weights_as_inputs.hide(graph)
        too_great = [name for name, weight in hidden.items() if _greatest(weight.numpy()) > GREATEST_FP16]
        kept = [node.name for node in graph.graph if any(it and it.name in too_great for it in node.inputs)]
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            small = OnnxModel(Path(scratch))
            document.save(graph, small)
            sample = _sample(graph.graph, hidden)
            cast = ir.from_proto(_cast(small.main, sample, precision, keep_io_types, [*keep_fp32, *filter(None, kept)]))
        weights_as_inputs.show(cast, hidden)
        write_model(cast, target, target.with_name(f"{target.name}.data"), document.INLINE_WEIGHT_BYTES)


def _weight_bytes(model: OnnxModel) -> int:
    """Bytes of the model's file and of what lies beside it; 0 where AutoCast will say that it is no model."""
    try:
        return sum(file.stat().st_size for file in (model.main, *external_data.locations(model.main)))
    except ModelError:
        return 0


def _greatest(weight: Array) -> float:
    return max(float(weight.max()), -float(weight.min()))


def _sample(graph: ir.Graph, hidden: weights_as_inputs.Weights) -> Tensors:
    """What AutoCast runs the model on: the weights themselves, random numbers for inputs, every free length 1."""
    random, found = np.random.default_rng(0), Tensors()
    for value in graph.inputs:
        name = value.name or ""
        if name in hidden:
            found[name] = hidden[name].numpy()
            continue
        assert value.dtype is not None
        shape = [dim if isinstance(dim, int) else 1 for dim in value.shape or ()]
        numbers = random.uniform(-1, 1, shape) if value.dtype.is_floating_point() else random.integers(0, 2, shape)
        found[name] = numbers.astype(value.dtype.numpy())
    return found


def _cast(
    file: Path,
    sample: Tensors | None,
    precision: Literal["fp16", "bf16"],
    keep_io_types: bool,
    keep_fp32: Sequence[str],
) -> onnx.ModelProto:
    """What AutoCast makes of a file. It runs the model on the sample; None lets it take random numbers."""
    said = io.StringIO()
    # AutoCast also logs on the root logger, which would give it a handler of its own where it has none.
    guard = logging.NullHandler()
    logging.getLogger().addHandler(guard)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _let_root_log()
            return convert_to_mixed_precision(
                onnx_path=str(file),
                low_precision_type=precision,
                keep_io_types=keep_io_types,
                # Regular expressions that AutoCast matches at the beginning of a name only.
                nodes_to_exclude=[rf"{re.escape(name)}\Z" for name in keep_fp32],
                calibration_data=sample,
                providers=["cpu"],  # a fresh list: AutoCast writes into its default
            )
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(
            f"AutoCast cannot lower the graph to {precision}: {lines[0] if lines else type(error).__name__}",
            hint="build the variant in fp32, or exclude the part of the model that it names",
        ) from error
    finally:
        logging.getLogger().removeHandler(guard)
        log.debug("autocast: %s", said.getvalue())


def _let_root_log() -> None:
    """Take away the handlers that ModelOpt ties to stdout at import; its messages go to the application's logging."""
    for name in ("modelopt.onnx", "modelopt.onnx.autocast"):
        logger = logging.getLogger(name)
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(logging.WARNING)
