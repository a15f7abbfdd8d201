"""What the FP32 model itself answers: the truth that every engine is compared with, and how large its tensors get."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from trtbuild.core.artifacts import OnnxModel, Outputs, Samples
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.results import OperandRanges
from trtbuild.core.roles import Exporter, Interpreter, Loader
from trtbuild.core.sources import HuggingFaceSource, PythonSource
from trtbuild.core.stage import Workspace, stage

if TYPE_CHECKING:
    from trtbuild.core.tensor_file import Tensors


@stage(version=1)
def observe(
    source: PythonSource | HuggingFaceSource,
    evaluation: Samples,
    loader: Loader,
    exporter: Exporter,
    work: Workspace,
) -> Outputs:
    """Run the FP32 model on the evaluation samples."""
    from trtbuild.core.tensor_file import Batches  # numpy and safetensors: a plan must not load them

    outputs = work.new(Outputs)
    _record(exporter.observe(loader.load(source), Batches(evaluation.main)), outputs)
    return outputs


@stage(version=1)
def observe_onnx(model: OnnxModel, evaluation: Samples, interpreter: Interpreter, work: Workspace) -> Outputs:
    """Run the FP32 graph, unfused, on the evaluation samples."""
    from trtbuild.core.tensor_file import Batches

    outputs = work.new(Outputs)
    _record(interpreter.interpret(model, Batches(evaluation.main)), outputs)
    return outputs


@stage(version=1)
def observe_ranges(model: OnnxModel, calibration: Samples, interpreter: Interpreter, work: Workspace) -> OperandRanges:
    """Observe ranges of tensors that are multiplied or added.

    Raises DataError where there are no samples, ModelError where a product reads NaN or infinity.
    """
    import math

    from trtbuild.core.tensor_file import Batches
    from trtbuild.graph.ranges import write_probe  # the ONNX floor is heavy as well

    batches = Batches(calibration.main)
    if not batches:
        raise DataError(
            "quantized attention needs calibration samples and the recipe asks for none",
            hint="set data.calibration to the number of rows to calibrate on, for example 256",
        )
    probed = work.new(OnnxModel, "probe")
    probes = write_probe(model, probed)
    amax: dict[str, float] = {}
    for number, batch in enumerate(interpreter.interpret(probed, batches) if probes else ()):
        for probe in probes:
            greatest = float(batch[probe.output])
            if math.isfinite(greatest):
                amax[probe.key] = max(greatest, amax.get(probe.key, 0.0))
            elif probe.multiplied:
                node, _, index = probe.key.rpartition(":")
                raise ModelError(
                    f"node {node!r} reads NaN or infinity as input {index} on calibration batch {number}",
                    hint="check the weights, and the inputs that the sample generator makes",
                )
    return OperandRanges(amax=amax)


def _record(batches: Iterable[Tensors], outputs: Outputs) -> None:
    import numpy as np

    from trtbuild.core.tensor_file import write_batches

    observed = []
    for number, batch in enumerate(batches):
        if bad := [name for name, tensor in batch.items() if not np.isfinite(tensor).all()]:
            raise ModelError(
                f"the FP32 model's output {', '.join(bad)} holds NaN or infinity on evaluation batch {number}",
                hint="no engine can be right against it; check the weights, and the inputs the sample generator makes",
            )
        observed.append(batch)
    write_batches(outputs.main, observed)
