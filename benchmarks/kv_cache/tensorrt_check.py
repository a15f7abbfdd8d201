"""The KV-cache plugins inside a real TensorRT engine: ready to run, and not yet run by us.

It needs a GPU, TensorRT 10.15 or later, and trtbuild. No machine that we had offered the three together, so nothing
here is a result. What was checked: the plugins in NVIDIA's own template over the 11.4 bindings, and of this file the
models it writes and the names it asks TensorRT for (tests/unit/plugins/); the kernels by themselves, on an H200, by the
other files of this folder.

    PYTHONPATH=. python benchmarks/kv_cache/tensorrt_check.py --out tensorrt_check.json --engines engines/kv-check

For each kind of cache, with and without aliased outputs, it builds one decoder layer's append and attention, static in
all sizes, and answers:

    build      does TensorRT take INT8 and FP8 as plugin and network types; how long does it take, how large is the plan
    layers     what runs beside the two kernels: copies that TensorRT put around the caches show here
    in place   16 steps with each cache bound to its output: appended bits and outputs against the references
    apart      the same with caches and outputs at different addresses
    replays    1,000 replays of one CUDA graph of a step: all equal, so that counters are zeroed every time
    time       a step as a CUDA graph, in microseconds
    alone      does a process that never saw our plugins load and run the plan

and with `--server localhost:8001` whether Triton serves it, started on the folder that `--triton FOLDER` wrote:

    tritonserver --model-repository FOLDER

Triton's TensorRT backend copies every input and output, so the caches are never in place there: expect a right answer
and the price of the copies. It takes no FP8 tensors.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from trtbuild.backends.tensorrt.backend import TensorRT
from trtbuild.backends.tensorrt.cuda import Buffer, Graph, Stream, driver
from trtbuild.backends.tensorrt.loading import LoadedPlan
from trtbuild.backends.tensorrt.own_plugins import ALIASING
from trtbuild.backends.tensorrt.plan import PLAN_FILE, read_manifest
from trtbuild.backends.tensorrt.timing import gpu_times_ms
from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.errors import TrtbuildError
from trtbuild.core.tensors import Shapes, TensorSpec
from trtbuild.graph import document
from trtbuild.graph.kv_cache.operators import OF_MODE, UNLIMITED, define
from trtbuild.plugins.declaration import shipped
from trtbuild.stages.tensorrt_options import TensorRTOptions

Array = np.ndarray[Any, Any]

ROWS, QUERY_HEADS, HEADS, SLOTS, SIZE = 4, 32, 8, 1024, 128
STEPS, REPLAYS = 16, 1000
SCALE = float(SIZE**-0.5)
FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
STORED = {"float": np.dtype(np.float16), "int8": np.dtype(np.int8), "int8_static": np.dtype(np.int8), "fp8": FP8}


def reference(plugin: str) -> ModuleType:
    """plugins/<plugin>/reference.py"""
    spec = importlib.util.spec_from_file_location(f"{plugin}_reference", shipped()[plugin][0] / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Layer:
    """One layer's arrays as the host knows them: caches and scales by role, rewritten by the reference step by step."""

    mode: str
    caches: dict[str, Array] = field(default_factory=dict)
    scales: dict[str, Array] = field(default_factory=dict)
    lengths: Array = field(default_factory=lambda: np.array([0, 7, 300, SLOTS - STEPS], np.int64))
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __post_init__(self) -> None:
        dtype, shape = STORED[self.mode], (ROWS, HEADS, SLOTS, SIZE)
        codes = self.random.integers(-127, 127, shape).astype(np.int8)
        values = codes.astype(np.float16) / 64 if self.mode == "float" else codes.view(dtype)
        if self.mode == "fp8":
            values = self.random.normal(size=shape).astype(dtype)
        self.caches = {"key_cache": values, "value_cache": values[:, ::-1].copy()}
        if self.mode == "int8":
            self.scales = {name: np.full(shape[:3], 0.02, np.float16) for name in ("key_scale", "value_scale")}
        elif self.mode != "float":
            self.scales = {name: np.full(HEADS, 0.03, np.float32) for name in ("key_scale", "value_scale")}

    @property
    def kept(self) -> dict[str, Array]:
        """What the engine both takes and gives."""
        return {**self.caches, **(self.scales if self.mode == "int8" else {})}

    def new(self) -> dict[str, Array]:
        """Query, key, value of one token for each row, and where it goes."""
        shapes = {"query": QUERY_HEADS, "key": HEADS, "value": HEADS}
        made = {
            name: self.random.normal(size=(ROWS, heads, 1, SIZE)).astype(np.float16) for name, heads in shapes.items()
        }
        return {**made, "lengths": self.lengths.copy()}

    def step(self, new: dict[str, Array]) -> Array:
        """The references: append, then FP64 attention; returns its output."""
        append, attention = reference("kv_cache_append"), reference("cached_attention")
        held = []
        for role in ("key", "value"):
            x, cache = new[role], self.caches[f"{role}_cache"]
            if self.mode == "float":
                codes = x
            elif self.mode == "int8":
                codes, scale = append.int8_per_token(x)
                self.scales[f"{role}_scale"] = append.append(self.scales[f"{role}_scale"], scale, self.lengths)
            else:
                encode = append.fp8_per_head if self.mode == "fp8" else append.int8_per_head
                codes = encode(x, self.scales[f"{role}_scale"])
            self.caches[f"{role}_cache"] = cache = append.append(cache, codes, self.lengths)
            dequantized = attention.per_token if self.mode == "int8" else attention.per_head
            held.append(cache if self.mode == "float" else dequantized(cache, self.scales[f"{role}_scale"]))
        output: Array = attention.attend(new["query"], *held, self.lengths, SCALE)
        self.lengths = self.lengths + 1
        return output


