"""Wan's picture encoder, CLIP ViT-H/14 of open-clip (Radford et al. 2021): transformers' module, from either spelling.

Image-to-video models take the hidden states in front of the last layer, so that layer is never built.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from trtbuild.checkpoints import load_checkpoint, open_checkpoint
from trtbuild.checkpoints.reading import Checkpoint
from trtbuild.core.errors import ModelError

SIZES: dict[str, dict[str, Any]] = {
    "vit-h": {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 31, "num_attention_heads": 16}
    | {"patch_size": 14, "image_size": 224},
    "small": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"patch_size": 14, "image_size": 56},
}
"""ViT-H without its last layer, and one for tests."""

ORIGINAL_NAMES = (
    (r"^visual\.patch_embedding\.", "embeddings.patch_embedding."),
    (r"^visual\.cls_embedding$", "embeddings.class_embedding"),
    (r"^visual\.pos_embedding$", "embeddings.position_embedding.weight"),
    (r"^visual\.pre_norm\.", "pre_layrnorm."),
    (r"^visual\.transformer\.(\d+)\.norm(1|2)\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^visual\.transformer\.(\d+)\.attn\.(q|k|v)\.", r"encoder.layers.\1.self_attn.\2_proj."),
    (r"^visual\.transformer\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"^visual\.transformer\.(\d+)\.mlp\.0\.", r"encoder.layers.\1.mlp.fc1."),
    (r"^visual\.transformer\.(\d+)\.mlp\.2\.", r"encoder.layers.\1.mlp.fc2."),
)
"""From the names of `models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth` to transformers'."""
UNUSED = ["textual.*", "log_scale", "post_layernorm.*", "visual.*", "text_model.*", "*_projection.*", "*position_ids"]
"""What whole checkpoints hold beside the picture encoder: text, heads, tables of positions."""


def encoder(
    files: Sequence[str] = (), size: str = "vit-h", weights: str = "checkpoint", outlier: float = 1.0
) -> torch.nn.Module:
    """The encoder with the weights of a checkpoint: pictures [batch, 3, side, side] to hidden states [batch, tokens,
    width], the class token first.

    `weights: random` makes them up, for tests and for measuring; `outlier` then makes one neuron that much louder, and
    its listeners deafer. Raises ModelError where they do not fit.
    """
    config = CLIPVisionConfig(**SIZES[size], hidden_act="gelu")
    config._attn_implementation = "eager"
    if weights == "random":
        torch.manual_seed(0)
        made = Pictures(config).eval()
        with torch.no_grad():
            for layer in made.encoder.layers:
                for linear in (layer.self_attn.v_proj, layer.self_attn.out_proj, layer.mlp.fc1, layer.mlp.fc2):
                    linear.weight *= 5  # untrained layers are so quiet that an error in one would hardly be heard
                layer.mlp.fc1.weight[0] *= outlier
                layer.mlp.fc2.weight[:, 0] /= outlier
        return made
    if not files:
        raise ModelError(
            "CLIP needs its checkpoint: model.factory.files is empty",
            hint="--set 'model.factory.files=[/models/.../models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth]'",
        )
    opened = open_checkpoint(files)
    if any(name.startswith("visual.") for name in opened):
        opened = split_attention(opened).renamed(transformers_name)
    opened = opened.renamed(lambda name: name.removeprefix("vision_model."))  # as transformers 4 wrote it
    return load_checkpoint(  # type: ignore[no-any-return]
        Pictures(config),
        opened,
        ignore=[*UNUSED, f"encoder.layers.{config.num_hidden_layers}.*"],
        optional=["post_layernorm.*"],
    )


def transformers_name(name: str) -> str:
    """What transformers calls a tensor of open-clip's checkpoint."""
    for pattern, replacement in ORIGINAL_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def split_attention(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint whose query, key and value are one tensor, with three; embeddings without their first axis."""
    gone: set[str] = set()
    made: dict[str, Callable[[], torch.Tensor]] = {}
    for name in checkpoint:
        if found := re.fullmatch(r"(visual\..*\.attn)\.to_qkv\.(weight|bias)", name):
            gone.add(name)
            made |= {f"{found[1]}.{each}.{found[2]}": _third(checkpoint, name, part) for part, each in enumerate("qkv")}
        elif name in ("visual.cls_embedding", "visual.pos_embedding"):
            gone.add(name)
            made[name] = _unpacked(checkpoint, name)
    return checkpoint.replaced(gone, made)


def _third(checkpoint: Checkpoint, name: str, part: int) -> Callable[[], torch.Tensor]:
    return lambda: checkpoint[name].chunk(3)[part]


def _unpacked(checkpoint: Checkpoint, name: str) -> Callable[[], torch.Tensor]:
    return lambda: checkpoint[name].reshape(-1) if name.endswith("cls_embedding") else checkpoint[name][0]


class Pictures(CLIPVisionModel):  # type: ignore[misc]  # transformers is untyped here
    """The encoder with one tensor as its answer."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pictures [batch, 3, side, side], normalized as CLIP's, to hidden states [batch, tokens, width]."""
        embedded = self.pre_layrnorm(self.embeddings(pixel_values))
        answer: torch.Tensor = self.encoder(inputs_embeds=embedded, return_dict=True).last_hidden_state
        return answer


def gradients(split: str, count: int, side: int = 224) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Yield `count` smooth made-up pictures, four a batch, normalized: for tests; real ones come from
    `trtbuild.datasets.images:folder`."""
    rng = np.random.default_rng({"calibration": 0, "evaluation": 1}[split])
    line = np.linspace(0, 1, side, dtype=np.float32)
    for _ in range(0, count, 4):
        waves = rng.uniform(1, 12, (4, 3, 2, 1, 1)).astype(np.float32)
        pictures = np.sin(waves[:, :, 0] * line[:, None] * 6 + waves[:, :, 1] * line[None, :] * 6)
        yield {"pixel_values": pictures.astype(np.float32)}
