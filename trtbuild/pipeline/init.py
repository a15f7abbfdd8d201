"""A first recipe for a model: a folder with the recipe, a sample generator and the schema for editors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, get_args

from trtbuild.core.errors import ModelError, StoreError
from trtbuild.core.tensors import AxisRange, DType, Shapes, TensorSpec
from trtbuild.recipe.decoder_starter import decoder_recipe
from trtbuild.recipe.json_schema import json_schema
from trtbuild.recipe.starter import starter_recipe

_OF_ARRAYS = '''"""Samples from .npz files: one array an input, rows of a batch on the first axis."""

from pathlib import Path

import numpy as np


def generate(split, count):
    """Yield the batches in samples/calibration/*.npz or samples/evaluation/*.npz, at most `count` rows."""
    folder = Path(__file__).parent / "samples" / split
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise FileNotFoundError(f"put .npz files with real inputs into {folder}")
    rows = 0
    for file in files:
        with np.load(file, allow_pickle=False) as batch:
            tensors = dict(batch)
        rows += len(next(iter(tensors.values())))
        yield tensors
        if rows >= count:
            return
'''

_OF_TEXT = '''"""Samples from text: the lines of calibration.txt and evaluation.txt, tokenized."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

FOLDER = {folder!r}
LONGEST = 64


def generate(split, count, batch=16):
    """Yield batches of tokenized lines of <split>.txt, padded to the longest of the batch."""
    text = Path(__file__).with_name(f"{{split}}.txt")
    if not text.is_file():
        raise FileNotFoundError(f"put real sentences, one a line, into {{text}}")
    lines = [line for line in dict.fromkeys(text.read_text().splitlines()) if line.strip()][:count]
    tokenizer = Tokenizer.from_file(str((Path(__file__).parent / FOLDER / "tokenizer.json").resolve()))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()
    for start in range(0, len(lines), batch):
        encoded = tokenizer.encode_batch(lines[start : start + batch])
        columns = {{"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}}
        yield {{
            name: np.array([getattr(row, columns[name]) for row in encoded], dtype=np.int64) for name in {inputs!r}
        }}


def agreement(outputs, reference_outputs, inputs):
    """Cosine between each sentence's embedding (the mean over its unmasked tokens) and the reference's."""
    cosines = np.concatenate(
        [
            _cosine(_pooled(mine, batch), _pooled(theirs, batch))
            for mine, theirs, batch in zip(outputs, reference_outputs, inputs, strict=True)
        ]
    )
    return {{"embedding_cosine_mean": cosines.mean(), "embedding_cosine_min": cosines.min()}}


def _pooled(tensors, batch):
    hidden = next(iter(tensors.values()))
    mask = batch["attention_mask"][..., None] if "attention_mask" in batch else np.ones(hidden.shape[:2])[..., None]
    return (hidden * mask).sum(1) / mask.sum(1)


def _cosine(one, other):
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
'''


def init(model: Path, folder: Path) -> list[Path]:
    """Write a first recipe for an ONNX file, a Hugging Face folder or a decoder's; returns the files written.

    Raises ModelError where `model` is neither, StoreError where the folder has a recipe already or cannot be written.
    """
    if (folder / "recipe.yaml").exists():
        raise StoreError(f"{folder} has a recipe.yaml already", hint="choose another folder with --output")
    place = _relative(model, folder)
    if model.is_file():
        shapes = _shapes_of_onnx(model)
        recipe = starter_recipe(model.stem, shapes, onnx=place, schema="recipe.schema.json")
        samples = _OF_ARRAYS
    elif _writes_text(model):
        positions = _positions(model)
        recipe, samples = decoder_recipe(model.resolve().name, place, positions, schema="recipe.schema.json"), ""
    elif (model / "config.json").is_file():
        shapes = _shapes_of_folder(model)
        recipe = starter_recipe(model.resolve().name, shapes, folder=place, schema="recipe.schema.json")
        samples = _OF_TEXT.format(folder=place, inputs=list(shapes.inputs))
    else:
        raise ModelError(
            f"{model} is neither an ONNX file nor a Hugging Face folder",
            hint="name a .onnx file, or a folder that holds a config.json",
        )
    texts = {
        "recipe.yaml": recipe,
        "samples.py": samples,
        "recipe.schema.json": json.dumps(json_schema(), indent=2) + "\n",
    }
    texts = {name: text for name, text in texts.items() if text}  # a decoder's recipe takes built-in samples
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise StoreError(f"{folder}: cannot write the recipe: {error.strerror or error}") from error
    return [folder / name for name in texts]


def _relative(model: Path, folder: Path) -> str:
    return os.path.relpath(model.resolve(), folder.resolve())


def _shapes_of_onnx(file: Path) -> Shapes:
    from trtbuild.graph import document  # only ONNX sources need the ONNX floor

    inputs: dict[str, TensorSpec] = {}
    axes: dict[str, AxisRange] = {}
    for value in document.load(file).graph.inputs:
        name = value.name or ""
        dtype = _dtype_name(value.dtype)
        if dtype not in get_args(DType) or value.shape is None:
            raise ModelError(
                f"{file}: input {name!r} has type {dtype} and shape {value.shape}; a recipe cannot say that"
            )
        dims: list[int | str] = []
        for position, dim in enumerate(value.shape):
            length = dim if isinstance(dim, int) else str(getattr(dim, "value", dim) or f"{name}_{position}")
            if isinstance(length, str):
                axes.setdefault(length, AxisRange(min=1, opt=8, max=32))
            dims.append(length)
        inputs[name] = TensorSpec.model_validate({"dtype": dtype, "dims": dims})
    return Shapes(inputs=inputs, axes=axes)


def _dtype_name(dtype: Any) -> str:
    names = {"FLOAT": "float32"}
    return names.get(dtype.name, dtype.name.lower()) if dtype is not None else "unknown"


def _writes_text(folder: Path) -> bool:
    """Whether a Hugging Face folder holds a decoder."""
    if not (folder / "config.json").is_file():
        return False
    named = _json(folder / "config.json").get("architectures") or []
    return any(str(name).endswith("ForCausalLM") or name == "GPT2LMHeadModel" for name in named)


def _positions(folder: Path) -> int:
    config = _json(folder / "config.json")
    return int(config.get("max_position_embeddings") or config.get("n_positions") or 2048)


def _shapes_of_folder(folder: Path) -> Shapes:
    """A text encoder's inputs: those its tokenizer names, up to the positions its config has."""
    config = _json(folder / "config.json")
    tokenizer = _json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    names = tokenizer.get("model_input_names") or ["input_ids", "attention_mask"]
    longest = int(config.get("max_position_embeddings") or 512)
    return Shapes(
        inputs={name: TensorSpec(dtype="int64", dims=["batch", "sequence"]) for name in names},
        axes={
            "batch": AxisRange(min=1, opt=8, max=32),
            "sequence": AxisRange(min=2, opt=min(128, longest), max=min(512, longest)),
        },
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: not readable as JSON: {error}") from error
    return found if isinstance(found, dict) else {}