def model(layer: Layer, folder: Path) -> tuple[OnnxModel, Shapes]:
    """Append and attention as a model of their own."""
    given = {**layer.new(), **layer.kept}
    values = {
        name: ir.Value(
            name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape(list(array.shape))
        )
        for name, array in given.items()
    }
    inputs = list(values.values())
    initializers = []
    if layer.scales and layer.mode != "int8":
        for name, array in layer.scales.items():
            values[name] = ir.Value(name=name, const_value=ir.tensor(array, name=name))
            initializers.append(values[name])
    append, attend = OF_MODE[layer.mode]
    appended = append.node("append", values)
    outputs = []
    for role, value in zip(layer.kept, appended.outputs, strict=False):
        value.name, value.type, value.shape = f"{role}.out", values[role].type, values[role].shape
        values[role] = value
        outputs.append(value)
    counters = values["counters"] = appended.outputs[-1]
    counters.name, counters.type = "counters", ir.TensorType(ir.DataType.INT32)
    attended = attend.node("attention", values, scale=SCALE, window=UNLIMITED)
    result = attended.outputs[0]
    result.name, result.type, result.shape = "output", values["query"].type, values["query"].shape
    graph = ir.Graph(
        inputs,
        [*outputs, result],
        nodes=[appended, attended],
        initializers=initializers,
        opset_imports={"": 21},
        name="layer",
    )
    built = ir.Model(graph, ir_version=10)
    define(built)
    folder.mkdir(parents=True)
    written = OnnxModel(folder)
    document.save(built, written)
    names = {np.dtype(np.float16): "float16", np.dtype(np.int64): "int64", np.dtype(np.int8): "int8"}
    spec = {name: (names.get(array.dtype, "float8e4m3fn"), list(array.shape)) for name, array in given.items()}
    return written, Shapes(inputs={name: TensorSpec(dtype=dtype, dims=dims) for name, (dtype, dims) in spec.items()})


