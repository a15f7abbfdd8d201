"""Engines that were built, into a Triton model repository."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from trtbuild.core import kv_cache
from trtbuild.core.errors import DataError, RecipeError, StoreError
from trtbuild.core.interface import Interface
from trtbuild.core.values import Result
from trtbuild.pipeline.inspect import inspect
from trtbuild.triton.handoff import model_analyzer, perf_analyzer_arguments, serve_env
from trtbuild.triton.model_folder import Servable, file_names, write_version
from trtbuild.triton.options import TritonOptions


class TritonReport(Result):
    """What `trtbuild triton publish --json` prints."""

    model: str
    """What clients ask for."""
    versions: dict[str, int]
    """The newest version of each model that was written; an ensemble is several."""
    folder: str
    config: str
    """The text of the engine's config.pbtxt."""
    live: bool
    """Whether a server said that it serves it."""
    removed: list[int]
    """Older versions that were removed."""
    remarks: list[str]
    start: str
    """The command that serves the repository."""


def publish_triton(
    engines: Sequence[Path],
    repository: Path,
    *,
    options: TritonOptions | None = None,
    server_url: str | None = None,
    allow_failed: bool = False,
) -> TritonReport:
    """Add a version of a model to a Triton repository: one engine, or one for each kind of GPU.

    With `server_url` the server loads it, and a version that it refuses is taken back. Raises StoreError where an
    engine's bytes are not the ones that were built, the repository cannot be written or the server refuses; RecipeError
    where the options do not fit the engine; DataError where an engine failed its gates and `allow_failed` is not set.
    """
    from trtbuild.triton.config import as_text
    from trtbuild.triton.releases import check_release
    from trtbuild.triton.repository import Repository
    from trtbuild.triton.rules import problems
    from trtbuild.triton.server import Server

    wanted = options or TritonOptions()
    manifests = [inspect(folder) for folder in engines]
    servable = [
        Servable.read(folder, manifest["engine_digest"]) for folder, manifest in zip(engines, manifests, strict=True)
    ]
    _check_verdicts(engines, manifests, allow_failed)
    name = wanted.name or str(manifests[0]["recipe"])
    models = _models(servable, wanted, name, variant=str(manifests[0]["variant"]))
    for config, _ in models:
        check_release(config, wanted.release)
        if wrong := problems(config, folder=config.name):
            raise RecipeError(f"the configuration of {config.name} is wrong: {'; '.join(wrong)}", hint="change options")
    with ExitStack() as stack:
        server = None
        if server_url:
            server = Server(server_url)
            stack.callback(server.close)
        target = Repository(repository)
        published = {
            config.name: target.publish(config.name, as_text(config), write, keep=wanted.keep, server=server)
            for config, write in models
        }
    config = models[0][0]
    return TritonReport(
        model=name,
        versions={each: done.version for each, done in published.items()},
        folder=str(published[name].folder),
        config=as_text(config),
        live=published[name].live,
        removed=published[config.name].removed,
        remarks=_remarks(servable, wanted),
        start=_hand_off(repository, config.name, servable, wanted, config.max_batch_size),
    )


def _models(
    engines: Sequence[Servable], options: TritonOptions, name: str, *, variant: str
) -> list[tuple[Any, Callable[[Path], object]]]:
    """The models to publish, each as its configuration and what fills its version folder: first the engine, last what
    clients ask."""
    from trtbuild.decoding.tokenizer import stop_tokens_of
    from trtbuild.triton.config import model_config
    from trtbuild.triton.decoder import generation_config, write_generation
    from trtbuild.triton.text import parts

    names = file_names(engines)
    first = engines[0]
    generates = (first.folder / kv_cache.FILE).is_file()
    config = model_config(
        _common(engines),
        options,
        name=f"{name}_step" if generates else f"{name}_encoder" if options.text else name,
        backend=first.backend,
        model_file=names[first.capability],
        tags={"engine_digest": first.digest[:16], "variant": variant},
        files_by_capability=names if len(engines) > 1 else None,
    )
    models: list[tuple[Any, Callable[[Path], object]]] = [(config, lambda folder: write_version(engines, folder))]
    if generates:
        stops = stop_tokens_of(first.folder)
        loop = generation_config(name, first.folder, options)
        models.append((loop, lambda folder: write_generation(first.folder, stops, folder)))
    elif options.text:
        models += [(part.config, part.write) for part in parts(config, first.interface, options, options.text)]
    return models


