"""The recipe as values, spelled as a recipe file spells them: closed, and documented field by field."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from trtbuild.core.errors import RecipeError
from trtbuild.core.format_names import canonical, spellings
from trtbuild.core.formats import FORMATS, Format
from trtbuild.core.placement import Placement
from trtbuild.core.tensors import Shapes
from trtbuild.core.values import Options, Value
from trtbuild.recipe.decoder_schema import CacheRecipe, DecoderRecipe, shapes_told
from trtbuild.recipe.model_schema import Entry, EntryName, ModelRecipe
from trtbuild.stages.build import BuildOptions
from trtbuild.stages.calibrate import CalibrateOptions
from trtbuild.stages.export import ExportOptions
from trtbuild.stages.finetune import FinetuneOptions
from trtbuild.stages.insert import InsertOptions
from trtbuild.stages.judge import Gates
from trtbuild.stages.measure import MeasureOptions
from trtbuild.stages.sensitivity import SensitivityOptions

Part = TypeVar("Part", bound=Options)

RECIPE_NAME = "^[a-z0-9][a-z0-9_-]*$"
VARIANT_NAME = "^[a-z0-9][a-z0-9._-]*$"
"""As a recipe's, and with dots: the matrix adds values such as 0.5 to it."""

AUTO = "auto"
"""The format of a variant whose modules each get their own."""
SEARCHED: Final = "auto"
AS_ASKED: Final = "asked"
"""What `engine.placement` may be beside a placement by name."""


def _is_format(name: str) -> str:
    try:
        if name != AUTO:
            canonical(name)
    except RecipeError as error:
        raise ValueError(f"{error.message}; {error.hint}" if error.hint else error.message) from None
    return name


FormatName = Annotated[
    str, AfterValidator(_is_format), WithJsonSchema({"type": "string", "enum": [AUTO, *spellings()]})
]
VariantName = Annotated[str, Field(pattern=VARIANT_NAME)]


class DataRecipe(Value):
    """Real inputs of the model, to calibrate on and to compare with."""

    generator: EntryName
    """`module:function`; `function(split, count)` yields dictionaries of numpy arrays.

    `split` is `calibration` or `evaluation`; the two must share no sample. Built in, for data in
    files (docs/data.md): `trtbuild.datasets.text:lines`, `trtbuild.datasets.passages:of_files`,
    `trtbuild.datasets.images:folder`, `trtbuild.datasets.audio:clips` and `trtbuild.datasets.tensors:files`."""
    arguments: dict[str, Any] = {}
    """Further keyword arguments for the generator."""
    files: list[str] = []
    """Further files that decide what it yields, as glob patterns relative to the recipe, absolute, or
    `package://<installed package>/<pattern>`. A generator with a parameter `files` receives their paths, sorted."""
    calibration: int = Field(default=256, ge=0)
    """How many samples (rows of the first axis) to calibrate on."""
    selection: int = Field(default=0, ge=0)
    """How many more samples of the calibration split to keep from calibration, for `format: auto` to choose on. With 0
    it chooses on the calibration samples, which flatter formats that were fitted to them."""
    evaluation: int = Field(default=128, ge=1)
    """How many held-out samples to validate on."""


class AutoOptions(SensitivityOptions):
    """How `format: auto` chooses. The floors are the variant's `gates.accuracy`."""

    formats: list[Format] = Field(default=["int4_awq", "w8a16"], min_length=1)
    """The formats to choose from, for each module; high precision is always one more."""
    cheap: Literal["memory", "latency"] = "memory"
    """What is cheap: few bytes of weights, or little time."""
    margin: float = Field(default=0.1, ge=0.0, lt=1.0)
    """How much of the room between a floor and what high precision reaches stays free, for samples not seen here."""
    evaluations: int = Field(default=12, ge=2)
    """Mixtures to really run at most, on `data.selection` samples."""

    @property
    def sensitivity(self) -> SensitivityOptions:
        """The part that scoring modules reads."""
        return _part(self, SensitivityOptions)