class Run:
    """A loaded plan with every tensor on the GPU; caches and their outputs at one address or at two."""

    def __init__(self, engine: Engine, layer: Layer, in_place: bool) -> None:
        manifest = read_manifest(engine)
        self.plan = LoadedPlan(engine.path.joinpath(PLAN_FILE).read_bytes(), manifest)
        self._context, self.stream = self.plan.engine.create_execution_context(), Stream()
        self.kept, self.in_place = list(layer.kept), in_place
        self.buffers: dict[str, Buffer] = {}
        arrays = {**layer.new(), **layer.kept}
        arrays |= {f"{name}.out": array for name, array in layer.kept.items() if not in_place}
        arrays["output"] = np.zeros((ROWS, QUERY_HEADS, 1, SIZE), np.float16)
        for name, array in arrays.items():
            self.buffers[name] = Buffer()
            self.buffers[name].reserve(array.nbytes)
        for name, array in layer.kept.items():
            self.stream.upload(array, self.buffers[name].address)
        self.stream.wait()
        for name in arrays:
            self._context.set_tensor_address(name, self.buffers[name].address)
        for name in self.kept if in_place else ():
            self._context.set_tensor_address(f"{name}.out", self.buffers[name].address)

    def enqueue(self) -> None:
        """One step into the stream."""
        assert self._context.execute_async_v3(self.stream.handle), self.plan.messages.essence()

    def give(self, new: dict[str, Array]) -> None:
        """The next step's inputs."""
        for name, array in new.items():
            self.stream.upload(array, self.buffers[name].address)
        self.stream.wait()

    def read(self, name: str, like: Array) -> Array:
        """What a tensor holds after the work that the stream has."""
        found = np.empty_like(like)
        self.stream.download(self.buffers[name].address, found)
        self.stream.wait()
        return found

    def swap(self) -> None:
        """Caches at two addresses: what was given becomes what is taken."""
        for name in self.kept:
            self.buffers[name], self.buffers[f"{name}.out"] = self.buffers[f"{name}.out"], self.buffers[name]
            self._context.set_tensor_address(name, self.buffers[name].address)
            self._context.set_tensor_address(f"{name}.out", self.buffers[f"{name}.out"].address)


def steps(engine: Engine, mode: str, in_place: bool) -> dict[str, Any]:
    """Decode `STEPS` tokens: bytes of the caches that differ from the reference, and the outputs' worst error."""
    layer = Layer(mode)
    run = Run(engine, layer, in_place)
    worst, wrong = 0.0, 0
    for _ in range(STEPS):
        new = layer.new()
        run.give(new)
        run.enqueue()
        wanted = layer.step(new)
        found = run.read("output", np.empty(wanted.shape, np.float16)).astype(np.float64)
        worst = max(worst, float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)))
        if not in_place:
            run.swap()
    for name, array in layer.kept.items():
        wrong += int((run.read(name, array).view(np.uint8) != array.view(np.uint8)).sum())
    return {"rel_l2": worst, "wrong_cache_bytes": wrong}


def replays(engine: Engine, mode: str) -> dict[str, Any]:
    """Replays of one step's graph: how many outputs differed from the first, and a step's time."""
    layer = Layer(mode)
    run = Run(engine, layer, in_place=True)
    run.give(layer.new())
    run.enqueue()
    run.stream.wait()
    graph = Graph(run.stream, run.enqueue)
    like = np.empty((ROWS, QUERY_HEADS, 1, SIZE), np.float16)
    graph.launch(run.stream)
    first, different = run.read("output", like), 0
    for _ in range(REPLAYS):
        graph.launch(run.stream)
        different += not np.array_equal(run.read("output", like).view(np.uint16), first.view(np.uint16))
    times = gpu_times_ms(run.stream, lambda: graph.launch(run.stream), 200, 20)
    return {"different_replays": different, "step_us": float(np.median(times)) * 1e3}


ALONE = """
import sys, tensorrt as trt, time
plan = open(sys.argv[1], "rb").read()
runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
begin = time.perf_counter()
cuda_engine = runtime.deserialize_cuda_engine(plan)
assert cuda_engine is not None and cuda_engine.create_execution_context() is not None
assert not any(name.startswith("trtbuild") for name in sys.modules)
print(time.perf_counter() - begin)
"""


def alone(engine: Engine) -> dict[str, Any]:
    """Load the plan in a process without trtbuild."""
    told = subprocess.run(
        [sys.executable, "-c", ALONE, str(engine.path / PLAN_FILE)], capture_output=True, text=True, check=False
    )
    if told.returncode:
        return {"loads": False, "said": told.stderr.splitlines()[-1:]}
    return {"loads": True, "seconds": float(told.stdout.splitlines()[-1])}


