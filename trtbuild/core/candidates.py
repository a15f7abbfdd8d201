"""Candidate plans side by side: their names, what there is to decide between them, and one plan of parts of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trtbuild.core.formats import FORMATS, Format, NumberType
from trtbuild.core.knapsack import Option
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.core.sensitivity import HIGH, Sensitivity, candidate_names

BITS = {"int8": 8, "fp8": 8, "int4": 4, "fp4": 4}
"""Of one weight."""


def named(plans: Sequence[Plan]) -> dict[str, Plan]:
    """The plans by candidate name, in their order."""
    names = candidate_names([[numbers.format for numbers in plan.modules.values()] for plan in plans])
    return dict(zip(names, plans, strict=True))


def mixed(plans: Mapping[str, Plan], chosen: Mapping[str, str], reasons: Mapping[str, str]) -> Plan:
    """The plan in which each module of `chosen` is quantized as in the plan it names, and every other is left alone.

    `reasons` says why, for those that some plan quantizes; the others keep the reason that the plans give.
    """
    modules: dict[str, ModuleQuantization] = {
        module: plans[candidate].modules[module] for module, candidate in chosen.items()
    }
    left: dict[str, str] = {}
    for plan in plans.values():
        for module, reason in plan.kept_high.items():
            left.setdefault(module, reason)
        for module in plan.modules:
            left.setdefault(module, "auto: no format was chosen")
    return Plan(
        modules=modules,
        kept_high={module: reasons.get(module, reason) for module, reason in left.items() if module not in modules},
        classes={module: kind for plan in plans.values() for module, kind in plan.classes.items()},
        samples=max((plan.samples for plan in plans.values()), default=0),
    )


def weight_bytes(numbers: ModuleQuantization, weights: int, scale_bits: int) -> float:
    """Bytes that a quantized weight of so many numbers takes, its scales included; those of dynamic blocks take one."""
    scale_bits = 8 if FORMATS[numbers.format].dynamic else scale_bits
    return (weights * BITS[FORMATS[numbers.format].weight] + int(numbers.weight_amax.size) * scale_bits) / 8


RELATIVE_TIME: dict[tuple[NumberType, NumberType | None], float] = {
    ("int8", None): 0.9,
    ("fp8", None): 0.9,
    ("int4", None): 0.8,
    ("int8", "int8"): 0.5,
    ("fp8", "fp8"): 0.5,
    ("int4", "fp8"): 0.5,
    ("fp4", "fp4"): 0.25,
}
"""Time of a product relative to 16 bits, by types of weight and activation: the peak rates of tensor cores where both
are quantized, a little for the weight traffic saved where weights alone are. Declared, not measured."""


@dataclass(frozen=True)
class Thing:
    """Modules that are decided together, because they read one tensor."""

    members: list[str]
    costs: dict[str, dict[str, float]]
    """Of each member, by candidate; `high` among them."""
    options: list[Option]
    """By candidate; the last is `high`."""


def things(
    plans: Mapping[str, Plan],
    sensitivity: Sensitivity,
    groups: Sequence[Sequence[str]],
    objective: Literal["memory", "latency"],
    relative_time: Mapping[Format, float],
    high_bits: int,
) -> list[Thing]:
    """What there is to decide: scored modules in `groups`, others each for itself; cost and penalty of each option.

    Cost is bytes of weights for `memory`; for `latency` the time of the product, its share of all weights times
    RELATIVE_TIME or `relative_time`, so that everything in high precision costs 1.
    """
    scored = sensitivity.modules
    total = sum(found.weights for found in scored.values())

    def price(module: str, candidate: str) -> float:
        numbers = plans[candidate].modules.get(module) if candidate != HIGH else None
        weights = scored[module].weights
        if objective == "memory":
            return weights * high_bits / 8 if numbers is None else weight_bytes(numbers, weights, high_bits)
        if numbers is None:
            return weights / total
        traits = FORMATS[numbers.format]
        relative = relative_time.get(numbers.format, RELATIVE_TIME.get((traits.weight, traits.activation), 1.0))
        return weights / total * relative

    grouped = [[module for module in group if module in scored] for group in groups]
    alone = scored.keys() - {module for group in grouped for module in group}
    found = []
    for members in [*filter(None, grouped), *([module] for module in scored if module in alone)]:
        names = [name for name in plans if any(name in scored[module].errors for module in members)]
        costs = {module: {name: price(module, name) for name in [*names, HIGH]} for module in members}
        options = [
            Option(
                name,
                cost=sum(costs[module][name] for module in members),
                error=sum(scored[module].errors[name].penalty for module in members if name in scored[module].errors),
            )
            for name in [*names, HIGH]
        ]
        found.append(Thing(members, costs, options))
    return found
