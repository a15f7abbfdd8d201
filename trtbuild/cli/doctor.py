"""`trtbuild doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from trtbuild.cli.options import json_option, store_option


@click.command()
@store_option
@json_option
def doctor(store: Path, as_json: bool) -> None:
    """Say what this machine can do, and how to get what is missing."""
    from trtbuild.pipeline.doctor import examine

    report = examine(store)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        from trtbuild.reports.console import doctor_table, show

        show(doctor_table(report))
