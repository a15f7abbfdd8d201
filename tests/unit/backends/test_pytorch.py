import ast
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers

from trtbuild.backends.huggingface import HuggingFace
from trtbuild.backends.pytorch import PyTorch, example_inputs
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.sources import HuggingFaceSource
from trtbuild.core.tensors import AxisRange, Shapes, TensorSpec


class Two(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())

    def forward(self, x: torch.Tensor, flag: torch.Tensor) -> Any:
        return self.inner(x), flag + 1


def shapes(batch: tuple[int, int, int] = (1, 1, 6)) -> Shapes:
    low, opt, high = batch
    return Shapes(
        inputs={
            "flag": TensorSpec(dtype="int64", dims=["rows"]),
            "x": TensorSpec(dtype="float32", dims=["batch", 3, 8]),
        },
        axes={"batch": AxisRange(min=low, opt=opt, max=high), "rows": AxisRange(min=1, opt=1, max=6)},
    )


def dims(value: onnx.ValueInfoProto) -> list[Any]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_inputs_keep_the_recipes_order_and_axes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    PyTorch().export(Two().eval(), shapes(), 21, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model)
    assert {value.name: dims(value) for value in model.graph.input} == {"flag": ["rows"], "x": ["batch", 3, 8]}
    assert [value.name for value in model.graph.input] == ["flag", "x"]
    assert [value.name for value in model.graph.output] == ["output", "output_1"]
    assert model.opset_import[0].version == 21
    assert capfd.readouterr() == ("", "")


