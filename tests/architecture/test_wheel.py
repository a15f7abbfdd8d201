"""What is installed: the wheel holds the package, the shipped recipes, which can be used from anywhere, and plugins."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from trtbuild.recipe.schema import Recipe

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that pip would build, from a copy of what it is built from: no network, nothing left in the tree."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("trtbuild", "recipes", "plugins"):
        shutil.copytree(ROOT / name, tree / name)
    (tree / "recipes" / "minilm" / "__pycache__").mkdir(exist_ok=True)
    (tree / "recipes" / "minilm" / "__pycache__" / "minilm.pyc").write_bytes(b"")
    told = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=tree, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    return out / told.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel holds."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def files_below(folder: Path) -> set[str]:
    files = (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return {file.relative_to(folder).as_posix() for file in files}


def test_the_wheel_holds_the_package_the_recipes_and_the_plugins_and_nothing_else(installed: Path) -> None:
    package = {f"trtbuild/{name}" for name in files_below(ROOT / "trtbuild")}
    recipes = {f"trtbuild/_recipes/{name}" for name in files_below(ROOT / "recipes")}
    plugins = {f"trtbuild/_plugins/{name}" for name in files_below(ROOT / "plugins")}
    assert "trtbuild/_recipes/minilm/recipe.yaml" in recipes
    assert "trtbuild/_plugins/kv_cache_append/plugin.yaml" in plugins
    found = {str(file.relative_to(installed)) for file in installed.rglob("*") if file.is_file()}
    assert {name for name in found if ".dist-info/" not in name} == package | recipes | plugins


def test_shipped_recipes_are_listed_and_planned_from_any_folder(installed: Path, tmp_path: Path) -> None:
    def asked(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "trtbuild", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            check=False,
        )

    entries = {Path(entry["path"]).name: entry for entry in json.loads(asked("recipes", "--json").stdout)}
    assert Path(entries["minilm"]["path"]) == installed / "trtbuild" / "_recipes" / "minilm"
    assert entries["minilm"]["problem"] == ""
    planned = asked("plan", "minilm", "--store", "store", "--json")
    assert json.loads(planned.stdout)["variants"] == entries["minilm"]["variants"]
    misspelled = asked("plan", "minilmm", "--store", "store")
    assert misspelled.returncode == 2
    assert "did you mean minilm?" in misspelled.stderr


def test_plugins_are_found_in_what_is_installed(installed: Path, tmp_path: Path) -> None:
    code = (
        "from trtbuild.plugins.kernels import variants; "
        "print(all(each.ptx(known).is_file() for each in variants() for known in each.kernel.architectures), "
        "variants()[0].folder)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    complete, folder = told.stdout.split()
    assert complete == "True"
    assert Path(folder).parent == installed / "trtbuild" / "_plugins"


def test_what_lies_there_comes_before_what_ships(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trtbuild.recipe.load import load

    monkeypatch.chdir(tiny.parent)
    assert load("minilm").file == ROOT / "recipes" / "minilm" / "recipe.yaml"
    tiny.rename(tiny.parent / "minilm")
    own: Recipe = load("minilm").recipe
    assert own.recipe == "tiny"


def test_a_recipe_that_extends_a_bare_name_means_its_neighbour(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trtbuild.core.errors import RecipeError
    from trtbuild.recipe.load import load

    monkeypatch.chdir(tiny.parent)
    Path("heir.yaml").write_text("extends: minilm\nrecipe: heir\n")
    with pytest.raises(RecipeError, match="extends: there is no recipe"):
        load("heir.yaml")
