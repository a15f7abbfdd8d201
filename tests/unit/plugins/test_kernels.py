"""Which kernel an operator gets, and that every kernel's PTX is the one that its source compiles to."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from trtbuild.core.errors import ModelError
from trtbuild.plugins.declaration import Plugin, shipped
from trtbuild.plugins.kernels import Variant, choose, operators, variants
from trtbuild.plugins.ptx import RELEASE, compiled, every, toolkit

EVERY = every()
SIZES = {"B": 4, "H": 8, "S": 512, "D": 128, "Hq": 32, "C": 16}
MOST_BYTES = 7_000_000
"""Of all PTX together, as it lies in the wheel uncompressed."""


@pytest.mark.parametrize(("variant", "architecture"), EVERY, ids=lambda each: getattr(each, "name", each))
def test_shipped_ptx_is_what_the_source_compiles_to(variant: Variant, architecture: int) -> None:
    assert variant.ptx(architecture).read_text() == compiled(variant, architecture), (
        "the kernel changed: `python -m trtbuild.plugins.ptx` writes its PTX"
    )


@pytest.mark.parametrize(("variant", "architecture"), EVERY, ids=lambda each: getattr(each, "name", each))
def test_ptx_has_the_declared_entry_and_arguments(variant: Variant, architecture: int) -> None:
    text = variant.ptx(architecture).read_text()
    assert f".target sm_{architecture}\n" in text
    assert f"release {RELEASE}" in text
    entries = re.findall(r"\.entry (\w+)\((.*?)\)", text, re.DOTALL)
    assert [name for name, _ in entries] == [variant.name]
    kinds = re.findall(r"\.param \.(\w+) ", entries[0][1])
    operator = operators()[variant.kernel.operator][1]
    pointers = [["u64"] * len(operator.inputs), ["u64"] * len(operator.outputs)]
    assert kinds == [*pointers[0], *["u32"] * len(variant.kernel.integers), *pointers[1]]


@pytest.mark.parametrize(("variant", "architecture"), EVERY, ids=lambda each: getattr(each, "name", each))
def test_no_kernel_spills_or_takes_more_shared_memory_than_every_launch_may(
    variant: Variant, architecture: int, tmp_path: Path
) -> None:
    """As the driver's own assembler makes it for Hopper; 48 KB is what a launch is granted without asking."""
    command = ["-arch=sm_90", "-v", str(variant.ptx(architecture)), "-o", str(tmp_path / "cubin")]
    told = subprocess.run(
        [str(toolkit() / "bin" / "ptxas"), *command], capture_output=True, text=True, check=True
    ).stderr
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in told
    static = re.search(r"(\d+) bytes smem", told)
    launch = variant.launch({**{"N": 1}, **SIZES, **_sizes_of(variant)}, {"scale": 1.0, "window": 1}, 132)
    assert (int(static[1]) if static else 0) + launch.shared_bytes <= 48 << 10


def _sizes_of(variant: Variant) -> dict[str, int]:
    return {key: value for key, value in variant.given.items() if isinstance(value, int)}


def test_no_ptx_lies_there_that_nothing_declares_and_all_of_it_is_small() -> None:
    declared = {variant.ptx(architecture) for variant, architecture in EVERY}
    lying = {file for folder, _ in shipped().values() for file in folder.glob("ptx/*")}
    assert lying == declared
    assert sum(file.stat().st_size for file in lying) < MOST_BYTES


def test_variants_have_names_of_their_own() -> None:
    assert len({variant.name for variant in variants()}) == len(variants())


@pytest.mark.parametrize("plugin", [plugin for _, plugin in shipped().values()], ids=lambda plugin: plugin.name)
def test_kernels_are_for_operators_and_inputs_that_exist(plugin: Plugin) -> None:
    for kernel in plugin.kernels:
        operator = plugin.operators[kernel.operator]
        letters = {letter for tensor in operator.inputs.values() for letter in tensor.shape}
        for key, values in kernel.variants.items():
            assert key in letters or set(values) <= set(operator.inputs[key].types)


def test_the_first_that_fits_is_taken_and_the_best_ptx_for_the_gpu() -> None:
    types = {"key": "bfloat16", "key_cache": "float8e4m3fn"}
    variant = choose("KVCacheAppendFp8PerHead", types, {**SIZES, "N": 1}, 90)
    assert variant.name == "kv_cache_append_bfloat16_as_fp8_per_head"
    assert variant.architecture(90) == variant.architecture(89) == 89
    assert variant.architecture(86) == 80


def test_a_size_that_calls_decide_is_no_obstacle() -> None:
    assert choose("KVCacheAppendInt8PerToken", {"key": "float16"}, SIZES, 80).architecture(80) == 80


@pytest.mark.parametrize(("size", "types"), [(100, "float16"), (512, "float16"), (128, "int8")])
def test_what_no_kernel_is_for_is_told(size: int, types: str) -> None:
    with pytest.raises(ModelError, match=f"no kernel for key {types}.*D = {size}"):
        choose("KVCacheAppendInt8PerToken", {"key": types}, {**SIZES, "D": size}, 90)


def test_a_gpu_that_is_too_old_is_told() -> None:
    with pytest.raises(ModelError, match=r"compute capability 8.0 .* has 7.5"):
        choose("KVCacheAppendInt8PerToken", {"key": "float16"}, SIZES, 75)
