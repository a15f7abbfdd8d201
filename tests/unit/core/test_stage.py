"""A stage's signature is its declaration, and a declaration that says nothing is refused."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.results import Coverage
from trtbuild.core.roles import Compiler, Runner
from trtbuild.core.sources import HuggingFaceSource, PythonSource
from trtbuild.core.stage import Resources, Workspace, stage
from trtbuild.core.tensors import Shapes
from trtbuild.core.values import Options


class Settings(Options):
    level: int = 3


class Made(NamedTuple):
    engine: Engine
    coverage: Coverage


@stage(version=7, resources=Resources(exclusive=True))
def make(
    model: OnnxModel,
    coverage: Coverage | None,
    source: PythonSource | HuggingFaceSource,
    shapes: Shapes,
    options: Settings,
    compiler: Compiler,
    runner: Runner,
    work: Workspace,
) -> Made:
    """Make an engine.

    More about it.
    """
    raise AssertionError


def test_every_parameter_is_told_by_its_type() -> None:
    assert dict(make.inputs) == {"model": OnnxModel, "coverage": Coverage}
    assert make.optional == {"coverage"}
    assert set(make.settings) == {"source", "shapes", "options"}
    assert dict(make.roles) == {"compiler": Compiler, "runner": Runner}
    assert make.workspace == "work"
    assert dict(make.outputs) == {"engine": Engine, "coverage": Coverage}
    assert (make.name, make.version, make.sentence) == ("make", 7, "Make an engine")
    assert make.resources.exclusive


def test_one_artifact_is_an_output_named_after_its_kind() -> None:
    @stage(version=1)
    def export(options: Settings) -> OnnxModel:
        """Export."""
        raise AssertionError

    assert dict(export.outputs) == {"onnxmodel": OnnxModel}
    assert export.workspace is None


def test_a_type_that_declares_nothing_is_refused() -> None:
    with pytest.raises(TypeError, match="parameter path has a type that declares nothing"):

        @stage(version=1)
        def bad(path: str) -> OnnxModel:
            raise AssertionError


def test_an_output_that_is_no_artifact_is_refused() -> None:
    with pytest.raises(TypeError, match="must return an artifact"):

        @stage(version=1)
        def bad(options: Settings) -> int:
            raise AssertionError


def test_a_list_of_artifacts_declares_several_inputs() -> None:
    @stage(version=1)
    def join(models: list[OnnxModel], options: Settings) -> OnnxModel:
        """Join."""
        raise AssertionError

    assert dict(join.inputs) == {"models": OnnxModel}
    assert join.several == {"models"}
