"""Wan's diffusion transformer (Wan 2.1 and 2.2, arXiv 2503.20314), from either spelling of its weights.

The module is diffusers'. Its attention is written as products and a softmax, its rotary embedding without writes into
slices: both export to nodes that engines fuse and that quantization finds by module path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel

from trtbuild.checkpoints import load_checkpoint, open_checkpoint
from trtbuild.core.errors import ModelError

SIZES: dict[str, dict[str, Any]] = {
    "1.3B": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "5B": {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
    "14B": {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
    "14B-i2v": {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40, "in_channels": 36},
    "small": {"num_attention_heads": 4, "attention_head_dim": 32, "ffn_dim": 256, "num_layers": 2, "text_dim": 64},
}
SIZES["14B-i2v-clip"] = SIZES["14B-i2v"] | {"image_dim": 1280, "added_kv_proj_dim": 5120}
SIZES["small-clip"] = SIZES["small"] | {"image_dim": 24, "added_kv_proj_dim": 128}
"""What each checkpoint's config.json says where it differs from diffusers' defaults. `14B-i2v` is Wan 2.2's, which
takes no picture embedding, `14B-i2v-clip` is Wan 2.1's, which does; the small ones are for tests."""
PICTURE_TOKENS = 257
"""Of a picture embedding, that of CLIP ViT-H: 16 x 16 patches and the class."""

ORIGINAL_NAMES = (
    (r"^model\.diffusion_model\.", ""),
    (r"^time_embedding\.0", "condition_embedder.time_embedder.linear_1"),
    (r"^time_embedding\.2", "condition_embedder.time_embedder.linear_2"),
    (r"^text_embedding\.0", "condition_embedder.text_embedder.linear_1"),
    (r"^text_embedding\.2", "condition_embedder.text_embedder.linear_2"),
    (r"^time_projection\.1", "condition_embedder.time_proj"),
    (r"^img_emb\.proj\.0\.", "condition_embedder.image_embedder.norm1."),
    (r"^img_emb\.proj\.1\.", "condition_embedder.image_embedder.ff.net.0.proj."),
    (r"^img_emb\.proj\.3\.", "condition_embedder.image_embedder.ff.net.2."),
    (r"^img_emb\.proj\.4\.", "condition_embedder.image_embedder.norm2."),
    (r"^head\.modulation$", "scale_shift_table"),
    (r"^head\.head", "proj_out"),
    (r"\.modulation$", ".scale_shift_table"),
    (r"\.self_attn\.", ".attn1."),
    (r"\.cross_attn\.", ".attn2."),
    (r"\.(q|k|v)\.(weight|bias)$", r".to_\1.\2"),
    (r"\.o\.(weight|bias)$", r".to_out.0.\1"),
    (r"\.(k|v)_img\.", r".add_\1_proj."),
    (r"\.norm_k_img\.", ".norm_added_k."),
    (r"\.ffn\.0\.", ".ffn.net.0.proj."),
    (r"\.ffn\.2\.", ".ffn.net.2."),
)
"""From the names of Wan's own repository to diffusers', one rule after the other. Its norm2 and norm3 change places."""
_SWAPPED = {"norm2": "norm3", "norm3": "norm2"}


def transformer(
    files: Sequence[str] = (), size: str = "1.3B", weights: str = "checkpoint", outlier: float = 1.0
) -> torch.nn.Module:
    """Wan's transformer of a size in SIZES, with the weights of a checkpoint.

    `files` is one file, or all shards of one checkpoint. `weights: random` makes them up, for tests and for measuring;
    `outlier` then makes one neuron that much louder, and its listeners deafer, as trained networks have them. Raises
    ModelError where they do not fit.
    """
    if size not in SIZES:
        raise ModelError(f"there is no Wan transformer {size!r}", hint=f"the sizes are {', '.join(SIZES)}")
    if weights == "random":
        torch.manual_seed(0)
        module = Denoiser(**SIZES[size])
        with torch.no_grad():
            for block in module.blocks:
                block.scale_shift_table.normal_()  # untrained gates are shut, and would hide every error behind them
                block.ffn.net[0].proj.weight[0] *= outlier
                block.ffn.net[2].weight[:, 0] /= outlier
    else:
        if not files:
            raise ModelError(
                "Wan needs its checkpoint: model.factory.files is empty",
                hint="--set 'model.factory.files=[/models/Wan2.1-T2V-1.3B/diffusion_pytorch_model.safetensors]'",
            )
        with torch.device("meta"):
            module = Denoiser(**SIZES[size])
        module.rope = type(module.rope)(module.config.attention_head_dim, module.config.patch_size, 1024)
        opened = open_checkpoint(files)
        if any(".self_attn." in name for name in opened):
            opened = opened.renamed(diffusers_name)
        load_checkpoint(module, opened)
    module.set_attn_processor(PlainAttention())
    return module.eval()


