"""Who quantized a checkpoint, by its own word: `quantization_config` in config.json, or a file of its own beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtbuild.core.errors import ModelError

OWN_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Of ModelOpt, AutoGPTQ and AutoAWQ."""
UNPACKED = ("int-quantized", "float-quantized", "naive-quantized")
PACKED = "pack-quantized"
ALGORITHMS = (
    "FP8",
    "FP8_PER_CHANNEL_PER_TOKEN",
    "FP8_PB_WO",
    "W8A16",
    "W8A8_SQ_PER_CHANNEL",
    "W4A16_AWQ",
    "MIXED_PRECISION",
)
"""Of ModelOpt, those whose weights are INT8, FP8 or INT4."""
READ = "AWQ, GPTQ, compressed-tensors, ModelOpt and plain INT8 or FP8 with scales are read"


def quantization_config(folder: Path) -> Mapping[str, Any] | None:
    """What a checkpoint's folder says of its quantization; None where it says nothing."""
    config = _json(folder / "config.json")
    for holder in (config, config.get("text_config")):
        if isinstance(holder, dict) and isinstance(found := holder.get("quantization_config"), dict):
            return found
    for name in OWN_FILES:
        if found := _json(folder / name):
            inner = found.get("quantization")
            return {"quant_method": "modelopt", **inner} if isinstance(inner, dict) else found
    return None


def check(config: Mapping[str, Any], place: Path) -> str:
    """The method in lower case, empty where the config names none. Raises ModelError for one that is not read here."""
    method = str(config.get("quant_method", "")).lower()
    trouble = ""
    if method == "awq":
        version, bits = str(config.get("version", "gemm")).lower(), config.get("bits", config.get("w_bit", 4))
        trouble = "" if version == "gemm" and bits == 4 else f"AWQ {version} with {bits} bits; AWQ gemm with 4 is read"
    elif method == "gptq":
        bits, spelling = config.get("bits", 4), str(config.get("checkpoint_format", "gptq"))
        if bits not in (4, 8) or spelling not in ("gptq", "gptq_v2"):
            trouble = f"GPTQ {spelling} with {bits} bits; gptq and gptq_v2 with 4 or 8 are read"
    elif method == "compressed-tensors":
        trouble = _compressed_trouble(config)
    elif method == "modelopt":
        algorithm = config.get("quant_algo")
        trouble = "" if algorithm in ALGORITHMS else f"ModelOpt {algorithm}; {', '.join(ALGORITHMS)} are read"
    elif method not in ("", "fp8"):
        trouble = f"{method}; {READ}"
    if trouble:
        raise ModelError(f"{place} is quantized by {trouble}", hint="take the model in 16 bits and quantize it here")
    return method


def _compressed_trouble(config: Mapping[str, Any]) -> str:
    form = config.get("format")
    groups = config.get("config_groups")
    forms = [group["format"] for group in (groups or {}).values() if isinstance(group, dict) and group.get("format")]
    known = (*UNPACKED, PACKED)
    if unknown := [each for each in forms or [form] if each not in known]:
        return f"compressed-tensors {unknown[0]}; {', '.join(known)} are read"
    sparsity = config.get("sparsity_config") or {}
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        return f"compressed-tensors with {sparsity['format']}, which leaves weights out; dense ones are read"
    return ""


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is not JSON: {error}", hint="copy it again") from error
    return found if isinstance(found, dict) else {}
