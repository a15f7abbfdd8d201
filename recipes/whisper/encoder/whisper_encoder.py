"""Whisper's encoder (Radford et al. 2022): transformers' module, and the decoder's projections of what it heard.

The decoder's layers attend to the same sound at every step, so their keys and values are computed once, here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from trtbuild.checkpoints import load_checkpoint, open_checkpoint
from trtbuild.core.errors import ModelError

SMALL = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4} | {
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_source_positions": 50,
}  # fmt: skip
"""For tests: one second of sound."""


def encoder(files: Sequence[str] = (), weights: str = "checkpoint", outlier: float = 1.0) -> torch.nn.Module:
    """The encoder with the weights of a Hugging Face folder, whose config.json and safetensors are `files`.

    `weights: random` makes up a small one for tests; `outlier` then makes one neuron that much louder, and its
    listeners deafer. Raises ModelError where the files are no Whisper.
    """
    if weights == "random":
        torch.manual_seed(0)
        made = Encoder(_eager(WhisperConfig(**SMALL))).eval()
        with torch.no_grad():
            for layer in made.layers:
                layer.fc1.weight[0] *= outlier
                layer.fc2.weight[:, 0] /= outlier
        return made
    configs = [file for file in files if Path(file).name == "config.json"]
    if not configs:
        raise ModelError(
            "Whisper needs its folder: model.factory.files lists no config.json",
            hint="--set 'model.factory.files=[/models/whisper-base/config.json, /models/whisper-base/*.safetensors]'",
        )
    with torch.device("meta"):
        module = Encoder(_eager(WhisperConfig.from_json_file(configs[0])))
    opened = open_checkpoint(files).renamed(own_name)
    return load_checkpoint(module, opened, ignore=["model.decoder.*", "proj_out.*"])  # type: ignore[no-any-return]


def own_name(name: str) -> str:
    """What this module calls a tensor of transformers' WhisperForConditionalGeneration."""
    name = re.sub(r"^model\.decoder\.layers\.(\d+)\.encoder_attn\.(k|v)_proj\.", r"cross.\1.\2_proj.", name)
    return name.removeprefix("model.encoder.")


class Encoder(WhisperEncoder):  # type: ignore[misc]  # transformers is untyped here
    """The encoder, and one pair of projections for each layer of the decoder."""

    output_names = ("hidden_states", "cross_key", "cross_value")

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config)
        self.cross = torch.nn.ModuleList([Projections(config.d_model) for _ in range(config.decoder_layers)])

    def forward(self, input_features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-mel spectrograms [batch, mels, frames] to hidden states [batch, frames / 2, width], and keys and values
        [batch, decoder layers, heads, frames / 2, head width]."""
        heard = super().forward(input_features).last_hidden_state
        heads = self.config.decoder_attention_heads
        keys = [layer.k_proj(heard).unflatten(2, (heads, -1)).transpose(1, 2) for layer in self.cross]
        values = [layer.v_proj(heard).unflatten(2, (heads, -1)).transpose(1, 2) for layer in self.cross]
        return heard, torch.stack(keys, 1), torch.stack(values, 1)


class Projections(torch.nn.Module):
    """What one layer of the decoder makes of the sound."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.k_proj = torch.nn.Linear(width, width, bias=False)
        self.v_proj = torch.nn.Linear(width, width)


def _eager(config: WhisperConfig) -> WhisperConfig:
    config._attn_implementation = "eager"
    return config
