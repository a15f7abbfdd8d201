"""What a model's version folder holds: the engine's file where Triton's backend looks for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtbuild.core.errors import ModelError
from trtbuild.core.interface import Interface

MAIN_FILES = {"tensorrt": ("engine.plan", "model.plan"), "onnxruntime": ("engine.onnx", "model.onnx")}
"""By backend: the engine's file here, and what Triton's backend opens."""


@dataclass(frozen=True)
class Servable:
    """A built engine, read for serving. Its bytes were checked before."""

    folder: Path
    backend: str
    interface: Interface
    digest: str
    """Of the whole engine, as its manifest says."""
    facts: dict[str, Any]
    """`engine.json`."""

    @staticmethod
    def read(folder: Path, digest: str) -> Servable:
        """Read an engine's folder. Raises ModelError where it is none that Triton has a backend for."""
        try:
            facts = json.loads((folder / "engine.json").read_bytes())
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{folder} holds no readable engine.json", hint="name a folder that build wrote"
            ) from error
        backend = str(facts.get("backend"))
        if backend not in MAIN_FILES:
            raise ModelError(f"{folder}: Triton has no backend for engines of {backend}")
        return Servable(folder, backend, Interface.read(folder), digest, facts)

    @property
    def capability(self) -> str:
        """The compute capability it was built for, as Triton spells it: `9.0`. Empty where it needs no GPU."""
        return ".".join(map(str, self.facts["sm"])) if self.backend == "tensorrt" else ""

    @property
    def data_files(self) -> list[Path]:
        """Weights that lie beside the main file."""
        main = MAIN_FILES[self.backend][0]
        return sorted(self.folder.glob(f"{main}.*"))


def file_names(engines: Sequence[Servable]) -> dict[str, str]:
    """The file of each engine in a version folder, by compute capability: one for all, or one each.

    Raises ModelError where they cannot share a model: two for one capability, other inputs, another backend.
    """
    first = engines[0]
    plain = MAIN_FILES[first.backend][1]
    if len(engines) == 1:
        return {first.capability: plain}
    names: dict[str, str] = {}
    for engine in engines:
        if engine.backend != "tensorrt":
            raise ModelError(
                f"{engine.folder}: only TensorRT engines of several GPUs share a model", hint="publish them one by one"
            )
        if engine.capability in names:
            raise ModelError(
                f"{engine.folder}: a second engine for compute capability {engine.capability}",
                hint="Triton tells GPUs apart by that alone; name one engine of each",
            )
        if (engine.interface.inputs, engine.interface.outputs) != (first.interface.inputs, first.interface.outputs):
            raise ModelError(
                f"{engine.folder} takes or gives other tensors than {first.folder}", hint="build both anew"
            )
        names[engine.capability] = f"model_sm{engine.capability.replace('.', '')}.plan"
    return names


def write_version(engines: Sequence[Servable], target: Path) -> None:
    """Copy the engines into an empty version folder, each under its name."""
    names = file_names(engines)
    for engine in engines:
        name = names[engine.capability]
        if engine.data_files:  # the ONNX Runtime backend wants a folder of that name, the data beside the graph
            (target / name).mkdir()
            shutil.copyfile(engine.folder / MAIN_FILES[engine.backend][0], target / name / name)
            for file in engine.data_files:
                shutil.copyfile(file, target / name / file.name)
        else:
            shutil.copyfile(engine.folder / MAIN_FILES[engine.backend][0], target / name)
