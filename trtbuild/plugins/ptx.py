"""kernel.cu to the PTX that ships beside it: `python -m trtbuild.plugins.ptx` writes every variant of every plugin.

The compiler is nvcc of one version, from NVIDIA's wheels (`pip install 'trtbuild[dev]'`), so that everybody gets the
same text. PTX names the oldest driver that runs it: 13.0's needs R580, which TensorRT 11 needs too.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from trtbuild.core.errors import BackendMissing, ModelError
from trtbuild.plugins.kernels import Variant, variants

RELEASE = "13.0"
FLAGS = ("-ptx", "-std=c++17", "-Werror", "all-warnings")


def compiled(variant: Variant, architecture: int) -> str:
    """The PTX of one variant, without a trace of where it was compiled.

    Raises BackendMissing without the compiler's wheels, ModelError where the source does not compile.
    """
    home = toolkit()
    command = [
        *(str(home / "bin" / "nvcc"), *FLAGS, f"-arch=compute_{architecture}"),
        *(f"-D{name}={value}" for name, value in variant.macros.items()),
        *("-I", str(home / "include"), variant.kernel.source, "-o", "-"),
    ]
    path = os.pathsep.join([str(home / "bin"), str(home / "nvvm" / "bin"), os.environ.get("PATH", "")])
    answer = subprocess.run(
        command, cwd=variant.folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise ModelError(f"{variant.name} does not compile for sm_{architecture}:\n{answer.stdout}{answer.stderr}")
    return answer.stdout


def every() -> list[tuple[Variant, int]]:
    """Every variant with every architecture that it ships for."""
    return [(variant, architecture) for variant in variants() for architecture in variant.kernel.architectures]


def all_compiled() -> Iterator[tuple[Path, str]]:
    """Each PTX file and its text, compiled now."""
    wanted = every()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = pool.map(lambda each: compiled(*each), wanted)
        yield from zip((variant.ptx(architecture) for variant, architecture in wanted), texts, strict=True)


def main() -> None:
    """Write all PTX files; remove those that no kernel declares any more."""
    kept = set()
    for file, text in all_compiled():
        file.parent.mkdir(exist_ok=True)
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
            print(f"{file.parents[1].name}: {file.name}, {len(text) / 1000:.0f} KB", flush=True)
        kept.add(file)
    for folder in {file.parent for file in kept}:
        for file in set(folder.glob("*.ptx")) - kept:
            file.unlink()
            print(f"{file.parents[1].name}: {file.name} removed", flush=True)


def toolkit() -> Path:
    """The folder of CUDA's compiler, as NVIDIA's wheels install it."""
    try:
        found = [file for file in files("nvidia-cuda-nvcc") or () if file.name in ("nvcc", "nvcc.exe")]
    except PackageNotFoundError:
        found = []
    if not found:
        raise BackendMissing(
            f"the compiler for kernels, nvcc {RELEASE}, is not installed", hint="pip install 'trtbuild[dev]'"
        )
    return Path(str(found[0].locate())).parents[1]


if __name__ == "__main__":
    main()
