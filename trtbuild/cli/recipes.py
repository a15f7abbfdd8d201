"""`trtbuild init`, `trtbuild recipes` and `trtbuild schema`: writing recipes."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trtbuild.cli.options import json_option


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder to write. Default: recipes/<name of the model>.",
)
@json_option
def init(model: Path, output: Path | None, as_json: bool) -> None:
    """Write a first recipe for MODEL, an ONNX file or a Hugging Face folder."""
    from trtbuild.pipeline.init import init as write

    files = write(model, output or Path("recipes") / model.resolve().stem)
    if as_json:
        click.echo(json.dumps({"files": [str(file) for file in files]}, indent=2))
        return
    for file in files:
        click.echo(f"wrote {file}")
    click.echo(f"next: give samples.py real inputs, then run: trtbuild build {files[0].parent}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), required=False)
@json_option
def recipes(folder: Path | None, as_json: bool) -> None:
    """List the recipes below FOLDER, with what each builds.

    FOLDER is by default `recipes`, and where there is none, that of the recipes which come with trtbuild. Those can be
    built from anywhere by their bare name: trtbuild build minilm
    """
    from trtbuild.core.errors import RecipeError
    from trtbuild.recipe.expand import variants
    from trtbuild.recipe.load import load
    from trtbuild.recipe.shipped import shipped_folder

    beside = Path("recipes")
    folder = folder or (beside if beside.is_dir() else shipped_folder()) or beside
    found = []
    for file in sorted(folder.rglob("recipe.yaml")):
        try:
            loaded = load(file)
            names, problem = list(variants(loaded.recipe)), ""
        except RecipeError as error:
            loaded, names, problem = None, [], error.message.splitlines()[0]
        found.append(
            {
                "path": str(file.parent),
                "description": loaded.recipe.description if loaded else "",
                "variants": names,
                "problem": problem,
            }
        )
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for entry in found:
        click.echo(f"{entry['path']}: {entry['problem'] or entry['description']}")
        if entry["variants"]:
            click.echo(f"  {', '.join(map(str, entry['variants']))}")
    if not found:
        click.echo(f"there is no recipe.yaml below {folder}; `trtbuild init MODEL` writes one", err=True)


@click.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors: trtbuild schema > recipe.schema.json."""
    from trtbuild.recipe.json_schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
