"""What steps found: frozen values, saved as JSON, shown by renderers that only read them."""

from __future__ import annotations

from typing import Literal

from trtbuild.core.values import Result

ASKED_HIGH = ("excluded by", "overrides:", "auto:")
"""How the reasons begin of modules that the recipe itself leaves in high precision, by name or through `auto`."""

UNTOLD = "a fused region whose precision TensorRT does not tell"
"""What an engine says of layers whose precision nobody can know, as of those that Myelin took as a whole (8.6)."""


class LayerCoverage(Result):
    """One module that quantization asked for, and how far it got."""

    module: str
    """Module path, as in the PyTorch model."""
    format: str
    """The format asked for: one of `trtbuild.core.formats`, `embedding_int8`, `attention_fp8` or `attention_int8`."""
    inserted: bool
    """Whether its nodes carry Q/DQ in the ONNX graph."""
    ran: str = ""
    """The precision the engine runs it in; empty while no engine was asked."""
    reason: str = ""
    """Why it was not inserted, or does not run quantized."""

    @property
    def is_untold(self) -> bool:
        """Whether it carries Q/DQ and the engine does not tell what became of it: neither run nor missed."""
        return UNTOLD in self.ran and not self.reason


class Coverage(Result):
    """Asked, inserted, ran: the coverage contract of one variant."""

    layers: list[LayerCoverage] = []
    """Every module that was asked for."""
    smoothing_folded: int = 0
    """SmoothQuant scales that disappeared into a preceding norm or linear."""
    smoothing_left: list[str] = []
    """Modules whose SmoothQuant scale stays a Mul in the graph, because nothing before them can absorb it."""
    kept_high: dict[str, str] = {}
    """Modules that quantization left alone, each with the reason."""

    @property
    def refused(self) -> dict[str, str]:
        """Modules that insertion did not quantize, each with the reason: left alone, or not found in the graph."""
        return self.kept_high | {layer.module: layer.reason for layer in self.layers if not layer.inserted}

    @property
    def kept_by_default(self) -> dict[str, str]:
        """Those of them that the recipe did not leave alone itself."""
        return {module: reason for module, reason in self.kept_high.items() if not reason.startswith(ASKED_HIGH)}

    @property
    def asked(self) -> int:
        """Modules asked for."""
        return len(self.layers)

    @property
    def inserted(self) -> int:
        """Modules whose nodes carry Q/DQ in the graph."""
        return sum(layer.inserted for layer in self.layers)

    @property
    def ran(self) -> int:
        """Modules that the engine runs with quantized weights."""
        return sum(bool(layer.ran) and not layer.reason and not layer.is_untold for layer in self.layers)

    @property
    def untold(self) -> int:
        """Modules of which the engine does not tell whether they run quantized."""
        return sum(layer.is_untold for layer in self.layers)


class OperandRanges(Result):
    """What the tensors that a graph computes and then multiplies or adds reach on calibration samples."""

    amax: dict[str, float] = {}
    """Greatest |x| of each operand, by `<node name>:<input index>`: both operands of the attention products (softmax
    output included) and of residual additions."""


class TensorAgreement(Result):
    """How one output tensor compares with another run's, over all evaluation samples."""

    cosine_mean: float
    """Mean over samples of the cosine similarity of the flattened tensors."""
    cosine_min: float
    """The least of them."""
    snr_db: float
    """Mean signal-to-noise ratio in dB, the other run being the signal."""
    max_abs_error: float
    """The greatest absolute difference of any element."""


class Comparison(Result):
    """An engine's outputs against its reference engine and against the FP32 model."""

    samples: int
    """Evaluation batches compared."""
    non_finite: dict[str, int] = {}
    """Outputs that held NaN or infinity, with the number of batches in which they did."""
    against_reference: dict[str, TensorAgreement] = {}
    """Per output, against the reference engine; empty where one of the two is not finite."""
    against_model: dict[str, TensorAgreement] = {}
    """Per output, against the FP32 model in its own framework."""
    task_metrics: dict[str, float] = {}
    """The recipe's own metrics, against the FP32 model."""


class Latency(Result):
    """Time of one inference call, in milliseconds, over `runs` timed calls."""

    median_ms: float
    p95_ms: float
    min_ms: float
    noise: float
    """Half the spread between the 25th and 75th percentile, relative to the median: below 0.05 is quiet."""
    runs: int


class LayerTime(Result):
    """Layers of an engine that compute nodes of the same modules, each timed alone: the sum over all is more than a
    call takes."""

    modules: list[str] = []
    """Module paths of the nodes that they compute; empty where their names tell none."""
    median_ms: float


class DecoderMeasurement(Result):
    """What a decoder's speed and memory are beyond one call: the call that is timed as such is one step of decoding."""

    first_token: Latency
    """Reading a prompt of `opt` tokens, at the `opt` batch."""
    reference_first_token: Latency
    tokens_per_s: float
    """Of all rows together, while decoding."""
    reference_tokens_per_s: float
    cache_bytes: int
    """What the cache of the greatest batch takes, scales included: what a server must set apart."""
    reference_cache_bytes: int


class Measurement(Result):
    """Engine and reference timed in turns, in one process, on the same inputs."""

    engine: Latency
    reference: Latency
    uncertainty: float = 0.0
    """How well the speed-up is known, as a share of it; where the engine is the reference itself, its median."""
    shapes: dict[str, list[int]]
    """The input shapes that were timed: every axis at its `opt`."""
    engine_bytes: int
    reference_bytes: int
    device: str
    """What it ran on."""
    threads: int
    engine_layers: list[LayerTime] = []
    """Time of an engine that differs from its reference, layer by layer; empty where the backend does not tell."""
    reference_layers: list[LayerTime] = []

    decoder: DecoderMeasurement | None = None
    """Of a decoder."""

    @property
    def size_ratio(self) -> float:
        """The engine's bytes over the reference's, each with its cache where it is a decoder."""
        caches = (0, 0) if self.decoder is None else (self.decoder.cache_bytes, self.decoder.reference_cache_bytes)
        return (self.engine_bytes + caches[0]) / (self.reference_bytes + caches[1])

    @property
    def speedup(self) -> float:
        """The reference's median over the engine's: above 1 is faster."""
        return self.reference.median_ms / self.engine.median_ms


Gate = Literal["finite", "accuracy", "coverage", "pays"]
"""What an engine can fail at: a number in its outputs, one of the accuracy bounds, coverage, being worth it."""


class Verdict(Result):
    """Whether an engine may ship, and why not."""

    outcome: Literal["passed", "failed"]
    failed: list[Gate] = []
    """The gates that failed."""
    reasons: list[str] = []
    """Each gate that failed, in words, with the number found and the number wanted."""
    remarks: list[str] = []
    """What a gate let pass without proof."""
    accuracy: dict[str, float] = {}
    """Every accuracy metric by name."""
    speedup: float
    """Against the reference engine."""
    size_ratio: float
    """Engine bytes over reference bytes, a decoder's with its cache."""
