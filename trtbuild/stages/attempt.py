"""An engine for one placement among several: one that cannot be built drops out, and the others go on."""

from __future__ import annotations

import json
import shutil
from typing import NamedTuple

from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.errors import ModelError
from trtbuild.core.results import Coverage
from trtbuild.core.roles import Compiler
from trtbuild.core.stage import Resources, Workspace, stage
from trtbuild.core.tensors import Shapes
from trtbuild.core.values import Result
from trtbuild.stages.build import BuildOptions, build


class Attempt(Result):
    """Whether there is an engine."""

    failure: str = ""
    """Why it could not be built, in the backend's words; empty where it was."""


class Attempted(NamedTuple):
    """An engine, with what really runs; where it failed, a folder that only says so."""

    engine: Engine
    coverage: Coverage
    attempt: Attempt


@stage(version=1, resources=Resources(exclusive=True))
def attempt(
    model: OnnxModel,
    coverage: Coverage,
    shapes: Shapes,
    options: BuildOptions,
    compiler: Compiler,
    work: Workspace,
) -> Attempted:
    """Build an engine for one placement."""
    try:
        built = build(model=model, coverage=coverage, shapes=shapes, options=options, compiler=compiler, work=work)
    except ModelError as error:
        print(f"not built: {error.message}", flush=True)
        for partial in work.path.iterdir():
            shutil.rmtree(partial)
        failed = work.new(Engine)
        failed.main.write_text(json.dumps({"failure": error.message}) + "\n")
        return Attempted(failed, coverage, Attempt(failure=error.message))
    return Attempted(built.engine, built.coverage, Attempt())
