"""The roles that TensorRT plays."""

from __future__ import annotations

from typing import Any

from trtbuild.backends.tensorrt import inspection, plan
from trtbuild.backends.tensorrt.building import build
from trtbuild.backends.tensorrt.library import load, need_gpu
from trtbuild.backends.tensorrt.loading import LoadedPlan
from trtbuild.backends.tensorrt.nodes import Nodes
from trtbuild.backends.tensorrt.sessions import TensorRTSession
from trtbuild.core import gpu
from trtbuild.core.artifacts import Engine, OnnxModel
from trtbuild.core.errors import ModelError
from trtbuild.core.layer_times import by_modules
from trtbuild.core.results import LayerTime
from trtbuild.core.roles import Compiler, Precisions, Runner
from trtbuild.core.tensor_file import Tensors
from trtbuild.core.tensors import Shapes


class TensorRT(Compiler, Runner):
    """TensorRT on the first visible GPU."""

    @property
    def device(self) -> str:
        """The GPU's name."""
        device = gpu.current()
        return device.name if device else "no GPU"

    def compile(self, model: OnnxModel, shapes: Shapes, options: Any, engine: Engine) -> None:
        """Build for this GPU and this TensorRT. `options` are `trtbuild.stages.tensorrt_options.TensorRTOptions`.

        Raises ModelError where TensorRT cannot take the model, RecipeError where it lacks an option, BackendMissing
        where there is no GPU or no TensorRT.
        """
        build(model, shapes, options, engine)

    def precisions(self, engine: Engine) -> Precisions:
        """What the engine multiplies in, as its inspector told when it was built; needs no GPU."""
        return inspection.precisions(*_told(engine))

    def open(self, engine: Engine, threads: int) -> TensorRTSession:
        """Load an engine; `threads` are the CPU's, and not used.

        Raises ModelError where its plan is not the one that was built, or does not fit this GPU and TensorRT: before
        any of it is deserialized.
        """
        manifest = plan.read_manifest(engine)
        device, trt = need_gpu(), load()
        content = plan.verified(engine, manifest, trt.__version__, device)
        loaded = LoadedPlan(content, manifest)
        try:
            return TensorRTSession(loaded, manifest)
        except BaseException:
            loaded.close()
            raise

    def layer_times(self, engine: Engine, inputs: Tensors, runs: int, threads: int) -> list[LayerTime]:
        """Median milliseconds of each layer by TensorRT's profiler, by the modules of the nodes that it computes."""
        text, nodes = _told(engine)
        modules = {layer.name: inspection.modules_of(layer, nodes.order) for layer in inspection.layers_of(text)}
        session = self.open(engine, threads)
        try:
            times_ms = session.layer_times(inputs, runs)
        finally:
            session.close()
        return by_modules((modules.get(name, []), median_ms) for name, median_ms in times_ms.items())


def _told(engine: Engine) -> tuple[str, Nodes]:
    """What the inspector said of an engine, and the nodes of its graph. Raises ModelError where a file is missing."""
    try:
        layers = (engine.path / plan.LAYERS_FILE).read_text()
        nodes = Nodes.model_validate_json((engine.path / plan.NODES_FILE).read_bytes())
    except OSError as error:
        raise ModelError(f"{engine.path}: {error.filename} is missing", hint="build the engine again") from error
    return layers, nodes
