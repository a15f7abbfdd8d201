"""Steps: a stage with its options, its cast, and where each input comes from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trtbuild.core.stage import Stage
from trtbuild.core.values import Value, canonical_json


@dataclass(frozen=True)
class Ref:
    """An output of another step."""

    step: str
    output: str


@dataclass(frozen=True)
class Made:
    """A setting with a field that another step gives: the folder of a model that the build itself makes."""

    value: Value
    field: str
    ref: Ref


@dataclass(frozen=True)
class Step:
    """One stage at work in one build."""

    name: str
    """`<variant>/<stage>`, or the stage alone for what variants share."""
    stage: Stage[Any, Any]
    settings: Mapping[str, Value]
    """Options, sources and Shapes by parameter."""
    inputs: Mapping[str, Ref]
    """By parameter; an absent optional input is left out, one that is a list is `parameter.0`, `parameter.1`, ..., and
    one that fills in a field of a setting is `parameter.field`."""
    cast: Mapping[str, str]
    """Backend name by role parameter."""

    def __getitem__(self, output: str) -> Ref:
        return Ref(self.name, output)


@dataclass
class Plan:
    """Steps in an order in which each follows what it needs. Equal work is one step, however many variants ask
    for it."""

    recipe: str
    steps: dict[str, Step] = field(default_factory=dict)
    _by_work: dict[str, Step] = field(default_factory=dict)

    def add(self, name: str, stage: Stage[Any, Any], **parts: Value | Made | Ref | list[Ref] | str | None) -> Step:
        """Add a step, or return the one that already does this very work. A string casts a backend in a role."""
        inputs = {key: part for key, part in parts.items() if isinstance(part, Ref)}
        settings = {key: part for key, part in parts.items() if isinstance(part, Value)}
        for key, part in parts.items():
            if isinstance(part, list):
                inputs |= {f"{key}.{number}": ref for number, ref in enumerate(part)}
            elif isinstance(part, Made):
                settings[key] = part.value
                inputs[f"{key}.{part.field}"] = part.ref
        step = Step(
            name=name,
            stage=stage,
            settings=settings,
            inputs=inputs,
            cast={key: part for key, part in parts.items() if isinstance(part, str)},
        )
        _check_complete(step)
        work = canonical_json(
            [
                stage.entry,
                {key: value.model_dump(mode="json") for key, value in step.settings.items()},
                {key: [ref.step, ref.output] for key, ref in step.inputs.items()},
                dict(step.cast),
            ]
        )
        if existing := self._by_work.get(work):
            return existing
        if name in self.steps:  # the same stage with other options: int8_sq at another alpha
            number = sum(other == name or other.startswith(f"{name}~") for other in self.steps) + 1
            step = replace(step, name=f"{name}~{number}")
        self._by_work[work] = self.steps[step.name] = step
        return step

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps.values())

    def needed_by(self, names: set[str]) -> set[str]:
        """These steps and everything they follow from."""
        needed: set[str] = set()
        waiting = list(names)
        while waiting:
            if (name := waiting.pop()) not in needed:
                needed.add(name)
                waiting += [ref.step for ref in self.steps[name].inputs.values()]
        return needed

    def without(self, stages: Collection[str]) -> Plan:
        """The same plan without the steps of some stages. Nothing that stays may need one of them."""
        kept = {name: step for name, step in self.steps.items() if step.stage.name not in stages}
        missing = {ref.step for step in kept.values() for ref in step.inputs.values()} - kept.keys()
        if missing:
            raise TypeError(f"a plan without {', '.join(stages)} still needs {', '.join(sorted(missing))}")
        return Plan(self.recipe, kept)

    def chain_lengths(self) -> dict[str, int]:
        """For each step, how many steps the longest chain has that begins with it."""
        lengths = dict.fromkeys(self.steps, 1)
        for step in reversed(self.steps.values()):
            for ref in step.inputs.values():
                lengths[ref.step] = max(lengths[ref.step], lengths[step.name] + 1)
        return lengths


def _check_complete(step: Step) -> None:
    stage = step.stage
    wanted = {*stage.settings, *stage.roles, *(set(stage.inputs) - stage.optional)}
    given = {*step.settings, *step.cast, *(key.partition(".")[0] for key in step.inputs)}
    if missing := wanted - given:
        raise TypeError(f"step {step.name}: stage {stage.name} declares {', '.join(sorted(missing))}, nobody gave it")
    if extra := given - wanted - stage.optional:
        raise TypeError(f"step {step.name}: stage {stage.name} declares no {', '.join(sorted(extra))}")
