"""Read a recipe: files to values, each of which knows where it was written."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from trtbuild.core.errors import Problem, RecipeError
from trtbuild.recipe.checks import check
from trtbuild.recipe.fields import nearest
from trtbuild.recipe.merge import merged_documents
from trtbuild.recipe.overrides import overridden
from trtbuild.recipe.problems import findings_of, located, place_of
from trtbuild.recipe.schema import Recipe
from trtbuild.recipe.shipped import RECIPE_FILE, shipped, shipped_file, shipped_names
from trtbuild.recipe.yaml_document import Document, Place, read_document


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that holds together, and the place of everything in it."""

    recipe: Recipe
    file: Path
    """The recipe file, absolute."""
    folder: Path
    """Its folder, absolute."""
    document: Document
    """The values as spelled, with their places."""

    @property
    def origins(self) -> Mapping[str, str]:
        """Dotted path to `file:line` or `--set path=value`, for every value that was written somewhere."""
        return {".".join(map(str, path)): str(place) for path, place in self.document.places.items() if path}

    def origin(self, path: str) -> str:
        """Where a dotted path got its value: `file:line`, `--set path=value` or `default`."""
        return self.origins.get(path, "default")

    def place(self, *path: str | int) -> Place:
        """The place of a path, or of the nearest mapping around it."""
        return place_of(self.document, path)


def load(recipe: str | Path, sets: Sequence[str] = (), only: Sequence[str] | None = ()) -> LoadedRecipe:
    """Load a recipe file, the recipe.yaml of a folder, or a recipe that ships with trtbuild, by its name.

    With `only` some variants are meant, and what the target cannot run of the others is no error; None asks of none.
    Raises RecipeError with everything that is wrong.
    """
    file = _asked_for(Path(recipe))
    document = _with_inherited(file, str(file), ())
    document, problems = overridden(document, sets, file.resolve().parent)
    try:
        # JSON mode is strict about numbers, texts and truth values, and still takes mappings for values.
        valid = Recipe.model_validate_json(json.dumps(document.value), strict=True)
    except ValidationError as error:
        raise RecipeError(located(document, findings_of(error, document)) + problems) from None
    if problems := located(document, check(valid, document, only)) + problems:
        raise RecipeError(problems)
    return LoadedRecipe(valid, file.resolve(), file.resolve().parent, document)


def _asked_for(recipe: Path) -> Path:
    """The recipe file that the argument means: what lies there, else what ships under that name."""
    return _found(recipe if recipe.exists() else shipped(recipe) or recipe)


def _found(recipe: Path) -> Path:
    """The recipe file at a path."""
    if recipe.is_file():
        return recipe
    if recipe.is_dir():
        if (inside := recipe / RECIPE_FILE).is_file():
            return inside
        there = sorted(entry.name for entry in recipe.iterdir() if entry.suffix in (".yaml", ".yml"))
        there += sorted(str(file.parent) for file in recipe.glob(f"*/{RECIPE_FILE}"))
        listed = f"there is: {', '.join(there)}" if there else "there is no .yaml file in it"
        raise RecipeError(f"{recipe} has no {RECIPE_FILE}", hint=listed)
    around = recipe.parent
    if members := [name for name in shipped_names() if Path(name).parent == recipe]:
        raise RecipeError(f"there is no recipe {recipe}", hint=f"there is: {', '.join(members)}")
    if not around.is_dir():
        ships = [] if recipe.is_absolute() else shipped_names()
        close = difflib.get_close_matches(recipe.as_posix(), ships)
        hint = f"did you mean {close[0]}?" if close else f"there is no folder {around}"
        raise RecipeError(f"there is no recipe {recipe}", hint=hint)
    entries = sorted(around.iterdir())
    known = [entry.name for entry in entries if entry.suffix in (".yaml", ".yml") or (entry / RECIPE_FILE).is_file()]
    known += shipped_names() if len(recipe.parts) == 1 else []
    hint = nearest(recipe.name, known, none=f"there are no recipes in {around}")
    raise RecipeError(f"there is no recipe {recipe}", hint=hint)


def _with_inherited(file: Path, shown: str, heirs: tuple[Path, ...]) -> Document:
    """The file's document over those that it extends, of which the last has the last word."""
    document = read_document(file, shown)
    if not isinstance(document.value, dict):
        what = "is empty" if document.value is None else "is not a mapping"
        raise RecipeError([Problem(f"{shown}:1", what, "a recipe begins with `recipe: <name>`")])
    extends = document.value.get("extends")
    under: Document | None = None
    for number, parent in enumerate(extends if isinstance(extends, list) else [extends]):
        if isinstance(parent, str):  # else absent, or of a type that validation refuses
            place = document.places.get(("extends", number), document.places[("extends",)])
            inherited = _parent(file, parent, str(place), (*heirs, file.resolve()))
            under = inherited if under is None else merged_documents(under, inherited)
    return document if under is None else merged_documents(under, document)


def _parent(file: Path, extends: str, place: str, heirs: tuple[Path, ...]) -> Document:
    """What a file extends, beside it or shipped with trtbuild, over what that extends in turn."""
    try:
        under = _found(shipped_file(extends) or Path(os.path.normpath(file.parent / extends)))
    except RecipeError as error:
        raise RecipeError([Problem(place, f"extends: {error.message}", error.hint)]) from None
    if under.resolve() in heirs:
        circle = " -> ".join(
            heir.name if heir.name != RECIPE_FILE else f"{heir.parent.name}/{heir.name}" for heir in heirs
        )
        raise RecipeError(
            [Problem(place, f"extends {extends}, which extends this recipe in turn: {circle} -> {extends}")]
        )
    return _with_inherited(under, str(under), heirs)