def test_the_graph_equals_the_module_at_lengths_it_was_not_traced_with(tmp_path: Path) -> None:
    module = Two().eval()
    PyTorch().export(module, shapes(), 21, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    random = np.random.default_rng(0)
    for batch, rows in ((1, 1), (5, 2), (6, 6)):
        sample = {"x": random.standard_normal((batch, 3, 8), dtype=np.float32), "flag": np.arange(rows)}
        (wanted,) = PyTorch().observe(module, [sample])
        assert list(wanted) == ["output", "output_1"]
        got = session.run(None, sample)
        np.testing.assert_allclose(got[0], wanted["output"], atol=1e-6)
        np.testing.assert_array_equal(got[1], wanted["output_1"])


def test_an_axis_of_one_length_is_a_constant(tmp_path: Path) -> None:
    PyTorch().export(Two().eval(), shapes(batch=(4, 4, 4)), 21, tmp_path / "m.onnx")
    assert dims(onnx.load(tmp_path / "m.onnx").graph.input[1]) == [4, 3, 8]


def test_example_lengths_are_at_least_two_and_differ() -> None:
    inputs = example_inputs(shapes())
    lengths = inputs["x"].shape[0], inputs["flag"].shape[0]
    assert min(lengths) >= 2
    assert len(set(lengths)) == 2
    assert torch.equal(inputs["x"], example_inputs(shapes())["x"])
    assert inputs["x"].std() > 0.5
    assert inputs["flag"].dtype == torch.int64


def test_equal_exports_give_equal_bytes(tmp_path: Path) -> None:
    module = Two().eval()
    for name in ("a", "b"):
        PyTorch().export(module, shapes(), 21, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_transformers_model_keeps_its_module_paths(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    module = HuggingFace().load(HuggingFaceSource(folder=tmp_path, outputs=["last_hidden_state", "pooler_output"]))
    spec = TensorSpec(dtype="int64", dims=["batch", "sequence"])
    axes = {"batch": AxisRange(min=1, opt=1, max=8), "sequence": AxisRange(min=1, opt=16, max=64)}
    # Not forward's order: names must still belong to their tensors.
    inputs = {"attention_mask": spec, "input_ids": spec}
    PyTorch().export(module, Shapes(inputs=inputs, axes=axes), 21, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert [value.name for value in graph.output] == ["last_hidden_state", "pooler_output"]
    scopes = [
        ast.literal_eval(entry.value)
        for node in graph.node
        for entry in node.metadata_props
        if node.op_type in ("MatMul", "Gemm") and entry.key == "pkg.torch.onnx.name_scopes"
    ]
    paths = {scope[-2] for scope in scopes}
    assert {"encoder.layer.0.attention.self.query", "encoder.layer.1.output.dense", "pooler.dense"} <= paths
    sample = {"attention_mask": np.array([[1, 1, 1, 0]] * 2), "input_ids": np.array([[1, 2, 3, 4], [4, 3, 2, 1]])}
    (wanted,) = PyTorch().observe(module, [sample])
    got = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, sample)
    np.testing.assert_allclose(got[0], wanted["last_hidden_state"], atol=1e-5)


def test_dictionary_outputs_name_themselves(tmp_path: Path) -> None:
    class Named(Two):
        def forward(self, x: torch.Tensor, flag: torch.Tensor) -> Any:
            return {"linear": self.inner(x), "up": flag + 1}

    PyTorch().export(Named().eval(), shapes(), 21, tmp_path / "m.onnx")
    assert [value.name for value in onnx.load(tmp_path / "m.onnx").graph.output] == ["linear", "up"]


def test_wrong_output_names_are_counted(tmp_path: Path) -> None:
    module = Two().eval()
    module.output_names = ["one"]  # type: ignore[assignment]
    with pytest.raises(ModelError, match="returns 2 tensors, but 1 output names"):
        PyTorch().export(module, shapes(), 21, tmp_path / "m.onnx")


def test_half_outputs_are_observed_in_float32() -> None:
    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.half()

    (found,) = PyTorch().observe(Half(), [{"x": np.ones(3, np.float32)}])
    assert found["output"].dtype == np.float32


def test_an_output_that_is_no_tensor_is_named() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x, "text"

    with pytest.raises(ModelError, match="returns Tensor, str"):
        list(PyTorch().observe(Odd(), [{"x": np.ones(3, np.float32)}]))


def test_inputs_must_be_parameters_of_forward(tmp_path: Path) -> None:
    wrong = Shapes(inputs={"pixels": TensorSpec(dtype="float32", dims=[1, 3, 8])})
    with pytest.raises(DataError, match=r"Two\.forward has no parameter 'pixels'") as error:
        PyTorch().export(Two(), wrong, 21, tmp_path / "m.onnx")
    assert "x, flag" in error.value.hint


def test_an_operator_without_onnx_is_placed(tmp_path: Path) -> None:
    class Eigen(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eig(x[0, :, :3])[0].real

    class Model(Two):
        def __init__(self) -> None:
            super().__init__()
            self.eigen = Eigen()

        def forward(self, x: torch.Tensor, flag: torch.Tensor) -> Any:
            return self.eigen(self.inner(x)), flag + 1

    with pytest.raises(ModelError, match=r"aten\.linalg_eig \(in module 'eigen' at .*test_pytorch\.py:\d+\)"):
        PyTorch().export(Model().eval(), shapes(), 21, tmp_path / "m.onnx")


def test_a_branch_on_data_is_explained(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Branch(Two):
        def forward(self, x: torch.Tensor, flag: torch.Tensor) -> Any:
            return (self.inner(x) if x.sum() > 0 else x), flag + 1

    with pytest.raises(ModelError, match=r"data-dependent expression.*test_pytorch\.py:\d+"):
        PyTorch().export(Branch().eval(), shapes(), 21, tmp_path / "m.onnx")
    assert capfd.readouterr().out == ""


def test_a_models_own_error_comes_through(tmp_path: Path) -> None:
    class Wrong(Two):
        def forward(self, x: torch.Tensor, flag: torch.Tensor) -> Any:
            raise ModelError("output field 'y' is not there")

    with pytest.raises(ModelError, match="output field 'y' is not there"):
        PyTorch().export(Wrong().eval(), shapes(), 21, tmp_path / "m.onnx")


def test_a_length_that_must_be_even_still_exports_or_is_explained(tmp_path: Path) -> None:
    class Even(Two):
        def forward(self, x: torch.Tensor, flag: torch.Tensor) -> Any:
            return self.inner(x).reshape(-1, 2, 3, 4), flag + 1

    PyTorch().export(Even().eval(), shapes(batch=(2, 4, 8)), 21, tmp_path / "m.onnx")
    assert dims(onnx.load(tmp_path / "m.onnx").graph.input[1])[0] != 4


def test_an_output_that_is_an_input_is_refused_or_copied(tmp_path: Path) -> None:
    class Through(Two):
        def forward(self, x: torch.Tensor, flag: torch.Tensor) -> Any:
            return self.inner(x), flag

    PyTorch().export(Through().eval(), shapes(), 21, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert [value.name for value in graph.input] == ["flag", "x"]
    assert [value.name for value in graph.output] == ["output", "output_1"]
