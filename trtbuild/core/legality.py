"""Which format can run where: format x kind of operator x target, decided in microseconds before anything slow starts.

`requirements` has the tables. Each rule names its source by the marks explained there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from trtbuild.core.errors import RecipeError
from trtbuild.core.formats import FORMATS, Format
from trtbuild.core.opsets import greatest_opset, least_opset
from trtbuild.core.requirements import (
    ADA,
    AMPERE,
    BLACKWELL,
    HOPPER,
    LEAST_SM,
    LEAST_TENSORRT,
    NEAREST,
    TURING,
)

Operator = Literal["linear", "conv", "attention"]
"""`linear` is a product with a constant matrix, `conv` a convolution, `attention` its products of two activations."""

NEWEST_TENSORRT = "11.4"
"""What a target without a version is taken for."""


@dataclass(frozen=True)
class Target:
    """What an engine is built for."""

    backend: Literal["onnxruntime", "tensorrt"]
    version: tuple[int, ...] = ()
    sm: tuple[int, int] | None = None
    """None for a CPU, and where the GPU is not known: then nothing is refused because of it."""

    @property
    def said(self) -> str:
        """The target in words."""
        if self.backend == "onnxruntime":
            return "ONNX Runtime on a CPU"
        on = f" on SM {self.sm[0]}.{self.sm[1]}" if self.sm else ""
        return f"TensorRT {'.'.join(map(str, self.version))}{on}"


@dataclass(frozen=True)
class Legal:
    """It runs; `warnings` say where it runs otherwise than one may hope."""

    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Illegal:
    """It cannot run."""

    reason: str
    nearest: Format | None = None
    """The most similar format that is legal for the same operator and target."""


@dataclass(frozen=True)
class Finding:
    """One thing to say about a format on a target."""

    format: Format
    operator: Operator
    severity: Literal["error", "warning"]
    message: str
    hint: str = ""


def target(backend: str, version: str | None = None, sm: tuple[int, int] | None = None) -> Target:
    """A target from a recipe's words: `tensorrt`, `10.3`. Raises RecipeError for a version that is none."""
    if backend == "onnxruntime":
        return Target("onnxruntime")
    if backend != "tensorrt":
        raise RecipeError(f"there is no backend {backend!r}", hint="backends: onnxruntime, tensorrt")
    if not re.fullmatch(r"\d+\.\d+(\.\d+)*", version or NEWEST_TENSORRT):
        raise RecipeError(f"{version!r} is no version of TensorRT", hint='for example "10.3" or "11.4", in quotes')
    return Target("tensorrt", tuple(int(part) for part in (version or NEWEST_TENSORRT).split(".")), sm)


def legality(form: Format, operator: Operator, where: Target, *, block_size: int = 128) -> Legal | Illegal:
    """Whether a format runs for a kind of operator on a target; where not, why and what would."""
    reason = _reason_against(form, operator, where)
    if reason is None:
        return Legal(tuple(_warnings(form, operator, where, block_size)))
    return Illegal(reason, nearest_legal(form, operator, where))


def nearest_legal(form: Format, operator: Operator, where: Target) -> Format | None:
    """The most similar other format that the target runs for this operator; None where it runs none."""
    similar = [other for other in NEAREST[form] if operator == "linear" or other != "int8_sq"]  # nothing to smooth
    return next((other for other in similar if _reason_against(other, operator, where) is None), None)


def check(
    formats: Iterable[Format],
    backend: str,
    version: str | None,
    sm: tuple[int, int] | None,
    *,
    operators: Sequence[Operator] = ("linear",),
    block_size: int = 128,
    opset: int | None = None,
    precision: str = "fp32",
) -> list[Finding]:
    """Everything that a target has against these formats, errors first.

    A format that runs for some of the `operators` only is a warning: the others stay in high precision. `opset` is
    the graph's, `precision` that of its floats; None checks no opset.
    """
    where, findings = target(backend, version, sm), []
    for form in dict.fromkeys(formats):
        said = {operator: legality(form, operator, where, block_size=block_size) for operator in operators}
        runs = any(isinstance(one, Legal) for one in said.values())
        for operator, one in said.items():
            if isinstance(one, Legal):
                findings += [Finding(form, operator, "warning", warning) for warning in one.warnings]
            elif runs:
                findings.append(Finding(form, operator, "warning", one.reason, f"{operator} stays in high precision"))
            else:
                findings.append(Finding(form, operator, "error", one.reason, _advice(one.nearest)))
        if runs and opset is not None and (message := _against_opset(form, where, opset, precision)):
            findings.append(Finding(form, operators[0], "error", *message))
    return sorted(findings, key=lambda finding: finding.severity != "error")


def _advice(nearest: Format | None) -> str:
    return f"the nearest that runs: {nearest} ({FORMATS[nearest].meaning})" if nearest else "leave `quantize` out"


def _against_opset(form: Format, where: Target, opset: int, precision: str) -> tuple[str, str] | None:
    least, greatest = least_opset(form, precision=precision), greatest_opset(where.version) if where.version else None
    if opset < least:
        return (
            f"{form} around {precision} needs opset {least}, and the graph has {opset}",
            f"export: {{opset: {least}}}",
        )
    if greatest is not None and opset > greatest:
        return (
            f"{where.said} reads opsets up to {greatest}, and the graph has {opset}",
            f"export: {{opset: {greatest}}}",
        )
    return None


