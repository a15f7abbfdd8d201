"""The append kernel's own source, compiled for the host by g++ and run by `warps_on_host.h`: no GPU is needed."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.unit.plugins.single_node import Array
from trtbuild.graph.kv_cache.operators import OPERATORS
from trtbuild.plugins.kernels import Variant, variants
from trtbuild.plugins.ptx import toolkit

HERE = Path(__file__).parent
_FOLDER = TemporaryDirectory()  # gone when the process ends


def of_append() -> dict[str, Variant]:
    return {each.name: each for each in variants() if each.folder.name == "kv_cache_append"}


@cache
def library() -> ctypes.CDLL:
    """Every variant in one library; contraction off, as CUDA's `__fmul_rn` and its like are never contracted."""
    folder = Path(_FOLDER.name)
    parts = ['#include "warps_on_host.h"']
    for name, variant in of_append().items():
        parts += [f"#define {key} {value}" for key, value in variant.macros.items()]
        parts += [f"namespace variant_{name} {{", '#include "kernel.cu"', "}"]
        inputs, outputs = OPERATORS[variant.kernel.operator].inputs, OPERATORS[variant.kernel.operator].outputs
        count = len(variant.kernel.integers)
        pointers = [f"pointers[{index}]" for index in range(len(inputs) + len(outputs))]
        given = [*pointers[: len(inputs)], *(f"integers[{index}]" for index in range(count)), *pointers[len(inputs) :]]
        arguments = ", ".join(f"as({text})" if text.startswith("pointers") else text for text in given)
        parts.append(f"""
extern "C" void run_{name}(const int* grid, int threads, void** pointers, const int* integers) {{
    launch(grid, threads, [=] {{ variant_{name}::{name}({arguments}); }});
}}
""")
        parts += [f"#undef {key}" for key in [*variant.macros, "SCALES_IN", "SCALES_OUT"]]
        parts += [f"#undef {key}" for key in ("FLOATS", "INT8_PER_TOKEN", "INT8_PER_HEAD", "FP8_PER_HEAD")]
    as_any = "struct as { void* p; as(void* p) : p(p) {} template <typename T> operator T*() const { return (T*)p; } };"
    parts.insert(1, as_any)
    (folder / "all.cpp").write_text("\n".join(parts))
    compiler = shutil.which("g++")
    assert compiler, "g++ is needed to run the kernel's source on the host"
    plugin = next(iter(of_append().values())).folder
    subprocess.run(
        [
            *(compiler, "-O1", "-std=c++20", "-ffp-contract=off", "-march=native", "-w"),
            *("-shared", "-fPIC", "-pthread"),
            *("-I", str(HERE), "-I", str(plugin), "-I", str(toolkit() / "include")),
            *(str(folder / "all.cpp"), "-o", str(folder / "all.so")),
        ],
        check=True,
    )
    return ctypes.CDLL(str(folder / "all.so"))


def run(variant: Variant, feed: dict[str, Array], outputs: dict[str, Array]) -> None:
    """Launch as declared: `outputs` are written in place, and may be the memory of inputs."""
    rows, heads, slots, size = feed["key_cache"].shape
    sizes = {"B": rows, "H": heads, "N": feed["key"].shape[2], "S": slots, "D": size}
    launch = variant.launch(sizes, {}, multiprocessors=132)
    arrays = [feed[role] for role in OPERATORS[variant.kernel.operator].inputs]
    arrays += [outputs[role] for role in OPERATORS[variant.kernel.operator].outputs]
    assert all(array.flags.c_contiguous for array in arrays)
    getattr(library(), f"run_{variant.name}")(
        np.array(launch.grid, np.int32).ctypes,
        launch.block[0],
        (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays)),
        np.array(launch.integers, np.int32).ctypes,
    )
