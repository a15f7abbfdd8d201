"""`trtbuild advise`."""

from __future__ import annotations

from pathlib import Path

import click

from trtbuild.cli.options import json_option, recipe_argument, sets_option


@click.command()
@recipe_argument
@click.option(
    "--for",
    "goal",
    type=click.Choice(["accuracy", "memory", "latency"]),
    default="latency",
    show_default=True,
    help="What matters most.",
)
@click.option("--gpu", required=True, help="The GPU to build for (H100, sm_90, ...), or cpu for ONNX Runtime.")
@sets_option
@json_option
def advise(recipe: Path, goal: str, gpu: str, sets: tuple[str, ...], as_json: bool) -> None:
    """Say which formats to try first for RECIPE on a GPU, and why, with the lines to paste. Measures nothing."""
    from trtbuild.pipeline.advise import advise as reason

    advice = reason(recipe, goal, gpu, sets=sets)  # type: ignore[arg-type]  # click.Choice has checked the goal
    if as_json:
        click.echo(advice.model_dump_json(indent=2))
        return
    from trtbuild.reports.advice import advice_lines

    click.echo("\n".join(advice_lines(advice)))
