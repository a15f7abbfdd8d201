"""Weights quantized and packed by the published layouts of other projects, number by number and without their code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

Array = np.ndarray[Any, Any]
Packed = tuple[dict[str, torch.Tensor], Array, Array]
"""A weight's tensors by the last part of their names, its symmetric codes [out, in], and its floats [out, in]."""

GROUP = 32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def grouped(weight: Array, size: int = GROUP, bits: int = 4) -> tuple[Array, Array]:
    """Symmetric codes [out, in], from the least of all, and FP16 scales [out, groups]."""
    blocks = weight.reshape(len(weight), -1, size)
    scale = (np.abs(blocks).max(2) / (2 ** (bits - 1) - 0.5)).astype(np.float16)
    codes = np.rint(blocks / scale.astype(np.float32)[..., None]).clip(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return codes.reshape(weight.shape).astype(np.int64), scale


def words(unsigned: Array, bits: int, order: tuple[int, ...] = ()) -> Array:
    """Integers [rows, columns] into int32, `32 / bits` neighbours of a row in each."""
    parts = 32 // bits
    packed = np.zeros((len(unsigned), -(-unsigned.shape[1] // parts)), np.int64)
    for row in range(len(unsigned)):
        for word in range(packed.shape[1]):
            for part in range(parts):
                column = word * parts + (order or range(parts))[part]
                if column < unsigned.shape[1]:
                    packed[row, word] |= int(unsigned[row, column]) << (bits * part)
    return packed.astype(np.uint32).view(np.int32)


def awq(weight: Array, zero: int | Array = 8) -> Packed:
    codes, scale = grouped(weight)
    zeros = np.broadcast_to(zero, scale.shape)
    unsigned = (codes + np.repeat(zeros, GROUP, 1)).clip(0, 15)
    floats = (unsigned - np.repeat(zeros, GROUP, 1)) * np.repeat(scale, GROUP, 1).astype(np.float32)
    tensors = {
        "qweight": words(unsigned.T, 4, AWQ_ORDER),
        "qzeros": words(zeros.T, 4, AWQ_ORDER),
        "scales": scale.T,
    }
    return _torch(tensors), codes, floats


def gptq(weight: Array, bits: int = 4, zero: int | None = None, order: Array | None = None, v2: bool = False) -> Packed:
    size = weight.shape[1] if bits == 8 else GROUP
    middle = 2 ** (bits - 1) if zero is None else zero
    order = np.arange(weight.shape[1]) if order is None else order
    codes, scale = grouped(weight[:, order], size, bits)
    codes = codes[:, np.argsort(order)]
    group = np.argsort(order) // size
    unsigned = (codes + middle).clip(0, 2**bits - 1)
    stored = np.full(scale.T.shape, middle if v2 else middle - 1)
    tensors = {
        "qweight": words(unsigned, bits).T,
        "qzeros": words(stored, bits),
        "scales": scale.T,
        "g_idx": group.astype(np.int32),
    }
    return _torch(tensors), codes, (unsigned - middle) * scale.astype(np.float32)[:, group]


def compressed_int4(weight: Array, zero: int | None = None) -> Packed:
    codes, scale = grouped(weight)
    shifted = (codes + (zero or 0)).clip(-8, 7)
    tensors = {
        "weight_packed": words(shifted + 8, 4),
        "weight_scale": scale,
        "weight_shape": np.array(weight.shape, np.int64),
    }
    if zero is not None:
        tensors["weight_zero_point"] = np.ascontiguousarray(words(np.full(scale.shape, zero + 8).T, 4).T)
    return _torch(tensors), codes, (shifted - (zero or 0)) * np.repeat(scale, GROUP, 1).astype(np.float32)


def modelopt_int4(weight: Array, before: Array | None = None) -> Packed:
    codes, scale = grouped(weight if before is None else weight / before)
    packed = np.zeros((len(codes) // 2, codes.shape[1]), np.uint8)
    for row in range(len(packed)):
        packed[row] = (codes[2 * row] & 15) | ((codes[2 * row + 1] & 15) << 4)
    tensors = {"weight": packed, "weight_scale": scale}
    floats = codes * np.repeat(scale, GROUP, 1).astype(np.float32)
    if before is not None:
        tensors["pre_quant_scale"], floats = before.astype(np.float32), floats * before
    return _torch(tensors), codes, floats


def int8(weight: Array, shape: tuple[int, ...] = (-1, 1)) -> Packed:
    """One scale a channel, as LightX2V and compressed-tensors write it."""
    scale = (np.abs(weight).max(1, keepdims=True) / 127).astype(np.float32)
    codes = np.rint(weight / scale).clip(-128, 127).astype(np.int8)
    return _torch({"weight": codes, "weight_scale": scale.reshape(shape)}), codes, codes * scale


def fp8(
    weight: Array, *, channel: bool = False, input_scale: float | None = None, name: str = "weight_scale"
) -> Packed:
    """One scale a tensor or a channel; codes by their bits."""
    greatest = np.abs(weight).max(1, keepdims=True) if channel else np.abs(weight).max()
    scale = torch.as_tensor(greatest / 448, dtype=torch.float32)
    codes = (torch.from_numpy(weight) / scale).to(torch.float8_e4m3fn)
    tensors = {"weight": codes, name: scale}
    if input_scale is not None:
        tensors["input_scale"] = torch.tensor(input_scale)
    return tensors, codes.view(torch.int8).numpy(), (codes.float() * scale).numpy()


def _torch(tensors: dict[str, Array]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}


Pack = Callable[[Array], Packed]


def pack_state(
    state: dict[str, torch.Tensor], pack: Pack, chosen: Callable[[str], bool]
) -> tuple[dict[str, torch.Tensor], dict[str, Array], dict[str, torch.Tensor]]:
    """A state with the chosen linears packed; by module the codes; and the state in the floats that they say."""
    packed: dict[str, torch.Tensor] = {}
    codes: dict[str, Array] = {}
    floats = dict(state)
    for name, tensor in state.items():
        module = name.removesuffix(".weight")
        if not name.endswith(".weight") or tensor.ndim != 2 or not chosen(module):
            packed[name] = tensor.half()
            floats[name] = tensor.half().float()
            continue
        tensors, codes[module], values = pack(tensor.float().numpy())
        floats[name] = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        packed |= {f"{module}.{part}": each for part, each in tensors.items()}
    return packed, codes, floats


def write_folder(
    folder: Path, config: dict[str, Any], quantization: dict[str, Any], state: dict[str, torch.Tensor]
) -> Path:
    """A model folder with quantized weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder
