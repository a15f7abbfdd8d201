"""`trtbuild plan` and `trtbuild explain`."""

from __future__ import annotations

from pathlib import Path

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
        from trtbuild.reports.console import plan_table, show

        show(plan_table(report))


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
    width = max(len(step.name) for step in wanted)
    for step in wanted:
        click.echo(f"{step.name:<{width}}  {step.decision:<7}  {step.reason}")


def _values(recipe: Path, sets: tuple[str, ...], as_json: bool) -> None:
    import json

    from trtbuild.recipe.load import load

    rows = load(recipe, sets).values()
    if as_json:
        click.echo(json.dumps({path: {"value": value, "from": origin} for path, value, origin in rows}, indent=2))
        return
    for path, value, origin in rows:
        click.echo(f"{path} = {json.dumps(value)}  # {origin}")