class QuantizeOptions(CalibrateOptions, InsertOptions):
    """How a variant is quantized: the numbers by calibration, their places by insertion."""

    format: Format | Literal["auto"]  # type: ignore[assignment]  # wider than a calibration's: one that has several
    """Quantization format of the layers; `auto` gives each module its own."""
    overrides: dict[str, Format | Literal["high"]] = {}
    """Formats of some modules, by the patterns of `exclude`; `high` leaves them in high precision."""
    auto: AutoOptions = AutoOptions()
    """How `format: auto` chooses."""
    qat: FinetuneOptions | None = None
    """Fine-tunes the quantized weights against the FP32 model; `{}` takes the defaults."""

    @property
    def formats(self) -> list[Format]:
        """Every format that needs a calibration, the main one first."""
        first = self.auto.formats if self.format == AUTO else [self.format]
        return list(dict.fromkeys([*first, *(form for form in self.overrides.values() if form != "high")]))

    def calibrate(self, form: Format) -> CalibrateOptions:
        """What calibrating one format reads. Settings that do not touch it stay at their defaults, so that variants
        which differ in nothing else share the calibration."""
        traits, imported = FORMATS[form], self.rounding == "checkpoint"
        reads = {
            "alpha": traits.algorithm == "smoothquant" and not imported,
            "method": (plain := traits.activation == "int8" and traits.algorithm == "max"),
            "percentile": plain and self.method == "percentile",
            "rounding": traits.algorithm != "gptq" or imported,
            "block_size": traits.granularity == "block" and not traits.block,
        }
        return CalibrateOptions(
            format=form, **{name: getattr(self, name) for name in CalibrateOptions.model_fields if reads.get(name)}
        )

    def placed(self, placement: Placement) -> QuantizeOptions:
        """The same, with Q/DQ where a placement wants them, in the formats' own number types."""
        kinds = {FORMATS[form].activation for form in self.formats}
        product = "fp8" if "fp8" in kinds else "int8" if "int8" in kinds else "high"
        places = {
            "attention": product if "attention" in placement else "high",
            "residual": "int8" if "residual" in placement and "int8" in kinds else "high",
        }
        return self.model_copy(update=places)

    @property
    def insert(self) -> InsertOptions:
        """The part that insertion reads."""
        return _part(self, InsertOptions)


class QuantizeRecipe(QuantizeOptions):
    """How a variant is quantized. A variant's own keys win over the recipe's `quantize`."""

    format: FormatName | None = None  # type: ignore[assignment]  # optional while spelled, required once merged
    """Quantization format of the layers, by our name or another project's (`trtbuild formats` lists them); `auto` gives
    each module its own. The recipe's `quantize` may give it for all."""


class EngineOptions(BuildOptions):
    """For what, and how, the engine is built."""

    backend: Literal["auto", "onnxruntime", "tensorrt"] = "auto"
    """Who builds and runs it; `auto` takes TensorRT where it is installed beside a GPU, else ONNX Runtime."""
    target: str | None = None
    """The backend's version to build for, in quotes: `"10.10"`. None takes the one that is installed. With
    `backend: auto`, 8 and later are TensorRT's."""
    gpu: str | None = None
    """The GPU to build for, such as `H100` or `sm_90`: decides which formats are legal. None asks this machine."""
    placement: Placement | Literal["asked", "auto"] = AS_ASKED
    """Where Q/DQ stand beside the quantized layers. `asked` follows `quantize.attention` and `quantize.residual`. A
    placement by name overrules them. `auto` builds every placement here, compares its outputs with those of the engine
    without quantization, times it, and keeps the fastest, for each block of modules where blocks differ. Where
    `gates.pays` wants the engine faster, a block that is fastest in high precision stays so."""
    plugins: list[str] = []  # type: ignore[assignment]  # spelled as text, relative to the recipe
    """Plugin libraries (.so) to load before the graph is parsed, relative to the recipe or absolute. Their content is
    part of the key. trtexec `--staticPlugins`, Polygraphy `LoadPlugins`."""
    config_script: Entry | None = None  # type: ignore[assignment]  # spelled as text, found beside the recipe
    """A function `(builder, network, config)` called last, for what has no name here. Its file is part of the key.
    trtexec has none, Polygraphy `--trt-config-postprocess-script`."""


