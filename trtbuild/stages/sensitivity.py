"""Sensitivity: what quantizing each module alone does to the model's output, in every candidate format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from trtbuild.core.artifacts import OnnxModel, QuantizationPlan, Samples
from trtbuild.core.dialects import Dialect
from trtbuild.core.roles import Interpreter, Loader, Prober
from trtbuild.core.sensitivity import ModuleError, ModuleSensitivity, Sensitivity
from trtbuild.core.sources import HuggingFaceSource, PythonSource
from trtbuild.core.stage import Workspace, stage
from trtbuild.core.values import Options
from trtbuild.stages.insert import InsertOptions
from trtbuild.stages.trial import Trial

if TYPE_CHECKING:
    from trtbuild.core.quantization import Plan
    from trtbuild.core.tensor_file import Tensors


class SensitivityOptions(Options):
    """How sensitivity is found."""

    objective: Literal["error", "kl"] = "error"
    """What a search adds up: the squared relative error of the outputs, or, where the first output holds logits along
    its last axis, the Kullback-Leibler divergence of the distribution that they spell."""
    samples: int = Field(default=64, ge=1)
    """Rows of the calibration set to look at, the first ones."""
    probes: int = Field(default=1, ge=1)
    """Random directions of the output that each row is asked about; the error's own relative error is about
    1 / sqrt(2 * samples * probes)."""
    seed: int = 0
    """Of the random directions."""


@stage(version=1)
def sensitivity(
    source: PythonSource | HuggingFaceSource,
    plans: list[QuantizationPlan],
    calibration: Samples,
    options: SensitivityOptions,
    loader: Loader,
    prober: Prober,
) -> Sensitivity:
    """Score every module in every candidate format."""
    return prober.probe(loader.load(source), read_plans(plans), read_rows(calibration, options.samples), options)


@stage(version=1)
def sensitivity_onnx(
    model: OnnxModel,
    plans: list[QuantizationPlan],
    calibration: Samples,
    options: SensitivityOptions,
    dialect: Dialect,
    interpreter: Interpreter,
    work: Workspace,
) -> Sensitivity:
    """Quantize each module alone and run the graph.

    The true error, not a prediction: a graph has no gradient to predict it with. One run for each module and candidate,
    so a few samples are to be taken. Divergence is of the first output.
    """
    from trtbuild.core.agreement import divergence, relative_error
    from trtbuild.core.candidates import mixed
    from trtbuild.core.row_limit import row_count
    from trtbuild.graph import document, inventory

    named = read_plans(plans)
    samples = read_rows(calibration, options.samples)
    sizes = inventory.weight_sizes(document.load(model.main).graph)
    # Each module by itself: attention that follows a module's format would blur whose error it is.
    trial = Trial(model, samples, None, InsertOptions(attention="high"), dialect, interpreter, work)
    refused = {name: trial.refused(plan) for name, plan in named.items()}
    modules: dict[str, ModuleSensitivity] = {}
    unscored: dict[str, str] = {}
    for module in dict.fromkeys(module for plan in named.values() for module in plan.modules):
        errors: dict[str, ModuleError] = {}
        for name, plan in named.items():
            if module not in plan.modules or module in refused[name]:
                continue
            outputs, _ = trial.run(mixed(named, {module: name}, {}))
            errors[name] = ModuleError(
                format=plan.modules[module].format,
                output_error=relative_error(outputs, trial.truth),
                kl=divergence(outputs, trial.truth) if options.objective == "kl" else None,
            )
        if errors:
            modules[module] = ModuleSensitivity(weights=sizes[module], errors=errors)
        else:
            unscored[module] = next(reasons[module] for reasons in refused.values() if module in reasons)
    return Sensitivity(candidates=list(named), modules=modules, unscored=unscored, samples=row_count(samples))


def read_plans(plans: list[QuantizationPlan]) -> dict[str, Plan]:
    """The candidate plans by name."""
    from trtbuild.core.candidates import named
    from trtbuild.core.quantization import Plan

    return named([Plan.read(plan) for plan in plans])


def read_rows(samples: Samples, rows: int) -> list[Tensors]:
    """The first rows of the samples, batch by batch."""
    from trtbuild.core.row_limit import first_rows
    from trtbuild.core.tensor_file import Batches

    return first_rows(Batches(samples.main), rows)
