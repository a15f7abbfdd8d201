"""`trtbuild plan` and `trtbuild explain`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from trtbuild.cli.options import json_option, recipe_argument, sets_option, store_option, variants_option


@click.command()
@recipe_argument
@variants_option
@sets_option
@click.option("--values", is_flag=True, help="Show the recipe's values instead, each with the place it came from.")
@store_option
@json_option
def plan(
    recipe: Path, variants: tuple[str, ...], sets: tuple[str, ...], values: bool, store: Path, as_json: bool
) -> None:
    """Show the steps of RECIPE, who does them, and what a build would do. Runs nothing."""
    if values:
        _values(recipe, sets, as_json)
        return
    from trtbuild.pipeline.explain import explain as decide_all

    report = decide_all(recipe, sets=sets, variants=variants, store=store)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        from trtbuild.reports.plain import plan_lines

        click.echo("\n".join(plan_lines(report)))


@click.command()
@recipe_argument
@click.argument("steps", nargs=-1, metavar="[STEP]...")
@variants_option
@sets_option
@store_option
@json_option
def explain(
    recipe: Path, steps: tuple[str, ...], variants: tuple[str, ...], sets: tuple[str, ...], store: Path, as_json: bool
) -> None:
    """Say for each step of RECIPE (or for the STEPs named) why a build would run or reuse it. Runs nothing."""
    from trtbuild.pipeline.explain import explain as decide_all

    report = decide_all(recipe, sets=sets, variants=variants, store=store)
    known = [step.name for step in report.steps]
    for name in steps:
        if name not in known:
            raise click.BadParameter(f"there is no step {name!r}; there are: {', '.join(known)}", param_hint="STEP")
    wanted = [step for step in report.steps if not steps or step.name in steps]
    if as_json:
        click.echo(report.model_copy(update={"steps": wanted}).model_dump_json(indent=2))
        return
    from trtbuild.reports.plain import decision_lines

    click.echo("\n".join(decision_lines(wanted)))


def _values(recipe: Path, sets: tuple[str, ...], as_json: bool) -> None:
    import json

    from trtbuild.recipe.load import load

    loaded = load(recipe, sets)
    rows = [
        (path, value, loaded.origin(path))
        for path, value in _leaves("", loaded.recipe.model_dump(mode="json", by_alias=True))
    ]
    if as_json:
        click.echo(json.dumps({path: {"value": value, "from": origin} for path, value, origin in rows}, indent=2))
        return
    for path, value, origin in rows:
        click.echo(f"{path} = {json.dumps(value)}  # {origin}")


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), item)
    else:
        yield path, value
