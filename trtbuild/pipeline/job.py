"""A step made self-contained: JSON that any process on any machine with the store's files can run.

The build's workers, `trtbuild run-job` and a person with a bug report all call `run`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from trtbuild.backends import BACKENDS
from trtbuild.core import machine
from trtbuild.core.artifacts import Artifact
from trtbuild.core.errors import BackendMissing, StepFailed
from trtbuild.core.stage import Kind, Stage, Workspace
from trtbuild.core.values import Result, Value
from trtbuild.pipeline.plan import Step

RESULT_FILE = "value.json"
"""The only file in the folder of a Result."""


class Job(Value):
    """One step with everything it needs, by value or by path."""

    recipe: str
    step: str
    stage: str
    """`module:name` of the stage."""
    settings: dict[str, Any]
    inputs: dict[str, Path]
    """Sealed folders by parameter; those of a list as `parameter.0`, `parameter.1`, ..., one that fills in a field of a
    setting as `parameter.field`."""
    cast: dict[str, str]
    key: str
    """The action's key, for the record."""


class JobOutput(Value):
    """One output, as the job left it in the workspace."""

    kind: str
    folder: Path


def job_of(step: Step, inputs: dict[str, Path], recipe: str, key: str) -> Job:
    """Make a step into a job."""
    return Job(
        recipe=recipe,
        step=step.name,
        stage=step.stage.entry,
        settings={parameter: value.model_dump(mode="json") for parameter, value in step.settings.items()},
        inputs=inputs,
        cast=dict(step.cast),
        key=key,
    )


def run(job: Job, workspace: Path) -> dict[str, JobOutput]:
    """Run a job in an empty folder; returns its outputs, which lie below that folder."""
    stage = _stage(job.stage)
    arguments: dict[str, Any] = dict.fromkeys(stage.optional)
    for parameter, hint in stage.settings.items():
        filled = {key.partition(".")[2]: job.inputs[key] for key in job.inputs if key.startswith(f"{parameter}.")}
        arguments[parameter] = TypeAdapter(hint).validate_python({**job.settings[parameter], **filled})
    for key, folder in job.inputs.items():
        parameter, _, number = key.partition(".")
        if parameter in stage.settings:
            continue
        value = _read_input(stage.inputs[parameter], folder)
        if number:
            arguments.setdefault(parameter, []).append(value)
        else:
            arguments[parameter] = value
    for role, name in job.cast.items():
        arguments[role] = load_backend(name)
    if stage.workspace:
        arguments[stage.workspace] = Workspace(workspace)
    returned = stage(**arguments)
    values = dict(zip(stage.outputs, returned if isinstance(returned, tuple) else (returned,), strict=True))
    return {name: _write_output(stage, name, values[name], workspace) for name in stage.outputs}


def load_backend(name: str) -> Any:
    """An instance of a backend. Raises BackendMissing with the command that installs it."""
    require_backend(name)
    module, _, attribute = BACKENDS[name].entry.partition(":")
    return getattr(importlib.import_module(module), attribute)()


def require_backend(name: str) -> None:
    """Raise BackendMissing, with the command that installs it, where a backend's packages are absent."""
    provider = BACKENDS[name]
    if missing := [package for package in provider.packages if machine.package_version(package) is None]:
        install = f"pip install 'trtbuild[{provider.extra}]'" if provider.extra else f"pip install {' '.join(missing)}"
        raise BackendMissing(
            f"backend {name} needs {', '.join(missing)}, which this environment lacks", hint=f"install it: {install}"
        )


def _stage(entry: str) -> Stage[Any, Any]:
    module, _, attribute = entry.partition(":")
    found = getattr(importlib.import_module(module), attribute, None) if module.startswith("trtbuild.stages.") else None
    if not isinstance(found, Stage):
        raise StepFailed(f"{entry} is no stage of this trtbuild", hint="was the job written by another version?")
    return found


def _read_input(kind: Kind, folder: Path) -> Artifact | Result:
    if issubclass(kind, Result):
        return kind.model_validate_json((folder / RESULT_FILE).read_bytes())
    return kind(folder)


def _write_output(stage: Stage[Any, Any], name: str, value: Any, workspace: Path) -> JobOutput:
    """Check a stage's promise, once, at the border; the rest of the house trusts it."""
    kind = stage.outputs[name]
    if not isinstance(value, kind):
        raise StepFailed(f"stage {stage.name} declares {name}: {kind.__name__} but returned {type(value).__name__}")
    if isinstance(value, Result):
        folder = workspace / f"{name}.result"
        folder.mkdir()
        (folder / RESULT_FILE).write_text(value.model_dump_json(indent=1) + "\n")
    else:
        folder = value.path
        if not folder.is_relative_to(workspace) or not value.main.is_file():
            raise StepFailed(f"stage {stage.name} declares {name}: {kind.__name__} but did not write {value.main}")
    return JobOutput(kind=kind.__name__, folder=folder)
