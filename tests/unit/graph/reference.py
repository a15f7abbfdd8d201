"""Torch modules whose layers compute with fake-quantized numbers: what an inserted graph must compute."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from tests.unit.graph.examples import BLOCK, MODELS, amax_of, linears, sample
from trtbuild.core.formats import FORMATS

torch = pytest.importorskip("torch")
GREATEST = {"int8": 127.0, "int4": 7.0, "fp8": 448.0}


def relative(got, wanted):
    return np.linalg.norm(got.astype(np.float64) - wanted) / np.linalg.norm(wanted)


def assert_same_numerics(got, wanted, tolerance=1e-4):
    """Relative L2 within the tolerance for each sequence, but for a few in which an activation lies on a rounding tie.

    There the last bit of a float sum, which torch and ONNX Runtime add in different orders, moves a code by one.
    Different numbers, in a scale or a weight, would show in every sequence.
    """
    errors = np.array([relative(*pair) for pair in zip(got, wanted, strict=True)])
    assert (errors <= tolerance).mean() >= 0.75, errors
    assert errors.max() < 0.05, errors


def rounded(x, number_type, least=None):
    greatest = GREATEST[number_type]
    if number_type == "fp8":
        return x.clamp(-greatest, greatest).to(torch.float8_e4m3fn).float()
    return x.round().clamp(-greatest if least is None else least, greatest)


def fake(x, amax, number_type):
    """An activation through a type."""
    scale = np.float32(amax) / np.float32(GREATEST[number_type])
    return rounded(x / scale, number_type, least=-128) * scale


def fake_weight(weight, numbers):
    """A weight [out, in, ...] through its format; `weight` is divided by the pre-quant scale already."""
    traits, array = FORMATS[numbers.format], weight.numpy()
    block = {"block": BLOCK, "tile": traits.block}.get(traits.granularity, 0)
    scale = amax_of(array, traits.granularity, block) / np.float32(GREATEST[traits.weight])
    if block:
        scale = np.repeat(scale, block, 1)[:, : array.shape[1]]
    elif np.ndim(scale):
        scale = scale.reshape(-1, *[1] * (array.ndim - 1))
    scale = torch.as_tensor(np.asarray(scale, np.float32))
    if numbers.weight_codes is not None:
        return torch.from_numpy(numbers.weight_codes).float() * scale
    return rounded(weight / scale, traits.weight) * scale


def reference(name, plan, path, operand=None):
    """The module with fake-quantized layers: layers of one algorithm that read one tensor share its scale, and those of
    one activation type its range. `operand` quantizes what the products of attentions read, by role."""
    torch.manual_seed(0)
    module, found = MODELS[name]().eval(), linears(path)
    module = module.folded() if hasattr(module, "folded") else module
    if operand is not None:
        module.attention.operand = operand
    scales, ranges = defaultdict(list), defaultdict(list)
    for entry, numbers in plan.modules.items():
        if numbers.pre_quant_scale is not None:
            scales[tensor_of(found, entry, numbers)].append(numbers.pre_quant_scale)
    shared = {
        key: np.mean(group, axis=0) if key[1] == "awq" else np.max(group, axis=0) for key, group in scales.items()
    }
    for entry, numbers in plan.modules.items():
        if FORMATS[numbers.format].activation:
            key = tensor_of(found, entry, numbers)
            reached = numbers.input_channel_amax * shared.get(key, np.float32(1))
            ranges[key, FORMATS[numbers.format].activation].append(reached.max())
    for entry, numbers in plan.modules.items():
        layer, key, kind = (
            module.get_submodule(entry),
            tensor_of(found, entry, numbers),
            FORMATS[numbers.format].activation,
        )
        scale = torch.from_numpy(shared[key]) if key in shared else None
        transposed = isinstance(layer, torch.nn.ConvTranspose2d)
        weight = layer.weight.detach().transpose(0, 1) if transposed else layer.weight.detach()
        weight = fake_weight(weight if scale is None else weight / scale, numbers)
        layer.weight.data = weight.transpose(0, 1).contiguous() if transposed else weight

        greatest = max(ranges[key, kind], default=None)

        def quantize(_, inputs, scale=scale, kind=kind, amax=greatest):
            x = inputs[0] if scale is None else inputs[0] * scale
            return (x if amax is None else fake(x, amax, kind),)

        layer.register_forward_pre_hook(quantize)
    with torch.no_grad():
        return module(torch.from_numpy(sample(name))).numpy()


def tensor_of(found, entry, numbers):
    """What a layer reads: the tensor, and the algorithm that scales it for this layer."""
    return found[entry][0], FORMATS[numbers.format].algorithm if numbers.pre_quant_scale is not None else "none"