def check_triton(folder: Path) -> list[str]:
    """What is wrong with a model folder's config.pbtxt, whoever wrote it. Raises RecipeError where it is unreadable."""
    from trtbuild.triton.config import parsed
    from trtbuild.triton.rules import problems

    file = folder / "config.pbtxt" if folder.is_dir() else folder
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{file} cannot be read: {error}", hint="name a model's folder, or its config.pbtxt"
        ) from error
    versions = [int(entry.name) for entry in file.parent.iterdir() if entry.is_dir() and entry.name.isdigit()]
    files = {entry.name for entry in file.parent.iterdir()}
    return problems(parsed(text, str(file)), folder=file.parent.absolute().name, versions=versions, files=files)


def roll_back_triton(model: str, repository: Path, *, server_url: str | None = None) -> int:
    """Take a model's newest version back. Returns the version that serves now. Raises StoreError."""
    from trtbuild.triton.repository import Repository
    from trtbuild.triton.server import Server

    if not (repository / model).is_dir():
        raise StoreError(f"{repository} has no model {model!r}", hint="name the model's folder in the repository")
    server = Server(server_url) if server_url else None
    try:
        return Repository(repository).roll_back(model, server=server)
    finally:
        if server is not None:
            server.close()


def read_options(file: Path | None, sets: Sequence[str]) -> TritonOptions:
    """Serving options from a YAML file and `path=value` words, checked. Raises RecipeError with every problem."""
    from pydantic import ValidationError

    spelled: Any = {}
    if file is not None:
        try:
            spelled = yaml.safe_load(file.read_text()) or {}
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"{file} cannot be read: {error}") from error
    for word in sets:
        path, equals, value = word.partition("=")
        if not equals:
            raise RecipeError(f"--set {word}: write path=value", hint="for example --set instances.count=2")
        place: Any = spelled
        *parents, last = path.split(".")
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = yaml.safe_load(value)
    try:
        return TritonOptions.model_validate(spelled)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise RecipeError(f"{file or '--set'}: {'; '.join(found)}", hint="docs/triton.md lists every option") from error


def _check_verdicts(engines: Sequence[Path], manifests: Sequence[dict[str, Any]], allow_failed: bool) -> None:
    for folder, manifest in zip(engines, manifests, strict=True):
        if manifest["verdict"]["outcome"] != "passed" and not allow_failed:
            raise DataError(
                f"{folder} failed its gates: {'; '.join(manifest['verdict']['reasons'])}",
                hint="serve a variant that passed, or say --allow-failed",
            )


def _common(engines: Sequence[Servable]) -> Interface:
    """The interface that a model of several engines can promise: profiles are one engine's, and must be all's."""
    first = engines[0].interface
    for engine in engines[1:]:
        if engine.interface.profiles != first.profiles:
            raise RecipeError(
                f"{engine.folder} was built for other shapes than {engines[0].folder}",
                hint="build both from one recipe",
            )
    return first


def _hand_off(repository: Path, name: str, engines: Sequence[Servable], options: TritonOptions, greatest: int) -> str:
    """Write the files that stand beside the repository. Returns the command that starts a server."""
    from trtbuild.core.disk import write_atomically

    root = repository.absolute()
    env = root.parent / f"{root.name}.env"
    write_atomically(env, serve_env(root, engines, options))
    load = root.parent / f"{root.name}.load"
    write_atomically(load / f"{name}.perf_analyzer.sh", perf_analyzer_arguments(name, engines[0], greatest))
    write_atomically(load / f"{name}.model_analyzer.yaml", model_analyzer(root, name, engines[0], options))
    return f". {env} && eval tritonserver $TRITON_ARGUMENTS"


def _remarks(engines: Sequence[Servable], options: TritonOptions) -> list[str]:
    remarks = []
    if options.response_cache:
        remarks.append("response_cache needs a server that was started with --cache-config; the .env file has it")
    if engines[0].backend == "onnxruntime":
        version, processor = engines[0].facts["onnxruntime"], engines[0].facts["processor"]
        remarks.append(f"optimized by ONNX Runtime {version} for {processor}: serve it with that version")
    return remarks
