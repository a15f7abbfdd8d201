"""The text of a first recipe for a decoder."""

from __future__ import annotations

from trtbuild.recipe.starter import quoted, recipe_name

_RECIPE = """\
# yaml-language-server: $schema={schema}
recipe: {name}
description: {description}

model:
  huggingface:
    folder: {folder}

# Greatest number of tokens in a row, rows at once, and the prompt to optimize and measure for.
decoder:
  capacity: {capacity}
  batch: {{min: 1, opt: 1, max: 8}}
  prompt: {prompt}

# Python's own documentation, to begin with. Take text of your task: generator: trtbuild.datasets.passages:of_files
# with files: ["text/*.txt"].
data:
  generator: trtbuild.datasets.passages:of_documentation
  arguments: {{length: {length}, batch: 1}}
  calibration: 32
  evaluation: 16

# What an engine must reach to ship, beside the reference: perplexity_ratio, top1_agreement, kl_divergence,
# kv_bytes_ratio, ...
gates:
  accuracy:
    perplexity_ratio: {{max: 1.02}}
  pays: either             # a quantized engine must be faster, smaller, either, or "no" (in quotes)

# The engines to build. Every other is compared with the reference.
reference: fp16
variants:
  fp16: {{precision: fp16}}
  kv_int8: {{kv_cache: int8}}                                       # the cache in INT8
  int4_awq_kv_int8: {{quantize: {{format: int4_awq}}, kv_cache: int8}}  # and INT4 weights
"""


def decoder_recipe(name: str, folder: str, positions: int, schema: str) -> str:
    """A recipe for a Hugging Face decoder that knows `positions` positions; `folder` as the recipe is to spell it."""
    capacity = min(2048, positions)
    return _RECIPE.format(
        schema=schema,
        name=recipe_name(name),
        description=quoted(f"Engines of {folder.rstrip('/').split('/')[-1]}"),
        folder=quoted(folder),
        capacity=capacity,
        prompt=max(1, min(128, capacity // 4)),
        length=min(384, capacity),
    )
