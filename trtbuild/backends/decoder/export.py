"""Hugging Face decoders, exported so that a cache can be attached: one attention function for every model.

transformers sends the attention of its models through one interface, by the name in the model's config. While a decoder
is traced, that name is ours, and the function behind it writes one node for each layer. Nothing stays registered.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trtbuild.core.errors import DataError, ModelError
from trtbuild.graph.kv_cache.operators import CAUSAL, DOMAIN, UNLIMITED, VERSION

_UNMASKED = "trtbuild"
"""An attention implementation that transformers makes no mask for, because it knows no mask function of that name."""

_INTERFACE = "ALL_ATTENTION_FUNCTIONS"
"""The name by which the files of transformers' models import the interface, if they use it."""

_ROTARY_BY_LENGTH = {"dynamic", "longrope"}
"""Types of rotary embedding whose frequencies depend on how long the text is."""

_CAUSAL_LAYERS = ("full_attention", "sliding_attention")
"""Values of a config's `layer_types` that attend all earlier positions, or a window of them."""


def as_decoder(model: Any, logits: Literal["all", "last"] = "all") -> Any:
    """The same module with `forward(input_ids, lengths=None) -> (logits,)`, ready to be exported; its class is new.

    `input_ids` int64 [batch, tokens]; `lengths` int64 [batch] counts the tokens before them, so that token t of row b
    has position `lengths[b] + t`; `logits` [batch, tokens, vocabulary], or [batch, 1, vocabulary] of the last column
    only (of no use where prompts of different lengths are padded). Exported with these as inputs and a range of tokens
    from 1, the graph takes a cache by `trtbuild.graph.kv_cache.attach`. Run in PyTorch, it has no cache: `lengths` must
    be left out, or zero. Raises ModelError where the model's attention is not causal self-attention; forward raises one
    where a layer's is not.
    """
    config = _checked_config(model)
    base = type(model)
    arguments = {"logits_to_keep": 1} if logits == "last" else {}
    if unknown := arguments.keys() - inspect.signature(base.forward).parameters.keys():
        raise ModelError(f"{base.__name__}.forward has no parameter {unknown.pop()}", hint="ask for all logits")

    def forward(self: Any, input_ids: torch.Tensor, lengths: torch.Tensor | None = None) -> tuple[torch.Tensor]:
        lengths = input_ids.new_zeros(input_ids.shape[0]) if lengths is None else lengths
        positions = lengths[:, None] + torch.arange(input_ids.shape[1], device=lengths.device)
        run = functools.partial(
            base.forward, self, input_ids=input_ids, position_ids=positions, use_cache=False, **arguments
        )
        if not torch.compiler.is_exporting():
            if lengths.any():
                raise DataError("a decoder in PyTorch has no cache", hint="run it on whole texts with lengths of zero")
            return (run()[0],)
        layers: list[int] = []
        with attention_through(self, _UNMASKED, functools.partial(_causal_node, config, lengths, layers)):
            found = run()[0]
        if sorted(layers) != list(range(config.num_hidden_layers)):
            raise ModelError(
                f"{base.__name__} has {config.num_hidden_layers} layers, but attention of layers {sorted(layers)} only "
                "went through transformers' attention interface",
                hint="layers of another kind (ALiBi, state space, linear attention) cannot have this cache",
            )
        return (found,)

    body = {
        "forward": forward,
        "output_names": ("logits",),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
    }
    model.__class__ = type(base.__name__, (base,), body)
    return model


