"""Where a build may stop, so that another machine goes on: the stages that are left to it."""

from __future__ import annotations

from typing import Literal, get_args

Until = Literal["export", "calibrate", "insert", "build"]
"""The stage to stop behind. All that leads there is done, what leads nowhere there too: samples, the FP32 answers."""

STOPS: tuple[str, ...] = get_args(Until)

_JUDGING = frozenset({"validate", "measure", "judge", "read", "validate_decoder", "measure_decoder"})
_BUILDING = _JUDGING | {"build", "attempt", "place", "insert_placed", "keep"}
_BEHIND: dict[Until, frozenset[str]] = {
    "export": _BUILDING
    | {"insert", "autocast", "calibrate", "calibrate_onnx", "observe_ranges", "sensitivity", "sensitivity_onnx"}
    | {"search", "mix", "finetune", "calibrate_cache", "quantize_cache", "use_native_cache"},
    "calibrate": _BUILDING | {"insert", "quantize_cache", "use_native_cache"},
    "insert": _BUILDING,
    "build": _JUDGING,
}


def behind(until: Until) -> frozenset[str]:
    """The names of the stages that are not run."""
    return _BEHIND[until]


def builds_in(until: Until) -> bool:
    """Whether engines are built on the way."""
    return "build" not in _BEHIND[until]
