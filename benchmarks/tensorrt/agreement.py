"""Who deviates? A quantized graph run by ONNX Runtime as it is written, in coarser floats, and by TensorRT.

    PYTHONPATH=. python benchmarks/tensorrt/agreement.py attention
    PYTHONPATH=. python benchmarks/tensorrt/agreement.py graph GRAPH.onnx SAMPLES.safetensors

A code that lies near a rounding border flips with the last bit of a float, and a network may amplify that. So the same
graph is run five ways: exactly; with its biases and norms moved by a millionth, and with every computed tensor rounded
to FP16, both in ONNX Runtime; as an engine with FP32 between the Q/DQ; as an engine with FP16. No engine can be asked
to agree better with the exact run than the graph agrees with itself. `attention` writes one layer of the wide encoder
with several placements of Q/DQ in its attention. Where there is no TensorRT, the engines are left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from max_calibration import calibrate
from models import encoder
from onnx import TensorProto, helper

from trtbuild.core import gpu
from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.dialects import TENSORRT_8
from trtbuild.core.tensor_file import Batches
from trtbuild.core.tensors import AxisRange, Shapes, TensorSpec
from trtbuild.graph import document, insertion

FEED = dict[str, np.ndarray[Any, Any]]
TOKENS, WIDTH, ROWS = 512, 1024, 4


def main() -> int:
    """Write and print the cosines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["attention", "graph"])
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--scratch", type=Path, default=Path("agreement-scratch"))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("agreement.json"))
    given = parser.parse_args()
    shutil.rmtree(given.scratch, ignore_errors=True)
    given.scratch.mkdir(parents=True)
    results = json.loads(given.output.read_text()) if given.output.is_file() else {}
    results["gpu"] = str(gpu.current())
    cases = attention_cases(given.scratch) if given.what == "attention" else [read_case(*given.files)]
    for name, graph, feed, truth in cases:
        print(f"== {name}", flush=True)
        try:
            results[name] = compared(graph, feed, truth, given.scratch / name)
        except Exception as error:
            results[name] = {"error": f"{type(error).__name__}: {error}"[:400]}
        print(json.dumps(results[name]), flush=True)
        given.output.write_text(json.dumps(results, indent=1) + "\n")
    shutil.rmtree(given.scratch)
    return 0


def read_case(graph: Path, samples: Path) -> tuple[str, OnnxModel, FEED, None]:
    """A graph in a file, with the first of some samples."""
    return graph.parent.name, OnnxModel(graph.parent), dict(Batches(samples)[0]), None


def attention_cases(scratch: Path) -> Iterator[tuple[str, OnnxModel, FEED, FEED]]:
    """One layer of the encoder: nothing quantized; its linears; its attention, written in several ways."""
    base = OnnxModel(scratch / "base")
    base.path.mkdir()
    base.main.write_bytes(encoder(layers=1).SerializeToString())
    rng = np.random.default_rng(7)
    feeds = [{"x": rng.standard_normal((rows, TOKENS, WIDTH), np.float32)} for rows in (2, 2, ROWS)]
    plan, ranges = calibrate(base.main, feeds[:2])
    feed = feeds[2]
    truth = run(base.main, feed)
    softmax = next(key for key in ranges if key.endswith("/MatMul_1:0"))
    value = softmax.removesuffix("0") + "1"
    scores = [key for key in ranges if key.rpartition(":")[0] == softmax.rpartition("_1:")[0]]
    yield "high", base, feed, truth
    for name, changed in {
        "layers": None,
        "attention, softmax by its observed range": {},
        "attention, softmax by 1": {softmax: 1.0},
        "attention, softmax by 1, wider value": {softmax: 1.0, value: 2 * ranges[value]},
        "attention, wider query and key": {key: 2 * ranges[key] for key in scores},
    }.items():
        graph = document.load(base.main)
        insertion.insert(
            graph,
            plan,
            attention="high" if changed is None else "int8",
            ranges={**ranges, **(changed or {})},
            dialect=TENSORRT_8,
        )
        model = OnnxModel(scratch / f"graph {name}")
        model.path.mkdir()
        document.save(graph, model)
        yield name, model, feed, truth
        if changed == {}:
            for part in ("scores", "context"):
                yield f"attention, {part} alone", _without(model, part, scratch), feed, truth


def _without(model: OnnxModel, part: str, scratch: Path) -> OnnxModel:
    """The graph with Q/DQ at one of the attention's two products alone."""
    proto = onnx.load(str(model.main))
    makes = {name: node for node in proto.graph.node for name in node.output}
    for node in proto.graph.node:
        stays = "MatMul" if part == "scores" else "MatMul_1"
        if not node.name.endswith((".attention/MatMul", ".attention/MatMul_1")) or node.name.endswith(f"/{stays}"):
            continue
        for index, name in enumerate(node.input):
            dequantize = makes[name]
            if dequantize.op_type == "DequantizeLinear":
                node.input[index] = makes[dequantize.input[0]].input[0]
    found = OnnxModel(scratch / f"graph {part}")
    found.path.mkdir()
    onnx.save(proto, str(found.main))
    return found


