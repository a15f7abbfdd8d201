"""A recipe for TensorRT, composed on a machine that has none: who builds, from which graph, with which options."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models import RECIPE, write_tiny_recipe
from trtbuild.core import gpu, machine
from trtbuild.core.errors import BackendMissing, RecipeError
from trtbuild.graph import document
from trtbuild.graph.lint import lint
from trtbuild.pipeline.backend_choice import choose_backend
from trtbuild.pipeline.build import prepare
from trtbuild.pipeline.compose import compose
from trtbuild.pipeline.decide import ingredients_of
from trtbuild.pipeline.file_digests import FileDigests
from trtbuild.pipeline.plan import Step
from trtbuild.pipeline.store import Store
from trtbuild.recipe.load import load

VARIANTS = (
    RECIPE
    + """\
  fp16: {precision: fp16}
  int8: {quantize: {format: int8}}
  w8a16: {quantize: {format: w8a16}}
"""
)
H200 = gpu.Device("NVIDIA H200", (9, 0), 132, 150 << 30, "580.1", "13.0")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_tiny_recipe(tmp_path / "tiny", recipe=VARIANTS)


@pytest.fixture
def files(store: Path) -> FileDigests:
    Store(store)
    return FileDigests(store / "digests.sqlite")


def with_tensorrt(monkeypatch: pytest.MonkeyPatch, version: str | None, device: gpu.Device | None = H200) -> None:
    installed = machine.package_version
    monkeypatch.setattr(
        machine, "package_version", lambda name: version if name.startswith("tensorrt") else installed(name)
    )
    monkeypatch.setattr(gpu, "current", lambda: device)


def steps(recipe: Path, *sets: str, only: tuple[str, ...] = ("fp16", "int8")) -> dict[str, Step]:
    return compose(load(recipe, sets, only), only).plan.steps


def test_auto_takes_tensorrt_where_it_stands_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_tensorrt(monkeypatch, "10.9.0.34 (tensorrt-cu12)")
    choice = choose_backend("auto", None)
    assert (choice.backend, choice.version, choice.sm) == ("tensorrt", "10.9.0.34", (9, 0))
    assert choice.because == "auto: TensorRT 10.9.0.34 is installed beside NVIDIA H200"
    assert choice.dialect.name == "TensorRT 10"
    with_tensorrt(monkeypatch, "10.9.0", None)
    choice = choose_backend("auto", None)
    assert (choice.backend, choice.because) == ("onnxruntime", "auto: this machine lacks a GPU")
    with_tensorrt(monkeypatch, None, None)
    assert choose_backend("auto", None).because == "auto: this machine lacks TensorRT and a GPU"


@pytest.mark.parametrize(
    ("target", "fits"), [("8.6", True), ("8.6.0", True), ("8", True), ("8.5", False), ("10.3", False)]
)
def test_the_target_must_be_what_is_installed(monkeypatch: pytest.MonkeyPatch, target: str, fits: bool) -> None:
    with_tensorrt(monkeypatch, "8.6.0")
    if fits:
        assert choose_backend("auto", target).backend == "tensorrt"
        return
    with pytest.raises(BackendMissing, match=f"targets TensorRT {target}, this environment has 8.6.0") as caught:
        choose_backend("tensorrt", target)
    assert f"tensorrt~={target}" in caught.value.hint


def test_what_is_missing_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    with_tensorrt(monkeypatch, None)
    with pytest.raises(BackendMissing, match="TensorRT is not installed here") as caught:
        choose_backend("auto", "8.6")
    assert "pip install 'tensorrt~=8.6'" in caught.value.hint
    with_tensorrt(monkeypatch, "8.6.0", None)
    with pytest.raises(BackendMissing, match="needs an NVIDIA GPU"):
        choose_backend("tensorrt", None)
    assert choose_backend("tensorrt", "8.6", builds=False).dialect.name == "TensorRT 8.6"


def test_flags_decide_the_precision_on_8_6(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tensorrt(monkeypatch, "8.6.0")
    found = steps(recipe, "engine.target=8.6", only=("fp32", "fp16", "int8"))
    assert not [name for name in found if name.startswith("autocast")]
    flags = {name: found[f"{name}/build"].settings["options"].fp16 for name in ("fp32", "fp16", "int8")}
    assert flags == {"fp32": False, "fp16": True, "int8": True}
    assert found["int8/insert"].settings["dialect"].weights == "quantize_dequantize"
    assert found["int8/build"].cast["compiler"] == found["int8/measure"].cast["runner"] == "tensorrt"
    assert found["observe"].cast["interpreter"] == "onnxruntime"
    asked = steps(recipe, "engine.target=8.6", "engine.fp16=false", "variants.int8.precision=fp32")
    assert "fp16/build" not in asked, "without the flag it is the very engine of fp32"
    with pytest.raises(RecipeError, match=r"TensorRT 8.6 has no bfloat16"):
        steps(recipe, "engine.target=8.6", "variants.fp16.precision=bf16")


def test_graphs_decide_the_precision_from_10_on(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tensorrt(monkeypatch, "11.4.0")
    found = steps(recipe)
    assert found["int8/insert"].inputs["model"].step == "autocast-fp16"
    assert found["int8/build"].settings["options"].fp16 is None
    monkeypatch.undo()
    assert steps(recipe)["int8/insert"].inputs["model"].step == "adopt", "CPUs multiply integers beside FP32"


def test_what_the_target_cannot_run_is_asked_of_the_variants_that_are_meant(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_tensorrt(monkeypatch, "8.6.0")
    with pytest.raises(RecipeError, match=r"recipe.yaml:\d+: variant w8a16: .*TensorRT 10.0"):
        load(recipe, ["engine.target=8.6"])
    with pytest.raises(RecipeError, match=r"recipe.yaml:\d+: variant w8a16: .*TensorRT 10.0"):
        steps(recipe, only=("fp16", "w8a16"))  # nobody named the version: it is the one that is installed
    assert "int8/build" in steps(recipe, "engine.target=8.6")


def test_a_backend_is_not_built_again_for_another_ones_options(
    recipe: Path, files: FileDigests, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(*sets: str) -> dict[str, str]:
        step = steps(recipe, *sets)["int8/build"]
        return ingredients_of(step, dict.fromkeys(step.inputs, "0"), files)

    assert key() == key("engine.optimization_level=5")
    assert key() != key("engine.threads=1")
    with_tensorrt(monkeypatch, "10.9.0")
    assert key() == key("engine.threads=1")
    assert key() != key("engine.optimization_level=5")


def test_scripts_and_plugins_count_by_content(
    recipe: Path, files: FileDigests, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_tensorrt(monkeypatch, "10.9.0")
    (recipe / "script.py").write_text("def configure(builder, network, config):\n    pass\n")
    (recipe / "libmine.so").write_bytes(b"first")
    sets = ("engine.config_script=script:configure", "engine.plugins=[libmine.so]")

    def key() -> dict[str, str]:
        step = steps(recipe, *sets)["int8/build"]
        return ingredients_of(step, dict.fromkeys(step.inputs, "0"), files)

    first = key()
    options = steps(recipe, *sets)["int8/build"].settings["options"]
    assert options.plugins == [recipe / "libmine.so"]
    assert options.config_script.entry == "script:configure"
    assert {"options.file.script.py", "options.file.libmine.so", "machine.python"} <= first.keys()
    assert str(recipe) not in str(first), "where the files lie is no part of the key"
    (recipe / "libmine.so").write_bytes(b"second")
    second = key()
    assert {name for name in first if first[name] != second[name]} == {"options.file.libmine.so"}
    with pytest.raises(RecipeError, match=r"--set engine.plugins=\[none.so\]: engine.plugins: there is no file"):
        steps(recipe, "engine.plugins=[none.so]")
    with pytest.raises(RecipeError, match=r"engine.config_script.entry: there is no module 'scirpt'"):
        steps(recipe, "engine.config_script=scirpt:configure")


@pytest.mark.parametrize("target", ["10.9", "11.4"])
def test_codes_go_into_fp16_graphs_that_a_strongly_typed_builder_takes(recipe: Path, store: Path, target: str) -> None:
    prepare(recipe, until="insert", sets=[f"engine.target={target}"], variants=["int8", "w8a16"], store=store)
    inserted = [action for _, action in Store(store).actions() if action.ingredients["stage"].startswith("insert ")]
    assert len(inserted) == 2
    for action in inserted:
        graph = document.load(Store(store).folder_of(action.outputs["model"].digest) / "model.onnx")
        assert lint(graph) == []
        scales = [
            node.inputs[1].dtype for node in graph.graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        ]
        assert scales
        assert {scale.name for scale in scales} == {"FLOAT16"}