def checked(mode: str, aliased: bool, folder: Path) -> dict[str, Any]:
    """Everything about one kind of cache."""
    name = f"{mode}-aliased" if aliased else mode
    layer = Layer(mode)
    onnx, shapes = model(layer, folder / name / "onnx")
    engine = Engine(folder / name / "engine")
    engine.path.mkdir()
    begin = time.perf_counter()
    TensorRT().compile(onnx, shapes, TensorRTOptions(preview_features=[ALIASING] if aliased else []), engine)
    found: dict[str, Any] = {"cache": mode, "aliased": aliased, "build_s": time.perf_counter() - begin}
    plan = engine.path / PLAN_FILE
    found["plan_bytes"] = plan.stat().st_size
    layers = json.loads((engine.path / "layers.json").read_text())["Layers"]
    found["layers"] = [entry["Name"] if isinstance(entry, dict) else entry for entry in layers]
    run = Run(engine, Layer(mode), in_place=True)
    if hasattr(run.plan.engine, "get_aliased_input_tensor"):
        found["alias_of"] = {out: run.plan.engine.get_aliased_input_tensor(f"{out}.out") for out in layer.kept}
    found["in_place"], found["apart"] = steps(engine, mode, True), steps(engine, mode, False)
    return found | {"replays": replays(engine, mode), "alone": alone(engine)}


def write_repository(engine: Path, repository: Path) -> None:
    """The engine as Triton's model `kv_cache`; the server fills in the rest of its configuration."""
    version = repository / "kv_cache" / "1"
    version.mkdir(parents=True)
    (version / "model.plan").write_bytes((engine / PLAN_FILE).read_bytes())
    (repository / "kv_cache" / "config.pbtxt").write_text('name: "kv_cache"\nplatform: "tensorrt_plan"\n')


def served(address: str, mode: str) -> dict[str, Any]:
    """One step through Triton."""
    from tritonclient import grpc

    layer, client = Layer(mode), grpc.InferenceServerClient(address)
    new = layer.new()
    inputs = []
    for name, array in {**new, **layer.kept}.items():
        dtype = {"float16": "FP16", "int64": "INT64", "int8": "INT8"}[str(array.dtype)]
        inputs.append(grpc.InferInput(name, list(array.shape), dtype))
        inputs[-1].set_data_from_numpy(array)
    begin = time.perf_counter()
    answer = client.infer("kv_cache", inputs)
    seconds = time.perf_counter() - begin
    wanted = layer.step(new)
    found = answer.as_numpy("output").astype(np.float64)
    wrong = sum(int((answer.as_numpy(f"{name}.out") != array).sum()) for name, array in layer.kept.items())
    error = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    return {"cache": mode, "rel_l2": error, "wrong_cache_elements": wrong, "request_s": seconds}


def main() -> None:
    """Check every kind of cache that this TensorRT and GPU can have; what fails is a result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--engines", type=Path, default=Path("engines/kv-check"), help="a folder that is not there yet")
    parser.add_argument("--modes", nargs="+", default=list(STORED), choices=list(STORED))
    parser.add_argument("--triton", type=Path, help="write the first mode's engine as a model repository")
    parser.add_argument("--server", help="host:port of a Triton's gRPC, to ask instead of building")
    options = parser.parse_args()
    if options.server:
        print(json.dumps(served(options.server, options.modes[0]), indent=1))
        return
    results: list[dict[str, Any]] = []
    for mode in options.modes:
        for aliased in (False, True):
            try:
                results.append(checked(mode, aliased, options.engines))
            except (TrtbuildError, AssertionError) as error:
                results.append({"cache": mode, "aliased": aliased, "failed": str(error)})
            print(json.dumps(results[-1], indent=1), flush=True)
    if options.triton:
        write_repository(options.engines / options.modes[0] / "engine", options.triton)
    if options.out:
        plan = {"tensorrt": TensorRT().device, "free_bytes": driver().free_bytes(), "results": results}
        options.out.write_text(json.dumps(plan, indent=1) + "\n")


if __name__ == "__main__":
    main()
