"""FP32 to 16 bits by ModelOpt's AutoCast, which keeps in FP32 what would overflow."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import onnx

from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.errors import ModelError
from trtbuild.core.roles import Caster

with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")  # about transformers and Python versions it has not been tested with
    from modelopt.onnx.autocast import convert_to_mixed_precision

log = logging.getLogger(__name__)

EXTERNAL_DATA_BYTES = 1_500_000_000
"""Weights above this go beside the model: a protobuf message ends at 2 GB."""


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

        Nodes named in `keep_fp32` stay FP32, and those whose weights leave the 16-bit type's range. BF16 raises the
        opset to 22 at least.
        """
        said = io.StringIO()
        # AutoCast also logs on the root logger, which would give it a handler of its own where it has none.
        guard = logging.NullHandler()
        logging.getLogger().addHandler(guard)
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _let_root_log()
                cast = convert_to_mixed_precision(
                    onnx_path=str(model.main),
                    low_precision_type=precision,
                    keep_io_types=keep_io_types,
                    # Regular expressions that AutoCast matches at the beginning of a name only.
                    nodes_to_exclude=[rf"{re.escape(name)}\Z" for name in keep_fp32],
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
        large = cast.ByteSize() > EXTERNAL_DATA_BYTES
        onnx.save(cast, target, save_as_external_data=large, location=f"{target.name}.data" if large else None)


def _let_root_log() -> None:
    """Take away the handlers that ModelOpt ties to stdout at import; its messages go to the application's logging."""
    for name in ("modelopt.onnx", "modelopt.onnx.autocast"):
        logger = logging.getLogger(name)
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(logging.WARNING)
