from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from trtbuild.backends.modelopt import ModelOpt
from trtbuild.core.artifacts import QuantizationPlan
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.quantization import Plan


class Model(torch.nn.Module):
    """Two linears that run, a LayerNorm, an embedding, a linear of an excluded name and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embeddings = torch.nn.Embedding(10, 8)
        self.norm = torch.nn.LayerNorm(8)
        self.first = torch.nn.Linear(8, 12)
        self.pool = torch.nn.AvgPool1d(1)
        self.second = torch.nn.Linear(12, 8)
        self.lm_head = torch.nn.Linear(8, 4)
        self.unused = torch.nn.Linear(8, 8)

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        hidden = self.pool(torch.relu(self.first(self.norm(x) + self.embeddings(ids))))
        out: torch.Tensor = self.lm_head(self.second(hidden))
        return out


def samples(count: int = 3) -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    return [
        {"ids": random.integers(0, 10, (4, 5)), "x": random.standard_normal((4, 5, 8)).astype(np.float32)}
        for _ in range(count)
    ]


def calibrate(folder: Path, module: torch.nn.Module, form: str, data: Any = None, alpha: float = 0.5) -> Plan:
    plan = QuantizationPlan(folder)
    ModelOpt().calibrate(module, SimpleNamespace(format=form, alpha=alpha), samples() if data is None else data, plan)
    return Plan.read(plan)


def channel_amax() -> dict[str, np.ndarray]:
    """Greatest |x| per input channel, by plain hooks on a model of the same seed."""
    model, found = Model().eval(), {}

    def look(name: str) -> Any:
        def hook(_: Any, inputs: Any) -> None:
            here = inputs[0].detach().abs().reshape(-1, inputs[0].shape[-1]).amax(0).numpy()
            found[name] = np.maximum(found.get(name, 0), here)

        return hook

    for name in ("first", "second"):
        model.get_submodule(name).register_forward_pre_hook(look(name))
    for sample in samples():
        model(**{key: torch.from_numpy(value) for key, value in sample.items()})
    return found


def test_int8_numbers_are_the_plain_maxima(tmp_path: Path) -> None:
    plan = calibrate(tmp_path, Model().eval(), "int8")
    assert set(plan.modules) == {"first", "second"}
    assert plan.samples == 12
    seen = channel_amax()
    for name, numbers in plan.modules.items():
        weight = Model().get_submodule(name).weight.detach().numpy()
        np.testing.assert_allclose(numbers.weight_amax, np.abs(weight).max(1), rtol=1e-6)
        np.testing.assert_allclose(numbers.input_amax, seen[name].max(), rtol=1e-6)
        assert numbers.input_amax is not None
        assert numbers.input_amax.size == 1
        assert numbers.pre_quant_scale is None


@pytest.mark.parametrize("alpha", [0.5, 0.8, 1.0])
def test_smoothquant_numbers_are_those_of_the_paper(tmp_path: Path, alpha: float) -> None:
    plan = calibrate(tmp_path, Model().eval(), "int8_sq", alpha=alpha)
    seen = channel_amax()
    for name, numbers in plan.modules.items():
        weight = np.abs(Model().get_submodule(name).weight.detach().numpy())
        p = weight.max(0) ** (1 - alpha) / seen[name] ** alpha
        np.testing.assert_allclose(numbers.input_channel_amax, seen[name], rtol=1e-5)
        np.testing.assert_allclose(numbers.pre_quant_scale, p.clip(1e-4, 1e4), rtol=1e-5)
        np.testing.assert_allclose(numbers.input_amax, (seen[name] * p).max(), rtol=1e-5)
        np.testing.assert_allclose(numbers.weight_amax, (weight / p).max(1), rtol=1e-5)


def test_weight_only_needs_no_samples(tmp_path: Path) -> None:
    plan = calibrate(tmp_path, Model().eval(), "w8a16", data=[])
    assert set(plan.modules) == {"first", "second", "unused"}
    assert plan.samples == 0
    assert all(numbers.input_amax is None for numbers in plan.modules.values())


@pytest.mark.parametrize("form", ["int8", "int8_sq"])
def test_what_was_left_alone_has_its_reason(tmp_path: Path, form: str) -> None:
    plan = calibrate(tmp_path, Model().eval(), form)
    assert plan.kept_high == {
        "lm_head": "ModelOpt leaves modules named '*lm_head*' in high precision",
        "unused": "no calibration sample reached it",
    }


def test_a_model_of_excluded_names_only_gives_an_empty_plan(tmp_path: Path) -> None:
    plan = calibrate(tmp_path, torch.nn.ModuleDict({"lm_head": torch.nn.Linear(4, 4)}), "int8")
    assert plan.modules == {}
    assert list(plan.kept_high) == ["lm_head"]


def test_a_shared_weight_is_smoothed_once(tmp_path: Path) -> None:
    model = Model().eval()
    model.unused.weight = model.first.weight
    plan = calibrate(tmp_path, model, "int8_sq")
    assert plan.kept_high["unused"].startswith("it shares its weight with first")


def test_zero_inputs_are_left_alone(tmp_path: Path) -> None:
    class Zero(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> Any:
            return self.a(x) + self.b(x * 0)

    plan = calibrate(tmp_path, Zero(), "int8", data=[{"x": np.ones((2, 4), np.float32)}])
    assert plan.kept_high == {"b": "its input was zero in every calibration sample"}


def test_no_samples_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="int8_sq needs calibration samples"):
        calibrate(tmp_path, Model(), "int8_sq", data=[])


def test_samples_of_other_names_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not take the samples"):
        calibrate(tmp_path, Model(), "int8", data=[{"y": np.ones(3, np.float32)}])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("form", ["int8", "int8_sq"])
def test_a_non_finite_input_names_its_module(tmp_path: Path, form: str, value: float) -> None:
    data = samples()
    data[1]["x"][0, 0, 0] = value
    with pytest.raises(DataError, match="of first"):
        calibrate(tmp_path, Model().eval(), form, data=data)


def test_a_non_finite_weight_names_its_module(tmp_path: Path) -> None:
    model = Model()
    model.second.weight.data[0, 0] = torch.nan
    with pytest.raises(DataError, match="weight of second"):
        calibrate(tmp_path, model, "w8a16", data=[])


def test_a_transformers_decoder_with_conv1d(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    model = transformers.GPT2Model(config).eval()
    weight = model.h[0].mlp.c_fc.weight.detach().numpy().copy()  # [in, out]
    plan = calibrate(tmp_path, model, "int8", data=[{"input_ids": np.array([[1, 2, 3]])}])
    assert {"h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_fc", "h.0.mlp.c_proj"} == set(plan.modules)
    np.testing.assert_allclose(plan.modules["h.0.mlp.c_fc"].weight_amax, np.abs(weight).max(0), rtol=1e-6)
    assert capfd.readouterr().out == ""
