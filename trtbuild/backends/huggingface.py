"""Modules from a Hugging Face model folder, loaded by transformers: no network, no code from the folder."""

from __future__ import annotations

import difflib
import functools
import json
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

from trtbuild.backends.huggingface_quantized import is_quantized, load_quantized
from trtbuild.core import git_lfs
from trtbuild.core.errors import ModelError
from trtbuild.core.roles import Loader
from trtbuild.core.sources import HuggingFaceSource, ModelSource

DECIDED_HERE = {
    "trust_remote_code": "code from a model folder is never run; export such a model through a Python factory",
    "local_files_only": "a model is loaded from its folder only",
    "dtype": "models load in float32; set precision in the recipe's variants",
    "torch_dtype": "models load in float32; set precision in the recipe's variants",
    "device_map": "models load on the CPU",
    "output_loading_info": "trtbuild reads it itself",
}
"""`from_pretrained` arguments that a recipe cannot set, with the reason."""


class HuggingFace(Loader):
    """Loads model folders with `transformers`."""

    def load(self, source: ModelSource) -> Any:
        """The folder's model in inference mode, float32, on the CPU; its forward returns the recipe's output fields.

        The module keeps its own module paths (`encoder.layer.0.attention.self.query`): only its class changes, to one
        whose forward returns a tuple of the fields in `source.outputs`, also listed in its `output_names`. Raises
        ModelError where the folder is incomplete, transformers refuses it, or (when it runs) it lacks such a field.
        """
        if not isinstance(source, HuggingFaceSource):
            raise ModelError(f"the huggingface backend loads model folders, not a source of kind {source.kind!r}")
        for option in source.load_options:
            if option in DECIDED_HERE:
                raise ModelError(f"load_options cannot set {option!r}", hint=DECIDED_HERE[option])
        auto_class = _auto_class(source.auto_class)
        weights = _weights(source.folder)
        if is_quantized(source.folder):
            model = load_quantized(auto_class, source, weights)
        else:
            model = _from_pretrained(auto_class, source, any(file.suffix == ".safetensors" for file in weights))
        if hasattr(model.config, "use_cache"):
            model.config.use_cache = False  # a cache that nobody asked for would only be traced and thrown away
        return _with_outputs(model.eval(), tuple(source.outputs))


def _auto_class(name: str) -> Any:
    """The transformers class of this name."""
    known = [entry for entry in dir(transformers) if entry.startswith("AutoModel")]
    if name.startswith("_") or not hasattr(found := getattr(transformers, name, None), "from_pretrained"):
        close = difflib.get_close_matches(name, known, n=1)
        raise ModelError(
            f"transformers has no model class {name!r}",
            hint=f"did you mean {close[0]}?" if close else f"for example {', '.join(known[:3])}",
        )
    return found


def _weights(folder: Path) -> list[Path]:
    """The folder's weight files, all of them there and none a Git-LFS pointer. Raises ModelError."""
    if not folder.is_dir():
        raise ModelError(f"model folder {folder} does not exist", hint="set model.folder to a folder with config.json")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json, so it is no Hugging Face model folder")
    weights: list[Path] = []
    for index in (folder / "model.safetensors.index.json", folder / "pytorch_model.bin.index.json"):
        if index.is_file() and not weights:
            weights = [folder / name for name in _shards(index)]
    weights = weights or sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not weights:
        raise ModelError(f"{folder} has no weights: no *.safetensors, no pytorch_model*.bin")
    if missing := [file.name for file in weights if not file.is_file()]:
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(weights)} weight shards, first {missing[0]}",
            hint="copy or download the missing files; the index names every shard",
        )
    for file in [folder / "config.json", *weights]:
        if git_lfs.is_pointer(file):
            raise ModelError(f"{file} is a Git-LFS pointer, not the file itself", hint=f"cd {folder} && git lfs pull")
    return weights


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ModelError(f"{index} is no index of weight shards: {error}") from error


def _from_pretrained(auto_class: Any, source: HuggingFaceSource, safetensors: bool) -> Any:
    """Load, silently and completely: a weight that the folder lacks would be random, so it is an error."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    arguments = {
        # Eager attention is plain MatMul and Softmax, which every ONNX backend fuses; sdpa exports to more nodes.
        "attn_implementation": "eager",
        **source.load_options,
        "local_files_only": True,
        "trust_remote_code": False,
        "use_safetensors": safetensors,
        "dtype": torch.float32,
        "output_loading_info": True,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, info = auto_class.from_pretrained(str(source.folder), **arguments)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(
            f"{source.auto_class} cannot load {source.folder}: {lines[0] if lines else type(error).__name__}",
            hint="check that config.json names an architecture this transformers version knows, and the weights fit it",
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{source.folder} has no weights for {len(missing)} tensors of {type(model).__name__}, first {missing[0]}",
            hint="use the auto_class the weights were saved for; leave an unused BERT pooler out with "
            "load_options: {add_pooling_layer: false}",
        )
    return model


def _with_outputs(model: Any, outputs: tuple[str, ...]) -> Any:
    """The same module whose forward returns a tuple of these output fields.

    A wrapping module would prefix every module path; so would not a patched method, but its closure is lost when
    the module is copied. A subclass keeps paths, copies and the signature.
    """
    base = type(model)

    @functools.wraps(base.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        found = base.forward(self, *args, **kwargs)
        return tuple(_field(found, name) for name in outputs)

    # The original's name, because transformers looks classes up by it.
    body = {
        "forward": forward,
        "output_names": outputs,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
    }
    model.__class__ = type(base.__name__, (base,), body)
    return model


def _field(output: Any, name: str) -> Any:
    """One tensor of a model output. Raises ModelError."""
    value = output.get(name) if hasattr(output, "get") else None
    if isinstance(value, torch.Tensor):
        return value
    tensors = (
        [key for key, entry in output.items() if isinstance(entry, torch.Tensor)] if hasattr(output, "items") else []
    )
    trouble = "is not there" if value is None else f"is a {type(value).__name__}, not a tensor"
    close = difflib.get_close_matches(name, tensors, n=1)
    raise ModelError(
        f"output field {name!r} {trouble}",
        hint=(f"did you mean {close[0]}? " if close else "")
        + f"the model returns {', '.join(tensors) or 'no tensors'}",
    )
