"""GPUs by name: what each can compute, how fast its memory is, and how much of it there is.

Peaks are dense (no 2:4 sparsity) tensor-core rates, as the maker's data sheets print them; a data sheet that prints
only the sparse rate is halved. They are upper bounds for reasoning before a measurement, never a substitute for one.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from trtbuild.core.errors import RecipeError


@dataclass(frozen=True)
class Gpu:
    """One GPU as its data sheet describes it."""

    name: str
    sm: tuple[int, int]
    """Compute capability: (9, 0) is SM 9.0."""
    memory_gb: float
    bandwidth_gb_s: float
    fp16_tflops: float
    """Dense FP16 tensor throughput, FP32 accumulation."""
    int8_tops: float | None
    """None where the tensor cores do not take the type."""
    fp8_tflops: float | None
    fp4_tflops: float | None
    source: str
    """The document that the numbers are from."""

    @property
    def architecture(self) -> str:
        """The SM as CUDA spells it: `sm_90`."""
        return f"sm_{self.sm[0]}{self.sm[1]}"

    def peak_tflops(self, number_type: str | None) -> float | None:
        """The rate at which products of `int8`, `fp8`, `fp4` (None: 16-bit floats) run; None where they do not."""
        rates = {"int8": self.int8_tops, "fp8": self.fp8_tflops, "fp4": self.fp4_tflops, None: self.fp16_tflops}
        return rates.get(number_type)


_HOPPER, _GRACE = "NVIDIA H100 data sheet", "NVIDIA GH200 data sheet"
_ADA, _RTX_BLACKWELL = "NVIDIA Ada architecture white paper", "NVIDIA RTX Blackwell architecture white paper"
_HGX = "NVIDIA HGX platform data sheet, one GPU of eight"
_NVL72 = "NVIDIA GB200 NVL72 data sheet, one GPU of 72"

# fmt: off
GPUS: tuple[Gpu, ...] = (
    #   name                  SM      GB     GB/s    FP16    INT8    FP8     FP4
    Gpu("V100",             (7, 0),   32,    900,    125,   None,   None,   None, "NVIDIA V100 data sheet (SXM2)"),
    Gpu("T4",               (7, 5),   16,    320,     65,    130,   None,   None, "NVIDIA T4 data sheet"),
    Gpu("A100",             (8, 0),   80,   2039,    312,    624,   None,   None, "NVIDIA A100 data sheet (SXM)"),
    Gpu("A100 40GB",        (8, 0),   40,   1555,    312,    624,   None,   None, "NVIDIA A100 data sheet (40 GB)"),
    Gpu("A100 PCIe",        (8, 0),   80,   1935,    312,    624,   None,   None, "NVIDIA A100 data sheet (PCIe)"),
    Gpu("A30",              (8, 0),   24,    933,    165,    330,   None,   None, "NVIDIA A30 data sheet"),
    Gpu("A10",              (8, 6),   24,    600,    125,    250,   None,   None, "NVIDIA A10 data sheet"),
    Gpu("A2",               (8, 6),   16,    200,     18,     36,   None,   None, "NVIDIA A2 data sheet"),
    Gpu("A40",              (8, 6),   48,    696,    150,    299,   None,   None, "NVIDIA A40 data sheet"),
    Gpu("RTX A6000",        (8, 6),   48,    768,    155,    310,   None,   None, "NVIDIA RTX A6000 data sheet"),
    Gpu("RTX 3090",         (8, 6),   24,    936,     71,    285,   None,   None, "NVIDIA GA102 white paper"),
    Gpu("Orin",             (8, 7),   64,    205,     43,     85,   None,   None, "Jetson AGX Orin data sheet, GPU"),
    Gpu("L4",               (8, 9),   24,    300,    121,    242,    242,   None, "NVIDIA L4 data sheet"),
    Gpu("L40",              (8, 9),   48,    864,    181,    362,    362,   None, "NVIDIA L40 data sheet"),
    Gpu("L40S",             (8, 9),   48,    864,    362,    733,    733,   None, "NVIDIA L40S data sheet"),
    Gpu("RTX 4090",         (8, 9),   24,   1008,    165,    661,    330,   None, _ADA),
    Gpu("RTX 6000 Ada",     (8, 9),   48,    960,    364,    728,    728,   None, _ADA),
    Gpu("H100",             (9, 0),   80,   3350,    989,   1979,   1979,   None, f"{_HOPPER} (SXM)"),
    Gpu("H100 PCIe",        (9, 0),   80,   2000,    756,   1513,   1513,   None, f"{_HOPPER} (PCIe)"),
    Gpu("H100 NVL",         (9, 0),   94,   3900,    835,   1671,   1671,   None, f"{_HOPPER} (NVL)"),
    Gpu("H200",             (9, 0),  141,   4800,    989,   1979,   1979,   None, "NVIDIA H200 data sheet (SXM)"),
    Gpu("H200 NVL",         (9, 0),  141,   4800,    835,   1671,   1671,   None, "NVIDIA H200 data sheet (NVL)"),
    Gpu("GH200",            (9, 0),   96,   4000,    989,   1979,   1979,   None, f"{_GRACE} (HBM3)"),
    Gpu("B200",            (10, 0),  180,   8000,   2250,   4500,   4500,   9000, _HGX),
    Gpu("GB200",           (10, 0),  186,   8000,   2500,   5000,   5000,  10000, _NVL72),
    Gpu("B300",            (10, 3),  288,   8000,   2250,    125,   4500,  13500, _HGX),
    Gpu("Thor",            (11, 0),  128,    273,    258,   None,    517,   1035, "Jetson AGX Thor (T5000) data sheet"),
    Gpu("RTX 5090",        (12, 0),   32,   1792,    210,    838,    419,   1676, _RTX_BLACKWELL),
    Gpu("RTX PRO 6000",    (12, 0),   96,   1792,    504,   1008,   1008,   2015, _RTX_BLACKWELL),
)
# fmt: on
"""Every known GPU; the first of an SM stands for it. An INT8 rate of None also says that the sheet prints none."""

_MAKERS = re.compile(r"^(nvidia|geforce|tesla|quadro|jetson|agx)+")
_VARIANT = re.compile(
    r"(sxm\d?|pcie|nvl|hbm\d?e?|\d+gb|t5000|nvgpu|tensorcoregpu|gpu|blackwell|generation|(workstation|server)edition)*"
)
_SM = re.compile(r"(?:sm_?|compute_?)?(\d{1,2})[._]?(\d)a?")


def gpu_named(text: str) -> Gpu:
    """The GPU that a person, nvidia-smi or CUDA means: `h100-sxm`, `NVIDIA H100 80GB HBM3`, `sm_90`, `9.0`.

    Where only an SM is given, the first GPU of the table with it. Raises RecipeError for any other name.
    """
    word = re.sub(r"[\s_()-]+", "", text.lower())
    if match := _SM.fullmatch(text.strip().lower()):
        of_this_sm = [gpu for gpu in GPUS if gpu.sm == (int(match[1]), int(match[2]))]
        if of_this_sm:
            return of_this_sm[0]
    word = _MAKERS.sub("", word)
    keys = {re.sub(r"[\s-]+", "", gpu.name.lower()): gpu for gpu in GPUS} | {"a6000": _of("RTX A6000")}
    # The longest name wins: "h100pcie" is no plain "h100", "a100" no "a10" with something behind it.
    for key in sorted(keys, key=len, reverse=True):
        if word.startswith(key) and _VARIANT.fullmatch(word[len(key) :]):
            return keys[key]
    close = difflib.get_close_matches(word, keys, n=1, cutoff=0.6)
    known = ", ".join(gpu.name for gpu in GPUS)
    raise RecipeError(
        f"there is no GPU {text!r} in the table",
        hint=f"did you mean {keys[close[0]].name}?" if close else f"known: {known}; or an SM such as sm_90",
    )


def _of(name: str) -> Gpu:
    return next(gpu for gpu in GPUS if gpu.name == name)
