"""Each rewrite that `trtbuild.graph.tensorrt86` makes, built and run by the real library, against ONNX Runtime.

    PYTHONPATH=. python benchmarks/tensorrt/parser_check.py [--as-it-is]

prints a line for each small graph and exits with 1 where one fails to build or gives other numbers. A graph that was
not lowered may fail: it says what the lowering is for.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from trtbuild.backends.tensorrt import lowering
from trtbuild.backends.tensorrt.backend import TensorRT
from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.tensors import AxisRange, Shapes, TensorSpec
from trtbuild.stages.tensorrt_options import TensorRTOptions

Array = np.ndarray[Any, Any]
SHAPES = Shapes(
    inputs={"x": TensorSpec(dtype="float32", dims=["batch", 6, 8, 8])}, axes={"batch": AxisRange(min=1, opt=2, max=4)}
)
RNG = np.random.default_rng(0)
VECTOR = np.linspace(0.5, 2, 6, dtype=np.float32)
INT8 = {"scale": np.float32(0.02), "zero": np.int8(0)}
CHANNELS = {"scales": np.full(6, 0.004, np.float32), "zeros": np.zeros(6, np.int8)}
WEIGHT = RNG.standard_normal((6, 6, 1, 1)).astype(np.float32) * np.float32(0.2)
CODES = np.clip(np.rint(WEIGHT / np.float32(0.004)), -127, 127).astype(np.int8)
KERNEL = {"kernel_shape": [1, 1]}

Node = tuple[str, list[str], str, dict[str, Any]]
CASES: dict[str, tuple[list[Node], dict[str, Any]]] = {
    "Shape of a part": (
        [
            ("Shape", ["x"], "s", {"start": 0, "end": 1}),
            ("Concat", ["s", "rest"], "to", {"axis": 0}),
            ("Reshape", ["x", "to"], "y", {"allowzero": 1}),
        ],
        {"rest": np.array([6, 64])},
    ),
    "Gelu": ([("Gelu", ["x"], "y", {})], {}),
    "Gelu by tanh": ([("Gelu", ["x"], "y", {"approximate": "tanh"})], {}),
    "Mish": ([("Mish", ["x"], "y", {})], {}),
    "ReduceMean with axes": ([("ReduceMean", ["x", "axes"], "y", {"keepdims": 1})], {"axes": np.array([1, -1])}),
    "Pad of one axis": (
        [("Pad", ["x", "pads", "", "axes"], "y", {})],
        {"pads": np.array([1, 2]), "axes": np.array([3])},
    ),
    "GroupNormalization": (
        [("GroupNormalization", ["x", "s", "b"], "y", {"num_groups": 3})],
        {"s": VECTOR, "b": VECTOR - 1},
    ),
    "Split in halves": (
        [("Split", ["x"], "a,b", {"axis": 2, "num_outputs": 2}), ("Sub", ["a", "b"], "y", {})],
        {},
    ),
    "Q and DQ of an activation": (
        [
            ("QuantizeLinear", ["x", "scale"], "q", {"output_dtype": TensorProto.INT8}),
            ("DequantizeLinear", ["q", "scale"], "y", {}),
        ],
        {"scale": INT8["scale"]},
    ),
    "INT8 codes of a weight": (
        [
            ("QuantizeLinear", ["x", "scale", "zero"], "q", {}),
            ("DequantizeLinear", ["q", "scale", "zero"], "d", {}),
            ("DequantizeLinear", ["codes", "scales"], "w", {"axis": 0}),
            ("Conv", ["d", "w"], "y", KERNEL),
        ],
        {**INT8, "codes": CODES, "scales": CHANNELS["scales"]},
    ),
}


def main() -> int:
    """Check every case; with `--as-it-is` try each without the lowering too, last, for that may end the process."""
    wrong = []
    for name, (nodes, constants) in CASES.items():
        said = _outcome(nodes, constants)
        print(f"CHECK {name}: {said}", flush=True)
        if not said.startswith("equal"):
            wrong.append(name)
    print(
        f"CHECK {len(CASES) - len(wrong)} of {len(CASES)} are equal" + (f"; not {wrong}" if wrong else ""), flush=True
    )
    if "--as-it-is" in sys.argv:
        for name, (nodes, constants) in CASES.items():
            print(f"CHECK {name}, as it is: {_outcome(nodes, constants, lambda model, *_: model)}", flush=True)
    return 1 if wrong else 0


def _outcome(nodes: list[Node], constants: dict[str, Any], instead: Callable[..., OnnxModel] | None = None) -> str:
    """In words, how TensorRT's numbers compare; `instead` replaces the lowering."""
    usual = lowering.lowered
    with tempfile.TemporaryDirectory() as scratch:
        model, engine = OnnxModel(Path(scratch) / "model"), Engine(Path(scratch) / "engine")
        model.path.mkdir()
        engine.path.mkdir()
        _write(model.main, nodes, constants)
        x = RNG.standard_normal((2, 6, 8, 8)).astype(np.float32)
        wanted = onnxruntime.InferenceSession(model.main, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        try:
            lowering.lowered = instead or usual
            options = TensorRTOptions(timing_cache="off", optimization_level=1, tf32=False, fp16=False)
            TensorRT().compile(model, SHAPES, options, engine)
            session = TensorRT().open(engine, threads=0)
            found = session.infer({"x": x})["y"]
            session.close()
        except Exception as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        finally:
            lowering.lowered = usual
    if found.shape != wanted.shape:
        return f"shape {list(found.shape)} instead of {list(wanted.shape)}"
    off = float(np.abs(found - wanted).max())
    return f"equal to {off:.1e}" if off <= 0.03 else f"different by {off:.3g}"


def _write(path: Path, nodes: list[Node], constants: dict[str, Any]) -> None:
    graph = helper.make_graph(
        [
            helper.make_node(op_type, inputs, output.split(","), name=f"case/{op_type}_{number}", **attributes)
            for number, (op_type, inputs, output, attributes) in enumerate(nodes)
        ],
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())


if __name__ == "__main__":
    sys.exit(main())