def _checked_config(model: Any) -> Any:
    """The config of the model's text decoder. Raises ModelError where it says that no cache of ours would fit."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "get_text_config") or model.get_output_embeddings() is None:
        raise ModelError(
            f"{type(model).__name__} is no Hugging Face model with logits over a vocabulary",
            hint="load the folder with auto_class: AutoModelForCausalLM",
        )
    config = config.get_text_config(decoder=True)
    if config.is_encoder_decoder or getattr(config, "add_cross_attention", False):
        raise ModelError(
            f"{type(model).__name__} attends an encoder's output; this cache is for self-attention only",
            hint="use a decoder-only model",
        )
    if getattr(config, "alibi", False):
        raise ModelError(f"{type(model).__name__} adds ALiBi to its scores, which the cache's attention does not know")
    if other := set(getattr(config, "layer_types", None) or ()) - set(_CAUSAL_LAYERS):
        raise ModelError(
            f"{type(model).__name__} has layers of type {', '.join(sorted(other))}",
            hint=f"a cache serves layers of type {' and '.join(_CAUSAL_LAYERS)}",
        )
    rotary = getattr(config, "rope_parameters", None) or {}
    kinds = {
        entry["rope_type"] for entry in (rotary, *rotary.values()) if isinstance(entry, dict) and "rope_type" in entry
    }
    if other := kinds & _ROTARY_BY_LENGTH:
        raise ModelError(
            f"{type(model).__name__} has rotary embeddings of type {other.pop()}, which change as a text grows: keys "
            "in a cache would be of another kind than new ones",
            hint="set a fixed type (default, linear, yarn, llama3) in the model's config.json",
        )
    if not any(hasattr(sys.modules[type(module).__module__], _INTERFACE) for module in model.modules()):
        raise ModelError(
            f"{type(model).__name__} computes attention by itself, not through transformers' attention interface",
            hint="a newer transformers may have it ported; models with ALiBi (BLOOM, MPT) cannot have this cache",
        )
    return config


@contextlib.contextmanager
def attention_through(model: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Let every attention of the model go through `function`, as the implementation `name`, while this lasts."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    before = [(config, config._attn_implementation) for config in configs.values()]
    ALL_ATTENTION_FUNCTIONS[name] = function
    try:
        for config, _ in before:
            config._attn_implementation = name
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation
        del ALL_ATTENTION_FUNCTIONS[name]


def _causal_node(
    config: Any,
    lengths: torch.Tensor,
    layers: list[int],
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **asked: Any,
) -> tuple[torch.Tensor, None]:
    """One layer's attention as one node. query [B, Hq, N, D], key and value [B, H, N, D]; returns [B, N, Hq, D]."""
    layer = layer_of(module)
    _check_variant(module, layer, attention_mask, asked)
    if not query.shape[-1] == key.shape[-1] == value.shape[-1]:
        raise ModelError(f"layer {layer} has keys of {key.shape[-1]} elements and values of {value.shape[-1]}")
    layers.append(layer)
    attributes = {
        "layer": layer,
        "scale": float(query.shape[-1] ** -0.5 if scaling is None else scaling),
        "window": _window(config, layer, asked.get("sliding_window")),
        "kv_heads": key.shape[1],
        "head_dim": key.shape[3],
        "positions": getattr(config, "max_position_embeddings", None) or UNLIMITED,
    }
    attended = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{CAUSAL.name}",
        (query, key, value, lengths),
        attributes,
        dtype=query.dtype,
        shape=query.shape,
        version=VERSION,
    )
    return attended.transpose(1, 2).contiguous(), None


def layer_of(module: Any) -> int:
    """An attention module's number, which says whose cache it has. Raises ModelError where it has none."""
    layer = getattr(module, "layer_idx", None)
    if layer is None:
        raise ModelError(
            f"{type(module).__name__} has no layer_idx, so nothing says which cache is its own",
            hint="number the attention modules as transformers' own models do",
        )
    return int(layer)


def _check_variant(module: Any, layer: int, mask: torch.Tensor | None, asked: dict[str, Any]) -> None:
    """Raise ModelError where attention is more than softmax(scale Q Kᵀ) V over earlier positions."""
    extras = {
        "position_bias": "adds a bias to its scores",
        "softcap": "caps its scores (softcap)",
        "s_aux": "has attention sinks",
    }
    said = next((words for name, words in extras.items() if asked.get(name) is not None), None)
    if getattr(module, "is_cross_attention", False):
        said = "is cross-attention"
    elif mask is not None:
        said = "has a mask of its own"
    elif asked.get("is_causal", getattr(module, "is_causal", True)) is False:
        said = "also attends later positions"
    if said:
        raise ModelError(f"attention of layer {layer} ({type(module).__name__}) {said}; the cache's attention does not")


def _window(config: Any, layer: int, asked: int | None) -> int:
    """How many of the newest positions a layer sees. Its `layer_types` decide where a config has them."""
    types = getattr(config, "layer_types", None)
    if types is None:
        return asked or UNLIMITED
    return (asked or config.sliding_window) if types[layer] == "sliding_attention" else UNLIMITED
