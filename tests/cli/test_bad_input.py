"""Bad input: a sentence with the place and the remedy, the exit code of its kind, nothing half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.models import write_onnx, write_tiny_recipe
from tests.qdq import Graph


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / name
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return change


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def truncate(folder: Path) -> None:
    file = folder / "model.onnx"
    file.write_bytes(file.read_bytes()[:20_000])


def external(folder: Path, *, location: str = "weights.bin", keep: bool = False) -> None:
    file = folder / "model.onnx"
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="weights.bin", size_threshold=10)
    model = onnx.load(file, load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    file.write_bytes(model.SerializeToString())
    if not keep:
        (folder / "weights.bin").unlink()


def factory(code: str, entry: str = "factory:make") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        write("factory.py", code)(folder)
        edit("recipe.yaml", "{onnx: model.onnx}", f'{{factory: "{entry}"}}')(folder)

    return change


def quantize(folder: Path) -> None:
    graph = Graph()
    graph.save(folder / "model.onnx", graph.linear("fc", "x", 64, 64, "int8"), ["batch", 64])
    edit("recipe.yaml", "fp32: {precision: fp32}", "fp32: {}\n  q: {quantize: {format: w8a16}}")(folder)


def blocks(folder: Path) -> None:
    write_onnx(folder / "model.onnx", width=48)
    edit("generator.py", "(4, 64)", "(4, 48)")(folder)
    edit("recipe.yaml", "[batch, 64]", "[batch, 48]")(folder)
    edit("recipe.yaml", "fp32: {precision: fp32}", "fp32: {}\n  q: {quantize: {format: int4, block_size: 32}}")(folder)


RAISES = "def make():\n    raise RuntimeError('the weights are at home')\n"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"

CASES: dict[str, tuple[Callable[[Path], None], int, list[str]]] = {
    "a misspelt key": (
        edit("recipe.yaml", "measure:", "mesure:"),
        2,
        ["recipe.yaml:10", "mesure", "did you mean measure"],
    ),
    "a wrong type": (edit("recipe.yaml", "calibration: 8", "calibration: many"), 2, ["recipe.yaml:8", "whole number"]),
    "a missing model": (
        lambda folder: (folder / "model.onnx").unlink(),
        2,
        ["recipe.yaml:3", "model.onnx", "there is:"],
    ),
    "a Git LFS pointer": (write("model.onnx", LFS), 2, ["recipe.yaml:3", "Git LFS pointer", "git lfs pull"]),
    "a truncated ONNX": (truncate, 3, ["model.onnx", "truncated", "export it again"]),
    "random bytes as ONNX": (write("model.onnx", np.random.default_rng(0).bytes(5000)), 3, ["model.onnx", "damaged"]),
    "external data that is missing": (external, 3, ["weights.bin", "w0", "missing", "copy it"]),
    "external data outside the folder": (
        lambda folder: external(folder, location="../../secret", keep=True),
        3,
        ["outside the model's folder", "../../secret", "never read"],
    ),
    "a factory that raises": (factory(RAISES), 3, ["factory.py:2", "factory:make", "the weights are at home"]),
    "a factory that returns no module": (
        factory("def make():\n    return 3\n"),
        3,
        ["returned int", "torch.nn.Module"],
    ),
    "a factory that is not there": (factory(RAISES, "factory:mkae"), 3, ["has no function 'mkae'"]),
    "a factory module that is not there": (factory(RAISES, "fcatory:make"), 2, ["recipe.yaml:3", "there is no module"]),
    "a generator that raises": (
        edit("generator.py", "yield", "raise KeyError('text'); yield"),
        3,
        ["generator.py:8", "KeyError", "step sample"],
    ),
    "no samples": (edit("generator.py", "range(0, count, 4)", "()"), 4, ["no calibration samples", "never calibrates"]),
    "samples of the wrong shape": (edit("generator.py", "(4, 64)", "(4, 63)"), 4, ["sample 0", "[4, 63]", "batch"]),
    "samples of the wrong type": (edit("generator.py", "float32", "float64"), 4, ["x is float64", "float32"]),
    "samples in both sets": (edit("generator.py", '"evaluation": 1', '"evaluation": 0'), 4, ["both", "disjoint"]),
    "an ONNX that is quantized already": (
        quantize,
        3,
        ["already quantized: 1 module int8", "high precision"],
    ),
    "blocks that do not divide the inputs": (
        blocks,
        4,
        ["format int4 leaves every module alone", "fc0: its 48 inputs", "block_size"],
    ),
    "an empty recipe": (write("recipe.yaml", ""), 2, ["recipe.yaml:1", "is empty"]),
    "no YAML": (write("recipe.yaml", "recipe: [a\nb: c\n"), 2, ["recipe.yaml:2", "not YAML"]),
}

ARGUMENTS: dict[str, tuple[list[str], int, list[str]]] = {
    "an unknown variant": (["--variant", "fp23"], 2, ["no variant 'fp23'", "did you mean fp32"]),
    "an unknown --set path": (["--set", "measure.rnus=3"], 2, ["--set measure.rnus=3", "did you mean runs"]),
    "a version that YAML reads as a number": (["--set", "engine.target=10.10"], 2, ["10.1", 'write "10.10" in quotes']),
    "another version than is installed": (["--set", 'engine.target="0.1"'], 5, ["targets ONNX Runtime 0.1", "install"]),
    "a backend that is not there": (
        ["--set", "engine.backend=tensorrt"],
        5,
        ["TensorRT is not installed here", "pip install"],
    ),
    "GPTQ of an ONNX source": (
        ["--set", "variants.q={quantize: {format: int4_gptq}}"],
        2,
        ["variant q", "needs the PyTorch model", "nearest for an ONNX model: "],
    ),
    "a format that the target cannot run": (
        ["--set", "variants.q={quantize: {format: fp8}}", "--set", "engine={backend: tensorrt, target: '8.6'}"],
        2,
        ["variant q: fp8", "the nearest that runs"],
    ),
    "a name of a format that nobody has": (
        ["--set", "variants.q={quantize: {format: fp8-sglang}}"],
        2,
        ["fp8-sglang", "did you mean fp8-sgl"],
    ),
    "no samples to calibrate on": (
        ["--set", "variants.q={quantize: {format: int8}}", "--set", "data.calibration=0"],
        2,
        ["variant q", "format int8 needs samples", "for example 256"],
    ),
    "everything excluded": (
        ["--set", 'variants.q={quantize: {format: w8a16, exclude: ["*"]}}'],
        3,
        ["nothing is left to quantize", "fc0 and 2 more: excluded by pattern '*'", "exclude less"],
    ),
    "an exclusion that matches nothing": (
        ["--set", 'variants.q={quantize: {format: w8a16, exclude: ["fc9"]}}'],
        3,
        ["no module matches 'fc9'", "did you mean fc"],
    ),
    "an override of a class that is not there": (
        ["--set", 'variants.q={quantize: {format: w8a16, overrides: {"class:Conv2d": high}}}'],
        3,
        ["overrides: no module matches 'class:Conv2d'", "did you mean class:"],
    ),
    "no formats to choose from": (
        ["--set", "variants.q={quantize: {format: auto, auto: {formats: []}}}"],
        2,
        ["auto.formats", "empty"],
    ),
    "a store that cannot be written": (["--store", "/proc/nowhere"], 7, ["cannot be written", "--store"]),
}


def build(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trtbuild", "build", str(folder), "-o", str(folder.parent / "engines"), *arguments],
        env={**os.environ, "TRTBUILD_STORE": str(folder.parent / "store")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def check(result: subprocess.CompletedProcess[str], code: int, words: list[str], folder: Path) -> None:
    assert result.returncode == code, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (folder.parent / "engines").exists()
    leftovers = folder.parent / "store" / "tmp"
    assert not leftovers.exists() or list(leftovers.iterdir()) == []


@pytest.mark.parametrize("case", CASES)
def test_a_bad_recipe_folder(case: str, tmp_path: Path) -> None:
    spoil, code, words = CASES[case]
    folder = write_tiny_recipe(tmp_path / "tiny")
    spoil(folder)
    check(build(folder), code, words, folder)


@pytest.mark.parametrize("case", ARGUMENTS)
def test_a_bad_argument(case: str, tiny: Path) -> None:
    arguments, code, words = ARGUMENTS[case]
    check(build(tiny, *arguments), code, words, tiny)


def test_every_error_of_a_recipe_is_said_at_once(tiny: Path) -> None:
    edit("recipe.yaml", "measure:", "mesure:")(tiny)
    edit("recipe.yaml", "opt: 4", "opt: 40")(tiny)
    edit("recipe.yaml", "precision: fp32", "precision: fp23")(tiny)
    result = build(tiny)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 3
    for word in ("mesure", "min <= opt <= max", "fp23"):
        assert word in result.stderr


def test_an_output_that_cannot_be_written_keeps_the_work(tiny: Path) -> None:
    (tiny.parent / "engines").write_text("in the way")
    result = build(tiny)
    assert result.returncode == 2
    assert "is a file" in result.stderr
    (tiny.parent / "engines").unlink()
    assert build(tiny).returncode == 0


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root mounts file systems; test_store.py covers the full disk for all"
)
def test_a_full_disk(tiny: Path, tmp_path: Path) -> None:
    """On a real, tiny file system: whichever write meets the end, the store verifies and the next build finishes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this sandbox mounts no file systems")
    try:
        for free_kb in (60, 200, 500):
            (disk / "filler").write_bytes(b"\0" * (2048 - free_kb) * 1024)
            full = build(tiny, "--store", str(disk / "store"))
            (disk / "filler").unlink()
            if full.returncode:
                assert full.returncode == 7, full.stderr
                assert "free some space" in full.stderr
                assert "Traceback" not in full.stderr
            verified = subprocess.run(
                [sys.executable, "-m", "trtbuild", "cache", "verify", "--store", str(disk / "store")], check=False
            )
            assert verified.returncode == 0
        assert build(tiny, "--store", str(disk / "store")).returncode == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)
