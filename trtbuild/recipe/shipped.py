"""The recipes that come with trtbuild: beside the package in a checkout, inside it where a wheel was installed."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from trtbuild.core.errors import RecipeError

PACKAGE = Path(__file__).parents[1]
RECIPE_FILE = "recipe.yaml"
SCHEME = "trtbuild://"
"""In front of a shipped recipe or block that a recipe elsewhere extends: `trtbuild://wan/dit`."""


def shipped_folder() -> Path | None:
    """The folder that holds the shipped recipes; None where a packager left them out."""
    candidates = (PACKAGE / "_recipes", PACKAGE.parent / "recipes")  # as pyproject.toml and setup.py map them
    return next((folder for folder in candidates if folder.is_dir()), None)


def shipped_names() -> list[str]:
    """The names by which shipped recipes can be built from anywhere: `minilm`, `cosyvoice2/flow`."""
    root = shipped_folder()
    return sorted(file.parent.relative_to(root).as_posix() for file in root.rglob(RECIPE_FILE)) if root else []


def shipped(recipe: Path) -> Path | None:
    """The folder of the shipped recipe that a bare name means; None for a path, or a name that none has."""
    root = shipped_folder()
    return root / recipe if root is not None and recipe.as_posix() in shipped_names() else None


def shipped_file(extends: str) -> Path | None:
    """The shipped recipe's folder, or the shipped block, that `trtbuild://name` means; None for anything else.

    Raises RecipeError for a name that leaves the folder of shipped recipes, or where a packager left them out.
    """
    if not extends.startswith(SCHEME):
        return None
    name, root = PurePosixPath(extends.removeprefix(SCHEME)), shipped_folder()
    if name.is_absolute() or ".." in name.parts:
        raise RecipeError(f"{extends} is no name of a shipped recipe", hint=f"for example {SCHEME}minilm")
    if root is None:
        raise RecipeError(f"there is no {extends}: this installation has no recipes", hint="copy it beside yours")
    if not (found := root / name).exists():
        raise RecipeError(f"there is no {extends}", hint=f"there is: {', '.join(shipped_names() + shipped_blocks())}")
    return found


def shipped_blocks() -> list[str]:
    """The names of what shipped recipes can be composed of: `blocks/memory_bound.yaml`."""
    root = shipped_folder()
    return sorted(file.relative_to(root).as_posix() for file in root.glob("blocks/*.yaml")) if root else []
