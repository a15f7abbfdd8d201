"""Stable Diffusion's UNet (Rombach et al. 2022, Podell et al. 2023): diffusers' module with plain attention."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from trtbuild.checkpoints import load_checkpoint, open_checkpoint
from trtbuild.core.errors import ModelError

SMALL: dict[str, Any] = {
    "block_out_channels": (32,), "layers_per_block": 1, "cross_attention_dim": 32, "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",), "norm_num_groups": 8,
    "mid_block_type": None,
}  # fmt: skip
"""For tests."""


def denoiser(files: Sequence[str] = (), weights: str = "checkpoint", outlier: float = 1.0) -> torch.nn.Module:
    """The UNet with the weights of a diffusers folder, whose config.json and safetensors are `files`.

    `weights: random` makes up a small one for tests; `outlier` then makes one neuron of each feed-forward layer that
    much louder, and its listeners deafer. Raises ModelError where the files are no such UNet.
    """
    if weights == "random":
        torch.manual_seed(0)
        module = Denoiser(**SMALL)
        with torch.no_grad():
            for block in (each for each in module.modules() if type(each).__name__ == "BasicTransformerBlock"):
                block.ff.net[0].proj.weight[0] *= outlier
                block.ff.net[2].weight[:, 0] /= outlier
    else:
        configs = [file for file in files if Path(file).name == "config.json"]
        if not configs:
            raise ModelError(
                "the UNet needs its folder: model.factory.files lists no config.json",
                hint="--set 'model.factory.files=[/models/sd15/unet/config.json, /models/sd15/unet/*.safetensors]'",
            )
        with torch.device("meta"):
            module = Denoiser.from_config(json.loads(Path(configs[0]).read_text()))
        load_checkpoint(module, open_checkpoint(files))
    module.set_attn_processor(PlainAttention())
    return module.eval()  # type: ignore[no-any-return]  # diffusers is untyped


class Denoiser(UNet2DConditionModel):  # type: ignore[misc]  # diffusers is untyped
    """The UNet with one tensor as its answer."""

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        text_embeds: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Latents [batch, channels, height, width], time steps [batch] in 0..999 and text embeddings [batch, tokens,
        text width], with XL also the pooled text [batch, width] and six sizes [batch, 6], to the noise in the latents,
        shaped as these."""
        more = None if text_embeds is None else {"text_embeds": text_embeds, "time_ids": time_ids}
        answer: torch.Tensor = super().forward(
            sample, timestep, encoder_hidden_states, added_cond_kwargs=more, return_dict=False
        )[0]
        return answer


class PlainAttention:
    """Attention as MatMul and Softmax, which engines fuse and quantization finds by module path."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend from [batch, tokens, width] to itself or to the text."""
        memory = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            tensor.unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for tensor in (attn.to_q(hidden_states), attn.to_k(memory), attn.to_v(memory))
        )
        weights = torch.softmax(query @ key.transpose(-1, -2) * attn.scale, -1)
        return attn.to_out[0]((weights @ value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def noised(
    split: str,
    count: int,
    files: Sequence[str] = (),
    latent: Sequence[int] = (4, 64, 64),
    text: Sequence[int] = (77, 768),
    more: dict[str, int] | None = None,
) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Yield `count` inputs, one a batch: latents with noise, at the steps of the schedule that Stable Diffusion was
    trained with (x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise, a_t the product of 1 - beta, beta from 0.00085 to 0.012,
    linear in its root).

    `files` are .npz files from real runs, with `latents` [channels, height, width] of finished pictures, `text`
    [tokens, width] of their prompts and, with XL, `text_embeds` and `time_ids`; `more` gives the lengths of these two
    by name. Three files of four calibrate. Without files all are noise, which shows what a random network does and
    nothing of a trained one.
    """
    rng = np.random.default_rng({"calibration": 0, "evaluation": 1}[split])
    half = len(files) * 3 // 4 or len(files)
    own = [*files[:half]] if split == "calibration" else [*files[half:]] or [*files]
    kept = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    for number in range(count):
        found = {"latents": rng.standard_normal(latent), "text": rng.standard_normal(text)}
        found |= {name: rng.standard_normal(width) for name, width in (more or {}).items()}
        if own:
            with np.load(own[number % len(own)], allow_pickle=False) as recorded:
                found = {name: recorded[name] for name in found}
        time = int((number + 0.5) / count * 1000)
        noise = rng.standard_normal(found["latents"].shape)
        latents = kept[time] ** 0.5 * found.pop("latents") + (1 - kept[time]) ** 0.5 * noise
        rows = {"sample": latents, "timestep": np.float32(time), "encoder_hidden_states": found.pop("text"), **found}
        yield {name: np.asarray(row, np.float32)[None] for name, row in rows.items()}
