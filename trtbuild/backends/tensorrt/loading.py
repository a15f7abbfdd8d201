"""A plan's bytes to an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtbuild.backends.tensorrt.cuda import driver
from trtbuild.backends.tensorrt.library import Messages, listening_logger, load, load_plugins
from trtbuild.backends.tensorrt.plan import Manifest
from trtbuild.core.errors import ModelError

if TYPE_CHECKING:
    import tensorrt


class LoadedPlan:
    """A deserialized plan, with what must live as long as it does."""

    def __init__(self, content: Any, manifest: Manifest) -> None:
        """Deserialize. The caller has proved that the content is the manifest's. Raises ModelError."""
        self.trt, self.manifest = load(), manifest
        driver().make_current()
        self.messages = Messages()
        self._logger = listening_logger(self.trt, self.messages)
        load_plugins(self.trt, self._logger, manifest.plugins)
        runtime: tensorrt.Runtime = self.trt.Runtime(self._logger)
        if manifest.version_compatible:
            runtime.engine_host_code_allowed = True  # its lean runtime is such code
        self._runtime = runtime
        cuda_engine = runtime.deserialize_cuda_engine(content)
        if cuda_engine is None:
            raise ModelError(
                f"TensorRT {self.trt.__version__} cannot load the plan: {self.messages.essence()}",
                hint="build it again here",
            )
        self.engine = cuda_engine

    @property
    def device_memory_bytes(self) -> int:
        """What an execution context takes on the GPU beside the weights."""
        cuda_engine = self.engine
        if hasattr(cuda_engine, "device_memory_size_v2"):
            return int(cuda_engine.device_memory_size_v2)
        return int(cuda_engine.device_memory_size)  # type: ignore[attr-defined]  # 8.6 has no other

    def close(self) -> None:
        """Free it, the engine before the runtime."""
        vars(self).pop("engine", None)
        vars(self).pop("_runtime", None)
