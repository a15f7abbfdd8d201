"""Device memory, streams, events and graphs, through the CUDA driver's C library: neither PyTorch nor CUDA's toolkit.

TensorRT and the CUDA runtime work in the GPU's primary context; taking the same one makes pointers and streams common.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from trtbuild.backends.tensorrt.library import need_gpu
from trtbuild.core.errors import ModelError
from trtbuild.core.tensor_file import Array

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: not ordered against the default stream. [cuda.h]"""
_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may do what this one may not while it captures. [cuda.h]"""
_OUT_OF_MEMORY = 2

_P, _SIZE, _UNSIGNED, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (_UNSIGNED,),
    "cuDeviceGet": (_P, _INT),
    "cuDevicePrimaryCtxRetain": (_P, _INT),
    "cuCtxSetCurrent": (_P,),
    "cuMemGetInfo_v2": (_P, _P),
    "cuMemAlloc_v2": (_P, _SIZE),
    "cuMemFree_v2": (_P,),
    "cuMemcpyHtoDAsync_v2": (_P, _P, _SIZE, _P),
    "cuMemcpyDtoHAsync_v2": (_P, _P, _SIZE, _P),
    "cuStreamCreate": (_P, _UNSIGNED),
    "cuStreamDestroy_v2": (_P,),
    "cuStreamSynchronize": (_P,),
    "cuStreamBeginCapture_v2": (_P, _INT),
    "cuStreamEndCapture": (_P, _P),
    "cuGraphInstantiateWithFlags": (_P, _P, ctypes.c_ulonglong),
    "cuGraphLaunch": (_P, _P),
    "cuGraphDestroy": (_P,),
    "cuGraphExecDestroy": (_P,),
    "cuEventCreate": (_P, _UNSIGNED),
    "cuEventDestroy_v2": (_P,),
    "cuEventRecord": (_P, _P),
    "cuEventElapsedTime": (_P, _P, _P),
    "cuGetErrorString": (_INT, _P),
}
"""Arguments of each function used; device pointers are 64 bits, as handles are. [cuda.h]"""


class Driver:
    """The driver, with the first visible GPU's primary context current in the calling thread."""

    def __init__(self) -> None:
        need_gpu()
        self._library = ctypes.CDLL("libcuda.so.1")
        for name, arguments in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = arguments, _INT
        device = _INT()
        self._context = _P()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        # Never released: it lives as long as the process, as the CUDA runtime's own reference does.
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.make_current()

    def make_current(self) -> None:
        """Take the context for the calling thread."""
        self.call("cuCtxSetCurrent", self._context)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver. Raises ModelError with the driver's words where it fails."""
        code = getattr(self._library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            said = text.value.decode() if text.value else f"error {code}"
            hint = "use smaller shapes, or end what else uses the GPU" if code == _OUT_OF_MEMORY else ""
            raise ModelError(f"CUDA: {said} ({name})", hint=hint)

    def free_bytes(self) -> int:
        """Memory of the GPU that nobody uses."""
        free, total = _SIZE(), _SIZE()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value


@cache
def driver() -> Driver:
    """The driver of this process."""
    return Driver()


class Buffer:
    """Memory on the GPU that grows when more is asked of it."""

    def __init__(self) -> None:
        self.address = 0
        self.size_bytes = 0

    def reserve(self, size_bytes: int) -> int:
        """The address of at least this many bytes; what was there before is lost where it has to grow."""
        wanted = max(size_bytes, 1)
        if wanted > self.size_bytes:
            self.free()
            address = _P()
            driver().call("cuMemAlloc_v2", ctypes.byref(address), wanted)
            self.address, self.size_bytes = address.value or 0, wanted
        return self.address

    def free(self) -> None:
        """Give the memory back."""
        if self.size_bytes:
            driver().call("cuMemFree_v2", self.address)
            self.address = self.size_bytes = 0


class Stream:
    """A queue of work on the GPU."""

    def __init__(self) -> None:
        handle = _P()
        driver().call("cuStreamCreate", ctypes.byref(handle), _NON_BLOCKING)
        self.handle = handle.value or 0

    def upload(self, array: Array, address: int) -> None:
        """Copy a C-ordered array to the GPU; the array must stay until the stream has been waited for."""
        if array.nbytes:
            driver().call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, self.handle)

    def download(self, address: int, array: Array) -> None:
        """Copy from the GPU into a C-ordered array, complete once the stream has been waited for."""
        if array.nbytes:
            driver().call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, self.handle)

    def wait(self) -> None:
        """Wait until all its work is done. Raises ModelError where any of it failed."""
        driver().call("cuStreamSynchronize", self.handle)

    def close(self) -> None:
        """Free it."""
        if self.handle:
            driver().call("cuStreamDestroy_v2", self.handle)
            self.handle = 0


class Event:
    """A point in a stream, with its time."""

    def __init__(self) -> None:
        handle = _P()
        driver().call("cuEventCreate", ctypes.byref(handle), 0)
        self.handle = handle.value or 0

    def record(self, stream: Stream) -> None:
        """Put it behind the work that the stream has."""
        driver().call("cuEventRecord", self.handle, stream.handle)

    def since_ms(self, earlier: Event) -> float:
        """Milliseconds between two events whose stream has been waited for; resolution is about 0.5 us. [cuda.h]"""
        elapsed = ctypes.c_float()
        driver().call("cuEventElapsedTime", ctypes.byref(elapsed), earlier.handle, self.handle)
        return elapsed.value

    def close(self) -> None:
        """Free it."""
        if self.handle:
            driver().call("cuEventDestroy_v2", self.handle)
            self.handle = 0


class Graph:
    """Work of a stream, recorded once and launched as a whole: pointers and shapes are those of the recording."""

    def __init__(self, stream: Stream, work: Any) -> None:
        """Record what `work()` puts into the stream. Raises ModelError where some of it cannot be recorded."""
        recorded, executable = _P(), _P()
        driver().call("cuStreamBeginCapture_v2", stream.handle, _THREAD_LOCAL)
        try:
            work()
        finally:
            driver().call("cuStreamEndCapture", stream.handle, ctypes.byref(recorded))
        try:
            driver().call("cuGraphInstantiateWithFlags", ctypes.byref(executable), recorded, 0)
        finally:
            driver().call("cuGraphDestroy", recorded)
        self.handle = executable.value or 0

    def launch(self, stream: Stream) -> None:
        """Put the recorded work into a stream."""
        driver().call("cuGraphLaunch", self.handle, stream.handle)

    def close(self) -> None:
        """Free it."""
        if self.handle:
            driver().call("cuGraphExecDestroy", self.handle)
            self.handle = 0
