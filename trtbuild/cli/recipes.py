"""`trtbuild init`, `trtbuild recipes` and `trtbuild schema`: writing recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import click

from trtbuild.cli.options import json_option


@click.command()
@click.argument("model")
@click.option(
    "--from",
    "project",
    type=click.Choice(["lightx2v", "lighttts"]),
    help="MODEL is this project's: a LightX2V configuration, or a command line of either in quotes.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder to write. Default: recipes/<name of the model>.",
)
@json_option
def init(model: str, project: Literal["lightx2v", "lighttts"] | None, output: Path | None, as_json: bool) -> None:
    """Write a first recipe for MODEL, an ONNX file or a Hugging Face folder, or recipes for another project's
    configuration.

    \b
    trtbuild init --from lightx2v configs/wan_t2v.json
    trtbuild init --from lighttts "python -m light_tts.server.api_server --model_dir MODEL --mode triton_int8kv"
    """
    remarks: list[str] = []
    if project is not None:
        from trtbuild.pipeline.convert import convert

        files, remarks = convert(project, model, output)
    else:
        from trtbuild.pipeline.init import init as write

        if not Path(model).exists():
            raise click.BadParameter(f"{model} does not exist.", param_hint="MODEL")
        files = write(Path(model), output or Path("recipes") / Path(model).resolve().stem)
    if as_json:
        told = {"remarks": remarks} if project else {}
        click.echo(json.dumps({"files": [str(file) for file in files], **told}, indent=2))
        return
    for file in files:
        click.echo(f"wrote {file}")
    for remark in remarks:
        click.echo(f"note: {remark}")
    first = "give samples.py real inputs, then " if any(file.name == "samples.py" for file in files) else ""
    click.echo(f"next: {first}run: trtbuild build {files[0].parent}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False), required=False)
@json_option
def recipes(folder: Path | None, as_json: bool) -> None:
    """List the recipes below FOLDER: what each builds and needs, and what was measured and proven of it.

    FOLDER is by default `recipes`, and where there is none, that of the recipes which come with trtbuild. Those can be
    built from anywhere by their bare name: trtbuild build minilm
    """
    from trtbuild.recipe.catalogue import catalogue
    from trtbuild.recipe.shipped import shipped_folder
    from trtbuild.reports.catalogue import catalogue_lines

    beside = Path("recipes")
    folder = folder or (beside if beside.is_dir() else shipped_folder()) or beside
    found = catalogue(folder, folder.resolve().parent / "benchmarks")
    if as_json:
        click.echo(json.dumps([entry.model_dump() for entry in found], indent=2))
        return
    click.echo("".join(f"{line}\n" for line in catalogue_lines(found)), nl=False)
    if not found:
        click.echo(f"there is no recipe.yaml below {folder}; `trtbuild init MODEL` writes one", err=True)


@click.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors: trtbuild schema > recipe.schema.json."""
    from trtbuild.recipe.json_schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
