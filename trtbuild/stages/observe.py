"""What the FP32 model itself answers: the truth that every engine is compared with."""

from __future__ import annotations

from trtbuild.core.artifacts import Outputs, Samples
from trtbuild.core.errors import ModelError
from trtbuild.core.roles import Exporter, Loader
from trtbuild.core.sources import HuggingFaceSource, PythonSource
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.tensor_file import Batches, Tensors, write_batches


@stage(version=1)
def observe(
    source: PythonSource | HuggingFaceSource,
    evaluation: Samples,
    loader: Loader,
    exporter: Exporter,
    work: Workspace,
) -> Outputs:
    """Run the FP32 model on the evaluation samples."""
    import numpy as np

    outputs = work.new(Outputs)
    observed: list[Tensors] = []
    for number, batch in enumerate(exporter.observe(loader.load(source), Batches(evaluation.main))):
        bad = [name for name, tensor in batch.items() if not np.isfinite(tensor).all()]
        if bad:
            raise ModelError(
                f"the FP32 model's output {', '.join(bad)} holds NaN or infinity on evaluation batch {number}",
                hint="no engine can be right against it; check the weights, and the inputs the sample generator makes",
            )
        observed.append(batch)
    write_batches(outputs.main, observed)
    return outputs
