"""`trtbuild bench`."""

from __future__ import annotations

from pathlib import Path

import click

from trtbuild.cli.options import json_option


@click.command()
@click.argument("engines", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--runs", type=click.IntRange(min=3), default=20, show_default=True, help="Timed calls of each engine.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads for one call; 0 means all cores.")
@json_option
def bench(engines: tuple[Path, ...], runs: int, threads: int, as_json: bool) -> None:
    """Time ENGINES (folders that `build` wrote) against each other, one call each in turn."""
    from trtbuild.pipeline.bench import bench as run

    report = run(engines, runs=runs, threads=threads)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        from trtbuild.reports.console import bench_table, show

        show(bench_table(report))
