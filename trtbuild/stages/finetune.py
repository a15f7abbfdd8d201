"""Quantization-aware training: when calibration alone is not accurate enough."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trtbuild.core.artifacts import QuantizationPlan, Samples
from trtbuild.core.errors import DataError
from trtbuild.core.roles import Loader, Trainer
from trtbuild.core.sources import HuggingFaceSource, PythonSource
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.values import Options


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


@stage(version=1)
def finetune(
    source: PythonSource | HuggingFaceSource,
    plan: QuantizationPlan,
    calibration: Samples,
    options: FinetuneOptions,
    loader: Loader,
    trainer: Trainer,
    work: Workspace,
) -> QuantizationPlan:
    """Train the quantized weights against the FP32 model."""
    from trtbuild.core.tensor_file import Batches  # numpy and safetensors: a plan must not load them

    batches = Batches(calibration.main)
    if not batches:
        raise DataError(
            "quantize.qat trains on the calibration samples and there are none", hint="set data.calibration"
        )
    trained = work.new(QuantizationPlan)
    trainer.finetune(loader.load(source), plan, options, batches, trained)
    return trained
