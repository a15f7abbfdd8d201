"""Exported once for all tests of graphs."""

from __future__ import annotations

import pytest

from tests.unit.graph.examples import MODELS, sample
from trtbuild.core.artifacts import OnnxModel
from trtbuild.graph import canonical, document

torch = pytest.importorskip("torch")


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Model name -> path of its canonical FP32 ONNX file."""
    paths = {}

    def export(name):
        if name not in paths:
            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp(name)
            module = MODELS[name]().eval()
            torch.onnx.export(
                module, (torch.from_numpy(sample(name)),), folder / "raw.onnx", dynamo=True, opset_version=21,
                input_names=["x"], output_names=["y"], external_data=False, verbose=False,
                dynamic_shapes=({0: "batch"} if name in ("mlp", "cnn") else {0: "batch", 1: "sequence"},),
            )  # fmt: skip
            model = document.load(folder / "raw.onnx")
            canonical.canonicalize(model)
            document.save(model, OnnxModel(folder))
            paths[name] = folder / "model.onnx"
        return paths[name]

    return export
