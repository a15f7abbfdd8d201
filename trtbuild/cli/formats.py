"""`trtbuild formats`."""

from __future__ import annotations

import json

import click

from trtbuild.cli.options import json_option


@click.command()
@click.argument("name", required=False)
@click.option("--family", help="Only the names of one project: trtbuild, TensorRT-LLM, LightX2V or LightTTS.")
@json_option
def formats(name: str | None, family: str | None, as_json: bool) -> None:
    """List every quantization format by its name here and elsewhere, or say what NAME means."""
    from dataclasses import asdict

    from trtbuild.core.format_names import meaning_of, meanings, meanings_of
    from trtbuild.reports.formats import format_lines, meaning_lines

    if name is not None:
        found = [one for one in meanings_of(name) if family is None or one.family.lower() == family.lower()]
        found = found or [meaning_of(name)]  # raises, with the nearest names
    else:
        found = meanings(family)
    if as_json:
        keys = ["name", "family", "mapping", "reason", "canonical", "kv_cache"]
        keys += ["nearest", "nearest_kv_cache", "block_size", "rounding"] if name else []
        click.echo(json.dumps([{key: asdict(one)[key] for key in keys} for one in found], indent=2))
        return
    lines = meaning_lines(found) if name is not None else format_lines(found)
    click.echo("\n".join(lines))
