"""Every named mode means what the table says, and nothing is substituted without a word."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest

from trtbuild.core.errors import RecipeError
from trtbuild.core.format_names import (
    cache_spellings,
    canonical,
    meaning_of,
    meaning_of_cache,
    meanings,
    meanings_of,
    spellings,
)
from trtbuild.core.formats import FORMATS
from trtbuild.core.kv_cache import CacheMode

QUANT_ALGO = """W8A16 W4A16 W4A16_AWQ W4A8_AWQ W8A16_GPTQ W4A16_GPTQ W8A8_SQ_PER_CHANNEL W8A8_SQ_PER_TENSOR_PLUGIN
W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN
W4A8_QSERVE_PER_GROUP W4A8_QSERVE_PER_CHANNEL FP8 FP8_PER_CHANNEL_PER_TOKEN FP8_BLOCK_SCALES INT8 MIXED_PRECISION NVFP4
W4A8_NVFP4_FP8 W4A8_MXFP4_FP8 W4A8_MXFP4_MXFP8 W4A16_MXFP4 NO_QUANT MXFP8"""
QFORMATS = "int8_sq fp8 fp8_pc_pt int4_awq w4a8_awq int8_wo int4_wo full_prec nvfp4 nvfp4_awq"
DIT_SCHEMES = """fp8-pertensor fp8-musa fp8-triton int8-triton fp8-vllm int8-vllm int8-vllm-hygon-dcu fp8-q8f int8-q8f
int8-convrot fp8-b128-deepgemm fp8-f16-accum fp8-sgl int8-sgl int8-torchao fp8-torchao nvfp4 mxfp4 mxfp6-mxfp8 mxfp8
int8-tmo gguf-Q8_0 gguf-Q6_K gguf-Q5_K_S gguf-Q5_K_M gguf-Q5_0 gguf-Q5_1 gguf-Q4_K_S gguf-Q4_K_M gguf-Q4_0 gguf-Q4_1
gguf-Q3_K_S gguf-Q3_K_M int8-npu fp8-intel-xpu int8-intel-xpu int8-iluvatar int4-g128-marlin"""
TTS_MODES = """vllm-w8a8 vllm-fp8w8a8 vllm-fp8w8a8-b128 triton-fp8w8a8-block128 triton-fp8w8a8-b128 ao-w4a16-256
ao-w4a16-128 ao-w4a16-64 ao-w4a16-32 ppl-w4a16-128 ao-w8a8 ao-w8a16 ao-fp8w8a16 ao-fp6w6a16 flashllm-w6a16
triton_int8weight triton_int4weight lmdeploy_int4weight ppl_int4weight triton_int8kv ppl_int8kv ppl_fp16"""


def names(family: str) -> set[str]:
    return {one.name for one in meanings(family)}


@pytest.mark.parametrize(
    ("family", "wanted"),
    [
        ("TensorRT-LLM", f"{QUANT_ALGO} {QFORMATS} kv:fp8 kv:int8 kv:nvfp4"),
        ("LightX2V", f"{DIT_SCHEMES} int8 fp8 kv:kivi-int2 kv:kivi-int4 kv:kivi-int8"),
        ("LightTTS", TTS_MODES),
        ("trtbuild", " ".join(FORMATS)),
    ],
)
def test_every_mode_that_a_family_names_is_in_the_table(family: str, wanted: str) -> None:
    assert set(wanted.split()) <= names(family)


def test_the_table_is_whole_and_says_each_name_once() -> None:
    counts = Counter(one.family for one in meanings())
    assert counts == {"trtbuild": 12, "TensorRT-LLM": 38, "LightX2V": 45, "LightTTS": 25}
    assert max(Counter((one.family, one.name) for one in meanings()).values()) == 1


@pytest.mark.parametrize("one", meanings(), ids=lambda one: f"{one.family}:{one.name}")
def test_a_row_is_possible_with_a_format_or_impossible_with_a_reason(one) -> None:
    if one.mapping == "impossible":
        assert one.canonical is None
        assert one.nearest is None or one.nearest in FORMATS
        assert one.kv_cache is None
    elif one.kv_cache is not None:
        assert one.kv_cache in get_args(CacheMode)
        assert (one.canonical, one.nearest_kv_cache) == (None, None)
    else:
        assert one.canonical in FORMATS
        assert one.nearest is None
    assert one.reason or one.mapping == "exact"
    assert not one.block_size or FORMATS[one.canonical].granularity == "block"


@pytest.mark.parametrize(
    ("name", "mode", "mapping"),
    [
        ("kv:int8", "int8_static", "approximated"),
        ("kv:fp8", "fp8", "approximated"),
        ("TensorRT-LLM:INT8", "int8_static", "approximated"),
        ("triton_int8kv", "int8", "exact"),
        ("ppl_int8kv", "int8", "approximated"),
        ("kv:kivi-int8", "int8", "approximated"),
        ("kv:k-int8-v-fp8", "int8_static", "approximated"),
    ],
)
def test_what_a_cache_becomes(name: str, mode: str, mapping: str) -> None:
    found = meaning_of_cache(name)
    assert found is not None
    assert (found.kv_cache, found.mapping, found.canonical) == (mode, mapping, None)
    assert name.rpartition("TensorRT-LLM:")[2] in cache_spellings()
    with pytest.raises(RecipeError, match="no format of weights") as caught:
        canonical(name)
    assert "kv_cache" in caught.value.hint


@pytest.mark.parametrize(("name", "nearest"), [("kv:nvfp4", "fp8"), ("kv:kivi-int4", "int8"), ("kv:kivi-int2", "int8")])
def test_an_impossible_cache_says_why_and_what_is_nearest(name: str, nearest: str) -> None:
    with pytest.raises(RecipeError, match="8 bits") as caught:
        meaning_of_cache(name)
    assert nearest in caught.value.hint
    assert name not in cache_spellings()


def test_our_own_caches_mean_themselves_and_a_slip_gets_the_nearest() -> None:
    assert [meaning_of_cache(mode) for mode in get_args(CacheMode)] == [None] * 4
    with pytest.raises(RecipeError, match="no mode 'triton_int8kw'") as caught:
        meaning_of_cache("triton_int8kw")
    assert "triton_int8kv" in caught.value.hint
    with pytest.raises(RecipeError, match="no mode 'w8a16' of a KV cache"):
        meaning_of_cache("w8a16")


def test_a_kernel_is_neither_format_nor_cache() -> None:
    assert meaning_of("ppl_fp16").kv_cache is None
    with pytest.raises(RecipeError, match="attention kernel"):
        canonical("ppl_fp16")


@pytest.mark.parametrize(
    ("name", "form", "mapping"),
    [
        ("int8", "int8", "exact"),
        ("FP8", "fp8", "exact"),
        ("fp8-sgl", "fp8_pc_pt", "approximated"),
        ("FP8-SGL", "fp8_pc_pt", "approximated"),
        ("fp8-pertensor", "fp8", "exact"),
        ("fp8-b128-deepgemm", "fp8_block128", "approximated"),
        ("int8-vllm", "int8_sq", "approximated"),
        ("int4-g128-marlin", "int4", "exact"),
        ("W8A8_SQ_PER_CHANNEL", "int8_sq", "exact"),
        ("W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", "int8_sq", "approximated"),
        ("W4A16_AWQ", "int4_awq", "exact"),
        ("int8_wo", "w8a16", "exact"),
        ("NVFP4", "nvfp4", "exact"),
        ("nvfp4_awq", "nvfp4", "approximated"),
        ("LightX2V:mxfp8", "mxfp8", "exact"),
        ("triton_int8weight", "w8a16", "exact"),
        ("triton-fp8w8a8-b128", "fp8_block128", "approximated"),
    ],
)
def test_what_a_name_becomes(name: str, form: str, mapping: str) -> None:
    assert canonical(name) == form
    assert meaning_of(name).mapping == mapping


def test_a_name_that_fixes_its_block_size_carries_it() -> None:
    assert meaning_of("ao-w4a16-64").block_size == 64
    assert meaning_of("int4-g128-marlin").block_size == 128
    assert meaning_of("int4").block_size == 0


def test_a_name_that_means_gptq_asks_for_it() -> None:
    found = meaning_of("W8A16_GPTQ")
    assert (found.canonical, found.rounding, found.mapping) == ("w8a16", "gptq", "approximated")
    assert [one.name for one in meanings() if one.rounding == "gptq"] == ["W8A16_GPTQ"], "int4_gptq is a format"


def test_our_own_name_wins_and_a_family_can_be_named() -> None:
    assert canonical("fp8") == "fp8"
    assert canonical("LightX2V:fp8") == "fp8_pc_pt"
    assert canonical("lightx2v:FP8") == "fp8_pc_pt"
    assert {one.family for one in meanings_of("fp8")} == {"trtbuild", "TensorRT-LLM", "LightX2V"}


@pytest.mark.parametrize(
    ("name", "said", "nearest"),
    [
        ("mxfp4", "no MXFP4 product", "int4_awq"),
        ("flashllm-w6a16", "6-bit", "w8a16"),
        ("gguf-Q4_0", "k-quants", "int4_awq"),
    ],
)
def test_an_impossible_name_says_why_and_what_is_nearest(name: str, said: str, nearest: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        canonical(name)
    assert nearest in caught.value.hint


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no format 'fp8-sgll'") as caught:
        canonical("fp8-sgll")
    assert "fp8-sgl" in caught.value.hint
    with pytest.raises(RecipeError, match="no family"):
        meanings("LightX3V")


def test_spellings_are_what_a_recipe_may_give() -> None:
    given = list(spellings())
    assert len(given) == len(set(given))
    assert {"int8", "fp8-sgl", "W4A16_AWQ"} <= set(given)
    assert not {"mxfp4", "NO_QUANT", "triton_int8kv"} & set(given)
    assert {canonical(name) for name in given} == set(FORMATS)
