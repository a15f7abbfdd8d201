from pathlib import Path

import pytest
import torch

from trtbuild.backends.factory import Factory
from trtbuild.core.errors import ModelError
from trtbuild.core.sources import OnnxSource, PythonSource

CODE = """
import torch

def module(width):
    return torch.nn.Linear(width, 2).train()

def weights():
    return torch.nn.Linear(2, 2).state_dict()

def a_class():
    return torch.nn.Linear

def loaded(files, width=2):
    module = torch.nn.Linear(width, 2)
    module.files = files
    return module

def broken():
    raise ValueError("no such size")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("factory_source")
    (folder / "factory_source_module.py").write_text(CODE)
    return folder


def source(folder: Path, function: str, **arguments: int) -> PythonSource:
    return PythonSource(entry=f"factory_source_module:{function}", arguments=arguments, folder=folder)


def test_the_module_comes_in_inference_mode(folder: Path) -> None:
    module = Factory().load(source(folder, "module", width=3))
    assert isinstance(module, torch.nn.Linear)
    assert module.in_features == 3
    assert not module.training


def test_a_function_with_a_parameter_files_receives_those_that_the_recipe_lists(folder: Path) -> None:
    listed = [folder / "a.pt", folder / "b.pt"]
    named = source(folder, "loaded").model_copy(update={"listed": listed})
    assert Factory().load(named).files == listed
    given = named.model_copy(update={"arguments": {"files": []}})
    assert Factory().load(given).files == [], "the recipe's own argument wins"


@pytest.mark.parametrize(("function", "found"), [("weights", "OrderedDict"), ("a_class", "the class Linear")])
def test_what_is_no_module_is_named(folder: Path, function: str, found: str) -> None:
    with pytest.raises(ModelError, match=f"returned {found}, not a torch.nn.Module"):
        Factory().load(source(folder, function))


def test_what_the_function_raises_is_told(folder: Path) -> None:
    with pytest.raises(ModelError, match="raised ValueError: no such size"):
        Factory().load(source(folder, "broken"))


def test_other_sources_are_refused() -> None:
    with pytest.raises(ModelError, match="not a source of kind 'onnx'"):
        Factory().load(OnnxSource(file=Path("model.onnx")))
