"""What comes from outside: the model and the sample generator, named by the recipe, identified by content."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from trtbuild.core.values import Value


class PythonSource(Value):
    """A callable that the recipe names. Its code runs only because the recipe names it."""

    kind: Literal["python"] = "python"
    entry: str
    """`module:function`, where the module is a file beside the recipe or an installed package."""
    arguments: dict[str, Any] = {}
    """Keyword arguments for the function, as JSON values."""
    folder: Path
    """The recipe's folder, put first on the module search path."""
    files: list[Path] = []
    """Files whose content decides what the function returns: its own module, and those the recipe adds."""
    listed: list[Path] = []
    """Those the recipe adds, sorted: what a function with a parameter `files` receives."""


MADE = Path("made-by-this-build")
"""What stands for the place of a model folder that an earlier step of the same build makes."""


class HuggingFaceSource(Value):
    """A Hugging Face model folder, loaded by `transformers` without running code from the folder."""

    kind: Literal["huggingface"] = "huggingface"
    folder: Path
    """The model's folder: config.json, safetensors weights, tokenizer."""
    auto_class: str = "AutoModel"
    """The transformers class that loads it."""
    outputs: list[str]
    """Fields of the model's output to export, in order."""
    load_options: dict[str, Any] = {}
    """Keyword arguments for `from_pretrained`."""

    @property
    def files(self) -> list[Path]:
        """The files that decide what is loaded: every regular file of the folder, top level."""
        return sorted(entry for entry in self.folder.iterdir() if entry.is_file()) if self.folder.is_dir() else []

    @property
    def is_here(self) -> bool:
        """Whether this machine has it; where not, only steps that another machine did can follow from it."""
        return self.folder == MADE or self.folder.is_dir()


class OnnxSource(Value):
    """An ONNX file and the external data it names."""

    kind: Literal["onnx"] = "onnx"
    file: Path
    """The .onnx file."""

    @property
    def files(self) -> list[Path]:
        """The model itself; the external data it names is found when it is read."""
        return [self.file]

    @property
    def is_here(self) -> bool:
        """Whether this machine has it; where not, only steps that another machine did can follow from it."""
        return self.file.is_file()


ModelSource = PythonSource | HuggingFaceSource | OnnxSource
"""Where a model comes from."""


SAMPLE_IDS = "__ids__"
"""The key under which a generator may yield a batch's sample ids beside its tensors: a text for each row."""


class SampleSource(Value):
    """A Python generator of samples: `function(split, count)` yields dictionaries of numpy arrays."""

    python: PythonSource
    """The generator."""
    calibration: int = Field(ge=0)
    """How many samples (rows of the first axis) to calibrate on."""
    selection: int = Field(default=0, ge=0)
    """How many more to keep from calibration, to choose formats on."""
    evaluation: int = Field(ge=0)
    """How many held-out samples to validate on."""

    @property
    def files(self) -> list[Path]:
        """The files that decide what is generated."""
        return self.python.files


class MetricSource(Value):
    """The recipe's own accuracy metric, if it has one."""

    python: PythonSource | None = None
    """`function(outputs, reference_outputs, inputs) -> {name: number}`; each argument is a sequence of batches."""

    @property
    def files(self) -> list[Path]:
        """The files that decide what is computed."""
        return self.python.files if self.python else []
