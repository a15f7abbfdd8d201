"""Each layout of quantized weights: codes and scales as they were packed, floats as an independent sum says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests import checkpoints as packs
from trtbuild.checkpoints import load_checkpoint, open_checkpoint
from trtbuild.checkpoints.quantized import FloatsOnly, QuantizedWeight
from trtbuild.core.errors import ModelError


def weight(outputs: int = 16, inputs: int = 64) -> Any:
    return np.random.default_rng(0).normal(size=(outputs, inputs)).astype(np.float32)


SYMMETRIC: dict[str, tuple[packs.Pack, str, str]] = {
    "awq": (packs.awq, "int4", "block"),
    "gptq": (packs.gptq, "int4", "block"),
    "gptq of 8 bits": (lambda w: packs.gptq(w, 8), "int8", "channel"),
    "compressed-tensors int4": (packs.compressed_int4, "int4", "block"),
    "modelopt int4": (packs.modelopt_int4, "int4", "block"),
    "modelopt int4, scaled before": (lambda w: packs.modelopt_int4(w, np.linspace(0.5, 2, 64)), "int4", "block"),
    "int8 a channel": (packs.int8, "int8", "channel"),
    "int8 a channel, flat": (lambda w: packs.int8(w, (-1,)), "int8", "channel"),
    "fp8 a tensor": (packs.fp8, "fp8", "tensor"),
    "fp8 a channel": (lambda w: packs.fp8(w, channel=True), "fp8", "channel"),
    "fp8 of ComfyUI": (lambda w: packs.fp8(w, name="scale_weight"), "fp8", "tensor"),
}


def written(place: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any] | None = None) -> Path:
    place.mkdir(exist_ok=True)
    save_file({f"block.linear.{name}": each.contiguous() for name, each in tensors.items()}, place / "m.safetensors")
    if config is not None:
        (place / "config.json").write_text(json.dumps({"quantization_config": config}))
    return place


@pytest.mark.parametrize("layout", SYMMETRIC)
def test_codes_and_floats_of_each_layout(layout: str, tmp_path: Path) -> None:
    pack, kind, granularity = SYMMETRIC[layout]
    tensors, codes, floats = pack(weight())
    opened = open_checkpoint(written(tmp_path, tensors))
    assert list(opened) == ["block.linear.weight"]
    found = opened.quantized["block.linear.weight"]()
    assert isinstance(found, QuantizedWeight)
    assert (found.kind, found.granularity) == (kind, granularity)
    assert np.array_equal(found.codes.view(torch.int8).numpy(), codes)
    np.testing.assert_allclose(opened["block.linear.weight"].numpy(), floats, rtol=1e-6)
    assert np.corrcoef(floats.ravel(), weight().ravel())[0, 1] > 0.99


def test_the_least_code_is_kept(tmp_path: Path) -> None:
    """-8 and -128 are codes as any other: symmetric formats here never write them, checkpoints do."""
    for pack, least in ((packs.awq, -8), (packs.gptq, -8), (packs.compressed_int4, -8), (packs.modelopt_int4, -8)):
        tensors, codes, _ = pack(weight())
        assert codes.min() == least
        found = open_checkpoint(written(tmp_path, tensors)).quantized["block.linear.weight"]()
        assert int(found.codes.min()) == least


@pytest.mark.parametrize(
    ("pack", "reason"),
    [
        (lambda w: packs.awq(w, np.arange(2)[None] + 7), "zero points go from 7 to 8 .* costs [0-9.]+ % of its norm"),
        (lambda w: packs.gptq(w, zero=6), "zero points go from 6 to 6"),
        (lambda w: packs.gptq(w, order=np.random.default_rng(1).permutation(64)), "activation order"),
        (lambda w: packs.compressed_int4(w, zero=-2), "zero points go from 6 to 6"),
    ],
)
def test_what_symmetric_codes_cannot_say_has_its_floats(pack: packs.Pack, reason: str, tmp_path: Path) -> None:
    tensors, _, floats = pack(weight())
    opened = open_checkpoint(written(tmp_path, tensors))
    found = opened.quantized["block.linear.weight"]()
    assert isinstance(found, FloatsOnly)
    assert __import__("re").search(reason, found.reason), found.reason
    np.testing.assert_allclose(opened["block.linear.weight"].numpy(), floats, rtol=1e-5, atol=1e-6)


def test_gptq_v2_stores_plain_zero_points(tmp_path: Path) -> None:
    tensors, codes, _ = packs.gptq(weight(), v2=True)
    told = {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"}
    found = open_checkpoint(written(tmp_path, tensors, told)).quantized["block.linear.weight"]()
    assert np.array_equal(found.codes.numpy(), codes)
    mistaken = open_checkpoint(written(tmp_path, tensors, {"quant_method": "gptq", "bits": 4}))
    assert isinstance(mistaken.quantized["block.linear.weight"](), FloatsOnly)


def test_tiles_of_fp8(tmp_path: Path) -> None:
    matrix = torch.from_numpy(weight(160, 192))
    codes = (matrix * 100).to(torch.float8_e4m3fn)
    scale = torch.tensor([[0.5, 0.25], [2.0, 1.0]])
    found = open_checkpoint(written(tmp_path, {"weight": codes, "weight_scale_inv": scale}))
    expected = codes.float() * scale.repeat_interleave(128, 0)[:160].repeat_interleave(128, 1)[:, :192]
    assert torch.equal(found["block.linear.weight"], expected)
    assert found.quantized["block.linear.weight"]().granularity == "tile"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 16), nn.Linear(16, 8)


def test_a_module_loads_floats_and_knows_its_codes(tmp_path: Path) -> None:
    tensors, codes, floats = packs.int8(weight())
    state = {f"model.block.first.{name}": each for name, each in tensors.items()}
    state |= {"model.block.first.bias": torch.ones(16), "model.block.second.weight": torch.zeros(8, 16)}
    state |= {"model.block.second.bias": torch.zeros(8), "model.block.first.k_scale": torch.ones(1)}
    save_file(state, tmp_path / "lightx2v.safetensors")
    net = load_checkpoint(
        Net(), tmp_path / "lightx2v.safetensors", rename=lambda name: name.removeprefix("model.block.")
    )
    np.testing.assert_allclose(net.first.weight.detach().numpy(), floats)
    assert np.array_equal(net.first.checkpoint_codes().codes.numpy(), codes)
    assert torch.equal(net.first.bias, torch.ones(16))
    assert not hasattr(net.second, "checkpoint_codes")


def test_a_parameter_called_weight_scale_is_no_quantization(tmp_path: Path) -> None:
    tensors = {"weight": torch.ones(2, 3), "weight_scale": torch.ones(2)}
    opened = open_checkpoint(written(tmp_path, tensors))
    assert set(opened) == {"block.linear.weight", "block.linear.weight_scale"}
    assert not opened.quantized


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"quant_method": "bitsandbytes"}, "quantized by bitsandbytes; AWQ, GPTQ"),
        ({"quant_method": "awq", "version": "gemv", "bits": 4}, "AWQ gemv with 4 bits"),
        ({"quant_method": "gptq", "bits": 3}, "GPTQ gptq with 3 bits"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "GPTQ marlin"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "compressed-tensors marlin-24"),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "int-quantized",
                "sparsity_config": {"format": "sparse-24-bitmask"},
            },
            "sparse-24-bitmask",
        ),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "ModelOpt NVFP4"),
        ({"quant_method": "awq", "bits": 4}, "no tensor of it is"),
    ],
)
def test_other_quantizations_are_refused(config: dict[str, Any], match: str, tmp_path: Path) -> None:
    place = written(tmp_path, {"weight": torch.ones(2, 3)}, config)
    with pytest.raises(ModelError, match=match):
        open_checkpoint(place)


def broken(part: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**packs.awq(weight())[0], part: tensor}


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (broken("qweight", torch.zeros(64, 2)), "not a matrix of packed int32"),
        (broken("scales", torch.ones(3, 16)), r"is \[16, 64\] and its scales \[16, 3\]"),
        (broken("scales", torch.ones(2, 8)), "not AWQ's gemm layout"),
        (broken("scales", torch.full((2, 16), torch.nan)), "not all finite"),
        ({"qweight": torch.zeros(4, 4, dtype=torch.int32)}, "has no block.linear.qzeros"),
        ({**packs.gptq(weight())[0], "g_idx": torch.full((64,), 9)}, "one of 2 groups"),
        ({**packs.compressed_int4(weight())[0], "weight_shape": torch.tensor([16, 40])}, "not 4 or 8 bits"),
        ({"weight": torch.zeros(4, 4, dtype=torch.int16), "weight_scale": torch.ones(4)}, "INT8 and E4M3"),
        ({"weight": torch.zeros(4, 4, dtype=torch.int8), "weight_scale": torch.ones(3)}, "do not fit"),
        ({"weight": torch.full((4, 4), torch.nan).to(torch.float8_e4m3fn), "weight_scale": torch.ones(1)}, "holds NaN"),
        (
            {"weight": torch.zeros(4, 8, dtype=torch.uint8), "weight_scale": torch.ones(4, 1).to(torch.float8_e4m3fn)},
            "not ModelOpt's INT4",
        ),
        (
            {
                "weight": torch.zeros(4, 8, dtype=torch.uint8),
                "weight_scale": torch.ones(4),
                "weight_scale_2": torch.ones(1),
            },
            "scales of scales",
        ),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    tensors: dict[str, torch.Tensor], match: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=match):
        open_checkpoint(written(tmp_path, tensors))["block.linear.weight"]
