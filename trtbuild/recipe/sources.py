"""The outside of a recipe made concrete: its model, sample generator and metric, each with the files that decide it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from trtbuild.core.errors import Problem, RecipeError
from trtbuild.core.sources import (
    MADE,
    HuggingFaceSource,
    MetricSource,
    ModelSource,
    OnnxSource,
    PythonSource,
    SampleSource,
)
from trtbuild.recipe import locate
from trtbuild.recipe.load import LoadedRecipe
from trtbuild.recipe.model_schema import HuggingFaceModel
from trtbuild.recipe.schema import EngineOptions
from trtbuild.recipe.yaml_document import KeyPath
from trtbuild.stages.build import BuildOptions

T = TypeVar("T")

NOWHERE = Path("not-on-this-machine")
"""What stands for the place of a model that only another machine has."""


class Sources(NamedTuple):
    """Everything that a recipe takes from outside."""

    model: ModelSource
    samples: SampleSource
    metric: MetricSource


def sources(loaded: LoadedRecipe, *, elsewhere: bool = False) -> Sources:
    """All sources of a recipe. Raises RecipeError with everything that is not there; with `elsewhere` model files need
    not be."""
    problems: list[Problem] = []

    def collected(make: Callable[[LoadedRecipe], T]) -> T | None:
        try:
            return make(loaded)
        except RecipeError as error:
            problems.extend(error.problems)
            return None

    model, samples, metric = (
        collected(partial(model_source, elsewhere=elsewhere)),
        collected(sample_source),
        collected(metric_source),
    )
    if model is None or samples is None or metric is None:
        raise RecipeError(problems)
    return Sources(model, samples, metric)


def model_source(loaded: LoadedRecipe, *, elsewhere: bool = False) -> ModelSource:
    """Where the model comes from. Raises RecipeError where it is not there, and it is not `elsewhere` either."""
    model = loaded.recipe.model
    if model.factory is not None:
        entry = model.factory
        return _python(loaded, ("model", "factory"), "entry", entry.entry, entry.arguments, entry.files)
    if model.huggingface is not None:
        return _hugging_face(loaded, model.huggingface, elsewhere=elsewhere)
    assert model.onnx is not None
    at: KeyPath = ("model", "onnx")
    spelled, folder = model.onnx, loaded.place(*at).folder
    find = partial(_onnx_file, spelled, folder)
    return OnnxSource(file=_there(loaded, at, find, instead=NOWHERE if elsewhere else None))


def sample_source(loaded: LoadedRecipe) -> SampleSource:
    """Who makes the samples, and how many. Raises RecipeError where the generator is not there."""
    data = loaded.recipe.data
    python = _python(loaded, ("data",), "generator", data.generator, data.arguments, data.files)
    if (tokenizer := _own_tokenizer(loaded)) and not any(file.name == tokenizer.name for file in python.listed):
        more = {"files": [*python.files, tokenizer], "listed": [*python.listed, tokenizer]}
        python = python.model_copy(update=more)
    return SampleSource(
        python=python,
        calibration=data.calibration,
        selection=data.selection,
        evaluation=data.evaluation,
    )


def _own_tokenizer(loaded: LoadedRecipe) -> Path | None:
    """The tokenizer of the decoder's own folder: what text is tokenized with where `data.files` lists no other."""
    if loaded.recipe.decoder is None or loaded.recipe.model.huggingface is None:
        return None
    try:
        source = model_source(loaded)
    except RecipeError:
        return None  # told where the model is looked for
    file = source.folder / "tokenizer.json" if isinstance(source, HuggingFaceSource) else None
    return file if file is not None and file.is_file() else None


