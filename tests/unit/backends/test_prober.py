"""The prober: the numbers that insertion writes, and errors that come true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx import helper, numpy_helper

from trtbuild.backends import fake_quantization
from trtbuild.backends.onnxruntime.backend import OnnxRuntime
from trtbuild.backends.prober import TorchProber
from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.formats import FORMATS
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.core.sensitivity import Sensitivity
from trtbuild.graph import document, insertion
from trtbuild.stages.sensitivity import SensitivityOptions

BLOCK = 16
SCORED = list(FORMATS)
LINEAR_ONLY = {"fp8_block128", "int4", "int4_awq", "int4_gptq", "w4a8_awq", "int8_sq", "nvfp4", "mxfp8"}


def numbers_of(weight: np.ndarray, form: str, x: np.ndarray) -> ModuleQuantization:
    """A plan for W [out, in, ...] and inputs [..., in] (a convolution's in any order), worked out in NumPy."""
    traits, scale, codes = FORMATS[form], None, None
    if traits.algorithm in ("smoothquant", "awq"):
        channel = np.abs(x).reshape(-1, weight.shape[1]).max(0)
        scale = np.sqrt(np.abs(weight).max(0) / channel).astype(np.float32)
        weight, x = weight / scale, x * scale
    block = 0
    if traits.granularity == "tensor":
        amax = np.abs(weight).max()
    elif traits.granularity == "channel":
        amax = np.abs(weight).reshape(len(weight), -1).max(1)
    else:
        block = traits.block or BLOCK
        amax = np.stack([np.abs(part).max(1) for part in np.split(weight, range(block, weight.shape[1], block), 1)], 1)
        if traits.granularity == "tile":
            amax = np.broadcast_to(amax.max(0), amax.shape)
    if traits.algorithm == "gptq":
        moved = np.random.default_rng(3).uniform(-0.7, 0.7, weight.shape)  # codes that rounding would not choose
        codes = np.clip(np.rint(weight / np.repeat(amax / 7, block, 1) + moved), -7, 7).astype(np.int8)
    return ModuleQuantization(
        form,
        weight_amax=np.asarray(amax, np.float32),
        # A little less than the greatest input, so that some saturate.
        input_amax=np.float32(0.9 * np.abs(x).max()) if traits.activation else None,
        pre_quant_scale=scale,
        weight_codes=codes,
        block_size=block,
    )


def inserted(
    folder: Path, form: str, weight: np.ndarray, x: np.ndarray, numbers: ModuleQuantization, operator: str, **given: Any
) -> np.ndarray:
    """What ONNX Runtime computes for one product of W [out, in, ...] with this plan inserted."""
    stored = weight if operator == "Conv" else weight.swapaxes(0, 1)
    node = helper.make_node(operator, ["x", "w"], ["y"], name=f"layer/{operator}", **given)
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", 1, x.shape)], [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(np.ascontiguousarray(stored), "w")],
    )  # fmt: skip
    model = OnnxModel(folder)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), model.main)
    written = document.load(model.main)
    # A layer that reads the graph's input stays high by default.
    coverage = insertion.insert(written, Plan({"layer": numbers}), include=["layer"], attention="high")
    assert [layer.reason for layer in coverage.layers] == [""]
    target = OnnxModel(folder / form)
    target.path.mkdir()
    document.save(written, target)
    return next(iter(OnnxRuntime().interpret(target, [{"x": x}])))["y"]


