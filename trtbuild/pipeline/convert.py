"""Recipes from another project's configuration, written below one folder: `trtbuild init --from`."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any, Literal, get_args

from trtbuild.core.errors import RecipeError, StoreError
from trtbuild.recipe.conversion import Converted, lighttts, lightx2v
from trtbuild.recipe.shipped import RECIPE_FILE

Project = Literal["lightx2v", "lighttts"]
PROJECTS: tuple[Project, ...] = get_args(Project)


def convert(project: Project, source: str, folder: Path | None) -> tuple[list[Path], list[str]]:
    """Write the recipes that a LightX2V configuration file or command line, or a LightTTS command line, becomes, each
    into a folder of its own below `folder`, by default `recipes/<name of the configuration or model>`.

    Returns the files, and what each mode of the configuration became. Raises RecipeError where the configuration cannot
    be read or asks for what is impossible, StoreError where a recipe is there already or cannot be written.
    """
    arguments = _arguments(source)
    if project == "lightx2v":
        file = Path(arguments.get("config_json", [source])[0] if arguments else source)
        told = {name: values[0] for name in lightx2v.TOLD if (values := arguments.get(name))}
        config = {**told, **_json(file)}  # as LightX2V itself: the file has the last word
        folder = folder or Path("recipes") / file.stem.lower()
        config |= {"model_path": _beside(str(config["model_path"]), folder)} if config.get("model_path") else {}
        found = lightx2v.converted(config, file.name)
    else:
        folder = folder or Path("recipes") / Path("".join(arguments.get("model_dir", ["lighttts"]))).name.lower()
        if directory := arguments.get("model_dir"):
            arguments["model_dir"] = [_beside(directory[0], folder)]
        found = lighttts.converted(arguments)
    return _written(found, folder), list(dict.fromkeys(remark for each in found for remark in each.remarks))


def _arguments(command: str) -> dict[str, list[str]]:
    """What follows each `--name` of a command line; `--name=value` counts too."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise RecipeError(f"this is no command line: {error}", hint="put it in quotes as a whole") from error
    found: dict[str, list[str]] = {}
    name = None
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").partition("=")
            found[name] = [value] if equals else []
        elif name is not None:
            found[name].append(word)
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else f"not JSON: {error}"
        raise RecipeError(
            f"{file}: cannot be read: {reason}", hint="name a LightX2V configuration, configs/**/*.json"
        ) from error
    if not isinstance(found, dict):
        raise RecipeError(f"{file} is no configuration: it holds a {type(found).__name__}", hint="a mapping is wanted")
    return found


def _beside(path: str, folder: Path) -> str:
    """A path of the command line as a recipe one folder below `folder` is to spell it."""
    return path if Path(path).is_absolute() else os.path.relpath(Path(path).resolve(), (folder / "recipe").resolve())


def _written(found: list[Converted], folder: Path) -> list[Path]:
    files = [folder / each.folder / RECIPE_FILE for each in found]
    if there := [file for file in files if file.exists()]:
        raise StoreError(f"{there[0]} is there already", hint="choose another folder with --output")
    try:
        for each, file in zip(found, files, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(each.text)
    except OSError as error:
        raise StoreError(f"{folder}: cannot write the recipes: {error.strerror or error}") from error
    return files
