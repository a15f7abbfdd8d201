"""`trtbuild build` and `trtbuild validate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trtbuild.cli.options import (
    json_option,
    quiet_option,
    recipe_argument,
    sets_option,
    store_option,
    variants_option,
    verbose_option,
)
from trtbuild.core.errors import GATE_FAILED_EXIT_CODE
from trtbuild.core.report import BuildReport, PrepareReport

if TYPE_CHECKING:
    from trtbuild.pipeline.halfway import Until

Outcome = TypeVar("Outcome", BuildReport, PrepareReport)

jobs_option = click.option(
    "--jobs", "-j", type=click.IntRange(min=0), default=0, help="Steps at the same time; 0 decides."
)
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=None,
    metavar="SECONDS",
    help="Kill a step after this long.",
)
force_option = click.option("--force", is_flag=True, help="Run every step even where its work is done.")
repair_option = click.option(
    "--repair",
    is_flag=True,
    help="Repair variants that fail: un-quantize, or pin to FP32, the fewest modules that suffice; print a patch.",
)
write_option = click.option("--write", is_flag=True, help="With --repair: write the repairs into the recipe as well.")


@click.command()
@recipe_argument
@variants_option
@sets_option
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("engines"),
    show_default=True,
    help="Where engine folders land.",
)
@jobs_option
@timeout_option
@force_option
@click.option(
    "--until",
    type=click.Choice(["export", "calibrate", "insert", "build"]),
    default=None,
    help="Stop behind these stages: `trtbuild cache export` carries what was done to a machine that goes on.",
)
@repair_option
@write_option
@store_option
@json_option
@quiet_option
@verbose_option
def build(
    recipe: Path,
    variants: tuple[str, ...],
    sets: tuple[str, ...],
    output: Path,
    jobs: int,
    timeout_s: float | None,
    force: bool,
    until: Until | None,
    repair: bool,
    write: bool,
    store: Path,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Build, check and measure the engines of RECIPE (a YAML file, or a folder with recipe.yaml).

    Ends with a table: size, latency, accuracy, coverage and verdict of every variant, and which one to ship.
    Exits with 8 where a variant failed its gates. With --repair such a variant is looked into: nodes that make NaN or
    infinity in 16 bits go back to FP32, modules that cost too much accuracy stay in high precision, and what changed
    is built again. The recipe stays as it is: repair.patch beside the engines says what to change, and why.
    """
    if write and not repair:
        raise click.UsageError("--write belongs to --repair")
    if until is not None and repair:
        raise click.UsageError("--repair needs verdicts, and --until stops before them")
    from trtbuild.pipeline.build import build as run
    from trtbuild.pipeline.build import prepare
    from trtbuild.pipeline.repair import build_and_repair

    limits = (jobs, timeout_s, force)
    what: dict[str, Any] = {"recipe": recipe, "sets": sets, "variants": variants, "store": store}
    if until is not None:
        halfway = _with_progress(prepare, limits, quiet, verbose, until=until, **what)
        return _show_halfway(halfway, recipe, as_json)
    if repair:
        report = _with_progress(build_and_repair, limits, quiet, verbose, output=output, write=write, **what)
    else:
        report = _with_progress(run, limits, quiet, verbose, output=output, **what)
    return _shown(report, as_json)


@click.command()
@recipe_argument
@variants_option
@sets_option
@jobs_option
@timeout_option
@store_option
@json_option
@quiet_option
@verbose_option
def validate(
    recipe: Path,
    variants: tuple[str, ...],
    sets: tuple[str, ...],
    jobs: int,
    timeout_s: float | None,
    store: Path,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Judge the engines of RECIPE by its gates, writing no engine folder.

    Runs only what is not in the store yet; after a build, other gates (`--set gates...`) are judged at once.
    """
    from trtbuild.pipeline.build import build as run

    what: dict[str, Any] = {"recipe": recipe, "sets": sets, "variants": variants, "store": store, "output": None}
    report = _with_progress(run, (jobs, timeout_s, False), quiet, verbose, **what)
    return _shown(report, as_json)


def _with_progress(
    run: Callable[..., Outcome], limits: tuple[int, float | None, bool], quiet: bool, verbose: bool, **arguments: Any
) -> Outcome:
    """Call a function of the pipeline, showing how far it is."""
    from trtbuild.pipeline.run import Limits
    from trtbuild.reports.live import Progress

    jobs, timeout_s, force = limits
    with Progress(quiet=quiet, verbose=verbose) as progress:
        return run(**arguments, listener=progress, limits=Limits(jobs=jobs, timeout_s=timeout_s, force=force))


def _show_halfway(report: PrepareReport, recipe: Path, as_json: bool) -> int:
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        click.echo(
            f"{report.recipe} is done until {report.until}, for {report.backend} ({report.backend_because}): "
            f"{report.steps_run} steps ran, {report.steps_reused} reused, {report.elapsed_s:.1f} s"
        )
        click.echo(
            f"to go on elsewhere: trtbuild cache export FILE --recipe {recipe}, with the same --set and --variant"
        )
    return 0


def _shown(report: BuildReport, as_json: bool) -> int:
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        from trtbuild.reports.console import build_table, show

        show(build_table(report))
    return 0 if report.passed else GATE_FAILED_EXIT_CODE