class VariantRecipe(Value):
    """One engine of the recipe, and where it differs from the others."""

    description: str = ""
    """What this variant is for."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """The precision of what is not quantized; `auto` lets the backend and the machine decide."""
    keep_fp32: list[str] | None = None
    """Nodes that stay in FP32 where the rest runs in 16 bits: instead of the recipe's `keep_fp32`."""
    quantize: QuantizeRecipe | None = None
    """Quantizes this variant; `{}` takes the recipe's `quantize` as it is. Without it the variant is not quantized."""
    kv_cache: CacheRecipe = CacheRecipe()
    """How a decoder keeps keys and values, over the recipe's `kv_cache`: `int8`, or a mapping. Goes with any
    `quantize`."""
    engine: EngineOptions = EngineOptions()
    """Over the recipe's `engine`."""
    measure: MeasureOptions = MeasureOptions()
    """Over the recipe's `measure`."""
    gates: Gates = Gates()
    """Over the recipe's `gates`."""


def _whole_or_extending(schema: dict[str, Any]) -> None:
    """One that extends another may leave anything out, and one with a decoder its shapes."""
    whole = [key for key in schema["required"] if key not in ("recipe", "shapes")]
    schema["required"] = ["recipe"]
    schema["anyOf"] = [{"required": keys} for keys in ([*whole, "shapes"], [*whole, "decoder"], ["extends"])]


class Recipe(Value):
    """A model, its shapes, its data, and the engines to build from it."""

    model_config = ConfigDict(json_schema_extra=_whole_or_extending)

    recipe: str = Field(pattern=RECIPE_NAME)
    """The recipe's name: lowercase letters, digits, - and _."""
    description: str = ""
    """What it builds, in a sentence."""
    extends: str | list[str] | None = None
    """Another recipe, relative to this one or `trtbuild://<shipped recipe>`, whose values hold wherever this file has
    none; `null` here drops one. Of several, also parts of recipes (recipes/blocks), each holds over those before it.
    Mappings merge key by key, lists replace."""
    model: ModelRecipe
    """Where the model comes from."""
    decoder: DecoderRecipe | None = None
    """For a model that writes text with a cache: how long its texts get. `shapes` and `metric` follow from it."""
    shapes: Shapes
    """The model's inputs, and the range of every axis that moves. Required unless there is a `decoder`."""
    data: DataRecipe
    """Real inputs, to calibrate on and to compare with."""
    companions: list[str] = []
    """Files that go with every engine, as glob patterns relative to the recipe, absolute, or
    `package://<installed package>/<pattern>`: copied beside it, their digests in its manifest, and nothing built anew
    for them. A PyTorch file among them may hold data alone."""
    export: ExportOptions = ExportOptions()
    """How the model is written as ONNX."""
    keep_fp32: list[str] = []
    """Nodes that stay in FP32 in every variant that runs in 16 bits: patterns (`*` and `?`) of module paths or node
    names. `trtbuild build --repair` finds those that 16 bits make infinite."""
    quantize: QuantizeRecipe = QuantizeRecipe()
    """Defaults for the variants that quantize; quantizes nothing by itself."""
    kv_cache: CacheRecipe = CacheRecipe()
    """Defaults for how a decoder's variants keep keys and values."""
    engine: EngineOptions = EngineOptions()
    """For what, and how, engines are built."""
    measure: MeasureOptions = MeasureOptions()
    """How engines are timed."""
    metric: Entry | None = None
    """The task's own accuracy: `function(outputs, reference_outputs, inputs)` gives numbers by name."""
    reference: str | None = None
    """The variant that every other is compared with, by default the first that is not quantized."""
    gates: Gates = Gates()
    """What an engine must reach to ship."""
    variants: dict[VariantName, VariantRecipe] = Field(min_length=1)
    """The engines to build, by name."""
    matrix: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """A path inside a variant, and the values to try: multiplies every variant that sets no value there."""

    @model_validator(mode="before")
    @classmethod
    def _with_shapes(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("decoder") is not None and "shapes" not in value:
            return {**value, "shapes": shapes_told(value["decoder"])}
        return value


def _part(options: Options, kind: type[Part]) -> Part:
    return kind(**{name: getattr(options, name) for name in kind.model_fields})
