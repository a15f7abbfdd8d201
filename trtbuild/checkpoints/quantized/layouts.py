"""Which tensors of a checkpoint are a quantized weight's, told by their names and the checkpoint's configuration."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from trtbuild.checkpoints.quantized import awq, compressed_tensors, gptq, modelopt, scaled
from trtbuild.checkpoints.quantized.config import READ, check, quantization_config
from trtbuild.checkpoints.quantized.weight import FloatsOnly, QuantizedWeight
from trtbuild.checkpoints.reading import Checkpoint
from trtbuild.core.errors import ModelError

Reader = Callable[[], QuantizedWeight | FloatsOnly]

SCALES = ("weight_scale", "weight_scale_inv", "scale_weight")
"""How a scale beside its weight is called."""
INPUT_SCALES = ("input_scale", "scale_input")
TWO_SCALES = ("weight_global_scale", "weight_scale_2")
"""What only formats with scales of scales have, such as NVFP4."""
CACHE_SCALES = ("k_scale", "v_scale", "kv_scale", "q_scale", "prob_scale")
"""Of attention and of a KV cache; a recipe's `kv_cache` finds its own."""
MARKERS = ("scaled_fp8",)


def in_floats(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the floats that its quantized weights say, float32, each made when it is asked for; the codes
    are in its `quantized`. One that is not quantized comes back as it is.

    Raises ModelError where the checkpoint says that it is quantized in a way that is not read here.
    """
    folder = checkpoint.place if checkpoint.place.is_dir() else checkpoint.place.parent
    config = quantization_config(folder)
    method = "" if config is None else check(config, checkpoint.place)
    found = {**_packed(checkpoint, config or {}, method), **_beside_scales(checkpoint)}
    if not found:
        if config is not None:
            raise ModelError(
                f"{checkpoint.place} says it is quantized by {method or 'someone'}, and no tensor of it is",
                hint=f"{READ}; the layout is told by names such as qweight, weight_packed and weight_scale",
            )
        return checkpoint
    gone = {name for path in found for name in _parts(checkpoint, path)}
    gone |= {name for name in checkpoint if name.rpartition(".")[2] in (*CACHE_SCALES, *MARKERS)}
    floats = {f"{path}.weight": functools.partial(_floats, reader) for path, reader in found.items()}
    quantized = {f"{path}.weight": reader for path, reader in found.items()}
    return checkpoint.replaced(gone, floats, quantized)


def _floats(reader: Reader) -> torch.Tensor:
    return reader().floats()


def _packed(checkpoint: Checkpoint, config: Mapping[str, Any], method: str) -> dict[str, Reader]:
    """Weights whose codes are packed in words."""
    found: dict[str, Reader] = {}
    for name in checkpoint:
        path, _, last = name.rpartition(".")
        if last == "qweight":
            is_gptq = method == "gptq" if method else f"{path}.g_idx" in checkpoint
            found[path] = functools.partial(_gptq if is_gptq else _awq, checkpoint, path, config)
        elif last == "weight_packed":
            if other := _part(checkpoint, path, *TWO_SCALES):
                raise ModelError(f"{checkpoint.place} has {other}: scales of scales are not imported", hint=READ)
            found[path] = functools.partial(_compressed, checkpoint, path)
    return found


def _beside_scales(checkpoint: Checkpoint) -> dict[str, Reader]:
    """Weights in their own types; none where the first is of floats, as a model may call a parameter `weight_scale`."""
    paths = [
        name.rpartition(".")[0]
        for name in checkpoint
        if name.rpartition(".")[2] in SCALES and f"{name.rpartition('.')[0]}.weight" in checkpoint
    ]
    if not paths or checkpoint[f"{paths[0]}.weight"].dtype in (torch.float32, torch.float16, torch.bfloat16):
        return {}
    if other := next((part for path in paths if (part := _part(checkpoint, path, *TWO_SCALES))), ""):
        raise ModelError(f"{checkpoint.place} has {other}: scales of scales are not imported", hint=READ)
    return {path: functools.partial(_scaled, checkpoint, path) for path in paths}


def _awq(checkpoint: Checkpoint, path: str, config: Mapping[str, Any]) -> QuantizedWeight | FloatsOnly:
    return awq.read(path, *(_needed(checkpoint, path, part) for part in ("qweight", "qzeros", "scales")))


def _gptq(checkpoint: Checkpoint, path: str, config: Mapping[str, Any]) -> QuantizedWeight | FloatsOnly:
    words, g_idx = _needed(checkpoint, path, "qweight"), _optional(checkpoint, path, "g_idx")
    bits = int(config.get("bits", 0)) or (4 if g_idx is None else 32 * len(words) // max(len(g_idx), 1))
    if bits not in (4, 8):
        raise ModelError(f"{path}.qweight has {bits} bits a weight; 4 and 8 are read", hint=READ)
    zeros, scales = _needed(checkpoint, path, "qzeros"), _needed(checkpoint, path, "scales")
    plain = config.get("checkpoint_format") == "gptq_v2"
    return gptq.read(path, words, zeros, scales, g_idx, bits=bits, plain_zeros=plain)


def _compressed(checkpoint: Checkpoint, path: str) -> QuantizedWeight | FloatsOnly:
    needed = (_needed(checkpoint, path, f"weight_{part}") for part in ("packed", "shape", "scale"))
    optional = (_optional(checkpoint, path, f"weight_{part}") for part in ("zero_point", "g_idx"))
    return compressed_tensors.read(path, *needed, *optional)


def _scaled(checkpoint: Checkpoint, path: str) -> QuantizedWeight | FloatsOnly:
    weight, scale = _needed(checkpoint, path, "weight"), _optional(checkpoint, path, *SCALES)
    assert scale is not None  # it is what told of the weight
    before = _optional(checkpoint, path, "pre_quant_scale")
    if weight.dtype == torch.uint8:
        return modelopt.read(path, weight, scale, before)
    static, zero = _optional(checkpoint, path, *INPUT_SCALES), _optional(checkpoint, path, "weight_zero_point")
    if (input_zero := _optional(checkpoint, path, "input_zero_point")) is not None and bool((input_zero != 0).any()):
        static = None  # a scale around another zero: calibrated here instead
    return scaled.read(path, weight, scale, static, zero, before)


OWN_PARTS = (
    *("weight", "qweight", "qzeros", "scales", "g_idx", "pre_quant_scale"),
    *("weight_packed", "weight_shape", "weight_zero_point", "weight_g_idx", "input_zero_point", "output_scale"),
    *SCALES,
    *INPUT_SCALES,
)


def _parts(checkpoint: Checkpoint, path: str) -> list[str]:
    """The tensors of one weight; a bias is none of them."""
    return [name for part in OWN_PARTS if (name := f"{path}.{part}") in checkpoint]


def _part(checkpoint: Checkpoint, path: str, *parts: str) -> str:
    return next((name for part in parts if (name := f"{path}.{part}") in checkpoint), "")


def _optional(checkpoint: Checkpoint, path: str, *parts: str) -> torch.Tensor | None:
    name = _part(checkpoint, path, *parts)
    return checkpoint[name] if name else None


def _needed(checkpoint: Checkpoint, path: str, part: str) -> torch.Tensor:
    if (found := _optional(checkpoint, path, part)) is None:
        raise ModelError(f"{checkpoint.place} has no {path}.{part}", hint="copy the checkpoint again, all its shards")
    return found