def companions(loaded: LoadedRecipe) -> list[Path]:
    """The files that go with every engine, sorted. Raises RecipeError where one is not there, or two have one name."""
    at: KeyPath = ("companions",)
    found = sorted(
        {
            file
            for number, pattern in enumerate(loaded.recipe.companions)
            for file in _globbed(loaded, (*at, number), pattern)
        }
    )
    names = [file.name for file in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError([Problem(str(loaded.place(*at)), f"companions: two files are named {twice}", "rename one")])
    return found


def metric_source(loaded: LoadedRecipe) -> MetricSource:
    """The recipe's own metric, if it has one. Raises RecipeError where it is named and not there."""
    metric = loaded.recipe.metric
    if metric is None:
        return MetricSource()
    return MetricSource(python=_python(loaded, ("metric",), "entry", metric.entry, metric.arguments, metric.files))


def build_options(loaded: LoadedRecipe, engine: EngineOptions, spelled: str) -> BuildOptions:
    """The part of a variant's `engine` that the build stage reads, its script and plugins found.

    `spelled` is the variant's name in the recipe. Raises RecipeError where one of them is not there.
    """

    def place(key: str) -> KeyPath:
        own: KeyPath = ("variants", spelled, "engine", key)
        return own if own in loaded.document.places else ("engine", key)

    script, at = engine.config_script, place("config_script")
    found = None if script is None else _python(loaded, at, "entry", script.entry, script.arguments, script.files)
    at = place("plugins")
    plugins = [
        _there(loaded, at, partial(locate.regular_file, locate.path_of(plugin, loaded.place(*at).folder)))
        for plugin in engine.plugins
    ]
    plain = {name: getattr(engine, name) for name in BuildOptions.model_fields}
    return BuildOptions(**{**plain, "config_script": found, "plugins": plugins})


def _onnx_file(spelled: str, folder: Path) -> Path:
    return locate.onnx_file(locate.path_of(spelled, folder))


def _hugging_face(loaded: LoadedRecipe, model: HuggingFaceModel, *, elsewhere: bool) -> HuggingFaceSource:
    hub, revision, spelled = model.hub, model.revision, model.folder
    at: KeyPath = ("model", "huggingface", "folder" if hub is None else "hub")
    if maker_source(loaded) is not None:
        find = partial(Path, MADE)
    elif hub is not None:
        find = partial(_hub_model, hub, revision or "")
    else:
        find = partial(_model_folder, spelled or "", loaded.place(*at).folder)
    if (decoder := loaded.recipe.decoder) is not None and model.made_by is None:
        find = partial(locate.decoder_folder, find, decoder.capacity, needs_tokenizer=decoder.tokenizer)
    folder = _there(loaded, at, find, instead=NOWHERE if elsewhere else None)
    return HuggingFaceSource(
        folder=folder,
        auto_class=model.auto_class or ("AutoModel" if decoder is None else "AutoModelForCausalLM"),
        outputs=model.outputs or ["logits"],
        load_options=model.options,
    )


def maker_source(loaded: LoadedRecipe) -> PythonSource | None:
    """The function that makes the model's folder, if one does. Raises RecipeError where it is named and not there."""
    model = loaded.recipe.model.huggingface
    if model is None or model.made_by is None:
        return None
    made_by = model.made_by
    at: KeyPath = ("model", "huggingface", "made_by")
    return _python(loaded, at, "entry", made_by.entry, made_by.arguments, made_by.files)


def _python(
    loaded: LoadedRecipe, at: KeyPath, key: str, entry: str, arguments: dict[str, Any], patterns: list[str]
) -> PythonSource:
    """A Python source; its module is looked for beside the file that names it, which `extends` may make another one."""
    folder = loaded.place(*at, key).folder
    files, listed, problems = [], [], []
    try:
        files += _there(loaded, (*at, key), lambda: locate.module_files(entry.partition(":")[0], folder))
    except RecipeError as error:
        problems += error.problems
    for where, pattern in _numbered(at, patterns):
        try:
            listed += _globbed(loaded, where, pattern)
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)
    return PythonSource(
        entry=entry,
        arguments=arguments,
        folder=folder,
        files=list(dict.fromkeys([*files, *listed])),
        listed=sorted(set(listed)),
    )


def _numbered(at: KeyPath, patterns: list[str]) -> list[tuple[KeyPath, str]]:
    return [((*at, "files", number), pattern) for number, pattern in enumerate(patterns)]


def _globbed(loaded: LoadedRecipe, at: KeyPath, pattern: str) -> list[Path]:
    return _there(loaded, at, partial(locate.globbed, pattern, loaded.place(*at).folder))


def _hub_model(hub: str, revision: str) -> Path:
    return locate.model_folder(locate.hub_folder(hub, revision))


def _model_folder(spelled: str, beside: Path) -> Path:
    return locate.model_folder(locate.path_of(spelled, beside))


def _there(loaded: LoadedRecipe, at: KeyPath, find: Callable[[], T], *, instead: T | None = None) -> T:
    try:
        return find()
    except locate.NotFound as missing:
        if instead is not None:
            return instead
        message = f"{'.'.join(map(str, at))}: {missing.message}"
        raise RecipeError([Problem(str(loaded.place(*at)), message, missing.hint)]) from None
