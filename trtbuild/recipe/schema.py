"""The recipe as values, spelled as a recipe file spells them: closed, and documented field by field."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, GetJsonSchemaHandler, WithJsonSchema, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from trtbuild.core.errors import RecipeError
from trtbuild.core.format_names import canonical, spellings
from trtbuild.core.formats import FORMATS, Format
from trtbuild.core.tensors import Shapes
from trtbuild.core.values import Options, Value
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
ENTRY = "^[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"
COMMIT = "^[0-9a-f]{40}$"

AUTO = "auto"
"""The format of a variant whose modules each get their own."""


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
EntryName = Annotated[str, Field(pattern=ENTRY)]
VariantName = Annotated[str, Field(pattern=VARIANT_NAME)]


class Entry(Value):
    """A Python function: `module:function`, or a mapping with its arguments."""

    entry: EntryName
    """`module:function`, where the module is a file beside the recipe or an installed package."""
    arguments: dict[str, Any] = {}
    """Keyword arguments for the function."""
    files: list[str] = []
    """Further files that decide what it returns, as glob patterns relative to the recipe."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"entry": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        mapping = handler.resolve_ref_schema(handler(schema))
        text = {"type": "string", "pattern": ENTRY}
        return {
            "description": mapping.get("description", ""),
            "anyOf": [text, {**mapping, "description": "With arguments."}],
        }


class HuggingFaceModel(Value):
    """A Hugging Face model: a folder, or a commit of a hub model that was downloaded before."""

    folder: str | None = None
    """The model's folder: relative to the recipe, absolute, or `package://<installed package>/<path>`."""
    hub: str | None = Field(default=None, pattern="^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$")
    """A model of the hub, `org/name`, taken from the local hub cache and never downloaded by a build."""
    revision: str | None = Field(default=None, pattern=COMMIT)
    """The commit of the hub model, all 40 digits: a branch may move, a commit cannot."""
    auto_class: str = Field(default="AutoModel", alias="class")
    """The transformers class that loads it."""
    outputs: list[str] = Field(min_length=1)
    """Fields of the model's output to export, in order."""
    options: dict[str, Any] = {}
    """Keyword arguments for `from_pretrained`."""

    @model_validator(mode="after")
    def _one_place(self) -> HuggingFaceModel:
        if (self.folder is None) == (self.hub is None):
            raise ValueError("needs either folder or hub" + (", not both" if self.folder else ""))
        if self.hub is not None and self.revision is None:
            raise ValueError("hub needs a revision: the full commit, 40 digits")
        if self.hub is None and self.revision is not None:
            raise ValueError("revision belongs to hub; a folder has none")
        if self.options.get("trust_remote_code"):
            raise ValueError("options may not set trust_remote_code: a build runs no code that a model folder brings")
        return self


class ModelRecipe(Value):
    """Where the model comes from: exactly one of these."""

    huggingface: HuggingFaceModel | None = None
    """A Hugging Face model, loaded by transformers."""
    factory: Entry | None = None
    """A function that returns a `torch.nn.Module`."""
    onnx: str | None = None
    """An ONNX file: relative to the recipe, absolute, or `package://<installed package>/<path>`."""

    @model_validator(mode="after")
    def _exactly_one(self) -> ModelRecipe:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "needs exactly one of huggingface, factory and onnx"
                + (f"; this has {' and '.join(given)} (an inherited one goes with `{given[0]}: null`)" if given else "")
            )
        return self


class DataRecipe(Value):
    """Real inputs of the model, to calibrate on and to compare with."""

    generator: EntryName
    """`module:function`; `function(split, count)` yields dictionaries of numpy arrays.

    `split` is `calibration` or `evaluation`; the two must share no sample. Built in, for data in
    files (docs/data.md): `trtbuild.datasets.text:lines`, `trtbuild.datasets.images:folder`,
    `trtbuild.datasets.audio:clips` and `trtbuild.datasets.tensors:files`."""
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
        traits = FORMATS[form]
        reads = {
            "alpha": traits.algorithm == "smoothquant",
            "method": (plain := traits.activation == "int8" and traits.algorithm == "max"),
            "percentile": plain and self.method == "percentile",
            "rounding": traits.algorithm != "gptq",
            "block_size": traits.granularity == "block" and not traits.block,
        }
        return CalibrateOptions(
            format=form, **{name: getattr(self, name) for name in CalibrateOptions.model_fields if reads.get(name)}
        )

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
    engine: EngineOptions = EngineOptions()
    """Over the recipe's `engine`."""
    measure: MeasureOptions = MeasureOptions()
    """Over the recipe's `measure`."""
    gates: Gates = Gates()
    """Over the recipe's `gates`."""


class Recipe(Value):
    """A model, its shapes, its data, and the engines to build from it."""

    recipe: str = Field(pattern=RECIPE_NAME)
    """The recipe's name: lowercase letters, digits, - and _."""
    description: str = ""
    """What it builds, in a sentence."""
    extends: str | None = None
    """Another recipe, relative to this one, whose values hold wherever this file has none; `null` here drops one."""
    model: ModelRecipe
    """Where the model comes from."""
    shapes: Shapes
    """The model's inputs, and the range of every axis that moves."""
    data: DataRecipe
    """Real inputs, to calibrate on and to compare with."""
    export: ExportOptions = ExportOptions()
    """How the model is written as ONNX."""
    keep_fp32: list[str] = []
    """Nodes that stay in FP32 in every variant that runs in 16 bits: patterns (`*` and `?`) of module paths or node
    names. `trtbuild build --repair` finds those that 16 bits make infinite."""
    quantize: QuantizeRecipe = QuantizeRecipe()
    """Defaults for the variants that quantize; quantizes nothing by itself."""
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


def _part(options: Options, kind: type[Part]) -> Part:
    return kind(**{name: getattr(options, name) for name in kind.model_fields})
