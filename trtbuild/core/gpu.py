"""The GPU of this process, asked from NVIDIA's driver through its C library: no framework is imported.

`CUDA_VISIBLE_DEVICES` counts: the first visible GPU is the one that TensorRT builds for and runs on.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SM_COUNT, _SM_MAJOR, _SM_MINOR = 16, 75, 76
"""CUdevice_attribute numbers [cuda.h, CU_DEVICE_ATTRIBUTE_*]; the driver's binary interface fixes them."""
_NAME_BYTES = 256


@dataclass(frozen=True)
class Device:
    """One GPU as its driver describes it."""

    name: str
    sm: tuple[int, int]
    """Compute capability: (9, 0) is SM 9.0."""
    multiprocessors: int
    memory_bytes: int
    driver: str
    """The driver's own version, such as `580.95.05`; empty where it does not say."""
    cuda: str
    """The newest CUDA that the driver runs, such as `13.0`."""

    @property
    def architecture(self) -> str:
        """The SM as CUDA spells it: `sm_90`."""
        return f"sm_{self.sm[0]}{self.sm[1]}"

    @property
    def memory_mb(self) -> int:
        """Memory in MiB."""
        return self.memory_bytes >> 20

    def __str__(self) -> str:
        return f"{self.name} {self.architecture}, {self.multiprocessors} SMs, {self.memory_mb} MB"


@cache
def current() -> Device | None:
    """The first GPU that this process may use; None where there is no driver or no GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, count = ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    if cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    name, memory, version = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t(), ctypes.c_int()
    cuda.cuDeviceGetName(name, _NAME_BYTES, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    return Device(
        name=name.value.decode(),
        sm=(_attribute(cuda, _SM_MAJOR, device), _attribute(cuda, _SM_MINOR, device)),
        multiprocessors=_attribute(cuda, _SM_COUNT, device),
        memory_bytes=memory.value,
        driver=_driver_version(),
        cuda=f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def described() -> str:
    """The GPU as a machine fact: what decides which kernels TensorRT takes; `none` where there is no GPU."""
    return str(device) if (device := current()) else "none"


def driver() -> str:
    """The driver as a machine fact; `none` where there is no GPU."""
    return f"{device.driver}, CUDA {device.cuda}" if (device := current()) else "none"


def _attribute(cuda: ctypes.CDLL, number: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    cuda.cuDeviceGetAttribute(ctypes.byref(value), number, device)
    return value.value


def _driver_version() -> str:
    """The kernel module's version: from NVML, else from /proc, which some containers hide."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(80)
        if not nvml.nvmlInit_v2() and not nvml.nvmlSystemGetDriverVersion(text, 80):
            return text.value.decode()
    except (OSError, AttributeError):
        pass
    try:
        return parsed_driver(Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return ""


def parsed_driver(text: str) -> str:
    """The version in `/proc/driver/nvidia/version`, whose first line names the kernel module; empty where it is not."""
    match = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", text)
    return match[1] if match else ""
