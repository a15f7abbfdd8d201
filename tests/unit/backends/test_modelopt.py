from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import transformers

from trtbuild.backends.modelopt.calibrator import ModelOpt
from trtbuild.backends.modelopt.layers import find
from trtbuild.core.artifacts import QuantizationPlan
from trtbuild.core.errors import DataError, ModelError
from trtbuild.core.formats import CALIBRATED_FORMATS, FORMATS, Format
from trtbuild.core.quantization import ModuleQuantization, Plan
from trtbuild.stages.calibrate import CalibrateOptions

DYNAMIC = ("nvfp4", "mxfp8")
BLOCKS = ("int4", "int4_awq", "int4_gptq", "w4a8_awq")
OTHERS = tuple(form for form in get_args(Format) if form not in (*DYNAMIC, *BLOCKS))


class Mlp(torch.nn.Module):
    """Linears that run, one of an excluded name, one that never runs; an embedding, a norm and pooling beside them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embeddings = torch.nn.Embedding(10, 32)
        self.norm = torch.nn.LayerNorm(32)
        self.first = torch.nn.Linear(32, 48)
        self.pool = torch.nn.AvgPool1d(1)
        self.second = torch.nn.Linear(48, 32)
        self.lm_head = torch.nn.Linear(32, 4)
        self.unused = torch.nn.Linear(32, 32)

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        hidden = self.pool(torch.relu(self.first(self.norm(x) + self.embeddings(ids))))
        out: torch.Tensor = self.lm_head(input=self.second(hidden))
        return out


class Cnn(torch.nn.Module):
    """Convolutions of each kind, in groups, transposed, both at once, and a linear behind them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 8, 3)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.transposed, self.in_groups = torch.nn.ConvTranspose2d(8, 6, 2), torch.nn.ConvTranspose2d(6, 6, 2, groups=2)
        self.line = torch.nn.Conv1d(6, 4, 1)
        self.head = torch.nn.Linear(4, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = self.in_groups(self.transposed(torch.relu(self.depthwise(torch.relu(self.conv(image))))))
        out: torch.Tensor = self.head(self.line(hidden.flatten(2)).mean(2))
        return out


class Attention(torch.nn.Module):
    """torch's own encoder layer, whose fused path in inference mode calls none of its linears."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out


def samples(count: int = 3) -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    return [
        {"ids": random.integers(0, 10, (4, 5)), "x": random.standard_normal((4, 5, 32)).astype(np.float32)}
        for _ in range(count)
    ]


def images() -> list[dict[str, Any]]:
    return [{"image": np.random.default_rng(2).standard_normal((2, 3, 8, 8)).astype(np.float32)}]


def tokens() -> list[dict[str, Any]]:
    return [{"x": np.random.default_rng(3).standard_normal((2, 5, 32)).astype(np.float32)}]


def calibrate(folder: Path, module: torch.nn.Module, form: str, data: Any = None, **settings: Any) -> Plan:
    folder.mkdir(exist_ok=True)
    plan = QuantizationPlan(folder)
    options = CalibrateOptions.model_validate({"format": form, "block_size": 16, "alpha": 0.5} | settings)
    ModelOpt().calibrate(module, options, samples() if data is None else data, plan)
    return Plan.read(plan)


def watched(model: torch.nn.Module, data: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Every linear's input rows [rows, in], by plain hooks."""
    rows: dict[str, list[np.ndarray]] = {}

    def look(name: str) -> Any:
        def hook(_: Any, inputs: Any, by_name: Any) -> None:
            x = (inputs or tuple(by_name.values()))[0].detach()
            rows.setdefault(name, []).append(x.reshape(-1, x.shape[-1]).numpy())

        return hook

    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(look(name), with_kwargs=True)
    with torch.no_grad():
        for sample in data:
            model(**{key: torch.from_numpy(value) for key, value in sample.items()})
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def rounded(values: np.ndarray, amax: np.ndarray, kind: str) -> np.ndarray:
    """`values` as the type says them, by this test's own arithmetic."""
    greatest = {"int8": 127.0, "int4": 7.0, "fp8": 448.0}[kind]
    scale = np.maximum(amax.astype(np.float32) / np.float32(greatest), np.float32(2.0**-100))
    ratio = np.clip(values / scale, -greatest, greatest)
    if kind == "fp8":
        return torch.from_numpy(ratio).to(torch.float8_e4m3fn).float().numpy() * scale
    return np.rint(ratio) * scale


def spoken(numbers: ModuleQuantization, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x W^T, both as the plan says them. `weight` [out, in] is the model's own."""
    traits = FORMATS[numbers.format]
    if numbers.pre_quant_scale is not None:
        x, weight = x * numbers.pre_quant_scale, weight / numbers.pre_quant_scale
    amax = numbers.weight_amax
    if amax.ndim == 2:
        amax = np.repeat(amax, numbers.block_size, axis=1)[:, : weight.shape[1]]
    elif amax.ndim == 1:
        amax = amax[:, None]
    if numbers.weight_codes is not None:
        matrix = numbers.weight_codes.astype(np.float32) * (amax / np.float32(7))
    else:
        matrix = rounded(weight, amax, traits.weight)
    if traits.activation:
        assert numbers.input_amax is not None
        x = rounded(x, numbers.input_amax, traits.activation)
    return x @ matrix.T


@pytest.mark.parametrize("form", [*OTHERS, *BLOCKS])
def test_each_format_has_its_fields_and_is_close(tmp_path: Path, form: str) -> None:
    plan = calibrate(tmp_path, Mlp().eval(), form)
    traits = FORMATS[form]  # type: ignore[index]
    assert set(plan.modules) == {"first", "second", "lm_head"} | (set() if traits.needs_samples else {"unused"})
    assert plan.classes == dict.fromkeys(["first", "second", "lm_head", "unused"], "Linear")
    assert plan.samples == (12 if traits.needs_samples else 0)
    seen = watched(Mlp().eval(), samples())
    for name, numbers in plan.modules.items():
        weight = Mlp().get_submodule(name).weight.detach().numpy()
        out, width = weight.shape
        shapes = {
            "tensor": (),
            "channel": (out,),
            "block": (out, width // 16),
            "tile": (out, 1),
        }
        assert numbers.weight_amax.shape == shapes[traits.granularity]
        assert numbers.block_size == {"block": 16, "tile": 128}.get(traits.granularity, 0)
        assert (numbers.input_amax is None) == (traits.activation is None)
        scaled = traits.algorithm in ("smoothquant", "awq")
        assert (numbers.pre_quant_scale is not None) == (numbers.input_channel_amax is not None) == scaled
        assert (numbers.weight_codes is not None) == (traits.algorithm == "gptq")
        if name in seen:
            exact = seen[name] @ weight.T
            error = np.linalg.norm(spoken(numbers, weight, seen[name]) - exact) / np.linalg.norm(exact)
            assert error < {"int8": 0.02, "fp8": 0.06, "int4": 0.15}[traits.weight]


def test_formats_that_need_samples_are_those_that_fail_without(tmp_path: Path) -> None:
    for form in (*OTHERS, *BLOCKS):
        if form in CALIBRATED_FORMATS:
            with pytest.raises(DataError, match=f"{form} needs calibration samples"):
                calibrate(tmp_path, Mlp(), form, data=[])
        else:
            assert len(calibrate(tmp_path, Mlp(), form, data=[]).modules) == 4


def test_nvfp4_has_the_greatest_of_each_block_and_the_range_of_inputs(tmp_path: Path) -> None:
    plan = calibrate(tmp_path, Mlp().eval(), "nvfp4")
    assert set(plan.modules) == {"first", "second", "lm_head"}
    seen = watched(Mlp().eval(), samples())
    for name, numbers in plan.modules.items():
        weight = Mlp().get_submodule(name).weight.detach().numpy()
        assert numbers.block_size == 16
        assert np.array_equal(numbers.weight_amax, np.abs(weight).reshape(len(weight), -1, 16).max(2))
        assert numbers.input_amax == np.abs(seen[name]).max()


def test_mxfp8_needs_no_samples_and_blocks_of_32(tmp_path: Path) -> None:
    plan = calibrate(tmp_path, Mlp().eval(), "mxfp8", data=[])
    assert set(plan.modules) == {"first", "lm_head", "unused"}
    assert plan.kept_high == {"second": "its 48 inputs are not a multiple of 32, the size of the format's blocks"}
    for name, numbers in plan.modules.items():
        weight = Mlp().get_submodule(name).weight.detach().numpy()
        assert np.array_equal(numbers.weight_amax, np.abs(weight).reshape(len(weight), -1, 32).max(2))
        assert (numbers.input_amax, numbers.block_size) == (None, 32)


@pytest.mark.parametrize("form", DYNAMIC)
def test_gptq_is_not_for_scales_in_dynamic_blocks(tmp_path: Path, form: str) -> None:
    with pytest.raises(ModelError, match=f"and {form} has scales of its own kind"):
        calibrate(tmp_path, Mlp(), form, rounding="gptq")


@pytest.mark.parametrize("alpha", [0.5, 0.8, 1.0])
def test_smoothquant_numbers_are_those_of_the_paper(tmp_path: Path, alpha: float) -> None:
    plan = calibrate(tmp_path, Mlp().eval(), "int8_sq", alpha=alpha)
    seen = watched(Mlp().eval(), samples())
    for name, numbers in plan.modules.items():
        weight, channel = np.abs(Mlp().get_submodule(name).weight.detach().numpy()), np.abs(seen[name]).max(0)
        p = (weight.max(0) ** (1 - alpha) / channel**alpha).clip(1e-4, 1e4)
        np.testing.assert_allclose(numbers.input_channel_amax, channel, rtol=1e-5)
        np.testing.assert_allclose(numbers.pre_quant_scale, p, rtol=1e-5)
        np.testing.assert_allclose(numbers.input_amax, (channel * p).max(), rtol=1e-5)
        np.testing.assert_allclose(numbers.weight_amax, (weight / p).max(1), rtol=1e-5)


def test_int8_numbers_are_the_plain_maxima(tmp_path: Path) -> None:
    plan = calibrate(tmp_path, Mlp().eval(), "int8")
    seen = watched(Mlp().eval(), samples())
    for name, numbers in plan.modules.items():
        weight = Mlp().get_submodule(name).weight.detach().numpy()
        np.testing.assert_allclose(numbers.weight_amax, np.abs(weight).max(1), rtol=1e-6)
        np.testing.assert_allclose(numbers.input_amax, np.abs(seen[name]).max(), rtol=1e-6)


def test_a_tile_s_number_stands_on_each_of_its_rows(tmp_path: Path) -> None:
    linear = torch.nn.Sequential(torch.nn.Linear(200, 150))
    weight = linear[0].weight.detach().numpy().copy()
    weight[140, 199] = 3.0
    linear[0].weight.data.copy_(torch.from_numpy(weight))
    amax = calibrate(tmp_path, linear, "fp8_block128", data=[]).modules["0"].weight_amax
    for rows in (slice(0, 128), slice(128, 150)):
        for block, columns in enumerate((slice(0, 128), slice(128, 200))):
            np.testing.assert_array_equal(amax[rows, block], np.abs(weight[rows, columns]).max())


@pytest.mark.parametrize(("method", "most"), [("percentile", 6.0), ("entropy", 20.0), ("mse", 40.0)])
def test_int8_clips_a_lone_outlier(tmp_path: Path, method: str, most: float) -> None:
    data = [{"x": np.random.default_rng(0).standard_normal((64, 64, 32)).astype(np.float32)}]
    data[0]["x"][0, 0, 0] = 50.0

    class One(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(32, 8)

        def forward(self, x: torch.Tensor) -> Any:
            return self.a(x)

    amax = calibrate(tmp_path, One(), "int8", data=data, method=method).modules["a"].input_amax
    assert amax is not None
    assert 3.0 < float(amax) < most


@pytest.mark.parametrize("form", ["int8_sq", "fp8", "w4a8_awq"])
def test_a_method_is_for_int8_alone(tmp_path: Path, form: str) -> None:
    with pytest.raises(ModelError, match="method 'entropy' is for format int8"):
        calibrate(tmp_path, Mlp(), form, method="entropy")


@pytest.mark.parametrize("form", ["int8", "int8_sq", "fp8", "w8a16"])
def test_convolutions_have_a_number_for_each_output_channel(tmp_path: Path, form: str) -> None:
    plan = calibrate(tmp_path, Cnn().eval(), form, data=images())
    per_tensor = form == "fp8"
    assert set(plan.modules) == {"conv", "depthwise", "transposed", "line", "head"} | (
        {"in_groups"} if per_tensor else set()
    )
    if not per_tensor:
        assert plan.kept_high["in_groups"] == (
            "a transposed convolution in groups has no axis of output channels to scale"
        )
    assert plan.classes["transposed"] == "ConvTranspose2d"
    assert plan.classes["line"] == "Conv1d"
    assert plan.modules["conv"].format == ("int8" if form == "int8_sq" else form)
    assert plan.modules["head"].format == form
    for name in ("conv", "depthwise", "line"):
        weight = np.abs(Cnn().get_submodule(name).weight.detach().numpy())
        expected = weight.max() if per_tensor else weight.reshape(len(weight), -1).max(1)
        np.testing.assert_allclose(plan.modules[name].weight_amax, expected, rtol=1e-6)
    weight = np.abs(Cnn().transposed.weight.detach().numpy())  # [in, out, 2, 2]
    expected = weight.max() if per_tensor else weight.max((0, 2, 3))
    np.testing.assert_allclose(plan.modules["transposed"].weight_amax, expected)
    assert (plan.modules["conv"].input_amax is None) == (form == "w8a16")
    if form != "w8a16":
        np.testing.assert_allclose(plan.modules["conv"].input_amax, np.abs(images()[0]["image"]).max(), rtol=1e-6)


@pytest.mark.parametrize("form", ["int4", "int4_awq", "int4_gptq", "w4a8_awq", "fp8_block128"])
def test_blocks_are_for_linears(tmp_path: Path, form: str) -> None:
    plan = calibrate(tmp_path, Cnn().eval(), form, data=images())
    assert plan.kept_high["conv"] == f"{form} lays its scales in blocks of a matrix, and a convolution's weight is none"
    if form != "fp8_block128":
        assert plan.kept_high["head"].startswith("its 4 inputs are not a multiple of block_size 16; no block_size")


def test_the_greatest_legal_block_size_is_named(tmp_path: Path) -> None:
    plan = calibrate(tmp_path, torch.nn.ModuleDict({"a": torch.nn.Linear(96, 4)}), "int4", data=[], block_size=128)
    assert plan.kept_high == {"a": "its 96 inputs are not a multiple of block_size 128; block_size 32 divides them"}


@pytest.mark.parametrize("form", ["int8", "int4_gptq", "int4_awq"])
def test_torch_s_fused_encoder_layer_is_seen(tmp_path: Path, form: str) -> None:
    plan = calibrate(tmp_path, Attention().eval(), form, data=tokens())
    assert {"layer.linear1", "layer.linear2"} == set(plan.modules)
    assert plan.kept_high == {"layer.self_attn.out_proj": "no calibration sample reached it"}
    assert torch.backends.mha.get_fastpath_enabled()


def test_numbers_do_not_depend_on_the_name(tmp_path: Path) -> None:
    names = ["lm_head", "proj_out", "router", "visual"]
    plan = calibrate(tmp_path, torch.nn.ModuleDict({name: torch.nn.Linear(4, 4) for name in names}), "w8a16", data=[])
    assert set(plan.modules) == set(names)


@pytest.mark.parametrize(("form", "word"), [("int8_sq", "smoothed"), ("int4_awq", "scaled")])
def test_a_shared_weight_is_scaled_once(tmp_path: Path, form: str, word: str) -> None:
    model = Mlp().eval()
    model.unused.weight = model.first.weight = torch.nn.Parameter(torch.randn(48, 32))
    plan = calibrate(tmp_path, model, form)
    assert plan.kept_high["unused"] == f"it shares its weight with first, and a weight can be {word} once only"


def test_a_weight_shared_with_an_embedding_changes_no_other_number(tmp_path: Path) -> None:
    def tied() -> Mlp:
        model = Mlp().eval()
        model.lm_head = torch.nn.Linear(32, 10)
        torch.manual_seed(5)
        model.lm_head.weight = model.embeddings.weight = torch.nn.Parameter(torch.randn(10, 32))
        return model

    untied = tied()
    untied.embeddings.weight = torch.nn.Parameter(untied.embeddings.weight.detach().clone())
    one, other = (calibrate(tmp_path, model, "int4_awq") for model in (tied(), untied))
    for name, numbers in one.modules.items():
        np.testing.assert_array_equal(numbers.pre_quant_scale, other.modules[name].pre_quant_scale)
        np.testing.assert_array_equal(numbers.weight_amax, other.modules[name].weight_amax)


@pytest.mark.parametrize("form", sorted(CALIBRATED_FORMATS))
def test_what_was_not_reached_has_its_reason(tmp_path: Path, form: str) -> None:
    class Zero(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Linear(16, 4) for _ in range(3))

        def forward(self, x: torch.Tensor) -> Any:
            return self.a(x) + self.b(x * 0)

    plan = calibrate(tmp_path, Zero(), form, data=[{"x": np.ones((2, 16), np.float32)}])
    assert plan.kept_high == {
        "b": "its input was zero in every calibration sample",
        "c": "no calibration sample reached it",
    }


def test_one_channel_cannot_be_smoothed_but_one_output_can(tmp_path: Path) -> None:
    class Narrow(torch.nn.Sequential):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x)

    model = Narrow(torch.nn.Linear(16, 1), torch.nn.Linear(1, 16))
    plan = calibrate(tmp_path, model, "int8_sq", data=[{"x": np.ones((2, 16), np.float32)}])
    assert set(plan.modules) == {"0"}
    assert plan.kept_high["1"].startswith("SmoothQuant needs more than one channel")


def test_samples_of_other_names_are_an_error(tmp_path: Path) -> None:
    for form in ("int8", "int4_gptq", "int4_awq"):
        with pytest.raises(ModelError, match="does not take the samples"):
            calibrate(tmp_path, Mlp(), form, data=[{"y": np.ones(3, np.float32)}])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("form", ["int8", "int8_sq", "int4_awq", "int4_gptq"])
def test_a_non_finite_input_names_its_module(tmp_path: Path, form: str, value: float) -> None:
    data = samples()
    data[1]["x"][0, 0, 0] = value
    with pytest.raises(DataError, match="input of first"):
        calibrate(tmp_path, Mlp().eval(), form, data=data)


@pytest.mark.parametrize("form", ["w8a16", "int4_gptq"])
def test_a_non_finite_weight_names_its_module(tmp_path: Path, form: str) -> None:
    model = Mlp()
    model.second.weight.data[0, 0] = torch.nan
    with pytest.raises(DataError, match="weight of second"):
        calibrate(tmp_path, model, form)


@pytest.mark.parametrize("form", ["int8", "int8_sq", "int4_awq", "int4_gptq", "fp8_block128"])
def test_a_transformers_decoder_with_conv1d(tmp_path: Path, form: str, capfd: pytest.CaptureFixture[str]) -> None:
    config = transformers.GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    torch.manual_seed(0)
    model = transformers.GPT2Model(config).eval()
    weight = model.h[0].mlp.c_fc.weight.detach().numpy().T.copy()  # stored [in, out]
    plan = calibrate(tmp_path, model, form, data=[{"input_ids": np.array([[1, 2, 3]])}])
    assert {"h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_fc", "h.0.mlp.c_proj"} == set(plan.modules)
    assert set(plan.classes.values()) == {"Conv1D"}
    numbers = plan.modules["h.0.mlp.c_fc"]
    x = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    exact = x @ weight.T
    # The input is not the one that was calibrated: only the weight is judged.
    numbers = ModuleQuantization(**{**vars(numbers), "format": "w8a16" if "int8" in form else form})
    assert np.linalg.norm(spoken(numbers, weight, x) - exact) < 0.2 * np.linalg.norm(exact)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("form", ["int8", "int8_sq", "fp8", "fp8_pc_pt", "int4", "int4_awq", "w8a16"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_plan_says_what_modelopt_s_own_forward_computes(tmp_path: Path, form: str) -> None:
    import modelopt.torch.quantization as mtq

    plan = calibrate(tmp_path, Mlp().eval(), form)
    weight, bits = Mlp().first.weight.detach().numpy(), {"int8": 8, "int4": 4, "fp8": (4, 3)}
    traits = FORMATS[form]  # type: ignore[index]
    cfg: dict[str, Any] = {"num_bits": bits[traits.weight]}
    cfg |= {
        "tensor": {"axis": None},
        "channel": {"axis": 0},
        "block": {"block_sizes": {-1: 16}, "narrow_range": True},
    }[traits.granularity]
    entries: list[dict[str, Any]] = [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "parent_class": "nn.Linear", "cfg": cfg},
    ]
    if traits.activation:
        inputs = {"num_bits": bits[traits.activation], "axis": None}
        entries.append({"quantizer_name": "*input_quantizer", "parent_class": "nn.Linear", "cfg": inputs})
    model, seen = Mlp().eval(), watched(Mlp().eval(), samples())["first"]
    algorithm = {
        "smoothquant": {"method": "smoothquant", "alpha": 0.5},
        "awq": {"method": "awq_lite", "alpha_step": 0.1},
        "max": "max",
    }[traits.algorithm]

    def run(m: Any) -> None:
        for sample in samples():
            m(**{key: torch.from_numpy(value) for key, value in sample.items()})

    mtq.quantize(model, {"quant_cfg": entries, "algorithm": algorithm}, run)
    numbers = plan.modules["first"]
    if traits.algorithm == "awq":  # the clip is ours
        model.first.weight_quantizer.amax = torch.from_numpy(numbers.weight_amax.reshape(-1, 1))
    with torch.no_grad():
        theirs = model.first(torch.from_numpy(seen)).numpy() - model.first.bias.detach().numpy()
    assert np.linalg.norm(spoken(numbers, weight, seen) - theirs) < 1e-5 * np.linalg.norm(theirs)


@pytest.mark.parametrize("form", ["int8", "int4_awq", "int4_gptq"])
def test_a_module_in_training_mode_is_calibrated_in_inference_mode(tmp_path: Path, form: str) -> None:
    class Dropping(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.drop, self.a = torch.nn.Dropout(0.9), torch.nn.Linear(32, 8)

        def forward(self, x: torch.Tensor) -> Any:
            return self.a(self.drop(x))

    one, other = (calibrate(tmp_path, Dropping().train(mode), form, data=tokens()) for mode in (True, False))
    for name, value in vars(one.modules["a"]).items():
        np.testing.assert_array_equal(value, getattr(other.modules["a"], name))


def test_every_layer_is_found_once_in_order() -> None:
    assert list(find(Cnn())) == ["conv", "depthwise", "transposed", "in_groups", "line", "head"]
