"""A plan, deserialized and run: numpy in, numpy out, any shapes that one of its profiles takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtbuild.backends.tensorrt import timing
from trtbuild.backends.tensorrt.cuda import Buffer, Graph, Stream, driver
from trtbuild.backends.tensorrt.element_types import as_declared, as_taken, numpy_type
from trtbuild.backends.tensorrt.loading import LoadedPlan
from trtbuild.backends.tensorrt.plan import Manifest
from trtbuild.backends.tensorrt.profiles import Profile, Shape, fitting
from trtbuild.core.errors import ModelError
from trtbuild.core.roles import Session
from trtbuild.core.tensor_file import Tensors


class TensorRTSession(Session):
    """An engine on the GPU, with one execution context and one stream."""

    def __init__(self, plan: LoadedPlan, manifest: Manifest) -> None:
        """Raises ModelError where the GPU has too little memory for the engine's tensors."""
        self._plan, self._manifest = plan, manifest
        trt, cuda_engine = plan.trt, plan.engine
        if manifest.weight_streaming and hasattr(cuda_engine, "weight_streaming_budget_v2"):
            cuda_engine.weight_streaming_budget_v2 = cuda_engine.get_weight_streaming_automatic_budget()
        context = cuda_engine.create_execution_context()
        if context is None:
            needed = f"{manifest.device_memory_bytes / 1e6:.0f} MB"
            raise ModelError(
                f"the engine needs {needed} of GPU memory for its tensors: {plan.messages.essence()}",
                hint="end what else uses the GPU, or build for smaller shapes",
            )
        self._context = context
        self._stream = Stream()
        names = [cuda_engine.get_tensor_name(index) for index in range(cuda_engine.num_io_tensors)]
        reads = {name for name in names if cuda_engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        if hosted := [name for name in names if cuda_engine.get_tensor_location(name) == trt.TensorLocation.HOST]:
            raise ModelError(
                f"{', '.join(hosted)}: the engine keeps shapes of other tensors there, in host memory",
                hint="take them out of the model's inputs and outputs",
            )
        self.types = {name: numpy_type(cuda_engine.get_tensor_dtype(name).name, name) for name in names}
        self._inputs = [name for name in names if name in reads]
        self._outputs = [name for name in names if name not in reads]
        self._profiles = [
            Profile(each.name, {name: _range(sizes) for name, sizes in each.ranges.items()})
            for each in manifest.profiles
        ]
        self._profile = 0
        self._buffers = {name: Buffer() for name in names}
        self._allocator = _output_allocator(trt)
        self._sized_by_data: list[str] = []
        self._graph: Graph | None = None
        self._profiler: Any = None
        self._bound: dict[str, tuple[Shape, int]] = {}

    def infer(self, inputs: Tensors) -> Tensors:
        """Outputs by name for one set of inputs, in the element types of the ONNX model.

        Raises ModelError where inputs are missing, of another type, or outside every profile.
        """
        self.bind(inputs)
        self.enqueue()
        outputs = {name: np.empty(self._output_shape(name), self.types[name]) for name in self._ready_outputs()}
        for name, array in outputs.items():
            self._stream.download(self._address(name), array)
        self._stream.wait()
        return {name: as_declared(array, self._manifest.outputs.get(name)) for name, array in outputs.items()}

    def time(self, inputs: Tensors, runs: int, warm_up: int, *, cuda_graph: bool = False) -> list[float]:
        """Milliseconds on the GPU of each of `runs` calls, after `warm_up` untimed ones; copies are not counted.

        `cuda_graph` launches the call as one recorded graph: raises ModelError where it cannot be recorded.
        """
        self.bind(inputs)
        launch = self._graph_launch() if cuda_graph else self.enqueue
        return timing.gpu_times_ms(self._stream, launch, runs, warm_up)

    def layer_times(self, inputs: Tensors, runs: int) -> dict[str, float]:
        """Median milliseconds of each layer, by its name in the engine inspector, in the order in which they run.

        TensorRT waits behind each layer while it is watched, so their sum is more than a call takes, and every later
        call of this session is slower: open one for it, and close it.
        """
        self.bind(inputs)
        self._call()  # prepares the shapes
        times: dict[str, list[float]] = {}
        self._profiler = timing.layer_profiler(self._plan.trt, times)
        self._context.profiler = self._profiler
        for _ in range(runs):
            self._call()
        return {name: float(np.median(spent)) for name, spent in times.items()}

    def bind(self, inputs: Tensors) -> None:
        """Copy inputs to the GPU and give every tensor its address."""
        driver().make_current()
        missing = [name for name in self._inputs if name not in inputs]
        if missing:
            raise ModelError(f"the engine takes {', '.join(self._inputs)}; {', '.join(missing)} is missing")
        arrays = {name: as_taken(inputs[name], self.types[name], name) for name in self._inputs}
        shapes = {name: array.shape for name, array in arrays.items()}
        self._select(fitting(self._profiles, shapes))
        context = self._context
        for name, array in arrays.items():
            if not context.set_input_shape(name, array.shape):
                raise ModelError(f"TensorRT refuses {name} of shape {list(array.shape)}: {self._said()}")
            address = self._buffers[name].reserve(array.nbytes)
            self._stream.upload(array, address)
            context.set_tensor_address(name, address)
        self._bind_outputs(shapes)
        self._stream.wait()  # the arrays may be copies that end here

    def enqueue(self) -> None:
        """Put one call into the stream. Raises ModelError where TensorRT refuses it."""
        if not self._context.execute_async_v3(self._stream.handle):
            raise ModelError(f"the engine failed: {self._said()}")

    def close(self) -> None:
        """Free the context, its buffers and the plan."""
        driver().make_current()
        if self._graph is not None:
            self._graph.close()
        self._graph = self._profiler = None
        vars(self).pop("_context", None)
        for buffer in (*self._buffers.values(), *self._allocator.buffers.values()):
            buffer.free()
        self._stream.close()
        self._plan.close()

    def _call(self) -> None:
        self.enqueue()
        self._stream.wait()

    def _select(self, profile: int) -> None:
        if profile != self._profile:
            if not self._context.set_optimization_profile_async(profile, self._stream.handle):
                raise ModelError(f"TensorRT refuses profile {self._profiles[profile].name}: {self._said()}")
            self._stream.wait()
            self._profile = profile

    def _bind_outputs(self, shapes: dict[str, Shape]) -> None:
        context, bound = self._context, {}
        self._sized_by_data = []
        for name in self._outputs:
            shape = tuple(context.get_tensor_shape(name))
            if any(length < 0 for length in shape):
                self._sized_by_data.append(name)
                context.set_output_allocator(name, self._allocator)
                continue
            size = int(np.prod(shape, dtype=np.int64)) * self.types[name].itemsize
            bound[name] = (shape, self._buffers[name].reserve(size))
            context.set_tensor_address(name, bound[name][1])
        for name, shape in shapes.items():
            bound[name] = (shape, self._buffers[name].address)
        if bound != self._bound:
            self._bound = bound
            if self._graph is not None:
                self._graph.close()
                self._graph = None

    def _graph_launch(self) -> Any:
        """A function that launches the call as a graph, recorded for the shapes and addresses bound now."""
        if self._sized_by_data:
            raise ModelError(
                f"the shape of {', '.join(self._sized_by_data)} depends on data: no CUDA graph can be made"
            )
        if self._graph is None:
            self.enqueue()  # TensorRT prepares new shapes in the first call, which cannot be recorded
            self._stream.wait()
            self._graph = Graph(self._stream, self.enqueue)
        graph, stream = self._graph, self._stream
        return lambda: graph.launch(stream)

    def _ready_outputs(self) -> list[str]:
        """The outputs; where a shape depends on data it is known once the call is done."""
        if self._sized_by_data:
            self._stream.wait()
        return self._outputs

    def _output_shape(self, name: str) -> Shape:
        return self._allocator.shapes[name] if name in self._sized_by_data else self._bound[name][0]

    def _address(self, name: str) -> int:
        return self._allocator.buffers[name].address if name in self._sized_by_data else self._buffers[name].address

    def _said(self) -> str:
        return self._plan.messages.essence()


def _range(sizes: tuple[list[int], list[int], list[int]]) -> tuple[Shape, Shape, Shape]:
    least, usual, greatest = (tuple(size) for size in sizes)
    return least, usual, greatest


def _output_allocator(trt: Any) -> Any:
    """Memory for outputs whose shape is known only when they are computed."""

    class _Allocator(trt.IOutputAllocator):  # type: ignore[misc]  # TensorRT carries no types
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.buffers: dict[str, Buffer] = {}
            self.shapes: dict[str, Shape] = {}

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            return self.buffers.setdefault(tensor_name, Buffer()).reserve(size)

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shapes[tensor_name] = tuple(shape)

    return _Allocator()
