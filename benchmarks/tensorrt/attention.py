"""INT8 attention on TensorRT 8.6: when it is right, when it pays, and what the rest of the engine is computed in.

    PYTHONPATH=. python benchmarks/tensorrt/attention.py

builds two layers of the wide encoder, batch 32 x 512 tokens, with Q/DQ at its linears and in its attention, for shapes
that move or stand still, and compares each engine with ONNX Runtime's run of its graph and with the FP32 model. In the
cases `written in FP16` every tensor between the Q/DQ is FP16 in the graph itself, but for the products of integers.
Where there is no TensorRT, the engines are left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from agreement import FEED, cosine, run
from max_calibration import calibrate
from models import encoder
from onnx import TensorProto, helper, numpy_helper

from trtbuild.core import gpu
from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.dialects import TENSORRT_8
from trtbuild.core.quantization import Plan
from trtbuild.core.tensors import AxisRange, Shapes, TensorSpec
from trtbuild.graph import document, insertion
from trtbuild.stages.tensorrt_options import TensorRTOptions

LAYERS, ROWS, TOKENS, WIDTH = 2, 32, 512, 1024
MOVING = {"all": (1, 8), "batch": (1, TOKENS), "nothing": (ROWS, TOKENS)}
"""The least rows and tokens, by which of the two move."""


class Case(NamedTuple):
    """One engine."""

    attention: str | None
    """`high` or `int8`; None where nothing is quantized."""
    residual: str = "high"
    moves: str = "all"
    fp16: bool = True
    """TensorRT's builder flag."""
    written: bool = False
    """Whether FP16 is written into the graph."""


CASES = {
    "high": Case(None),
    "layers": Case("high"),
    "layers, without the FP16 flag": Case("high", fp16=False),
    "layers, written in FP16": Case("high", written=True),
    "layers+residual, written in FP16": Case("high", "int8", written=True),
    "layers+attention": Case("int8"),
    "layers+attention, batch moves": Case("int8", moves="batch"),
    "layers+attention, nothing moves": Case("int8", moves="nothing"),
    "layers+attention, written in FP16": Case("int8", written=True),
    "layers+attention+residual, written in FP16": Case("int8", "int8", written=True),
    "high, batch moves": Case(None, moves="batch"),
    "high, nothing moves": Case(None, moves="nothing"),
    "layers, nothing moves": Case("high", moves="nothing"),
    "layers+attention+residual, nothing moves": Case("int8", "int8", moves="nothing"),
    "layers+attention, nothing moves, written in FP16": Case("int8", moves="nothing", written=True),
}


