"""The text of a first recipe, to be read and changed by a person."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from trtbuild.core.tensors import Shapes

_HEAD = """\
# yaml-language-server: $schema={schema}
recipe: {name}
description: {description}

model:
"""

_REST = """
# What the model takes. An axis that moves has a name and a range; the engine is optimized and measured at opt.
shapes:
{shapes}
# Real inputs: generate(split, count) in samples.py yields dictionaries of numpy arrays, one array an input, with the
# rows of a batch on the first axis. split is "calibration" or "evaluation"; the two must share no sample.
data:
  generator: {generator}
  calibration: 256
  evaluation: 128

{metric}  pays: either             # a quantized engine must be faster, smaller, either, or "no" (in quotes)

# The engines to build. Every other is compared with the reference.
reference: fp16
variants:
  fp16: {{precision: fp16}}
{variants}"""

_GENERAL = """\
# What an engine must reach to ship. Agreement with the FP32 model: cosine_mean, cosine_min, snr_db, max_abs_error.
gates:
  accuracy:
    cosine_mean: {min: 0.99}
"""
_OF_EMBEDDINGS = """\
# The task's own accuracy: agreement(outputs, reference_outputs, inputs) in samples.py compares sentence embeddings.
# Change it to what your task counts: padded positions, for one, count for nothing here.
metric: samples:agreement

# What an engine must reach to ship.
gates:
  accuracy:
    embedding_cosine_mean: {min: 0.99}
"""
_FROM_PYTORCH = """\
  int8: {quantize: {format: int8_sq}}         # INT8 weights and activations, after SmoothQuant
  int8_weights: {quantize: {format: w8a16}}   # INT8 weights alone
"""
_FROM_ONNX = "  fp32: {precision: fp32}\n"


def starter_recipe(
    name: str,
    shapes: Shapes,
    *,
    onnx: str = "",
    folder: str = "",
    outputs: Sequence[str] = ("last_hidden_state",),
    generator: str = "samples:generate",
    schema: str = "../recipe.schema.json",
) -> str:
    """A recipe for an ONNX file or a Hugging Face folder, paths as the recipe is to spell them."""
    if bool(onnx) == bool(folder):
        raise ValueError("a starter recipe needs either an ONNX file or a Hugging Face folder")
    description = f"Engines of {(onnx or folder).rstrip('/').split('/')[-1]}"
    head = _HEAD.format(schema=schema, name=recipe_name(name), description=quoted(description))
    if onnx:
        model = f"  onnx: {quoted(onnx)}\n"
    else:
        model = (
            f"  huggingface:\n    folder: {quoted(folder)}\n    class: AutoModel\n"
            f"    outputs: [{', '.join(map(quoted, outputs))}]   # fields of the model's output\n"
        )
    variants = _FROM_ONNX if onnx else _FROM_PYTORCH
    metric = _GENERAL if onnx else _OF_EMBEDDINGS
    return head + model + _REST.format(shapes=_shapes(shapes), generator=generator, metric=metric, variants=variants)


def recipe_name(name: str) -> str:
    """The nearest name that a recipe may have."""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_") or "model"


def _shapes(shapes: Shapes) -> str:
    lines = ["  axes:" if shapes.axes else "  axes: {}"]
    for name, axis in shapes.axes.items():
        lines.append(f"    {quoted(name)}: {{min: {axis.min}, opt: {axis.opt}, max: {axis.max}}}")
    lines.append("  inputs:")
    for name, spec in shapes.inputs.items():
        dims = ", ".join(str(dim) if isinstance(dim, int) else quoted(dim) for dim in spec.dims)
        lines.append(f"    {quoted(name)}: {{dtype: {spec.dtype}, dims: [{dims}]}}")
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """Text as YAML: bare where it is an ordinary word or path, else in quotes."""
    plain = re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./ -]*", text) and text == text.strip()
    misread = text.lower() in ("y", "n", "yes", "no", "on", "off", "true", "false", "null") or text[:1] == "."
    return text if plain and not (misread and "/" not in text) else json.dumps(text)
