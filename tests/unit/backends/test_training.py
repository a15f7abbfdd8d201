"""Training through quantizers brings the quantized model nearer to the FP32 one, and its codes are what is built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trtbuild.core.artifacts import QuantizationPlan
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.formats import GREATEST
from trtbuild.core.quantization import Plan
from trtbuild.stages.calibrate import CalibrateOptions
from trtbuild.stages.finetune import FinetuneOptions

torch = pytest.importorskip("torch")
from trtbuild.backends.modelopt.calibrator import ModelOpt  # noqa: E402
from trtbuild.backends.modelopt.training import ModelOptTrainer  # noqa: E402


class Mlp(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = torch.nn.Linear(32, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 4)

    def forward(self, x):
        return self.c(torch.nn.functional.gelu(self.b(torch.nn.functional.gelu(self.a(x)))))


def samples():
    return [{"x": np.random.default_rng(seed).standard_normal((32, 32)).astype(np.float32)} for seed in range(8)]


def calibrated(folder: Path, form: str) -> QuantizationPlan:
    folder.mkdir()
    plan = QuantizationPlan(folder)
    ModelOpt().calibrate(Mlp(), CalibrateOptions(format=form, block_size=16), samples(), plan)
    return plan


def trained(plan: QuantizationPlan, **options) -> Plan:
    return ModelOptTrainer().finetune(Mlp(), Plan.read(plan), FinetuneOptions(**options), samples())


def answers(plan: Plan, kind: str):
    """The model with the weights that a plan says, by codes or by rounding, on data that nobody trained on."""
    module = Mlp().eval()
    for path, numbers in plan.modules.items():
        layer = module.get_submodule(path)
        scale = numbers.weight_amax / GREATEST[kind]
        scale = np.repeat(scale, 16, axis=1) if numbers.block_size else scale[:, None]
        codes = numbers.weight_codes
        codes = np.rint(layer.weight.detach().numpy() / scale) if codes is None else codes
        layer.weight.data = torch.from_numpy((codes * scale).astype(np.float32))
    x = torch.from_numpy(np.random.default_rng(99).standard_normal((256, 32)).astype(np.float32))
    with torch.no_grad():
        return module(x).numpy(), Mlp().eval()(x).numpy()


def error(plan: Plan, kind: str) -> float:
    found, truth = answers(plan, kind)
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def test_int4_weights_come_nearer_to_the_teacher(tmp_path: Path, capsys) -> None:
    plan = calibrated(tmp_path / "plan", "int4")
    after = trained(plan, steps=150, learning_rate=1e-3)
    before = Plan.read(plan)
    assert error(after, "int4") < 0.8 * error(before, "int4")
    for path, numbers in after.modules.items():
        assert numbers.weight_codes is not None
        assert numbers.weight_codes.dtype == np.int8
        assert np.abs(numbers.weight_codes).max() <= 7
        np.testing.assert_array_equal(numbers.weight_amax, before.modules[path].weight_amax)
    assert "loss" in capsys.readouterr().out


def test_no_step_of_any_size_leaves_the_rounding_as_it_was(tmp_path: Path) -> None:
    plan = calibrated(tmp_path / "plan", "int8")
    after = trained(plan, steps=1, learning_rate=1e-12)
    assert error(after, "int8") == pytest.approx(error(Plan.read(plan), "int8"), rel=1e-3)


def test_the_same_seed_gives_the_same_codes(tmp_path: Path) -> None:
    plan = calibrated(tmp_path / "plan", "int4")
    one, two = (trained(plan, steps=10, learning_rate=1e-3) for _ in range(2))
    for path, numbers in one.modules.items():
        np.testing.assert_array_equal(numbers.weight_codes, two.modules[path].weight_codes)


def test_what_cannot_be_trained_says_why(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="come to share later"):
        trained(calibrated(tmp_path / "plan-sq", "int8_sq"))
    with pytest.raises(ModelError, match="writes integer codes"):
        trained(calibrated(tmp_path / "plan-fp8", "fp8"))


def test_a_loss_that_explodes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not finite at step"):
        trained(calibrated(tmp_path / "plan", "int4"), steps=5, learning_rate=float("inf"))
