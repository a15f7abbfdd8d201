"""Quantization-aware training: when calibration alone is not accurate enough."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from trtbuild.core.artifacts import OnnxModel, QuantizationPlan, Samples
from trtbuild.core.dialects import Dialect
from trtbuild.core.errors import DataError
from trtbuild.core.roles import Loader, Trainer
from trtbuild.core.sources import HuggingFaceSource, PythonSource
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.values import Options
from trtbuild.stages.insert import InsertOptions

if TYPE_CHECKING:
    from trtbuild.core.quantization import Plan


class FinetuneOptions(Options):
    """How the quantized model learns to answer as the FP32 model does (distillation; no labels are needed)."""

    steps: int = Field(default=200, ge=1)
    """Optimizer steps; each takes one calibration batch, in an order shuffled anew each time all were seen."""
    learning_rate: float = Field(default=1e-5, gt=0.0)
    """AdamW's learning rate, after a warm-up over the first tenth of the steps; it falls to zero along a cosine."""
    loss: Literal["mse", "kl"] = "mse"
    """Against the FP32 model's outputs: squared error relative to their variance, or Kullback-Leibler divergence over
    the last axis for models whose outputs are logits."""
    seed: int = 0
    """Of the shuffling."""


@stage(version=2)
def finetune(
    source: PythonSource | HuggingFaceSource,
    model: OnnxModel,
    plan: QuantizationPlan,
    calibration: Samples,
    options: FinetuneOptions,
    insertion: InsertOptions,
    dialect: Dialect,
    loader: Loader,
    trainer: Trainer,
    work: Workspace,
) -> QuantizationPlan:
    """Train the quantized weights against the FP32 model.

    What trains as quantized is what will be: those modules of the plan that insertion takes. The others answer as in
    FP32 and keep the plan's numbers.
    """
    from trtbuild.core.quantization import Plan  # numpy, safetensors and the ONNX floor: a plan must not load them
    from trtbuild.core.tensor_file import Batches

    batches = Batches(calibration.main)
    if not batches:
        raise DataError(
            "quantize.qat trains on the calibration samples and there are none", hint="set data.calibration"
        )
    read = Plan.read(plan)
    refused = _refused(model, read, insertion, dialect)
    taken = {module: numbers for module, numbers in read.modules.items() if module not in refused}
    found = trainer.finetune(loader.load(source), replace(read, modules=taken), options, batches)
    trained = work.new(QuantizationPlan)
    replace(read, modules={**read.modules, **found.modules}).write(trained)
    return trained


def _refused(model: OnnxModel, plan: Plan, options: InsertOptions, dialect: Dialect) -> dict[str, str]:
    from trtbuild.graph import document, insertion

    graph = document.load(model.main)
    return insertion.insert(graph, plan, exclude=options.exclude, include=options.include, dialect=dialect).refused
