"""Kinds of artifacts: sealed folders that a step writes once and nobody changes after."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Artifact:
    """A folder of files. Its identity is the digest of its content, wherever it lies."""

    path: Path
    file: ClassVar[str]
    """The name of the file that a reader opens first."""

    @property
    def main(self) -> Path:
        """The file that a reader opens first."""
        return self.path / self.file

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files together."""
        return sum(entry.stat().st_size for entry in self.path.rglob("*") if entry.is_file())


class Samples(Artifact):
    """Named input tensors, sample by sample: `samples.safetensors` keyed `00012/input_ids`, and `samples.json`."""

    file = "samples.safetensors"


class Outputs(Artifact):
    """Named output tensors of one run over Samples, keyed as Samples are."""

    file = "outputs.safetensors"


class OnnxModel(Artifact):
    """`model.onnx`, with `model.onnx.data` beside it where the weights are large; nodes named by module path."""

    file = "model.onnx"

    def give_companions(self, folder: Path) -> None:
        """Copy what goes with the model into its engine's folder: a decoder's `cache.json`, its tokenizer."""
        for entry in sorted(self.path.iterdir()):
            if entry.is_file() and not entry.name.startswith(self.file):
                shutil.copyfile(entry, folder / entry.name)


class ModelFolder(Artifact):
    """A Hugging Face model folder that a recipe's function wrote: config, weights, tokenizer."""

    file = "config.json"


class QuantizationPlan(Artifact):
    """What calibration decided, per module path: formats in `plan.json`, numbers in `plan.safetensors`."""

    file = "plan.json"


class Engine(Artifact):
    """An engine as its backend runs it; `engine.json` says which backend, for which machine."""

    file = "engine.json"
