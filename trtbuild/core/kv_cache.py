"""The key-value cache of a decoder: which tensors it has, of which types, and what calibration found for its scales.

A decoder's graph takes `input_ids` [batch, tokens], `lengths` [batch] and the cache's tensors; it returns `logits` and
the same tensors with `.out` behind their names. `lengths` counts the tokens that each row's cache holds already: token
t of row b stands at position `lengths[b] + t`. A position outside [0, capacity) is never written, and one that the row
has not reached is never attended, so prompts of different lengths are padded on the right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from trtbuild.core.errors import ModelError
from trtbuild.core.values import Result, Value

CacheMode = Literal["float", "int8", "int8_static", "fp8"]
"""float: as computed. int8: one FP16 scale per token and head, found as tokens come. int8_static and fp8 (E4M3): one
scale per head, found by calibration and constant in the graph."""

CacheFloat = Literal["float32", "float16", "bfloat16"]
CacheType = Literal["float32", "float16", "bfloat16", "int8", "float8e4m3fn"]

CODES: dict[CacheMode, CacheType] = {"int8": "int8", "int8_static": "int8", "fp8": "float8e4m3fn"}
"""The element type of each quantized mode."""

FILE = "cache.json"
"""Where the description lies, beside the model."""

OUT = ".out"
"""Behind a cache tensor's name, the name of the output that holds it with the new tokens."""


class CacheTensor(NamedTuple):
    """One tensor of the cache: an input of the graph and, with `OUT`, an output."""

    name: str
    dtype: CacheType
    row_shape: tuple[int, ...]
    """Of one row: [kv_heads, capacity, head_dim], or [kv_heads, capacity] for scales."""


class KvCache(Value):
    """The cache of a whole decoder, written as `cache.json`; readers need nothing but JSON."""

    mode: CacheMode
    """How keys and values are kept in every layer that is not excluded."""
    layers: int = Field(ge=1)
    """Attention layers, numbered from 0."""
    kv_heads: int = Field(ge=1)
    """Heads of keys and values; each serves `query heads / kv_heads` query heads."""
    head_dim: int = Field(ge=1)
    """Elements of one head."""
    capacity: int = Field(ge=1)
    """Greatest number of tokens in a row, prompt and generated together."""
    dtypes: list[CacheType]
    """Element type of keys and values, by layer."""
    excluded: list[int]
    """Layers that stay in floating point although the mode is a quantized one."""
    windows: list[int | None]
    """By layer, how many of the newest positions a token sees, itself included; None where it sees all."""

    def mode_of(self, layer: int) -> CacheMode:
        """How one layer's keys and values are kept."""
        return "float" if layer in self.excluded else self.mode

    def tensors(self, layer: int) -> list[CacheTensor]:
        """One layer's tensors in the order of the graph: key, value and, in mode `int8`, their scales."""
        shape = (self.kv_heads, self.capacity, self.head_dim)
        found = [CacheTensor(f"cache.{layer}.{role}", self.dtypes[layer], shape) for role in ("key", "value")]
        if self.mode_of(layer) == "int8":
            found += [CacheTensor(f"cache.{layer}.{role}_scale", "float16", shape[:2]) for role in ("key", "value")]
        return found

    def write(self, folder: Path) -> None:
        """Write `cache.json` into the folder."""
        (folder / FILE).write_text(self.model_dump_json(indent=1) + "\n")

    @staticmethod
    def of(folder: Path) -> KvCache | None:
        """The cache of what lies in a folder; None where it is no decoder."""
        return KvCache.read(folder) if (folder / FILE).is_file() else None

    @staticmethod
    def read(folder: Path) -> KvCache:
        """Read `cache.json` of a folder. Raises ModelError where there is none or it is damaged."""
        try:
            return KvCache.model_validate_json((folder / FILE).read_text())
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder / FILE}: not the description of a cache: {error}", hint="export again") from None


class HeadRange(Result):
    """How far the values of one head of keys or values reach, over all calibration samples."""

    amax: float = Field(ge=0)
    """Greatest magnitude to represent; scale = amax / 127 for INT8, / 448 for E4M3."""
    seen: float = Field(ge=0)
    """Greatest magnitude that was there."""
    saturated: int = Field(ge=0)
    """Elements beyond `amax`, which a cache would clip."""
    elements: int = Field(ge=0)
    """Elements that were counted."""


class LayerRanges(Result):
    """The ranges of one layer, by head [kv_heads]."""

    key: list[HeadRange]
    """Keys, after the rotary embedding: as the cache would hold them."""
    value: list[HeadRange]
    """Values."""
