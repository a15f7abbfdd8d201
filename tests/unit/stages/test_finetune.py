"""Training sees as quantized what insertion will quantize, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.qdq import Graph
from trtbuild.core.artifacts import OnnxModel, QuantizationPlan, Samples
from trtbuild.core.dialects import ONNX_RUNTIME
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.core.roles import Loader, Trainer
from trtbuild.core.sources import PythonSource
from trtbuild.core.stage import Workspace
from trtbuild.core.tensor_file import write_batches
from trtbuild.graph import document, insertion
from trtbuild.stages.finetune import FinetuneOptions, finetune
from trtbuild.stages.insert import InsertOptions


class Module(Loader):
    def load(self, source):
        return "the module"


class Ones(Trainer):
    """Says that every code became 1, and remembers whom it trained."""

    def finetune(self, module, plan, options, samples):
        self.trained = list(plan.modules)
        ones = {
            name: replace(numbers, weight_codes=np.ones((16, 16), np.int8)) for name, numbers in plan.modules.items()
        }
        return replace(plan, modules=ones)


def numbers(form: str = "int8") -> ModuleQuantization:
    return ModuleQuantization(form, np.full(16, 4.0, np.float32), input_amax=np.float32(4.0))


def model(folder: Path) -> OnnxModel:
    graph = Graph()
    value = graph.convolution("stem", "x", 16, None)
    for name in ("first", "second", "lm_head"):
        value = graph.linear(name, value, 16, 16, "float")
    graph.save(folder / "model" / "model.onnx", value, [2, 16, 16, 16])
    return OnnxModel(folder / "model")


def plan(folder: Path) -> QuantizationPlan:
    (folder / "plan").mkdir()
    found = QuantizationPlan(folder / "plan")
    modules = ("stem", "first", "second", "lm_head", "pooler")
    Plan(modules={module: numbers() for module in modules}, classes={"stem": "Conv2d"}).write(found)
    return found


def train(folder: Path, trainer: Trainer, *, samples: int = 1, **options) -> Plan:
    (folder / "samples").mkdir()
    batches = Samples(folder / "samples")
    write_batches(batches.main, [{"x": np.ones((2, 16, 16, 16), np.float32)}] * samples)
    (folder / "work").mkdir()
    trained = finetune(
        source=PythonSource(entry="a:b", folder=folder),
        model=model(folder),
        plan=plan(folder),
        calibration=batches,
        options=FinetuneOptions(),
        insertion=InsertOptions(**options),
        dialect=ONNX_RUNTIME,
        loader=Module(),
        trainer=trainer,
        work=Workspace(folder / "work"),
    )
    return Plan.read(trained)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, ["first", "second"]),
        ({"exclude": ["second"]}, ["first"]),
        ({"include": ["lm_head"]}, ["first", "lm_head", "second"]),
    ],
)
def test_exactly_the_modules_that_insertion_takes_are_trained(tmp_path: Path, options: dict, wanted: list[str]) -> None:
    trainer = Ones()
    trained = train(tmp_path, trainer, **options)
    assert sorted(trainer.trained) == wanted
    assert sorted(name for name, found in trained.modules.items() if found.weight_codes is not None) == wanted
    assert set(trained.modules) == {"stem", "first", "second", "lm_head", "pooler"}, "the others keep their numbers"
    graph = document.load(OnnxModel(tmp_path / "model").main)
    before = Plan.read(QuantizationPlan(tmp_path / "plan"))
    coverage = insertion.insert(graph, before, dialect=ONNX_RUNTIME, **options)
    assert sorted(layer.module for layer in coverage.layers if layer.inserted) == wanted


def test_a_pattern_that_names_nothing_is_told_before_training(tmp_path: Path) -> None:
    trainer = Ones()
    with pytest.raises(ModelError, match="no module matches 'thrid'"):
        train(tmp_path, trainer, exclude=["thrid"])
    assert not hasattr(trainer, "trained")


def test_without_samples_nothing_trains(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are none"):
        train(tmp_path, Ones(), samples=0)
