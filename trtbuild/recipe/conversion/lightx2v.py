"""A LightX2V configuration of a Wan pipeline as recipes: its transformer and its encoders, as it runs them.

LightX2V reads a JSON file (configs/**/*.json) and, from its command line, which model the file is for:
`python -m lightx2v.infer --model_cls wan2.1 --task t2v --model_path ... --config_json ...`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from trtbuild.core.errors import RecipeError
from trtbuild.recipe.conversion.written import Converted, Quantized, quantized, recipe_text

COMMAND = "python -m lightx2v.infer --model_cls wan2.1 --task t2v --model_path MODEL --config_json CONFIG.json"
TWO_TRANSFORMERS = ("wan2.2_moe", "wan2.2_moe_distill")
"""Wan 2.2 with 14B: the first transformer takes the noisy steps, the second the others."""
TOLD = ("model_cls", "task", "model_path")
"""What only the command line says, as a rule."""
MODELS = ("wan2.1", "wan2.1_distill", "wan2.1_mean_flow_distill", "wan2.2", *TWO_TRANSFORMERS)
ELSEWHERE = {
    "ar_config": "an autoregressive transformer with a KV cache between chunks of frames",
    "adapter_model_path": "a transformer with an audio adapter",
    "adapter_quant_scheme": "a transformer with an audio adapter",
    "transformer_model_name": "HunyuanVideo",
    "text_encoder_quant_scheme": "another text encoder than umT5",
    "qwen25vl_quant_scheme": "Qwen-Image",
    "qwen3_quant_scheme": "Qwen3 as its text encoder",
}
"""Keys of configurations for models that have no recipe, and what they are for."""
PICTURE = [257, 1280]
"""Tokens and width of wan/clip's answer."""
SIZES = ((r"1[._]3b?", "1.3B"), (r"5b", "5B"))
"""How names of folders and files say the size; 14B is not said as a rule."""


def converted(said: Mapping[str, Any], name: str) -> list[Converted]:
    """The recipes for a configuration, with what the command line said of the model in it; `name` is the file's.

    Raises RecipeError where it is for another model, or a scheme is impossible, saying why and what is nearest.
    """
    for key, what in ELSEWHERE.items():
        if said.get(key):
            raise RecipeError(
                f"{name}: {key} says that it is for {what}, which has no recipe",
                hint="wan/dit, wan/umt5 and wan/clip are for Wan 2.1 and 2.2",
            )
    model, task, head = _model(said, name)
    found = [*_transformers(said, model, task, head), _text_encoder(said, head)]
    if _sees_a_picture(model, task):
        found.append(_picture_encoder(said, head))
    return found


def _sees_a_picture(model: str, task: str) -> bool:
    """Whether the transformer takes CLIP's embedding of a picture: Wan 2.2's takes the picture's latents alone."""
    return task == "i2v" and model not in ("wan2.2", *TWO_TRANSFORMERS)


def _model(said: Mapping[str, Any], name: str) -> tuple[str, str, list[str]]:
    """Which model and task the file is for, and a comment's lines that say so."""
    words = re.split(r"[^a-z0-9]+", f"{said.get('model_path', '')} {name}".lower())
    model = said.get("model_cls") or _named(said, words)
    task = said.get("task") or next((word for word in ("t2v", "i2v") if word in words), None)
    if model is None or task is None:
        raise RecipeError(f"{name} does not say its model and task", hint=f'say them: --from lightx2v "{COMMAND}"')
    if model not in MODELS or task not in ("t2v", "i2v"):
        raise RecipeError(
            f"{name}: there is no recipe for model_cls {model}, task {task}",
            hint=f"there is for t2v and i2v of {', '.join(MODELS)}",
        )
    head = [f"From LightX2V's {name}: {model}, {task}."]
    if not (said.get("model_cls") and said.get("task")):
        head.append(f'Model and task are as the file is named. To say them: trtbuild init --from lightx2v "{COMMAND}"')
    return model, task, head


def _named(said: Mapping[str, Any], words: list[str]) -> str | None:
    """The model class by the words of the file's name; None where they leave it open."""
    if "moe" in words or any(key.startswith("high_noise_") for key in said):
        return "wan2.2_moe"
    if "wan22" in words:
        return "wan2.2" if "5b" in words else None
    return "wan2.1" if {"wan", "wan21"} & set(words) else None