def diffusers_name(name: str) -> str:
    """What diffusers calls a tensor of Wan's own checkpoints."""
    for pattern, replacement in ORIGINAL_NAMES:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"^(blocks\.\d+)\.(norm2|norm3)\.", lambda found: f"{found[1]}.{_SWAPPED[found[2]]}.", name)


class Denoiser(WanTransformer3DModel):  # type: ignore[misc]  # diffusers is untyped
    """The transformer with one tensor as its answer."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_image: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Latents [batch, channels, frames, height, width], time steps [batch] in 0..1000 and text embeddings [batch,
        tokens, text width], with Wan 2.1's i2v also wan/clip's [batch, 257, 1280], to the velocity [batch, 16 or 48,
        frames, height, width]."""
        answer: torch.Tensor = super().forward(
            hidden_states, timestep, encoder_hidden_states, encoder_hidden_states_image, return_dict=False
        )[0]
        return answer


class PlainAttention:
    """Wan's attention as MatMul and Softmax, its rotary embedding as products and a concatenation."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attend from [batch, tokens, width] to itself or to the text, in front of which a picture may stand."""
        memory = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        picture = None
        if attn.add_k_proj is not None:
            picture, memory = memory[:, :PICTURE_TOKENS], memory[:, PICTURE_TOKENS:]
        query, key, value = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(memory)), attn.to_v(memory)
        query, key, value = (tensor.unflatten(2, (attn.heads, -1)) for tensor in (query, key, value))
        if rotary_emb is not None:
            query, key = rotated(query, *rotary_emb), rotated(key, *rotary_emb)
        query = query.transpose(1, 2)
        answer = attended(query, key, value)
        if picture is not None:
            shown = (attn.norm_added_k(attn.add_k_proj(picture)), attn.add_v_proj(picture))
            answer = answer + attended(query, *(tensor.unflatten(2, (attn.heads, -1)) for tensor in shown))
        return attn.to_out[0](answer.transpose(1, 2).flatten(2, 3))  # type: ignore[no-any-return]


def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of [batch, heads, tokens, width] over keys and values [batch, tokens, heads, width]."""
    scores = query @ key.permute(0, 2, 3, 1) * query.shape[-1] ** -0.5
    return torch.softmax(scores, -1) @ value.transpose(1, 2)


def rotated(tensor: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Pairs of neighbours of the last axis, each turned by its angle (RoFormer, Su et al. 2021)."""
    even, odd = tensor.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def noised(
    split: str,
    count: int,
    files: Sequence[str] = (),
    latent: Sequence[int] = (16, 21, 60, 104),
    text: Sequence[int] = (512, 4096),
    picture: Sequence[int] = (),
) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Yield `count` inputs, one a batch: latents on the way from noise to a video, as sampling meets them.

    `files` are .npz files from real runs, with `latents` [channels, frames, height, width] of finished videos, `text`
    [tokens, width] of their prompts and, where `picture` gives its lengths, `picture` [257, 1280] of wan/clip: an input
    is their mixture with noise at a time step (flow matching, x_t = (1 - t) x + t noise). Three files of four
    calibrate. Without files all are noise, which shows what a random network does and nothing of a trained one.
    """
    rng = np.random.default_rng({"calibration": 0, "evaluation": 1}[split])
    half = len(files) * 3 // 4 or len(files)
    own = [*files[:half]] if split == "calibration" else [*files[half:]] or [*files]
    for number in range(count):
        noise = rng.standard_normal(latent).astype(np.float32)
        video, prompt = rng.standard_normal(latent).astype(np.float32), rng.standard_normal(text).astype(np.float32)
        shown = rng.standard_normal(picture).astype(np.float32) if picture else None
        if own:
            with np.load(own[number % len(own)], allow_pickle=False) as recorded:
                video, prompt = recorded["latents"].astype(np.float32), recorded["text"].astype(np.float32)
                shown = recorded["picture"].astype(np.float32) if picture else None
        time = np.float32((number + 0.5) / count)
        yield {
            "hidden_states": ((1 - time) * video + time * noise)[None],
            "timestep": np.array([1000 * time], np.float32),
            "encoder_hidden_states": prompt[None],
            **({} if shown is None else {"encoder_hidden_states_image": shown[None]}),
        }