def _reason_against(form: Format, operator: Operator, where: Target) -> str | None:
    traits = FORMATS[form]
    if operator == "attention" and traits.activation is None:
        return f"{form} quantizes weights, and attention multiplies two activations"
    if operator == "attention" and traits.dynamic:
        # [hdr] NvInfer.h: normalization_quantize_to_type is FP8 or INT8, with one scale
        return f"the products of attention take INT8 and FP8 with one scale a tensor, and {form} scales blocks"
    if where.backend == "onnxruntime":
        return _against_onnxruntime(form, operator)
    return _against_operator(form, operator) or _against_version(form, where) or _against_gpu(form, where)


def _against_onnxruntime(form: Format, operator: Operator) -> str | None:
    if operator == "conv" and FORMATS[form].granularity in ("block", "tile"):
        return f"{form} lays its scales in blocks of a matrix, and a convolution's weight is none"  # MatMulNBits only
    return None


def _against_operator(form: Format, operator: Operator) -> str | None:
    traits = FORMATS[form]
    if operator == "conv" and (traits.activation not in ("int8", "fp8") or traits.granularity == "block"):
        # [mo] examples/torch_onnx: convolutions run in FP8 and INT8 only, both inputs quantized
        return f"TensorRT's convolutions are quantized as a whole, to INT8 or FP8; {form} is neither"
    if form == "w4a8_awq":
        # [mo] support matrix lists TensorRT-LLM only; the ONNX exporter raises on it [run]
        return "TensorRT has no product of INT4 weights and FP8 activations"
    return None


def _against_version(form: Format, where: Target) -> str | None:
    if where.version < (8, 6):
        return f"trtbuild writes graphs for TensorRT 8.6 and later, not {'.'.join(map(str, where.version))}"
    if where.version < (least := LEAST_TENSORRT[form]):
        return f"{form} needs TensorRT {'.'.join(map(str, least))}, and the target is {where.said}"
    if where.sm is not None and where.sm >= BLACKWELL and where.version < (10, 8):
        return f"{where.said}: TensorRT builds for Blackwell from 10.8 on"  # [known] 10.8 notes
    return None


def _against_gpu(form: Format, where: Target) -> str | None:
    if where.sm is None or where.sm >= (least := LEAST_SM[form]):
        return None
    names = {TURING: "Turing", AMPERE: "Ampere", ADA: "Ada or Hopper", BLACKWELL: "Blackwell"}
    at_least = f"SM {least[0]}.{least[1]} ({names[least]})"
    return f"{form} needs a GPU of {at_least} or later, and the target is SM {where.sm[0]}.{where.sm[1]}"


def _warnings(form: Format, operator: Operator, where: Target, block_size: int) -> Iterator[str]:
    traits = FORMATS[form]
    if where.backend == "onnxruntime":
        yield from _warnings_of_onnxruntime(form, operator)
        return
    if operator == "conv" and form == "int8_sq":
        yield "SmoothQuant is for linear layers: convolutions get plain INT8"  # [mo] SmoothQuantCalibConfig
    if operator == "conv" and traits.weight == "fp8":
        # [mo] fp8.py; [thread] TensorRT 4524: no optimized FP8 group or depthwise convolution
        yield "FP8 convolutions pay only above 16 channels, with kernels of at most 32 elements, and not in groups"
    if operator == "attention" and traits.activation == "int8":
        yield "INT8 attention is fused for sequences up to 512 and heads of 16 to 64 only"  # [known]
    if operator == "attention" and traits.activation == "fp8" and where.sm == ADA:
        yield "FP8 attention on Ada is fused for sequences up to 3072 and heads up to 64"  # [doc] 10.6 notes
    if form == "w8a16":
        # [doc] TensorRT's tables name weight-only products for INT4 only
        yield "INT8 weight-only has no documented fused product in TensorRT: expect dequantization, and measure"
    if form == "fp8_block128":
        yield "FP8 weight-only has no documented fused product in TensorRT: expect dequantization, and measure"
    if form == "fp8_pc_pt" and where.sm is not None and where.sm != HOPPER:
        yield "FP8 weight scales a channel are documented for Hopper only: measure before promising"  # [doc] 10.6
    if traits.weight == "int4" and block_size not in (64, 128):
        yield f"TensorRT documents INT4 in blocks of 64 and 128, not {block_size}"  # [known]
    if traits.dynamic:
        yield from _warnings_of_blocks(form, where)


def _warnings_of_onnxruntime(form: Format, operator: Operator) -> Iterator[str]:
    traits = FORMATS[form]
    # [run] 1.31: no FP8 product, and no kernel for FLOAT4E2M1 or for scales made at run time
    for emulated in ("fp4", "fp8"):
        if emulated in (traits.weight, traits.activation):
            yield f"ONNX Runtime emulates {emulated.upper()} in float: right numbers, no speed"
    if operator == "conv" and form == "w8a16":
        yield "ONNX Runtime dequantizes the weights of convolutions: smaller on disk only"


def _warnings_of_blocks(form: Format, where: Target) -> Iterator[str]:
    # [thread] pytorch/TensorRT 3745
    yield f"the width of layers' inputs must be fixed and divisible by {FORMATS[form].block}"
    if form == "nvfp4" and where.version < (11, 0):
        # [thread] Model-Optimizer 2333, tried on a B200 with 10.16
        yield "ModelOpt itself builds NVFP4 graphs from TensorRT 11.0 on only, and 10.x does not compile every one"
