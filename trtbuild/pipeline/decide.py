"""Run or reuse, and why: the one function that both `build` and `explain` ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from trtbuild.backends import BACKENDS
from trtbuild.core import machine
from trtbuild.core.errors import ModelError
from trtbuild.core.sources import PythonSource
from trtbuild.core.values import canonical_json, digest_of
from trtbuild.datasets import PACKAGES
from trtbuild.pipeline.file_digests import FileDigests
from trtbuild.pipeline.plan import Step
from trtbuild.pipeline.store import Action, Store


@dataclass(frozen=True)
class Change:
    """One ingredient that differs from the last run's."""

    ingredient: str
    before: str | None
    """None where it is new."""
    after: str | None
    """None where it is gone."""

    def __str__(self) -> str:
        if self.before is None:
            return f"{self.ingredient}: new"
        if self.after is None:
            return f"{self.ingredient}: gone"
        return f"{self.ingredient}: {_short(self.before)} -> {_short(self.after)}"


@dataclass(frozen=True)
class Reuse:
    """The step's work is already done."""

    key: str
    action: Action
    reason: str = "nothing it depends on changed"


@dataclass(frozen=True)
class Run:
    """The step must run."""

    key: str
    ingredients: Mapping[str, str]
    changes: tuple[Change, ...]
    """Empty where the step never ran before."""

    @property
    def reason(self) -> str:
        """Why, in words."""
        if not self.changes:
            return "first run"
        more = f" (+{len(self.changes) - 3} more)" if len(self.changes) > 3 else ""
        return "; ".join(map(str, self.changes[:3])) + more


@dataclass(frozen=True)
class Unknown:
    """Whether the step runs depends on what an earlier one gives."""

    waits_for: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Why, in words."""
        return f"depends on what {', '.join(self.waits_for)} gives"


Decision = Reuse | Run | Unknown


def decide(
    step: Step, digests: Mapping[str, str], recipe: str, store: Store, files: FileDigests, *, force: bool = False
) -> Reuse | Run:
    """Decide a step whose inputs' digests (by parameter) are known."""
    ingredients = ingredients_of(step, digests, files)
    key = digest_of(ingredients)
    if not force and (action := store.action(key)):
        return Reuse(key, action)
    if not (force and can_run_here(step)) and (found := elsewhere(step, ingredients, store)):
        return found
    if absent_sources(step):
        raise ModelError(
            f"step {step.name}: the recipe's model is not on this machine, and no step that another one did fits",
            hint="bring the model; or run there, with the same --set and --variant, `trtbuild build --until insert` "
            "and `trtbuild cache export`, and take the file in with `trtbuild cache import`",
        )
    last = store.last(recipe, step.name)
    if force and last and last.ingredients == ingredients:
        return Run(key, ingredients, (Change("--force", "", "asked for"),))
    return Run(key, ingredients, tuple(_changes(last.ingredients, ingredients)) if last else ())


def elsewhere(step: Step, ingredients: Mapping[str, str], store: Store) -> Reuse | None:
    """The newest action of another machine that did this step's work, where this machine cannot or was handed it.

    A step that lacks packages here was done with whatever versions the other machine has; an imported one may have been
    done under another Python with other libraries of its own, and from a model that is not here. All else must agree.
    """
    lacking, nowhere = absent_packages(step), absent_sources(step)
    candidates = store.actions() if lacking and not nowhere else store.imported()
    python = (
        "machine.python",
        *(f"version.{package}" for value in step.settings.values() for package in _libraries(value)),
    )
    free = (("version.", "machine.") if lacking else python) + tuple(f"{name}.file" for name in nowhere)

    def fixed(every: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in every.items() if not name.startswith(free)}

    wanted = fixed(ingredients)
    fitting = [(key, action) for key, action in candidates if fixed(action.ingredients) == wanted]
    for key, action in sorted(fitting, key=lambda pair: -pair[1].finished_at):
        if store.action(key) is not None:
            lacks = ", ".join([*lacking, *["the model"][: len(nowhere)]])
            there = f"this one lacks {lacks}" if lacks else f"under Python {action.ingredients.get('machine.python')}"
            return Reuse(key, action, f"made on another machine: {there}")
    return None