def compared(model: OnnxModel, feed: FEED, truth: FEED | None, scratch: Path) -> dict[str, Any]:
    """Cosines of each run to the exact one, and to the FP32 model where it is known."""
    scratch.mkdir()
    exact = run(model.main, feed)
    rounded = scratch / "rounded.onnx"
    onnx.save(in_fp16(onnx.load(str(model.main))), str(rounded))
    moved = scratch / "moved.onnx"
    onnx.save(nudged(onnx.load(str(model.main))), str(moved))
    runs = {
        "ONNX Runtime, constants moved by 1e-6": run(moved, feed),
        "ONNX Runtime, FP16 between": run(rounded, feed),
    }
    if gpu.current() is not None:
        for floats, fp16 in (("FP32", False), ("FP16", True)):
            runs[f"TensorRT, {floats} between"] = engine_run(model, feed, fp16, scratch / floats)
    found = {name: {"to_exact": cosine(its, exact)} for name, its in runs.items()}
    if gpu.current() is not None:
        names = ["ONNX Runtime, FP16 between", "TensorRT, FP16 between"]
        found["the two in FP16"] = {"to_each_other": cosine(runs[names[0]], runs[names[1]])}
    if truth is not None:
        found["ONNX Runtime, exact"] = {}
        for name, its in {**runs, "ONNX Runtime, exact": exact}.items():
            found[name]["to_fp32_model"] = cosine(its, truth)
    return found


def run(file: Path, feed: FEED) -> FEED:
    """A graph's outputs in ONNX Runtime, nothing fused."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def engine_run(model: OnnxModel, feed: FEED, fp16: bool, scratch: Path) -> FEED:
    """A graph's outputs in TensorRT, built for these very shapes."""
    from trtbuild.backends.tensorrt.backend import TensorRT
    from trtbuild.stages.tensorrt_options import TensorRTOptions

    shapes = Shapes(
        inputs={
            name: TensorSpec(dtype=str(array.dtype), dims=[f"{name}{axis}" for axis in range(array.ndim)])
            for name, array in feed.items()
        },
        axes={
            f"{name}{axis}": AxisRange(min=length, opt=length, max=length)
            for name, array in feed.items()
            for axis, length in enumerate(array.shape)
        },
    )
    engine = Engine(scratch)
    engine.path.mkdir()
    backend = TensorRT()
    options = TensorRTOptions(fp16=fp16, tf32=False, timing_cache="off")
    backend.compile(model, shapes, options, engine)
    session = backend.open(engine, threads=0)
    try:
        return dict(session.infer(feed))
    finally:
        session.close()


def nudged(proto: onnx.ModelProto, relative: float = 1e-6) -> onnx.ModelProto:
    """The graph with its float vectors, but no scales, moved by normal numbers of this relative size."""
    rng = np.random.default_rng(0)
    quantizers = [node for node in proto.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scales = {node.input[1] for node in quantizers}
    for weight in proto.graph.initializer:
        if weight.data_type == TensorProto.FLOAT and len(weight.dims) == 1 and weight.name not in scales:
            array = onnx.numpy_helper.to_array(weight)
            noise = 1 + relative * rng.standard_normal(array.shape)
            weight.CopyFrom(onnx.numpy_helper.from_array((array * noise).astype(np.float32), weight.name))
    return proto


def in_fp16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every float tensor that a node computes rounded to FP16 and back, codes excepted."""
    proto = onnx.shape_inference.infer_shapes(proto)
    values = [*proto.graph.value_info, *proto.graph.output]
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    outputs, renamed, nodes = {value.name for value in proto.graph.output}, dict[str, str](), list[onnx.NodeProto]()
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        nodes.append(node)
        for name in node.output:
            if name in floats and name not in outputs and node.op_type not in ("Constant", "Cast"):
                nodes.append(helper.make_node("Cast", [name], [f"{name}.half"], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}.half"], [f"{name}.rounded"], to=TensorProto.FLOAT))
                renamed[name] = f"{name}.rounded"
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto


def cosine(ours: FEED, theirs: FEED) -> float:
    """The least cosine of any row of any output."""
    found = []
    for name, array in ours.items():
        for one, other in zip(array.astype(np.float64), theirs[name].astype(np.float64), strict=True):
            found.append(float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)))
    return round(min(found), 6)


if __name__ == "__main__":
    sys.exit(main())
