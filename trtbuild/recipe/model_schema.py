"""Where a recipe's model comes from, and the Python functions that a recipe names."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from trtbuild.core.values import Value

ENTRY = "^[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$"
COMMIT = "^[0-9a-f]{40}$"

EntryName = Annotated[str, Field(pattern=ENTRY)]


class Entry(Value):
    """A Python function: `module:function`, or a mapping with its arguments."""

    entry: EntryName
    """`module:function`, where the module is a file beside the recipe or an installed package."""
    arguments: dict[str, Any] = {}
    """Keyword arguments for the function."""
    files: list[str] = []
    """Further files that decide what it returns, a checkpoint for one, as glob patterns relative to the recipe,
    absolute, or `package://<installed package>/<pattern>`. A function with a parameter `files` receives their paths,
    sorted."""

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
    """A Hugging Face model: a folder, a commit of a hub model that was downloaded before, or a folder that a function
    of the recipe makes."""

    folder: str | None = None
    """The model's folder: relative to the recipe, absolute, or `package://<installed package>/<path>`."""
    hub: str | None = Field(default=None, pattern="^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$")
    """A model of the hub, `org/name`, taken from the local hub cache and never downloaded by a build."""
    revision: str | None = Field(default=None, pattern=COMMIT)
    """The commit of the hub model, all 40 digits: a branch may move, a commit cannot."""
    made_by: Entry | None = None
    """A function that writes the folder: `function(folder)`. It runs once, as a step of the build."""
    auto_class: str | None = Field(default=None, alias="class")
    """The transformers class that loads it: by default AutoModel, and AutoModelForCausalLM for a decoder."""
    outputs: list[str] = []
    """Fields of the model's output to export, in order. A decoder's are known, every other model needs them."""
    options: dict[str, Any] = {}
    """Keyword arguments for `from_pretrained`."""

    @model_validator(mode="after")
    def _one_place(self) -> HuggingFaceModel:
        places = [name for name in ("folder", "hub", "made_by") if getattr(self, name) is not None]
        if len(places) != 1:
            there = f"; this has {' and '.join(places)}" if places else ""
            raise ValueError(f"needs exactly one of folder, hub and made_by{there}")
        if self.hub is not None and self.revision is None:
            raise ValueError("hub needs a revision: the full commit, 40 digits")
        if self.hub is None and self.revision is not None:
            raise ValueError(f"revision belongs to hub; {places[0]} has none")
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