@pytest.mark.parametrize("form", SCORED)
def test_a_quantized_linear_is_the_inserted_one(form: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((24, 256)).astype(np.float32)
    x = (random.standard_normal((3, 5, 256)) * np.linspace(0.1, 3, 256)).astype(np.float32)
    layer = torch.nn.Linear(256, 24, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.from_numpy(weight))
    numbers = numbers_of(weight, form, x)
    found = fake_quantization.output(layer, torch.from_numpy(x), numbers).numpy()
    np.testing.assert_allclose(found, inserted(tmp_path, form, weight, x, numbers, "MatMul"), rtol=1e-4, atol=2e-4)
    assert np.abs(found - x @ weight.T).max() > 1e-3


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("form", [form for form in SCORED if form not in LINEAR_ONLY])
def test_a_quantized_convolution_is_the_inserted_one(form: str, groups: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((8, 4 // groups, 3, 3)).astype(np.float32)
    x = random.standard_normal((2, 4, 7, 7)).astype(np.float32)
    layer = torch.nn.Conv2d(4, 8, 3, groups=groups, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.from_numpy(weight))
    numbers = numbers_of(weight, form, x)
    found = fake_quantization.output(layer, torch.from_numpy(x), numbers).numpy()
    expected = inserted(tmp_path, form, weight, x, numbers, "Conv", group=groups)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("form", ["int8", "w8a16", "fp8", "fp8_pc_pt"])
def test_a_quantized_transposed_convolution_is_the_inserted_one(form: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((8, 4, 3, 3)).astype(np.float32)  # [out, in, *kernel]
    x = random.standard_normal((2, 4, 7, 7)).astype(np.float32)
    layer = torch.nn.ConvTranspose2d(4, 8, 3, stride=2, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.from_numpy(weight).transpose(0, 1))
    numbers = numbers_of(weight, form, x)
    found = fake_quantization.output(layer, torch.from_numpy(x), numbers).numpy()
    expected = inserted(tmp_path, form, weight, x, numbers, "ConvTranspose", strides=[2, 2])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)


class Block(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (torch.nn.Linear(width, width) for _ in range(4))
        self.up, self.down = torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        p = torch.softmax(self.query(y) @ self.key(y).transpose(-1, -2) / 4, -1)
        x = x + self.out(p @ self.value(y))
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


class Encoder(torch.nn.Module):
    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = torch.nn.ModuleList(Block(32) for _ in range(3))
        self.head = torch.nn.Linear(32, classes) if classes else torch.nn.Identity()
        self.unread = torch.nn.Linear(32, 4)
        self.unused = torch.nn.Linear(32, 4)
        for number, layer in enumerate(it for it in self.modules() if isinstance(it, torch.nn.Linear)):
            with torch.no_grad():
                layer.weight *= 2.0 ** (number % 3 - 1)
                layer.weight[number % len(layer.weight)] *= 1 + number % 4  # a row that coarsens a tensor's scale

    def forward(self, x: torch.Tensor) -> Any:
        for block in self.blocks:
            x = block(x)
        self.unread(x)
        return {"y": self.head(x), "count": torch.tensor([x.shape[1]])}


def samples(batches: int = 4) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [{"x": random.standard_normal((16, 6, 32)).astype(np.float32)} for _ in range(batches)]


def plans_of(model: torch.nn.Module, data: list[dict[str, np.ndarray]], *formats: str) -> dict[str, Plan]:
    """A plan in each format for every linear, whether a sample reaches it or not."""
    seen: dict[str, list[np.ndarray]] = {}
    linears = {path: layer for path, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    handles = [
        layer.register_forward_pre_hook(lambda _, x, path=path: seen.setdefault(path, []).append(x[0].numpy()))
        for path, layer in linears.items()
    ]
    with torch.no_grad():
        for sample in data:
            model(**{name: torch.from_numpy(array) for name, array in sample.items()})
    for handle in handles:
        handle.remove()
    nothing = [np.ones((1, 32), np.float32)]
    return {
        form: Plan(
            {
                path: numbers_of(layer.weight.detach().numpy(), form, np.concatenate(seen.get(path, nothing)))
                for path, layer in linears.items()
            }
        )
        for form in formats
    }


def outputs_with(
    model: torch.nn.Module, data: list[dict[str, np.ndarray]], path: str = "", numbers: Any = None
) -> torch.Tensor:
    """The model's first output with one module really quantized, [rows, positions, channels]."""
    layer = model.get_submodule(path)
    if path:
        layer.forward = lambda x: fake_quantization.output(layer, x, numbers)
    try:
        with torch.no_grad():
            found = [model(torch.from_numpy(sample["x"])) for sample in data]
    finally:
        if path:
            del layer.forward
    return torch.cat([next(iter(one.values())) if isinstance(one, dict) else one for one in found])


def probe(model: torch.nn.Module, plans: dict[str, Plan], data: Any, **options: Any) -> Sensitivity:
    return TorchProber().probe(model.eval(), plans, data, SensitivityOptions(**options))


def ranks(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values))


def test_predicted_errors_rank_and_measure_like_the_true_ones() -> None:
    model, data = Encoder(), samples()
    plans = plans_of(model, data, "int8", "fp8", "int4")
    found = probe(model, plans, data, probes=2)
    truth = outputs_with(model, data)
    predicted, true = [], []
    for path in found.modules.keys() - {"unread"}:
        for name, plan in plans.items():
            delta = outputs_with(model, data, path, plan.modules[path]) - truth
            ratio = delta.flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
            predicted.append(found.modules[path].errors[name].output_error)
            true.append(float(ratio.square().mean().sqrt()))
    assert len(true) == 3 * 18
    assert np.corrcoef(ranks(predicted), ranks(true))[0, 1] > 0.95  # Spearman's rank correlation
    assert np.median(np.abs(np.log(np.array(predicted) / np.array(true)))) < 0.1


def test_the_divergence_of_logits_comes_true() -> None:
    model, data = Encoder(classes=12), samples(8)
    plans = plans_of(model, data, "int4")
    found = probe(model, plans, data, objective="kl")
    truth = outputs_with(model, data).log_softmax(-1)
    predicted, true = [], []
    for path in found.modules.keys() - {"unread"}:
        quantized = outputs_with(model, data, path, plans["int4"].modules[path]).log_softmax(-1)
        predicted.append(found.modules[path].errors["int4"].kl)
        true.append(float((truth.exp() * (truth - quantized)).sum(-1).mean()))
    assert np.corrcoef(ranks(predicted), ranks(true))[0, 1] > 0.9
    assert np.median(np.abs(np.log(np.array(predicted) / np.array(true)))) < 0.25


def test_a_linear_model_with_one_output_is_predicted_exactly() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.Linear(16, 1))
    data = [{"input": sample["x"][:, 0]} for sample in samples(1)]
    plans = plans_of(model, data, "int8", "int8_sq", "int4_awq", "w4a8_awq")
    found = probe(model, plans, data)
    rows = [{"x": sample["input"]} for sample in data]
    truth = outputs_with(model, rows)
    for path, module in found.modules.items():
        for name, one in module.errors.items():
            ratio = (outputs_with(model, rows, path, plans[name].modules[path]) - truth) / truth
            assert one.output_error == pytest.approx(float(ratio.square().mean().sqrt()), rel=1e-3)


def test_local_errors_are_those_of_the_modules_own_output() -> None:
    torch.manual_seed(0)
    model, data = torch.nn.Sequential(torch.nn.Linear(32, 8)), [{"input": samples(1)[0]["x"]}]
    plans = plans_of(model, data, "int4")
    local = probe(model, plans, data).modules["0"].errors["int4"].local
    x = torch.from_numpy(data[0]["input"])
    y, quantized = model(x), fake_quantization.output(model[0], x, plans["int4"].modules["0"])
    noise = (quantized - y).square()
    assert local is not None
    assert local.mse == pytest.approx(float(noise.mean()), rel=1e-4)
    assert local.relative_error == pytest.approx(float((noise.sum() / y.square().sum()).sqrt()), rel=1e-4)
    assert local.snr_db == pytest.approx(-20 * np.log10(local.relative_error), rel=1e-4)
    expected = torch.nn.functional.cosine_similarity(y.flatten(), quantized.flatten(), dim=0)
    assert local.cosine == pytest.approx(float(expected), abs=1e-5)


def test_what_no_output_depends_on_has_no_error_and_what_never_runs_no_score() -> None:
    model, data = Encoder(), samples(1)
    found = probe(model, plans_of(model, data, "int8"), data)
    unread = found.modules["unread"].errors["int8"]
    assert unread.output_error == 0
    assert unread.local is not None
    assert unread.local.mse > 0
    assert found.unscored == {"unused": "no sample reached it"}
    assert (found.samples, found.candidates) == (16, ["int8"])


def test_a_module_called_twice_counts_both_errors_together() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = torch.nn.Linear(32, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) - self.layer(x)  # the errors cancel

    data = [{"x": samples(1)[0]["x"][:, 0]}]
    model = Twice()
    found = probe(model, plans_of(model, data, "int4"), data)
    assert found.modules["layer"].errors["int4"].output_error == 0


def test_an_input_written_over_after_the_layer_ran_is_seen_as_it_was() -> None:
    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = torch.nn.Linear(32, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.layer(x.clone())) + 2

    class InPlace(Plain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = x.clone()
            answer = self.layer(hidden)
            hidden.mul_(100)
            return answer.relu_() + 2

    data = samples(2)
    plans = plans_of(Plain(), data, "int4")
    assert probe(InPlace(), plans, data) == probe(Plain(), plans, data)


def test_rows_that_a_layer_does_not_hold_give_the_same_error_on_average() -> None:
    class Part(torch.nn.Module):
        """As an expert does, the layer sees some of the tokens, in an order of their own."""

        def __init__(self, part: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.part, self.layer = part, torch.nn.Linear(32, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = x.reshape(-1, 32)
            chosen = torch.arange(0, len(tokens), 1)[3:] if self.part else torch.arange(len(tokens))
            return x.reshape(-1, 32).index_add(0, chosen, self.layer(tokens[chosen])).reshape(x.shape)

    data = samples(4)
    errors = [
        probe(Part(part), plans_of(Part(part), data, "int4"), data, probes=24).modules["layer"].errors["int4"]
        for part in (False, True)
    ]
    assert errors[1].output_error == pytest.approx(errors[0].output_error, rel=0.2)


def test_transformers_conv1d_is_a_linear(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=20, n_embd=32, n_layer=1, n_head=2, n_positions=16)
    model = transformers.GPT2Model(config).eval()
    layer = model.h[0].mlp.c_fc
    weight = layer.weight.detach().numpy().T
    x = np.random.default_rng(0).standard_normal((2, 3, 32)).astype(np.float32)
    numbers = numbers_of(weight, "int8_sq", x)
    linear = torch.nn.Linear(32, 128)
    linear.weight, linear.bias = torch.nn.Parameter(layer.weight.T), layer.bias
    inputs = torch.from_numpy(x)
    assert torch.allclose(
        fake_quantization.output(layer, inputs, numbers), fake_quantization.output(linear, inputs, numbers)
    )
    data = [{"input_ids": np.array([[1, 2, 3], [4, 5, 6]])}]
    model.config.return_dict = False
    found = probe(model, {"int8_sq": Plan({"h.0.mlp.c_fc": numbers})}, data)
    assert found.modules["h.0.mlp.c_fc"].weights == 32 * 128
    assert found.modules["h.0.mlp.c_fc"].errors["int8_sq"].output_error > 0


def test_a_model_without_gradients_is_an_error() -> None:
    class Frozen(Encoder):
        @torch.no_grad()
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x)

    with pytest.raises(ModelError, match="has a gradient"):
        probe(Frozen(), plans_of(Encoder(), samples(1), "int8"), samples(1))


def test_a_layer_that_runs_without_gradients_has_no_score() -> None:
    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.layer = torch.nn.Linear(32, 32), torch.nn.Linear(32, 32)

        def forward(self, x: torch.Tensor) -> Any:
            with torch.no_grad():
                x = self.frozen(x)
            return self.layer(x)

    found = probe(Half(), plans_of(Half(), samples(1), "int8"), samples(1))
    assert list(found.modules) == ["layer"]
    assert found.unscored == {"frozen": "it runs under torch.no_grad, so nothing says how its errors reach the output"}


def test_a_model_that_cannot_be_differentiated_is_an_error() -> None:
    class Overwritten(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(32, 32)

        def forward(self, x: torch.Tensor) -> Any:
            return torch.relu(self.layer(x)).mul_(2)

    with pytest.raises(ModelError, match="cannot be differentiated"):
        probe(Overwritten(), plans_of(Overwritten(), samples(1), "int8"), samples(1))


def test_no_samples_and_other_names_are_errors() -> None:
    model, data = Encoder(), samples(1)
    plans = plans_of(model, data, "int8")
    with pytest.raises(DataError, match="there are none"):
        probe(model, plans, [])
    with pytest.raises(ModelError, match="does not take the samples"):
        probe(model, plans, [{"y": data[0]["x"]}])
