"""Quantization-aware training by distillation: ModelOpt's quantizers in place, the FP32 model as the teacher."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from trtbuild.backends.modelopt import layers, quantizers
from trtbuild.backends.modelopt.gptq import nearest
from trtbuild.backends.modelopt.passes import plain_attention
from trtbuild.backends.modelopt.scales import weight_scale
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.formats import FORMATS
from trtbuild.core.quantization import ModuleQuantization, Plan, codes_of
from trtbuild.core.roles import Trainer
from trtbuild.core.tensor_file import Array, Tensors

WARM_UP = 0.1
"""Share of the steps over which the learning rate rises."""


class ModelOptTrainer(Trainer):
    """Trains the weights of a plan's layers through ModelOpt's quantizers, which pass gradients straight through
    (Bengio et al. 2013); scales, biases and norms stay."""

    def finetune(self, module: Any, plan: Plan, options: Any, samples: Sequence[Tensors]) -> Plan:
        """The plan, with the codes of the trained weights. `options` are the finetune stage's.

        Memory: the model, its gradients, AdamW's two moments for the trained weights, and the teacher's outputs. Raises
        ModelError for layers that cannot be trained, DataError where the loss stops being finite.
        """
        found = layers.find(module)
        student = {path: found[path] for path in plan.modules}
        _check(plan, student)
        batches = [{name: torch.from_numpy(array) for name, array in sample.items()} for sample in samples]
        module.eval().requires_grad_(False)
        with plain_attention():
            with torch.no_grad():
                truth = [_outputs(module(**batch)) for batch in batches]
            _quantize(module, student, plan)
            _train(module, [layer.weight for layer in student.values()], batches, truth, options)
        modules = {
            path: replace(numbers, weight_codes=_codes(student[path], numbers))
            for path, numbers in plan.modules.items()
        }
        return replace(plan, modules=modules)


def _check(plan: Plan, found: dict[str, Any]) -> None:
    for path, numbers in plan.modules.items():
        if not layers.is_linear(found[path]):
            raise ModelError(
                f"qat trains linear layers, and {path} is a {plan.classes.get(path, 'layer of another kind')}",
                hint=f"leave it in high precision with exclude: [{path}]",
            )
        if numbers.pre_quant_scale is not None:
            raise ModelError(
                f"qat cannot train {path}: its input is scaled by numbers that layers come to share later",
                hint="train int8, int4 or w8a16",
            )
        if FORMATS[numbers.format].weight not in ("int8", "int4"):
            raise ModelError(
                f"qat cannot train {path} in {numbers.format}: it writes integer codes",
                hint="train int8, int4 or w8a16",
            )


def _outputs(returned: Any) -> list[torch.Tensor]:
    values = returned.values() if isinstance(returned, dict) else returned
    values = [values] if isinstance(values, torch.Tensor) else values
    return [value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()]


def _quantize(module: Any, student: dict[str, Any], plan: Plan) -> None:
    """ModelOpt's quantizers with the plan's numbers."""
    sizes = {numbers.block_size for numbers in plan.modules.values()} - {0}
    formats = {path: numbers.format for path, numbers in plan.modules.items()}
    inside = quantizers.insert(module, student, formats, max(sizes, default=0))
    quantizers.calibrate(inside, "max", None)  # gives each amax its shape
    for path, numbers in plan.modules.items():
        layer = student[path]
        amax = layer.weight_quantizer.amax
        layer.weight_quantizer.amax = torch.from_numpy(numbers.weight_amax).to(amax).reshape(amax.shape)
        if numbers.input_amax is not None:
            layer.input_quantizer.amax = torch.tensor(float(numbers.input_amax))


def _train(
    module: Any, weights: list[Any], batches: list[dict[str, Any]], truth: list[list[torch.Tensor]], options: Any
) -> None:
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, lr=options.learning_rate, weight_decay=0.0)
    warm_up = max(1, round(WARM_UP * options.steps))
    for step, number in zip(range(options.steps), _order(len(batches), options.seed), strict=False):
        rate = (step + 1) / warm_up if step < warm_up else 0.5 + 0.5 * math.cos(math.pi * step / options.steps)
        optimizer.param_groups[0]["lr"] = options.learning_rate * rate
        optimizer.zero_grad()
        loss = _loss(_outputs(module(**batches[number])), truth[number], options.loss)
        if not torch.isfinite(loss):
            raise DataError(f"the training loss is not finite at step {step}", hint="lower quantize.qat.learning_rate")
        loss.backward()
        optimizer.step()
        if step % max(1, options.steps // 20) == 0 or step == options.steps - 1:
            print(f"step {step + 1} of {options.steps}: loss {loss.item():.3e}", flush=True)


def _order(count: int, seed: int) -> Iterator[int]:
    """Batch numbers for ever, each round in an order of its own."""
    shuffled = random.Random(seed)  # noqa: S311 - an order, not a secret
    numbers = list(range(count))
    while True:
        shuffled.shuffle(numbers)
        yield from numbers


def _loss(outputs: list[torch.Tensor], truth: list[torch.Tensor], kind: str) -> torch.Tensor:
    """Mean over the outputs: squared error over the truth's variance, or the divergence KL(truth || output) in nats."""
    if kind == "mse":
        terms = [((y - t) ** 2).mean() / t.var().clamp(min=1e-12) for y, t in zip(outputs, truth, strict=True)]
    else:
        terms = [
            torch.nn.functional.kl_div(
                y.log_softmax(-1).flatten(0, -2),
                t.log_softmax(-1).flatten(0, -2),
                log_target=True,
                reduction="batchmean",
            )
            for y, t in zip(outputs, truth, strict=True)
        ]
    return torch.stack(terms).mean()


def _codes(layer: Any, numbers: ModuleQuantization) -> Array:
    """[out, in] int8: the trained weight as the plan's scales say it."""
    kind, weight = FORMATS[numbers.format].weight, layers.matrix(layer).float()
    return codes_of(nearest(weight / weight_scale(weight, numbers), kind).numpy(), kind)
