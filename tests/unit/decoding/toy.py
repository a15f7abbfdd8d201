"""Exact decoders in NumPy, with the inputs and outputs of an exported one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trtbuild.core.kv_cache import CacheMode, CacheType, KvCache
from trtbuild.core.roles import Session
from trtbuild.core.tensor_file import Array, Tensors
from trtbuild.decoding.decoder import Decoder

VOCABULARY = 16


class Attention(Session):
    """Two layers of grouped-query attention with learned positions, in FP64. What lies beyond a row's length is NaN,
    so that whoever attends to it shows."""

    def __init__(self, layout: KvCache, seed: int = 0, noise: float = 0.0, group: int = 2) -> None:
        self.layout, self.group = layout, group
        draw = np.random.default_rng(seed).standard_normal
        width, heads = 8, layout.kv_heads * layout.head_dim
        self.tokens, self.positions = draw((VOCABULARY, width)), draw((layout.capacity + 64, width))
        self.layers = [
            {
                "q": draw((width, heads * group)),
                "k": draw((width, heads)),
                "v": draw((width, heads)),
                "o": draw((heads * group, width)) / 3,
            }
            for _ in range(layout.layers)
        ]
        for number, layer in enumerate(self.layers):
            other = np.random.default_rng(seed + 100 + number).standard_normal
            for name, matrix in layer.items():
                layer[name] = matrix + noise * other(matrix.shape)
        self.calls: list[tuple[int, int]] = []

    def infer(self, inputs: Tensors) -> Tensors:
        ids, lengths = inputs["input_ids"], inputs["lengths"]
        assert ids.dtype == lengths.dtype == np.int64
        self.calls.append(ids.shape)
        batch, tokens = ids.shape
        places = lengths[:, None] + np.arange(tokens)
        assert (places >= 0).all()
        assert (places < self.layout.capacity).all(), "written beyond the cache"
        state = self.tokens[ids] + self.positions[places]
        outputs: Tensors = {}
        visible = np.arange(self.layout.capacity) <= places[..., None]
        for number, layer in enumerate(self.layers):
            cached = {}
            for part, matrix in (("key", layer["k"]), ("value", layer["v"])):
                name = f"cache.{number}.{part}"
                assert inputs[name].dtype == np.float32
                cached[part] = inputs[name].copy()
                new = (state @ matrix).reshape(batch, tokens, self.layout.kv_heads, -1)
                for row in range(batch):
                    cached[part][row][:, places[row]] = new[row].transpose(1, 0, 2)
                    cached[part][row][:, places[row, -1] + 1 :] = np.nan
                outputs[f"{name}.out"] = cached[part]
            query = (state @ layer["q"]).reshape(batch, tokens, self.layout.kv_heads, self.group, -1)
            scores = np.einsum("btkgd,bksd->btkgs", query, np.nan_to_num(cached["key"])) / np.sqrt(query.shape[-1])
            scores = np.where(visible[:, :, None, None], scores, -np.inf)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            mixed = np.einsum("btkgs,bksd->btkgd", weights, np.nan_to_num(cached["value"]))
            state = np.tanh(state + mixed.reshape(batch, tokens, -1) @ layer["o"])
        return {"logits": (3 * state @ self.tokens.T).astype(np.float32), **outputs}

    def close(self) -> None:
        """Nothing is held."""


class Rule(Session):
    """A decoder that answers by a rule: `logits_of(tokens so far of a row) -> [vocabulary]`. It keeps the tokens
    themselves in its cache, so that a loop that loses one shows."""

    def __init__(self, logits_of: Callable[[list[int]], Array]) -> None:
        self.logits_of = logits_of

    def infer(self, inputs: Tensors) -> Tensors:
        ids, lengths = inputs["input_ids"], inputs["lengths"]
        kept = inputs["cache.0.key"].copy()
        logits = []
        for row, (tokens, length) in enumerate(zip(ids, lengths, strict=True)):
            kept[row, 0, length : length + len(tokens), 0] = tokens
            known = [int(token) for token in kept[row, 0, : length + len(tokens), 0]]
            logits.append([self.logits_of(known[: length + place + 1]) for place in range(len(tokens))])
        return {
            "logits": np.array(logits, np.float32),
            "cache.0.key.out": kept,
            "cache.0.value.out": inputs["cache.0.value"],
        }

    def close(self) -> None:
        """Nothing is held."""


def layout_of(
    mode: CacheMode, dtypes: list[CacheType], capacity: int, *, kv_heads: int = 1, head_dim: int = 1
) -> KvCache:
    """A cache of equal layers; one whose type is a float is excluded from a quantized mode."""
    floats = [number for number, dtype in enumerate(dtypes) if dtype == "float16" and mode != "float"]
    return KvCache(
        mode=mode,
        layers=len(dtypes),
        kv_heads=kv_heads,
        head_dim=head_dim,
        capacity=capacity,
        dtypes=dtypes,
        excluded=floats,
        windows=[None] * len(dtypes),
    )


def attention(capacity: int = 24, *, seed: int = 0, noise: float = 0.0) -> Decoder:
    layout = layout_of("float", ["float32", "float32"], capacity, kv_heads=2, head_dim=4)
    return Decoder(Attention(layout, seed, noise), layout)


def ruled(logits_of: Callable[[list[int]], Array], capacity: int = 64) -> Decoder:
    layout = layout_of("float", ["float32"], capacity)
    return Decoder(Rule(logits_of), layout)


def certain(token: int, vocabulary: int = VOCABULARY) -> Array:
    """Logits that leave no doubt."""
    logits = np.zeros(vocabulary)
    logits[token] = 50.0
    return logits
