"""The quantization plan: what calibration decided for each module, and its file.

Calibration writes it, insertion reads it, so a plan can be cut down and inserted again without calibrating again.
`plan.json` holds formats and reasons, `plan.safetensors` the numbers, keyed `module:field`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields

import numpy as np

from trtbuild.core.artifacts import QuantizationPlan
from trtbuild.core.errors import DataError
from trtbuild.core.formats import Format
from trtbuild.core.tensor_file import Array, read_tensors, write_tensors


@dataclass(frozen=True)
class ModuleQuantization:
    """The numbers of one linear module with weight W of shape [out, in]."""

    format: Format
    weight_amax: Array
    """[out] float32: greatest |W| per output channel, after `pre_quant_scale` was moved into W. Scale = amax / 127."""
    input_amax: Array | None = None
    """[] float32: greatest |x| of the (smoothed) input. None where activations stay as they are."""
    pre_quant_scale: Array | None = None
    """[in] float32: SmoothQuant's 1/s (Xiao et al. 2022, eq. 4): x is multiplied by it, W's columns divided."""
    input_channel_amax: Array | None = None
    """[in] float32: greatest |x| per input channel before smoothing; lets consumers of one tensor share a scale."""


@dataclass(frozen=True)
class Plan:
    """The plan of a whole model."""

    modules: dict[str, ModuleQuantization]
    """By module path."""
    kept_high: dict[str, str] = field(default_factory=dict)
    """Linear modules that were left alone, with the reason."""
    samples: int = 0
    """Rows of the first axis that calibration saw."""

    def write(self, artifact: QuantizationPlan) -> None:
        """Write into an artifact's folder."""
        tensors = {
            f"{module}:{entry.name}": np.asarray(value, dtype=np.float32)
            for module, numbers in self.modules.items()
            for entry in fields(numbers)
            if entry.name != "format" and (value := getattr(numbers, entry.name)) is not None
        }
        facts = {
            "formats": {module: numbers.format for module, numbers in self.modules.items()},
            "kept_high": self.kept_high,
            "samples": self.samples,
        }
        artifact.main.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
        write_tensors(artifact.path / "plan.safetensors", tensors)

    @classmethod
    def read(cls, artifact: QuantizationPlan) -> Plan:
        """Read from an artifact's folder. Raises DataError where it is damaged."""
        try:
            facts = json.loads(artifact.main.read_text())
        except (OSError, ValueError) as error:
            raise DataError(f"{artifact.main}: not a quantization plan: {error}") from error
        tensors = read_tensors(artifact.path / "plan.safetensors")
        names = [entry.name for entry in fields(ModuleQuantization) if entry.name != "format"]
        modules = {
            module: ModuleQuantization(
                format=form, **{name: tensors[f"{module}:{name}"] for name in names if f"{module}:{name}" in tensors}
            )
            for module, form in facts["formats"].items()
        }
        return cls(modules=modules, kept_high=facts["kept_high"], samples=facts["samples"])
