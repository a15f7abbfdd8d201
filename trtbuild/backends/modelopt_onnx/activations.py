"""Formats that quantize activations: INT8 and FP8, and INT8 after SmoothQuant.

ModelOpt calibrates the modules that it is told to, by name: left to choose for itself it would also leave products
alone by the lengths of the first batch. SmoothQuant, which `modelopt.onnx` lacks, is done to the copy that ModelOpt
gets; what it then finds are the numbers of the smoothed model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trtbuild.backends.modelopt_onnx import ranges, rehearsal, silence
from trtbuild.backends.modelopt_onnx.asked import Asked
from trtbuild.core.artifacts import OnnxModel
from trtbuild.core.formats import FORMATS
from trtbuild.core.quantization import ModuleQuantization
from trtbuild.core.tensor_file import Array, Tensors
from trtbuild.graph import document, reading

LEAST_SCALE, GREATEST_SCALE = 1e-4, 1e4
"""Bounds of a smoothing scale, as ModelOpt's torch calibration has them."""
LEAST_AMAX = 2.0**-31
"""A channel below this is dead (the same calibration): it is not smoothed."""
ZERO = "its input was zero in every calibration sample"


def activations(
    model: OnnxModel, asked: Asked, options: Any, samples: Sequence[Tensors], folder: Path
) -> dict[str, ModuleQuantization]:
    """The numbers of modules under `options.format`, activation ranges by `options.method`: `max` or `entropy`.

    Modules that turn out not to be quantizable move to `asked.kept_high`. Raises DataError where a range is not finite.
    """
    traits, copy = FORMATS[options.format], OnnxModel(folder)
    graph = document.load(model.main)
    amax = module_amax(model, asked, samples, folder / "ranges")
    asked.keep({module: ZERO for module, reached in amax.items() if not reached.any()})
    if not asked.nodes:
        return {}
    smooth = traits.algorithm == "smoothquant"
    channels = {module: amax[module] for module in asked.linears()} if smooth else {}
    scales = _smoothing(asked, channels, options.alpha) if smooth else {}
    if smooth:
        rehearsal.use_matmul(graph.graph, asked.names(convolutions=False))
        rehearsal.smooth(graph.graph, by_node(asked, scales))
    document.save(graph, copy)
    quantized = silence.run(
        copy,
        samples,
        folder,
        # ModelOpt calibrates FP8 as INT8 too, then multiplies scales by 448/127, where 127/448 is meant: FP8 codes
        # reach 36 instead of 448, and the smallest numbers are lost. The amax is the same.
        mode="int8",
        method=options.method,
        nodes_to_quantize=silence.exactly(asked.names()),
    )
    found = reading.read(document.load(quantized), asked.calls()).modules
    asked.keep({module: "ModelOpt left it alone" for module in asked.nodes if module not in found})
    return {
        module: replace(
            found[module],
            format=options.format,
            weight_amax=_weight_amax(asked, module, found[module].weight_amax, scales.get(module), options.format),
            pre_quant_scale=scales.get(module),
            input_channel_amax=channels.get(module),
        )
        for module in asked.nodes
    }


def module_amax(model: OnnxModel, asked: Asked, samples: Sequence[Tensors], folder: Path) -> Tensors:
    """Greatest |x| of each module's input over all its calls and all samples: [in] of linears, [1] of convolutions."""
    seen = ranges.input_amax(model, asked.names(), samples, folder)
    return {module: np.max(np.stack([seen[name] for name in names]), axis=0) for module, names in asked.calls().items()}


def by_node(asked: Asked, scales: Tensors) -> Tensors:
    """Scales of modules as scales of their nodes."""
    return {node.name or "": scale for module, scale in scales.items() for node in asked.nodes[module]}


def _smoothing(asked: Asked, channels: Tensors, alpha: float) -> Tensors:
    """SmoothQuant's 1/s by module: max|W|^(1-a) / max|x|^a per input channel (Xiao et al. 2022, equation 4).

    Modules that read one tensor share a scale, by the greatest of their weights, so that it can be folded into
    whatever computes the tensor. A module that is called more than once has a scale of its own.
    """
    groups: dict[object, list[str]] = {}
    for module, nodes in asked.linears().items():
        groups.setdefault(nodes[0].inputs[0] if len(nodes) == 1 else module, []).append(module)
    scales: Tensors = {}
    for modules in groups.values():
        weight = np.max(np.stack([np.abs(asked.weight(module)).max(axis=0) for module in modules]), axis=0)
        inputs = np.max(np.stack([channels[module] for module in modules]), axis=0)
        dead = inputs <= LEAST_AMAX
        scale = weight ** (1 - alpha) / np.where(dead, 1, inputs) ** alpha
        scale = np.where(dead, 1, np.clip(scale, LEAST_SCALE, GREATEST_SCALE)).astype(np.float32)
        scales |= dict.fromkeys(modules, scale)
    return scales


def _weight_amax(asked: Asked, module: str, read: Array, scale: Array | None, form: Any) -> Array:
    """In the format's granularity. A channel of zeros, to which ONNX Runtime gives the scale 1, has amax 0."""
    weight = asked.weight(module)
    dead = ~(weight if scale is None else weight / scale).reshape(len(weight), -1).any(axis=1)
    amax = np.where(dead, np.float32(0), read)
    return np.asarray(amax.max()) if FORMATS[form].granularity == "tensor" else amax