def main() -> int:
    """Build, compare and time every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=[*CASES], choices=[*CASES])
    parser.add_argument("--scratch", type=Path, default=Path("attention-scratch"))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("attention.json"))
    given = parser.parse_args()
    shutil.rmtree(given.scratch, ignore_errors=True)
    bench = Bench(given.scratch)
    results = json.loads(given.output.read_text()) if given.output.is_file() else {}
    results["gpu"] = str(gpu.current())
    for name in given.cases:
        print(f"== {name}", flush=True)
        try:
            results[name] = bench.result(CASES[name], given.scratch / f"case{[*CASES].index(name)}")
        except Exception as error:
            results[name] = {"error": f"{type(error).__name__}: {error}"[:400]}
        print(json.dumps(results[name]), flush=True)
        given.output.write_text(json.dumps(results, indent=1) + "\n")
    shutil.rmtree(given.scratch)
    return 0


class Bench:
    """The encoder with its plan, two rows to compare on, and a whole batch to time."""

    def __init__(self, scratch: Path) -> None:
        self._base = OnnxModel(scratch / "base")
        self._base.path.mkdir(parents=True)
        self._base.main.write_bytes(encoder(layers=LAYERS).SerializeToString())
        rng = np.random.default_rng(7)
        feeds = [{"x": rng.standard_normal((2, TOKENS, WIDTH), np.float32)} for _ in range(3)]
        self._plan, self._ranges = calibrate(self._base.main, feeds[:2])
        self._feed = feeds[2]
        self._truth = run(self._base.main, self._feed)
        more = rng.standard_normal((ROWS - 2, TOKENS, WIDTH), np.float32)
        self._batch = {"x": np.concatenate([self._feed["x"], more])}

    def result(self, case: Case, folder: Path) -> dict[str, Any]:
        """Cosines of the first rows, and milliseconds of the whole batch."""
        folder.mkdir()
        model = self._graph(case, folder)
        exact = run(model.main, self._feed)
        found: dict[str, Any] = {"onnxruntime_to_fp32_model": cosine(exact, self._truth)}
        if gpu.current() is None:
            return found
        from trtbuild.backends.tensorrt.backend import TensorRT

        backend, engine = TensorRT(), Engine(folder / "engine")
        engine.path.mkdir()
        options = TensorRTOptions(fp16=case.fp16, timing_cache=str(folder.parent / "timing.cache"))
        began = time.perf_counter()
        backend.compile(model, shapes(case.moves), options, engine)
        found["build_s"] = round(time.perf_counter() - began, 1)
        session = backend.open(engine, threads=0)
        try:
            first: FEED = {name: array[:2] for name, array in session.infer(self._batch).items()}
            times_ms = session.time(self._batch, 20, 5)
        finally:
            session.close()
        return found | {
            "to_fp32_model": cosine(first, self._truth),
            "to_onnxruntime": cosine(first, exact),
            "median_ms": round(float(np.median(times_ms)), 3),
            "plan_mb": round(engine.size_bytes / 1e6, 1),
        }

    def _graph(self, case: Case, folder: Path) -> OnnxModel:
        graph, plan = document.load(self._base.main), Plan(dict(self._plan.modules))
        if case.attention is not None:
            insertion.insert(
                graph,
                plan,
                attention=case.attention,  # type: ignore[arg-type]
                residual=case.residual,  # type: ignore[arg-type]
                ranges=self._ranges,
                dialect=TENSORRT_8,
            )
        model = OnnxModel(folder / "graph")
        model.path.mkdir()
        document.save(graph, model)
        if case.written:
            onnx.save(written_in_fp16(onnx.load(str(model.main))), str(model.main))
        return model


def shapes(moves: str) -> Shapes:
    """The encoder's shapes, with ranges where they move."""
    rows, tokens = MOVING[moves]
    return Shapes(
        inputs={"x": TensorSpec(dtype="float32", dims=["rows", "tokens", WIDTH])},
        axes={
            "rows": AxisRange(min=rows, opt=ROWS, max=ROWS),
            "tokens": AxisRange(min=tokens, opt=TOKENS, max=TOKENS),
        },
    )


def written_in_fp16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with FP16 in all its tensors, but FP32 at Q/DQ and at the products that read them."""
    graph = proto.graph
    weights = {weight.name: weight for weight in graph.initializer}
    makes = {name: node for node in graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    added: dict[str, str] = {}

    def is_wide(node: onnx.NodeProto) -> bool:
        reads = (makes[name].op_type for name in node.input if name in makes)
        return node.op_type in ("QuantizeLinear", "DequantizeLinear") or (
            node.op_type == "MatMul" and "DequantizeLinear" in reads
        )

    def cast(name: str, to_wide: bool) -> str:
        to = TensorProto.FLOAT if to_wide else TensorProto.FLOAT16
        found = f"{name}.wide" if to_wide else f"{name}.half"
        if found not in added:
            added[found] = name
            nodes.append(helper.make_node("Cast", [name], [found], to=to, name=f"{found.replace(':', '_')}/Cast"))
        return found

    def read(name: str, to_wide: bool) -> str:
        if name in weights:
            if to_wide or weights[name].data_type != TensorProto.FLOAT:
                return name
            half = numpy_helper.to_array(weights[name]).astype(np.float16)
            if (found := f"{name}.half") not in added:
                added[found] = name
                graph.initializer.append(numpy_helper.from_array(half, found))
            return found
        comes_wide = name not in makes or is_wide(makes[name])
        return name if comes_wide == to_wide or makes_codes(name) else cast(name, to_wide)

    def makes_codes(name: str) -> bool:
        return name in makes and makes[name].op_type == "QuantizeLinear"

    for node in list(graph.node):
        fixed = 1 if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Reshape") else len(node.input)
        for index, name in enumerate(node.input[:fixed]):
            node.input[index] = read(name, is_wide(makes[node.output[0]]))
        nodes.append(node)
    for output in graph.output:
        last = makes[output.name]
        inner = f"{output.name}.half"
        last.output[list(last.output).index(output.name)] = inner
        nodes.append(helper.make_node("Cast", [inner], [output.name], to=TensorProto.FLOAT, name="last/Cast"))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    read_names = {name for node in graph.node for name in node.input}
    kept = [weight for weight in graph.initializer if weight.name in read_names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return proto


if __name__ == "__main__":
    sys.exit(main())
