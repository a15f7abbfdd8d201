"""CosyVoice's language model: Qwen2 that reads text and writes speech tokens.

The original puts three tables in front of Qwen2 (text, speech, and two marks) and feeds it vectors. Here they are one
table with a joint vocabulary, so that every decoder engine can serve it: speech tokens first, by their own numbers,
then the marks, then text. The head speaks speech tokens only, and what it says can be read again as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from trtbuild.checkpoints import load_checkpoint

CODES = 6561
"""Codes of the speech tokenizer, 3^8; the tokens behind them end the speech or ask for more text."""


def speech_lm(
    files: Sequence[Path] = (),
    *,
    further: int = 3,
    marks: bool = True,
    head_bias: bool = True,
    text: int = 151936,
    width: int = 896,
    layers: int = 24,
    heads: int = 14,
    kv_heads: int = 2,
    mlp: int = 4864,
) -> Any:
    """The decoder with the weights of llm.pt, which the recipe lists under `model.factory.files`.

    Its vocabulary, for CosyVoice2: 0 to 6563 speech (6561 ends it), 6564 begins the text, 6565 the speech, text tokens
    from 6566. The sizes are those of CosyVoice2-0.5B. CosyVoice3 has `further: 200, marks: false, head_bias: false`:
    6561 begins the text, 6562 ends the speech, 6563 begins it, text tokens from 6761. Raises ModelError with the first
    ten differences where the file does not fit.
    """
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=text,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=mlp,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    )
    found = Original(config, CODES + further, marks=marks, head_bias=head_bias)
    # Qwen's own head, over text, is the table once more and speaks nothing here.
    load_checkpoint(found, *files, optional=["llm.model.lm_head.weight"])
    return found.decoder()


class Original(nn.Module):
    """The parts by the checkpoint's names."""

    def __init__(self, config: Any, tokens: int, *, marks: bool, head_bias: bool) -> None:
        super().__init__()
        self.llm = nn.Module()
        self.llm.model = AutoModelForCausalLM.from_config(config)
        if marks:
            self.llm_embedding = nn.Embedding(2, config.hidden_size)
        self.speech_embedding = nn.Embedding(tokens, config.hidden_size)
        self.llm_decoder = nn.Linear(config.hidden_size, tokens, bias=head_bias)

    def decoder(self) -> Any:
        """Qwen2 with the joint table and the head over speech."""
        decoder = self.llm.model
        marks = [self.llm_embedding.weight] if hasattr(self, "llm_embedding") else []
        tables = [self.speech_embedding.weight, *marks, decoder.model.embed_tokens.weight]
        decoder.config.tie_word_embeddings = False
        decoder.config.vocab_size = len(self.speech_embedding.weight)
        decoder.model.embed_tokens = nn.Embedding.from_pretrained(torch.cat(tables).detach())
        decoder.lm_head = self.llm_decoder
        return decoder.eval()
