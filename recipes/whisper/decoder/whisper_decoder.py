"""One step of Whisper's decoder (Radford et al. 2022): transformers' layers over keys and values from outside.

The keys and values of the sound come from whisper/encoder and never change. Those of the text lie in a cache for 448
tokens that the caller keeps: a step reads it, and returns what the new tokens add, to be written behind `lengths`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperDecoder

from trtbuild.checkpoints import load_checkpoint, open_checkpoint
from trtbuild.core.errors import ModelError
from trtbuild.datasets.audio import clips

SMALL = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4} | {
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_source_positions": 50,
    "max_target_positions": 32, "vocab_size": 96, "pad_token_id": 0, "decoder_start_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
"""For tests: one second of sound, 32 tokens of 96."""


def decoder(files: Sequence[str] = (), weights: str = "checkpoint", outlier: float = 1.0) -> torch.nn.Module:
    """The step with the weights of a Hugging Face folder, whose config.json and safetensors are `files`.

    `weights: random` makes up a small one for tests; `outlier` then makes one neuron that much louder, and its
    listeners deafer. Raises ModelError where the files are no Whisper.
    """
    return Step(whisper(files, weights, outlier))


def whisper(files: Sequence[str | Path], weights: str = "checkpoint", outlier: float = 1.0) -> Any:
    """Transformers' whole Whisper, encoder and decoder, in FP32."""
    if weights == "random":
        torch.manual_seed(0)
        made = WhisperForConditionalGeneration(_eager(WhisperConfig(**SMALL, init_std=0.1))).eval()
        with torch.no_grad():
            for layer in made.model.decoder.layers:
                layer.fc1.weight[0] *= outlier
                layer.fc2.weight[:, 0] /= outlier
        return made
    configs = [file for file in files if Path(file).name == "config.json"]
    if not configs:
        raise ModelError(
            "Whisper needs its folder: the recipe's files list no config.json",
            hint="--set 'model.factory.files=[/models/whisper-base/config.json, /models/whisper-base/*.safetensors]', "
            "and the same, with recordings, in data.files",
        )
    module = WhisperForConditionalGeneration(_eager(WhisperConfig.from_json_file(configs[0])))
    return load_checkpoint(
        module,
        open_checkpoint([str(file) for file in files if Path(file).suffix != ".wav"]),
        optional=["proj_out.weight"],
    )


