"""`trtbuild triton`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trtbuild.cli.options import json_option

_FOLDER = click.Path(path_type=Path, file_okay=False)

_server_option = click.option(
    "--server",
    "server_url",
    metavar="URL",
    help="A running server, http://host:8000: load it there, wait, or take it back.",
)
_repository_option = click.option(
    "--repository", type=_FOLDER, required=True, help="The model repository: a folder that Triton serves."
)


@click.group("triton")
def triton() -> None:
    """Serve engines with NVIDIA Triton Inference Server."""


@triton.command("publish")
@click.argument("engines", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@_repository_option
@click.option("--options", "file", type=click.Path(path_type=Path, dir_okay=False), help="Serving options, as YAML.")
@click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="One serving option: --set instances.count=2")
@click.option("--name", help="The model's name. Default: the recipe's.")
@_server_option
@click.option("--allow-failed", is_flag=True, help="Serve an engine that failed its gates.")
@json_option
def publish(
    engines: tuple[Path, ...],
    repository: Path,
    file: Path | None,
    sets: tuple[str, ...],
    name: str | None,
    server_url: str | None,
    allow_failed: bool,
    as_json: bool,
) -> None:
    """Add ENGINES (folders that `build` wrote) as one new version of a model.

    One engine, or one TensorRT engine for each kind of GPU. The version appears whole, by one rename; a server that
    refuses it keeps serving what it served.
    """
    from trtbuild.pipeline.triton import publish_triton, read_options

    named = [f"name={name}"] if name else []
    options = read_options(file, [*sets, *named])
    report = publish_triton(engines, repository, options=options, server_url=server_url, allow_failed=allow_failed)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
        return
    for model, version in report.versions.items():
        click.echo(f"{repository / model}: version {version}{', live' if report.live else ''}")
    for remark in report.remarks:
        click.echo(f"  {remark}")
    if report.removed:
        click.echo(f"  removed older versions: {', '.join(map(str, report.removed))}")
    if not report.live:
        click.echo(f"serve it:  {report.start}")


@triton.command("check")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@json_option
@click.pass_context
def check(context: click.Context, folders: tuple[Path, ...], as_json: bool) -> None:
    """Find what is wrong with model FOLDERS' config.pbtxt, the mistakes that a server never mentions included."""
    from trtbuild.core.errors import GATE_FAILED_EXIT_CODE
    from trtbuild.pipeline.triton import check_triton

    found = {str(folder): check_triton(folder) for folder in folders}
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for folder, wrong in found.items():
            for sentence in wrong:
                click.echo(f"{folder}: {sentence}")
            if not wrong:
                click.echo(f"{folder}: nothing is wrong")
    if any(found.values()):
        context.exit(GATE_FAILED_EXIT_CODE)


@triton.command("rollback")
@click.argument("model")
@_repository_option
@_server_option
@json_option
def rollback(model: str, repository: Path, server_url: str | None, as_json: bool) -> None:
    """Take the newest version of MODEL back: the one before it serves again, with the configuration it came with."""
    from trtbuild.pipeline.triton import roll_back_triton

    version = roll_back_triton(model, repository, server_url=server_url)
    if as_json:
        click.echo(json.dumps({"model": model, "version": version}))
    else:
        click.echo(f"{repository / model}: version {version} is the newest now")