def _transformers(said: Mapping[str, Any], model: str, task: str, head: list[str]) -> Iterator[Converted]:
    size = _size(said, model, task, head[0])
    latent, text = _lengths(said, size)
    inputs = {
        "hidden_states": {"dtype": "float32", "dims": ["batch", *latent]},
        "encoder_hidden_states": {"dtype": "float32", "dims": ["batch", *text]},
    }
    arguments: dict[str, Any] = {"latent": latent, "text": text}
    if _sees_a_picture(model, task):
        inputs["encoder_hidden_states_image"] = {"dtype": "float32", "dims": ["batch", *PICTURE]}
        arguments["picture"] = PICTURE
    folders = {"dit": ""}
    if model in TWO_TRANSFORMERS:
        folders = {"dit_high_noise": "high_noise_model/", "dit_low_noise": "low_noise_model/"}
    for folder, below in folders.items():
        key = folder.removeprefix("dit").lstrip("_") or "dit"
        variants, remarks = _variants(said, "dit", said.get(f"{key}_quantized_ckpt"))
        own = said.get(f"{key}_original_ckpt") or f"{_root(said)}/{below}diffusion_pytorch_model*.safetensors"
        settings = {
            "model": {"factory": {"arguments": {"size": size}, "files": [own]}},
            "shapes": {"inputs": inputs},
            "data": {"arguments": arguments},
        }
        remarks = [*head, *remarks, "Give it .npz of real runs: data.files (recipes/wan/README.md)."]
        yield _recipe(folder, "wan/dit", remarks, settings, variants)


def _text_encoder(said: Mapping[str, Any], head: list[str]) -> Converted:
    tokens = int(said.get("text_len", 512))
    variants, remarks = _variants(said, "t5", said.get("t5_quantized_ckpt"))
    own = said.get("t5_original_ckpt") or f"{_root(said)}/models_t5_umt5-xxl-enc-bf16.pth"
    each = {"dtype": "int64", "dims": ["batch", tokens]}
    settings = {
        "model": {"factory": {"files": [own]}},
        "shapes": {"inputs": {"input_ids": each, "attention_mask": each}},
        "data": {
            "arguments": {"max_length": tokens},
            "files": [f"{_root(said)}/google/umt5-xxl/tokenizer.json", "prompts/*.txt"],
        },
    }
    return _recipe("umt5", "wan/umt5", [*head, *remarks], settings, variants)


def _picture_encoder(said: Mapping[str, Any], head: list[str]) -> Converted:
    variants, remarks = _variants(said, "clip", said.get("clip_quantized_ckpt"))
    own = f"{_root(said)}/models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    settings = {"model": {"factory": {"files": [own]}}, "data": {"files": ["pictures/*.jpg"]}}
    return _recipe("clip", "wan/clip", [*head, *remarks], settings, variants)


def _variants(said: Mapping[str, Any], part: str, checkpoint: str | None) -> tuple[list[Quantized], list[str]]:
    """The variant that a part's scheme becomes, none where it runs in 16 bits, and what to say of its checkpoint."""
    scheme = said.get(f"{part}_quant_scheme") if said.get(f"{part}_quantized") else None
    if scheme in (None, "Default"):
        return [], []
    told = (
        f"Its quantized checkpoint ({checkpoint}) is not read: " if checkpoint else "No quantized checkpoint is read: "
    )
    return [quantized(scheme, "LightX2V")], [f"{told}the original weights are quantized here, with calibration."]


def _size(said: Mapping[str, Any], model: str, task: str, name: str) -> str:
    """Which of wan/dit's sizes it is, by the model class or by what the paths say."""
    if model == "wan2.2":
        return "5B"
    if model not in TWO_TRANSFORMERS and task == "t2v":
        where = f"{said.get('model_path', '')} {said.get('dit_original_ckpt', '')} {name}".lower()
        for pattern, size in SIZES:
            if re.search(rf"(?<![0-9]){pattern}(?![0-9])", where):
                return size
    return "14B" if task == "t2v" else "14B-i2v-clip" if _sees_a_picture(model, task) else "14B-i2v"


def _lengths(said: Mapping[str, Any], size: str) -> tuple[list[int], list[int]]:
    """The latents' [channels, frames, height, width] and the text's [tokens, width], as its VAE and umT5 make them."""
    frames, height, width = (said.get(f"target_{key}") for key in ("video_length", "height", "width"))
    if not (isinstance(frames, int) and isinstance(height, int) and isinstance(width, int)):
        raise RecipeError(
            "an engine serves one resolution, and target_video_length, target_height and target_width do not say one",
            hint="write them into the configuration, for example 81, 480 and 832",
        )
    channels, stride = {"5B": (48, 16), "14B-i2v": (36, 8), "14B-i2v-clip": (36, 8)}.get(size, (16, 8))
    if height % (2 * stride) or width % (2 * stride) or (frames - 1) % 4:
        raise RecipeError(
            f"{frames} frames of {height} x {width} are no latents: sides are multiples of {2 * stride}, frames 4n + 1",
            hint=f"nearest: {(frames - 1) // 4 * 4 + 1} frames of {height // stride // 2 * stride * 2} x "
            f"{width // stride // 2 * stride * 2}",
        )
    return [channels, (frames - 1) // 4 + 1, height // stride, width // stride], [int(said.get("text_len", 512)), 4096]


def _root(said: Mapping[str, Any]) -> str:
    return str(said.get("model_path") or "model").rstrip("/")


def _recipe(
    folder: str, extends: str, remarks: list[str], settings: Mapping[str, Any], variants: list[Quantized]
) -> Converted:
    recipe = f"wan-{folder}".replace("_", "-")
    text = recipe_text(recipe=recipe, extends=extends, head=remarks, settings=settings, variants=variants)
    return Converted(folder, text, [variant.remark for variant in variants])
