"""Find what a recipe names on disk: files, model folders, Python modules. Nothing is imported."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trtbuild.core import git_lfs
from trtbuild.stages.export_decoder import NO_TOKENIZER_HINT

PACKAGE = "package://"


class NotFound(Exception):
    """Something a recipe names is not there; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def path_of(spelled: str, folder: Path) -> Path:
    """The path that a recipe in `folder` means. Raises NotFound where a package is not installed."""
    if not spelled.startswith(PACKAGE):
        return Path(os.path.normpath(folder / Path(spelled).expanduser()))
    package, _, inside = spelled.removeprefix(PACKAGE).partition("/")
    if not (roots := _package_folders(package)):
        pip_name = package.replace("_", "-")
        raise NotFound(f"{spelled}: package {package} is not installed", f"pip install {pip_name}")
    found = [Path(root) / inside for root in roots]
    return next((path for path in found if path.exists()), found[0])


def hub_folder(model: str, revision: str) -> Path:
    """The folder of a hub model's commit in the local cache. Raises NotFound where it was not downloaded."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
    folder = cache / f"models--{model.replace('/', '--')}" / "snapshots" / revision
    if not folder.is_dir():
        download = f"hf download {model} --revision {revision}"
        raise NotFound(f"{model} at {revision[:12]} is not in the hub cache {cache}", f"download it: {download}")
    return folder


def model_folder(folder: Path) -> Path:
    """The folder, once it is known to hold a model. Raises NotFound where it does not."""
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}", near(folder))
    if not (folder / "config.json").is_file():
        raise NotFound(f"{folder} has no config.json, so it is no Hugging Face model", near(folder / "config.json"))
    for weights in sorted(folder.glob("*.safetensors")):
        not_a_pointer(weights)
    return folder


def decoder_folder(find: Callable[[], Path], capacity: int, *, needs_tokenizer: bool) -> Path:
    """The folder of a decoder that has all its shards, a tokenizer, and positions for `capacity` tokens: what would
    otherwise fail after minutes. Raises NotFound where it has not."""
    folder = find()
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(_json(index).get("weight_map", {}).values())
        if missing := sorted(name for name in shards if not (folder / str(name)).is_file()):
            raise NotFound(
                f"{folder} lacks {len(missing)} of {len(shards)} weight shards, first {missing[0]}",
                "download the missing files; the index names every shard",
            )
    elif not [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin*")]:
        raise NotFound(f"{folder} has no weights: no *.safetensors, no pytorch_model*.bin", near(folder / "model"))
    if needs_tokenizer and not (folder / "tokenizer.json").is_file():
        raise NotFound(f"{folder} has no tokenizer.json", NO_TOKENIZER_HINT)
    config = _json(folder / "config.json")
    config = {**config, **(config.get("text_config") or {})}
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    if isinstance(positions, int) and capacity > positions:
        raise NotFound(
            f"decoder.capacity is {capacity}, and the model in {folder} knows {positions} positions",
            f"set decoder.capacity to at most {positions}",
        )
    return folder


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise NotFound(f"{file} is not readable as JSON: {error}") from None
    return found if isinstance(found, dict) else {}


def regular_file(file: Path) -> Path:
    """The file, once it is known to be there. Raises NotFound where it is not."""
    if not file.is_file():
        raise NotFound(f"there is no file {file}", near(file))
    return file


def onnx_file(file: Path) -> Path:
    """The file, once it is known to be there. Raises NotFound where it is not, or is a Git LFS pointer."""
    if not file.is_file():
        raise NotFound(f"there is no file {file}", near(file))
    not_a_pointer(file)
    return file


def not_a_pointer(file: Path) -> None:
    """Raises NotFound where the file only says where Git LFS keeps it."""
    if git_lfs.is_pointer(file):
        raise NotFound(f"{file} is a Git LFS pointer, not the file itself", "fetch it: git lfs pull")


def module_files(module: str, folder: Path) -> list[Path]:
    """The files of a module beside the recipe, or of an installed one. Raises NotFound where there is neither."""
    parts = module.split(".")
    if beside := _module_in(folder, parts):
        return _whole(beside)
    for root in _package_folders(parts[0]):
        if len(parts) > 1 and (found := _module_in(root, parts[1:])):
            return [found]
    spec = _spec(parts[0])
    if spec is not None and len(parts) == 1:
        return [Path(spec)] if spec.endswith(".py") else []
    there = ", ".join(sorted(file.name for file in folder.glob("*.py"))) or "no .py file"
    raise NotFound(
        f"there is no module {module!r}: neither {parts[-1]}.py beside the recipe nor an installed package",
        f"in {folder} there is: {there}",
    )


def globbed(pattern: str, folder: Path) -> list[Path]:
    """The files that a pattern matches, sorted. Raises NotFound where there is none, or no such package."""
    if pattern.startswith(PACKAGE):
        anchored = str(path_of(pattern, folder))
    else:
        anchored = pattern if os.path.isabs(pattern) else os.path.join(glob.escape(str(folder)), pattern)
    found = sorted(
        {Path(os.path.normpath(file)) for file in glob.glob(anchored, recursive=True) if os.path.isfile(file)}
    )
    if not found:
        raise NotFound(f"{pattern!r} matches no file in {folder}")
    return found


def near(path: Path) -> str:
    """What is where the path should be, in words."""
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    names = sorted(entry.name + "/" * entry.is_dir() for entry in parent.iterdir() if not entry.name.startswith("."))
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"in {parent} there is: {listed or 'nothing'}"


def _module_in(folder: Path, parts: list[str]) -> Path | None:
    stem = folder.joinpath(*parts)
    candidates = (stem / "__init__.py", stem.with_name(stem.name + ".py"))
    return next((file for file in candidates if file.is_file()), None)


def _whole(file: Path) -> list[Path]:
    """A package beside the recipe is all its modules; a module is its file."""
    return sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]


def _package_folders(package: str) -> list[Path]:
    try:
        spec = find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):
        return []
    return [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []


def _spec(package: str) -> str | None:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    return (spec.origin or "") if spec else None
