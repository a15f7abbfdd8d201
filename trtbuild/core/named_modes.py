"""The table of every quantization mode that a peer names, and what it is here. One row a mode; nothing is computed.

Names are from TensorRT-LLM (`QuantAlgo` of tensorrt_llm/quantization/mode.py, `--qformat` of quantize.py and of
Model-Optimizer's hf_ptq.py), LightX2V
(`dit_quant_scheme` of lightx2v/models/networks/base_model.py, the text and image encoders' own, the KV caches) and
LightTTS (light_tts/common/quantization and `--mode` of light_tts/server/api_cli.py). A mode of the KV cache has a
`cache` where others have a `format`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from trtbuild.core.formats import FORMATS, Format
from trtbuild.core.kv_cache import CacheMode

Family = Literal["trtbuild", "TensorRT-LLM", "LightX2V", "LightTTS"]
Mapping = Literal["exact", "approximated", "impossible"]
Rounding = Literal["nearest", "gptq"]


class Row(NamedTuple):
    """One mode as the table spells it."""

    name: str
    mapping: Mapping
    format: Format | None
    """The format it becomes; for an impossible mode the nearest one that could be asked for instead."""
    reason: str = ""
    block_size: int = 0
    """Weights per scale that the mode fixes, where the format leaves it to `block_size`."""
    rounding: Rounding = "nearest"
    """How the mode rounds weights, where the format leaves it to `rounding`."""
    cache: CacheMode | None = None
    """For a mode of the KV cache, what `kv_cache` becomes; where impossible, the nearest."""


_STATIC = "one calibrated activation scale a tensor instead of one a token at run time"
_STATIC_SQ = f"{_STATIC}; SmoothQuant makes up for it"
_COARSE = "weight scales a channel instead of one a tensor: finer, never less accurate"
_TILE = "weights exactly so; activations stay in 16 bits, since Q/DQ has no scale of 1 x 128 at run time"
_CHANNEL4 = "one scale a block of inputs instead of one an output channel: finer; TensorRT takes INT4 in blocks only"
_SYMMETRIC = "symmetric, zero point 0: TensorRT takes no other"
_PLUGIN = "the same numbers as Q/DQ nodes instead of a plugin"
_KV_TENSOR = "one calibrated scale a head instead of one a tensor: finer, never less accurate"
_KIVI = "symmetric, a scale for each token and head, not asymmetric groups of 64 (keys by token, values by head)"
_KV4 = "a KV cache has 8 bits here"
_KERNEL = "an attention kernel, not a number format: leave `quantize` out"
_NONE = "nothing is quantized: leave `quantize` out of the variant"
_GGUF = "k-quants have scales inside scales that Q/DQ cannot say"
_VENDOR = f"made for another vendor's chip, INT8 all the same: {_STATIC_SQ}"
_VENDOR8 = f"made for another vendor's chip, FP8 all the same: {_STATIC}"
_NO_FP6 = "ONNX has no 6-bit float"
_UNUSED = "LightTTS itself parses the name and runs FP16"
_BLACKWELL = "fast on Blackwell only; ONNX Runtime emulates it"
_MX4 = "TensorRT has no MXFP4 product"

TENSORRT_LLM = (
    Row("W8A16", "exact", "w8a16"),
    Row("W4A16", "approximated", "int4", _CHANNEL4),
    Row("W4A16_AWQ", "exact", "int4_awq"),
    Row("W4A8_AWQ", "exact", "w4a8_awq", "runs in ONNX Runtime; TensorRT has no such product"),
    Row("W8A16_GPTQ", "approximated", "w8a16", "one scale a channel instead of one a group of inputs", rounding="gptq"),
    Row("W4A16_GPTQ", "approximated", "int4_gptq", _SYMMETRIC),
    Row("W8A8_SQ_PER_CHANNEL", "exact", "int8_sq"),
    Row("W8A8_SQ_PER_TENSOR_PLUGIN", "approximated", "int8_sq", _COARSE),
    Row("W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", "approximated", "int8_sq", _STATIC),
    Row("W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN", "exact", "int8_sq", _PLUGIN),
    Row("W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN", "approximated", "int8_sq", f"{_STATIC}; {_COARSE}"),
    Row("W4A8_QSERVE_PER_GROUP", "impossible", "int4_awq", "INT4 weights times INT8 activations is no Q/DQ product"),
    Row("W4A8_QSERVE_PER_CHANNEL", "impossible", "int4_awq", "INT4 weights times INT8 activations is no Q/DQ product"),
    Row("FP8", "exact", "fp8"),
    Row("FP8_PER_CHANNEL_PER_TOKEN", "approximated", "fp8_pc_pt", _STATIC),
    Row("FP8_BLOCK_SCALES", "approximated", "fp8_block128", _TILE),
    Row("INT8", "approximated", None, f"in TensorRT-LLM a type of KV cache only; {_KV_TENSOR}", cache="int8_static"),
    Row(
        "MIXED_PRECISION", "impossible", None, "a mixture, no format: `format: auto` or `overrides` give each layer one"
    ),
    Row("NVFP4", "exact", "nvfp4", _BLACKWELL),
    Row("W4A8_NVFP4_FP8", "impossible", "nvfp4", "FP4 weights times FP8 activations is no Q/DQ product"),
    Row("W4A8_MXFP4_FP8", "impossible", "fp8", _MX4),
    Row("W4A8_MXFP4_MXFP8", "impossible", "fp8", _MX4),
    Row("W4A16_MXFP4", "impossible", "int4_awq", _MX4),
    Row("MXFP8", "exact", "mxfp8", _BLACKWELL),
    Row("NO_QUANT", "impossible", None, _NONE),
    Row("int8_sq", "exact", "int8_sq"),
    Row("fp8", "exact", "fp8"),
    Row("fp8_pc_pt", "approximated", "fp8_pc_pt", _STATIC),
    Row("int4_awq", "exact", "int4_awq"),
    Row("w4a8_awq", "exact", "w4a8_awq", "runs in ONNX Runtime; TensorRT has no such product"),
    Row("int8_wo", "exact", "w8a16"),
    Row("int4_wo", "approximated", "int4", _CHANNEL4),
    Row("full_prec", "impossible", None, _NONE),
    Row("nvfp4", "exact", "nvfp4", _BLACKWELL),
    Row("nvfp4_awq", "approximated", "nvfp4", "the scales of NVFP4 without AWQ's: its search is here for INT4"),
    Row("kv:fp8", "approximated", None, _KV_TENSOR, cache="fp8"),
    Row("kv:int8", "approximated", None, _KV_TENSOR, cache="int8_static"),
    Row("kv:nvfp4", "impossible", None, _KV4, cache="fp8"),
)

LIGHTX2V = (
    Row("fp8-vllm", "approximated", "fp8_pc_pt", _STATIC),
    Row("fp8-sgl", "approximated", "fp8_pc_pt", _STATIC),
    Row("fp8-q8f", "approximated", "fp8_pc_pt", _STATIC),
    Row("fp8-triton", "approximated", "fp8_pc_pt", _STATIC),
    Row("fp8-torchao", "approximated", "fp8_pc_pt", _STATIC),
    Row("fp8", "approximated", "fp8_pc_pt", f"the encoders' name for fp8-sgl: {_STATIC}"),
    Row("fp8-f16-accum", "approximated", "fp8_pc_pt", f"the whole FP8 range, summed in FP32; {_STATIC}"),
    Row("fp8-musa", "approximated", "fp8_pc_pt", _VENDOR8),
    Row("fp8-intel-xpu", "approximated", "fp8_pc_pt", _VENDOR8),
    Row("fp8-pertensor", "exact", "fp8", "activation scales are calibrated here, not read from the checkpoint"),
    Row("fp8-b128-deepgemm", "approximated", "fp8_block128", _TILE),
    Row("int8-vllm", "approximated", "int8_sq", _STATIC_SQ),
    Row("int8-sgl", "approximated", "int8_sq", _STATIC_SQ),
    Row("int8-q8f", "approximated", "int8_sq", _STATIC_SQ),
    Row("int8-torchao", "approximated", "int8_sq", _STATIC_SQ),
    Row("int8-triton", "approximated", "int8_sq", _STATIC_SQ),
    Row("int8", "approximated", "int8_sq", f"the encoders' name for int8-vllm: {_STATIC_SQ}"),
    Row("int8-vllm-hygon-dcu", "approximated", "int8_sq", _VENDOR),
    Row("int8-tmo", "approximated", "int8_sq", _VENDOR),
    Row("int8-npu", "approximated", "int8_sq", _VENDOR),
    Row("int8-intel-xpu", "approximated", "int8_sq", _VENDOR),
    Row("int8-iluvatar", "approximated", "int8_sq", _VENDOR),
    Row("int8-convrot", "impossible", "int8_sq", "rotates activations at run time by the checkpoint's own matrices"),
    Row("int4-g128-marlin", "exact", "int4", "blocks of 128", block_size=128),
    Row("nvfp4", "exact", "nvfp4", _BLACKWELL),
    Row("mxfp8", "exact", "mxfp8", _BLACKWELL),
    Row("mxfp4", "impossible", "int4_awq", _MX4),
    Row("mxfp6-mxfp8", "impossible", "fp8", _NO_FP6),
    Row("gguf-BF16", "impossible", None, f"a BF16 file, so {_NONE}; `precision: bf16` keeps the type"),
    Row("gguf-Q8_0", "impossible", "w8a16", _GGUF),
    Row("gguf-Q6_K", "impossible", "w8a16", _GGUF),
    Row("gguf-Q5_K_S", "impossible", "w8a16", _GGUF),
    Row("gguf-Q5_K_M", "impossible", "w8a16", _GGUF),
    Row("gguf-Q5_0", "impossible", "w8a16", _GGUF),
    Row("gguf-Q5_1", "impossible", "w8a16", _GGUF),
    Row("gguf-Q4_K_S", "impossible", "int4_awq", _GGUF),
    Row("gguf-Q4_K_M", "impossible", "int4_awq", _GGUF),
    Row("gguf-Q4_0", "impossible", "int4_awq", _GGUF),
    Row("gguf-Q4_1", "impossible", "int4_awq", _GGUF),
    Row("gguf-Q3_K_S", "impossible", "int4_awq", _GGUF),
    Row("gguf-Q3_K_M", "impossible", "int4_awq", _GGUF),
    Row("kv:kivi-int2", "impossible", None, _KV4, cache="int8"),
    Row("kv:kivi-int4", "impossible", None, _KV4, cache="int8"),
    Row("kv:kivi-int8", "approximated", None, _KIVI, cache="int8"),
    Row(
        "kv:k-int8-v-fp8", "approximated", None, "values in INT8 as the keys: a cache has one mode", cache="int8_static"
    ),
)

LIGHTTTS = (
    Row("vllm-w8a8", "approximated", "int8_sq", _STATIC_SQ),
    Row("vllm-fp8w8a8", "approximated", "fp8_pc_pt", _STATIC),
    Row("vllm-fp8w8a8-b128", "approximated", "fp8_block128", _TILE),
    Row("triton-fp8w8a8-block128", "approximated", "fp8_block128", _TILE),
    Row("triton-fp8w8a8-b128", "approximated", "fp8_block128", f"its documents' name for -block128: {_TILE}"),
    Row("ao-w4a16-256", "exact", "int4", "blocks of 256", block_size=256),
    Row("ao-w4a16-128", "exact", "int4", "blocks of 128", block_size=128),
    Row("ao-w4a16-64", "exact", "int4", "blocks of 64", block_size=64),
    Row("ao-w4a16-32", "exact", "int4", "blocks of 32", block_size=32),
    Row("ppl-w4a16-128", "exact", "int4", "blocks of 128", block_size=128),
    Row("ao-w8a8", "approximated", "int8_sq", _STATIC_SQ),
    Row("ao-w8a16", "exact", "w8a16"),
    Row(
        "ao-fp8w8a16",
        "approximated",
        "fp8_block128",
        "weight scales a tile of 128 x 128; activations untouched, as asked",
    ),
    Row("ao-fp6w6a16", "impossible", "w8a16", _NO_FP6),
    Row("flashllm-w6a16", "impossible", "w8a16", _NO_FP6),
    Row("triton_int8weight", "exact", "w8a16", _UNUSED),
    Row("triton_int4weight", "approximated", "int4", f"{_SYMMETRIC}; {_UNUSED}", block_size=128),
    Row("lmdeploy_int4weight", "approximated", "int4", f"{_SYMMETRIC}; {_UNUSED}", block_size=128),
    Row("ppl_int4weight", "exact", "int4", f"blocks of 128; {_UNUSED}", block_size=128),
    Row("triton_int8kv", "exact", None, "one scale a token and head, found at run time", cache="int8"),
    Row(
        "ppl_int8kv",
        "approximated",
        None,
        "one scale a token and head instead of one for 8 neighbours in it: coarser",
        cache="int8",
    ),
    Row("ppl_fp16", "impossible", None, _KERNEL),
    Row("triton_flashdecoding", "impossible", None, _KERNEL),
    Row("triton_gqa_attention", "impossible", None, _KERNEL),
    Row("triton_gqa_flashdecoding", "impossible", None, _KERNEL),
)

MODES: dict[Family, tuple[Row, ...]] = {
    "trtbuild": tuple(Row(name, "exact", name, traits.meaning) for name, traits in FORMATS.items()),
    "TensorRT-LLM": TENSORRT_LLM,
    "LightX2V": LIGHTX2V,
    "LightTTS": LIGHTTTS,
}
"""Every named mode by the family that names it; ours come first and win where a name is shared."""
