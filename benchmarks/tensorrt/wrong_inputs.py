"""What TensorRT's users get wrong, on a real GPU: each must end in a clear error before minutes are spent.

    PYTHONPATH=. python benchmarks/tensorrt/wrong_inputs.py --set engine.target=8.6

writes `wrong_inputs.json`: what was said, the exit code and the seconds. Exits with 1 where something did not fail, or
failed without words.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trtbuild.backends.tensorrt.backend import TensorRT
from trtbuild.core import gpu
from trtbuild.core.artifacts import Engine
from trtbuild.core.errors import TrtbuildError

RECIPE = """\
recipe: wrong
model: {onnx: model.onnx}
shapes:
  axes: {batch: {min: 1, opt: 4, max: 8}}
  inputs: {x: {dtype: float32, dims: [batch, 64]}}
data: {generator: "samples:normal", arguments: {shapes: {x: [64]}}, calibration: 4, evaluation: 4}
measure: {runs: 3}
reference: fp16
gates: {pays: "no", coverage: 0.0}
variants:
  fp16: {precision: fp16}
"""


def main() -> int:
    """Make every mistake once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--scratch", type=Path, default=Path("wrong-scratch"))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("wrong_inputs.json"))
    given = parser.parse_args()
    shutil.rmtree(given.scratch, ignore_errors=True)
    mistakes = Mistakes(given.scratch.absolute(), given.sets)
    found: dict[str, Any] = {"gpu": str(gpu.current())}
    found |= {
        "no GPU": mistakes.built({"CUDA_VISIBLE_DEVICES": ""}),
        "no TensorRT": mistakes.built({"PYTHONPATH": mistakes.without_tensorrt()}),
        "a TensorRT that is not installed": mistakes.built({}, "engine.target=10.9"),
        "a format that this TensorRT lacks": mistakes.built({}, "variants.fp8={quantize: {format: fp8}}"),
        "an option that this TensorRT lacks": mistakes.built({}, "engine.strip_plan=true"),
        "an operator that it lacks": mistakes.built({}, model=with_determinant),
        "no mistake": mistakes.built({}),
        "a shape outside every profile": mistakes.called(lambda engine: infer(engine, rows=9)),
        "a plan of another GPU": mistakes.called(of_another_gpu),
        "a plan of another TensorRT": mistakes.called(of_another_version),
        "a truncated plan": mistakes.called(truncated),
    }
    given.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    shutil.rmtree(given.scratch)
    told = [its["exit_code"] not in (0, 1) and "Traceback" not in its["said"] for its in list(found.values())[1:]]
    return 0 if sum(told) == len(told) - 1 and found["no mistake"]["exit_code"] == 0 else 1


class Mistakes:
    """A small recipe, built wrongly."""

    def __init__(self, folder: Path, sets: list[str]) -> None:
        self._folder, self._sets = folder, sets
        folder.mkdir(parents=True)
        shutil.copy(Path(__file__).parent / "recipes" / "samples.py", folder)
        (folder / "recipe.yaml").write_text(RECIPE)

    def without_tensorrt(self) -> str:
        """Where Python looks, without the folders that hold TensorRT."""
        folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        return os.pathsep.join(folder for folder in folders if not (Path(folder) / "tensorrt").is_dir())

    def built(
        self, environment: dict[str, str], *sets: str, model: Callable[[], onnx.ModelProto] | None = None
    ) -> dict[str, Any]:
        """What `trtbuild build` says."""
        onnx.save((model or chain)(), str(self._folder / "model.onnx"))
        words = [word for one in (*self._sets, *sets) for word in ("--set", one)]
        out = ["--store", str(self._folder / "store"), "-o", str(self._folder / "engines"), "--quiet"]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "trtbuild", "build", str(self._folder), *words, *out],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        said = done.stderr.strip() or done.stdout.strip()
        return {"exit_code": done.returncode, "seconds": round(time.perf_counter() - began, 1), "said": said}

    def called(self, mistake: Callable[[Engine], None]) -> dict[str, Any]:
        """What using the engine says; each mistake gets a copy of its own."""
        engine = Engine(self._folder / "engine")
        shutil.rmtree(engine.path, ignore_errors=True)
        shutil.copytree(self._folder / "engines" / "wrong" / "fp16", engine.path)
        began, code, said = time.perf_counter(), 0, ""
        try:
            mistake(engine)
        except TrtbuildError as error:
            code, said = error.exit_code, f"{error.message}\n  {error.hint}"
        return {"exit_code": code, "seconds": round(time.perf_counter() - began, 1), "said": said}


def infer(engine: Engine, rows: int = 4) -> None:
    """One call of so many rows."""
    session = TensorRT().open(engine, threads=0)
    try:
        session.infer({"x": np.zeros((rows, 64), np.float32)})
    finally:
        session.close()


def of_another_gpu(engine: Engine) -> None:
    """The same engine, said to be built on an A100."""
    _changed(engine, gpu="NVIDIA A100-SXM4-80GB", sm=[8, 0], multiprocessors=108)


def of_another_version(engine: Engine) -> None:
    """The same engine, said to be built by another TensorRT."""
    _changed(engine, tensorrt="10.3.0")


def _changed(engine: Engine, **facts: Any) -> None:
    engine.main.write_text(json.dumps({**json.loads(engine.main.read_text()), **facts}))
    infer(engine)


def truncated(engine: Engine) -> None:
    """Half of the plan."""
    plan = engine.path / "engine.plan"
    plan.write_bytes(plan.read_bytes()[: plan.stat().st_size // 2])
    infer(engine)


def chain() -> onnx.ModelProto:
    """Two products."""
    return _model([helper.make_node("MatMul", ["x", "w"], ["a"], name="first/MatMul")], "a")


def with_determinant() -> onnx.ModelProto:
    """With an operator that TensorRT 8.6 has no importer for."""
    product = helper.make_node("MatMul", ["x", "w"], ["a"], name="first/MatMul")
    square = helper.make_node("Reshape", ["a", "to_square"], ["square"], name="first.volume/Reshape")
    volume = helper.make_node("Det", ["square"], ["det"], name="first.volume/Det")
    return _model([product, square, volume, helper.make_node("Add", ["a", "det"], ["b"], name="first.volume/Add")], "b")


def _model(nodes: list[onnx.NodeProto], last: str) -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((64, 64), np.float32) / 8
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", [last, "w"], ["y"], name="second/MatMul")],
        "wrong",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.array([-1, 1, 8, 8], np.int64), "to_square"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    sys.exit(main())
