"""The recipes that come with trtbuild: beside the package in a checkout, inside it where a wheel was installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
RECIPE_FILE = "recipe.yaml"


def shipped_folder() -> Path | None:
    """The folder that holds the shipped recipes; None where a packager left them out."""
    candidates = (PACKAGE / "_recipes", PACKAGE.parent / "recipes")  # as pyproject.toml and setup.py map them
    return next((folder for folder in candidates if folder.is_dir()), None)


def shipped_names() -> list[str]:
    """The names by which shipped recipes can be built from anywhere."""
    root = shipped_folder()
    return sorted(file.parent.name for file in root.glob(f"*/{RECIPE_FILE}")) if root else []


def shipped(recipe: Path) -> Path | None:
    """The folder of the shipped recipe that a bare name means; None for a path, or a name that none has."""
    if len(recipe.parts) != 1 or recipe.name not in shipped_names():
        return None
    root = shipped_folder()
    assert root is not None
    return root / recipe.name