def can_run_here(step: Step) -> bool:
    """Whether this machine has the packages and the files that a step needs."""
    return not absent_packages(step) and not absent_sources(step)


def absent_packages(step: Step) -> list[str]:
    """Packages that a step's backends need and this machine lacks."""
    needed = dict.fromkeys(package for name in step.cast.values() for package in BACKENDS[name].packages)
    return [package for package in needed if machine.package_version(package) is None]


def absent_sources(step: Step) -> list[str]:
    """The parameters of a step whose files are not on this machine."""
    return [parameter for parameter, value in step.settings.items() if not getattr(value, "is_here", True)]


def ingredients_of(step: Step, digests: Mapping[str, str], files: FileDigests) -> dict[str, str]:
    """Everything a step's outputs depend on, by name. Nothing enters the key without a name."""
    stage = step.stage
    found = {"stage": f"{stage.name} v{stage.version}"}
    for parameter, value in step.settings.items():
        found |= _setting(parameter, value, files)
    found |= {f"input.{parameter}": digests[parameter] for parameter in step.inputs}
    for role, name in step.cast.items():
        provider = BACKENDS[name]
        found[f"backend.{role}"] = name
        found |= {f"version.{package}": machine.package_version(package) or "absent" for package in provider.packages}
        found |= {f"machine.{fact}": machine.FACTS[fact]() for fact in provider.machine}
    return found


def _setting(parameter: str, value: Any, files: FileDigests) -> dict[str, str]:
    """A setting's fields by dotted path. Sources count by content, not by where they lie."""
    found = dict(_flat(parameter, _without_places(value)))
    if _python(value) is not None:
        found["machine.python"] = machine.FACTS["python"]()  # what it imports may differ: the standard library does
    found |= {f"version.{package}": machine.package_version(package) or "absent" for package in _libraries(value)}
    if not getattr(value, "is_here", True):
        return found | {f"{parameter}.files": "not on this machine"}
    if (named := getattr(value, "files", None)) is not None:
        root = _root(value)
        contents = [
            part
            for file in named
            for part in (files.with_external_data(file) if file.suffix == ".onnx" and file.is_file() else [file])
        ]
        found |= {f"{parameter}.file.{name}": digest for name, digest in files.of_all(contents, root).items()}
    return found


def _python(value: Any) -> PythonSource | None:
    inner = getattr(value, "python", value)
    return inner if isinstance(inner, PythonSource) else None


def _libraries(value: Any) -> tuple[str, ...]:
    """What a generator of ours computes with; of a recipe's own code nobody knows it."""
    python = _python(value)
    return PACKAGES.get(python.entry.partition(":")[0], ()) if python is not None else ()


def _root(value: Any) -> Path:
    inner = _python(value) or value
    folder = getattr(inner, "folder", None) or getattr(inner, "file", Path()).parent
    return Path(folder)


def _without_places(value: Any) -> Any:
    """A value as JSON, without the paths that say where a source lies: two checkouts are the same source."""
    if isinstance(value, BaseModel):
        return {
            name: _without_places(getattr(value, name))
            for name in type(value).model_fields
            if not _is_place(getattr(value, name))
        }
    if isinstance(value, dict):
        return {key: _without_places(item) for key, item in value.items()}
    return value


def _is_place(item: Any) -> bool:
    return isinstance(item, Path) or (
        isinstance(item, list) and bool(item) and all(isinstance(each, Path) for each in item)
    )


def _flat(path: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [pair for key in value for pair in _flat(f"{path}.{key}", value[key])]
    return [(path, value if isinstance(value, str) else canonical_json(value))]


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[Change]:
    names = [*after, *(name for name in before if name not in after)]
    return [Change(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _short(text: str) -> str:
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:8] if is_digest else text if len(text) <= 60 else text[:57] + "..."