class Step(torch.nn.Module):
    """The decoder's layers, taken out of a whole Whisper."""

    output_names = ("logits", "new_key", "new_value")

    def __init__(self, whole: Any) -> None:
        super().__init__()
        own: WhisperDecoder = whole.model.decoder
        self.heads, self.scale = whole.config.decoder_attention_heads, own.embed_scale
        self.embed_tokens, self.embed_positions = own.embed_tokens, own.embed_positions
        self.layers, self.layer_norm, self.proj_out = own.layers, own.layer_norm, whole.proj_out
        for layer in self.layers:
            del layer.encoder_attn.k_proj, layer.encoder_attn.v_proj  # the encoder's recipe has them
        self.eval()

    def forward(
        self,
        input_ids: torch.Tensor,
        lengths: torch.Tensor,
        self_key: torch.Tensor,
        self_value: torch.Tensor,
        cross_key: torch.Tensor,
        cross_value: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """New tokens [batch, tokens] behind `lengths` [batch] earlier ones, whose keys and values are `self_key` and
        `self_value` [batch, layers, heads, capacity, head width]; those of the sound are `cross_key` and `cross_value`
        [batch, layers, heads, frames, head width].

        Returns logits [batch, tokens, vocabulary], and the new tokens' keys and values [batch, layers, heads, tokens,
        head width].
        """
        tokens, capacity = input_ids.shape[1], self_key.shape[3]
        order = torch.arange(tokens, device=input_ids.device)
        before = torch.arange(capacity, device=input_ids.device)[None, None, None, :] < lengths[:, None, None, None]
        among = (order[None, :] <= order[:, None])[None, None].expand(input_ids.shape[0], 1, -1, -1)
        seen = torch.cat([before.expand(-1, 1, tokens, -1), among], -1)
        mask = torch.where(seen, 0.0, -1e4)  # finite in FP16
        hidden = self.embed_tokens(input_ids) * self.scale + self.embed_positions.weight[lengths[:, None] + order]
        keys, values = [], []
        for number, layer in enumerate(self.layers):
            normed = layer.self_attn_layer_norm(hidden)
            key, value = self._split(layer.self_attn.k_proj(normed)), self._split(layer.self_attn.v_proj(normed))
            keys.append(key)
            values.append(value)
            memory = torch.cat([self_key[:, number], key], 2), torch.cat([self_value[:, number], value], 2)
            hidden = hidden + self._attended(layer.self_attn, normed, *memory, mask)
            normed = layer.encoder_attn_layer_norm(hidden)
            hidden = hidden + self._attended(layer.encoder_attn, normed, cross_key[:, number], cross_value[:, number])
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden))))
        logits = self.proj_out(self.layer_norm(hidden))
        return logits, torch.stack(keys, 1), torch.stack(values, 1)

    def _attended(
        self, attention: Any, hidden: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any = 0.0
    ) -> torch.Tensor:
        query = self._split(attention.q_proj(hidden) * attention.scaling)
        weights = torch.softmax(query @ key.transpose(-1, -2) + mask, -1)
        return attention.out_proj((weights @ value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unflatten(2, (self.heads, -1)).transpose(1, 2)


def dictated(
    split: str,
    count: int,
    files: Sequence[str | Path] = (),
    prompt: Sequence[int] = (1,),
    tokens: int = 8,
    longest: int = 96,
    weights: str = "checkpoint",
) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Yield what `count` steps were given while the model wrote down that many recordings, one a batch: the last
    `tokens` tokens of a text of `tokens` to `longest`, and the cache in front of them.

    `files` are those of the model and .wav files, of which `trtbuild.datasets.audio:clips` holds some out for
    evaluation. Text is written greedily behind `prompt`.
    """
    whole = whisper(files, weights)
    config = whole.config
    seconds = config.max_source_positions / 50
    heard = clips(
        split, count, [Path(file) for file in files if Path(file).suffix == ".wav"],
        input="features", sample_rate=16000, seconds=seconds, batch=1,
        features="log_mel", log_mel={"mels": config.num_mel_bins},
    )  # fmt: skip
    for number, clip in enumerate(heard):
        with torch.inference_mode():
            sound = whole.model.encoder(torch.from_numpy(clip["features"])).last_hidden_state
            written = tokens + (number * 7) % max(1, min(longest, config.max_target_positions - len(prompt)) - tokens)
            yield _dictation(whole, sound, list(prompt), written, tokens)


def _dictation(whole: Any, sound: torch.Tensor, text: list[int], written: int, tokens: int) -> dict[str, Any]:
    """The inputs of the step that takes the last `tokens` of the text that follows `text`."""
    config = whole.config
    past: Any = None
    states, fresh = whole.model.decoder, text
    for _ in range(written):
        found = states(torch.tensor([fresh]), encoder_hidden_states=sound, past_key_values=past, use_cache=True)
        past = found.past_key_values
        fresh = [int(whole.proj_out(found.last_hidden_state[:, -1]).argmax())]
        text = text + fresh
    length = max(0, len(text) - 1 - tokens)  # the last token has no key yet
    shape = (1, config.decoder_layers, config.decoder_attention_heads, config.max_target_positions, -1)
    own = [(layer.keys, layer.values) for layer in past.self_attention_cache.layers]
    other = [(layer.keys, layer.values) for layer in past.cross_attention_cache.layers]
    cache = np.zeros((2, *shape[:4], own[0][0].shape[-1]), np.float32)
    for number, pair in enumerate(own):
        for which, tensor in enumerate(pair):
            cache[which, :, number, :, :length] = tensor[:, :, :length].numpy()
    return {
        "input_ids": np.array([text[length : length + tokens]], np.int64),
        "lengths": np.array([length], np.int64),
        "self_key": cache[0],
        "self_value": cache[1],
        "cross_key": torch.stack([key for key, _ in other], 1).numpy(),
        "cross_value": torch.stack([value for _, value in other], 1).numpy(),
    }


def same_tokens(outputs: Any, reference_outputs: Any, inputs: Any) -> dict[str, float]:
    """The share of positions where the same token would follow."""
    del inputs
    pairs = zip(outputs, reference_outputs, strict=True)
    same = [mine["logits"].argmax(-1) == theirs["logits"].argmax(-1) for mine, theirs in pairs]
    return {"next_token_agreement": float(sum(each.sum() for each in same) / sum(each.size for each in same))}


def _eager(config: WhisperConfig) -> WhisperConfig:
    config._attn_implementation = "eager"
    return config
