"""For which machine an engine was built, which machine this is, and whether the two fit.

The rules are NVIDIA's for plans [TensorRT documentation, engine compatibility]: the same version unless the plan is
version compatible, then the same or a later one; the same GPU model unless it is hardware compatible, then Ampere and
later, or the same compute capability. A graph that ONNX Runtime has optimized holds that version's fused operators and
layouts for the builder's vector instructions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trtbuild.core import gpu, machine
from trtbuild.core.errors import ModelError
from trtbuild.core.gpu import Device
from trtbuild.core.values import Value

RUNTIMES = {"tensorrt": "TensorRT", "onnxruntime": "ONNX Runtime"}
"""What each backend's library is called."""


class Target(Value):
    """The machine that an engine was built for."""

    backend: str
    """`tensorrt` or `onnxruntime`."""
    version: str
    """Of that library."""
    platform: str
    """Operating system and architecture, such as `linux/amd64`."""
    gpu: str = ""
    """The GPU's name; empty where the engine runs on the processor."""
    sm: tuple[int, int] | None = None
    """Its compute capability: (9, 0) is SM 9.0."""
    cuda: str = ""
    """The newest CUDA of the driver that it was built under."""
    driver: str = ""
    hardware_compatibility: str = "none"
    """`none`, `ampere_plus` or `same_compute_capability`."""
    version_compatible: bool = False
    """Whether later versions of TensorRT run it too."""
    extensions: list[str] = []
    """Vector extensions of the builder's processor, where it runs on one."""

    @classmethod
    def of(cls, engine: Mapping[str, Any], built_on: Mapping[str, str]) -> Target:
        """The target of an engine, out of its `engine.json` and the machine facts of its manifest.

        Raises ModelError where they do not say.
        """
        try:
            backend = engine["backend"]
            if backend == "tensorrt":
                names = ("gpu", "sm", "cuda", "driver", "hardware_compatibility", "version_compatible")
                facts = {name: engine[name] for name in names}
            else:
                facts = {"extensions": machine.vector_extensions(engine["processor"])}
            return cls(backend=backend, version=engine[backend], platform=built_on["platform"], **facts)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the engine does not say what it was built for: {error}", hint="build it again"
            ) from error

    @property
    def label(self) -> str:
        """The target in one word of a file name: `sm_90.nvidia-h200.tensorrt-10.13.2.6`."""
        if self.sm is None:
            where = [self.platform.replace("/", "-")]
        elif self.hardware_compatibility == "ampere_plus":
            where = ["ampere_plus"]
        else:
            named = self.hardware_compatibility == "none"
            where = [f"sm_{self.sm[0]}{self.sm[1]}", *([_word(self.gpu)] if named else [])]
        return ".".join([*where, f"{self.backend}-{_word(self.version)}"])

    def __str__(self) -> str:
        runtime = f"{RUNTIMES.get(self.backend, self.backend)} {self.version}{' or later' * self.version_compatible}"
        if self.sm is None:
            return f"{runtime} on {self.platform} {' '.join(self.extensions)}".rstrip()
        if self.hardware_compatibility == "ampere_plus":
            return f"{runtime} on SM 8.0 or later"
        return f"{runtime} on SM {self.sm[0]}.{self.sm[1]}" + (
            f" ({self.gpu})" if self.hardware_compatibility == "none" else ""
        )


@dataclass(frozen=True)
class Machine:
    """A machine that wants an engine."""

    platform: str
    device: Device | None
    versions: Mapping[str, str | None]
    """By backend, the version that is installed."""
    extensions: frozenset[str]

    @classmethod
    def here(cls) -> Machine:
        """This one. No library is imported to find out."""
        return cls(
            platform=machine.os_and_architecture(),
            device=gpu.current(),
            versions={backend: _bare(machine.package_version(backend)) for backend in RUNTIMES},
            extensions=frozenset(machine.vector_extensions(machine.processor())),
        )

    def __str__(self) -> str:
        runtimes = [f"{RUNTIMES[name]} {version}" for name, version in self.versions.items() if version]
        device = self.device
        found = f"{device.name} (SM {device.sm[0]}.{device.sm[1]}, driver {device.driver})" if device else "no GPU"
        return ", ".join([self.platform, found, *runtimes])


def misfit(target: Target, here: Machine) -> str | None:
    """Why an engine does not run on a machine, and what would fit, in words; None where it runs."""
    if target.platform != here.platform:
        return f"it was built for {target.platform}, and this is {here.platform}"
    runtime = RUNTIMES.get(target.backend)
    installed = here.versions.get(target.backend)
    if runtime is None or installed is None:
        return f"it needs {runtime or target.backend} {target.version}, and none is installed here"
    if target.sm is None:
        missing = [extension for extension in target.extensions if extension not in here.extensions]
        lacks = f"it was optimized for a processor with {', '.join(missing)}, which this one lacks" if missing else None
        return version_misfit(runtime, target.version, installed, forward=False) or lacks
    if here.device is None:
        return f"it needs a GPU of SM {target.sm[0]}.{target.sm[1]} ({target.gpu}), and this machine has none"
    return (
        version_misfit(runtime, target.version, installed, forward=target.version_compatible)
        or gpu_misfit(target.sm, target.gpu, target.hardware_compatibility, here.device)
        or _driver_misfit(target, here.device)
    )


def version_misfit(runtime: str, built: str, here: str, *, forward: bool) -> str | None:
    """Why an engine of one version does not run with another; `forward` where later versions run it too."""
    if _numbers(here) == _numbers(built) or (forward and _numbers(here) > _numbers(built)):
        return None
    return f"it needs {runtime} {built}{' or later' * forward}, and this is {here}"


def gpu_misfit(sm: tuple[int, int], gpu: str, hardware_compatibility: str, device: Device) -> str | None:
    """Why a plan for one GPU does not run on another."""
    own = f"SM {device.sm[0]}.{device.sm[1]}"
    if hardware_compatibility == "ampere_plus":
        return None if device.sm >= (8, 0) else f"it needs a GPU of SM 8.0 or later, and this is {device.name}, {own}"
    if device.sm != sm:
        return f"it needs a GPU of SM {sm[0]}.{sm[1]} ({gpu}), and this is {device.name}, {own}"
    if hardware_compatibility == "none" and device.name != gpu:
        return f"it was built for {gpu}, and this is {device.name}"
    return None


def _driver_misfit(target: Target, device: Device) -> str | None:
    """Drivers run every CUDA of their own and of earlier major versions. [CUDA compatibility, minor versions]"""
    if _numbers(device.cuda)[:1] >= _numbers(target.cuda)[:1]:
        return None
    return f"it was built under a driver for CUDA {target.cuda}, and this driver {device.driver} runs {device.cuda}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _bare(version: str | None) -> str | None:
    """A version without the distribution behind it."""
    return version.partition(" ")[0] if version else None


def _word(text: str) -> str:
    return "-".join("".join(letter if letter.isalnum() or letter == "." else " " for letter in text.lower()).split())
