"""Wan's text encoder, umT5-XXL (Chung et al. 2023): transformers' module, from either spelling of its weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from transformers import UMT5Config, UMT5EncoderModel

from trtbuild.checkpoints import load_checkpoint, open_checkpoint
from trtbuild.core.errors import ModelError

SIZES: dict[str, dict[str, Any]] = {
    "xxl": {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 256384},
    "small": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 512},
}
"""Wan's encoder, and one for tests."""

ORIGINAL_NAMES = (
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"^blocks\.(\d+)\.attn\.", r"encoder.block.\1.layer.0.SelfAttention."),
    (r"^blocks\.(\d+)\.pos_embedding\.embedding\.", r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"^blocks\.(\d+)\.ffn\.gate\.0\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (r"^blocks\.(\d+)\.ffn\.fc1\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (r"^blocks\.(\d+)\.ffn\.fc2\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
)
"""From the names of Wan's `models_t5_umt5-xxl-enc-bf16.pth` to transformers'."""


def encoder(
    files: Sequence[str] = (), size: str = "xxl", weights: str = "checkpoint", outlier: float = 1.0
) -> torch.nn.Module:
    """The encoder with the weights of a checkpoint: token ids and mask to hidden states [batch, tokens, width].

    `weights: random` makes them up, for tests and for measuring; `outlier` then makes one neuron that much louder, and
    its listeners deafer. Raises ModelError where they do not fit.
    """
    config = UMT5Config(**SIZES[size], feed_forward_proj="gated-gelu", dropout_rate=0.0, use_cache=False)
    config._attn_implementation = "eager"
    if weights == "random":
        torch.manual_seed(0)
        made = TextEncoder(config).eval()
        with torch.no_grad():
            for block in made.encoder.block:
                gated = block.layer[1].DenseReluDense
                gated.wi_1.weight[0] *= outlier
                gated.wo.weight[:, 0] /= outlier
        return made
    if not files:
        raise ModelError(
            "umT5 needs its checkpoint: model.factory.files is empty",
            hint="--set 'model.factory.files=[/models/Wan2.1-T2V-1.3B/models_t5_umt5-xxl-enc-bf16.pth]'",
        )
    opened = open_checkpoint(files)
    if "token_embedding.weight" in opened:
        opened = opened.renamed(transformers_name)
    module = TextEncoder(config)
    load_checkpoint(module, opened, optional=["encoder.embed_tokens.weight"])
    return module


def transformers_name(name: str) -> str:
    """What transformers calls a tensor of Wan's own checkpoint."""
    for pattern, replacement in ORIGINAL_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


class TextEncoder(UMT5EncoderModel):  # type: ignore[misc]  # transformers is untyped here
    """The encoder with one tensor as its answer."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids and mask, int64 [batch, tokens], to hidden states [batch, tokens, width]."""
        answer: torch.Tensor = super().forward(input_ids, attention_mask, return_dict=True).last_hidden_state
        return answer
