"""Model folders whose weights are quantized: the plain architecture with the floats that the codes say.

transformers would build the quantizer's own layers and call its kernels; here the architecture stays as it was before
somebody quantized it, and each linear keeps a way to its codes (`trtbuild.checkpoints.load_checkpoint`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.initialization import no_init_weights

from trtbuild.checkpoints import load_checkpoint, open_checkpoint
from trtbuild.checkpoints.quantized.config import quantization_config
from trtbuild.checkpoints.reading import Checkpoint
from trtbuild.core.sources import HuggingFaceSource

RECOMPUTED = ("*.rotary_emb.inv_freq", "*.attn.bias", "*.attn.masked_bias", "*.position_ids")
"""Buffers that old checkpoints store and models make by themselves."""


def is_quantized(folder: Path) -> bool:
    """Whether a model folder says that its weights are quantized. Raises ModelError where its files are damaged."""
    return quantization_config(folder) is not None


def load_quantized(auto_class: Any, source: HuggingFaceSource, weights: Sequence[Path]) -> Any:
    """The model in float32, out of the folder's quantized `weights`.

    Raises ModelError where they are quantized in a way that is not read here, or do not fit the architecture.
    """
    checkpoint = open_checkpoint([str(file) for file in weights])
    config, options = transformers.AutoConfig.from_pretrained(
        str(source.folder),
        return_unused_kwargs=True,
        local_files_only=True,
        trust_remote_code=False,
        **{"attn_implementation": "eager", **source.load_options},
    )
    for each in (config, config.get_text_config()):
        if hasattr(each, "quantization_config"):
            del each.quantization_config
    make = getattr(auto_class, "from_config", None) or auto_class._from_config
    with no_init_weights():
        model = make(config, dtype=torch.float32, **options)
    model.tie_weights()  # what initializing would have done at its end
    tied = [name for name in getattr(model, "all_tied_weights_keys", None) or () if name not in checkpoint]
    return load_checkpoint(model, _renamed(checkpoint, model), ignore=RECOMPUTED, optional=tied)


def _renamed(checkpoint: Checkpoint, model: Any) -> Checkpoint:
    """The checkpoint by the model's names: a headless model drops the prefix that a model with a head puts before."""
    wanted, prefix = set(model.state_dict()), f"{model.base_model_prefix}."
    if any(name in wanted for name in checkpoint):
        return checkpoint
    if any(name.removeprefix(prefix) in wanted for name in checkpoint):
        return checkpoint.renamed(lambda name: name.removeprefix(prefix) if name.startswith(prefix) else None)
    return checkpoint.renamed(lambda name: f"{prefix}{name}")
