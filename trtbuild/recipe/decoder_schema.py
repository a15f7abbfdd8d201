"""What a recipe says of a decoder: how long its texts get, and how each variant keeps keys and values."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, GetJsonSchemaHandler, WithJsonSchema, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from trtbuild.core.decoder_shapes import decoder_shapes
from trtbuild.core.errors import RecipeError
from trtbuild.core.format_names import cache_spellings, meaning_of_cache
from trtbuild.core.tensors import AxisRange, Shapes
from trtbuild.core.values import Value
from trtbuild.stages.quantize_cache import CacheOptions, CalibrateCacheOptions
from trtbuild.stages.read import NeedleOptions, ReadOptions
from trtbuild.stages.validate_decoder import ForcedOptions


class DecoderRecipe(Value):
    """A model of transformers that writes text token by token and keeps keys and values in a cache. Its inputs, samples
    (`input_ids` [rows, tokens]) and metrics follow from that."""

    capacity: int = Field(ge=2)
    """Greatest number of tokens in a row, prompt and generated together: the room that the cache has."""
    batch: AxisRange = AxisRange(min=1, opt=1, max=8)
    """Rows at once."""
    prompt: int | None = Field(default=None, ge=1)
    """Tokens of a usual prompt: engines are optimized and timed for them, and validation starts behind them. A quarter
    of the capacity where it is not said."""
    steps: int = Field(default=64, ge=1)
    """Tokens behind them that validation goes on with, one by one, as far as the texts and the capacity reach."""
    tokenizer: bool = True
    """Whether a `tokenizer.json` goes with the engine. Set to false for a model whose tokens are no text."""
    needle: NeedleOptions | None = None
    """Also test whether hidden values are found again; `{context: 4096}` takes the defaults."""

    @model_validator(mode="after")
    def _fits(self) -> DecoderRecipe:
        if self.usual_prompt >= self.capacity:
            raise ValueError(f"a prompt of {self.usual_prompt} tokens leaves no room in a capacity of {self.capacity}")
        if self.needle and self.needle.context + self.needle.value_tokens > self.capacity:
            raise ValueError(f"a needle's context of {self.needle.context} does not fit a capacity of {self.capacity}")
        return self

    @property
    def usual_prompt(self) -> int:
        """Tokens of a usual prompt."""
        return self.prompt or max(1, self.capacity // 4)

    @property
    def shapes(self) -> Shapes:
        """The inputs of the exported decoder."""
        return decoder_shapes(self.capacity, self.batch, self.usual_prompt)

    @property
    def forced(self) -> ForcedOptions:
        """How far engine and reference are led through the same texts."""
        return ForcedOptions(prompt=self.usual_prompt, steps=min(self.steps, self.capacity - self.usual_prompt))

    @property
    def read(self) -> ReadOptions:
        """What each engine reads and writes by itself."""
        return ReadOptions(prompt=self.usual_prompt, new_tokens=self.forced.steps, needle=self.needle)


def _is_mode(name: str) -> str:
    try:
        meaning_of_cache(name)
    except RecipeError as error:
        raise ValueError(f"{error.message}; {error.hint}" if error.hint else error.message) from None
    return name


CacheName = Annotated[
    str, AfterValidator(_is_mode), WithJsonSchema({"type": "string", "enum": list(cache_spellings())})
]


class CacheSettings(CacheOptions, CalibrateCacheOptions):
    """How keys and values are kept, for the graph's rewriting and for calibration."""

    @property
    def cache(self) -> CacheOptions:
        """The part that the graph's rewriting reads."""
        return CacheOptions(mode=self.mode, exclude=self.exclude)

    @property
    def calibrate(self) -> CalibrateCacheOptions:
        """The part that calibration reads."""
        return CalibrateCacheOptions(percentile=self.percentile)


class CacheRecipe(CacheSettings):
    """How keys and values are kept: a mode, or a mapping with more."""

    mode: CacheName = "float"  # type: ignore[assignment]  # wider than the graph's: another project's name for one
    """How keys and values are kept, by our name or another project's (`trtbuild formats` lists them). float: as
    computed. int8: one FP16 scale per token and head, found as tokens come. int8_static and fp8 (E4M3): one scale per
    head, found by calibration."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"mode": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        mapping = handler.resolve_ref_schema(handler(schema))
        text = {"type": "string", "enum": list(cache_spellings())}
        return {
            "description": mapping.get("description", ""),
            "anyOf": [text, {**mapping, "description": "With more than the mode."}],
        }


def shapes_told(decoder: Any) -> Shapes:
    """The shapes that a recipe's `decoder` tells, as spelled; of one that is wrong, whose mistakes are told by itself,
    any."""
    try:
        return DecoderRecipe.model_validate(decoder).shapes
    except ValueError:
        return DecoderRecipe(capacity=2).shapes
