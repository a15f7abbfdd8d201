"""`trtbuild cache`: what was built before."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trtbuild.cli.options import json_option, sets_option, store_option, variants_option
from trtbuild.core.errors import StoreError

if TYPE_CHECKING:
    from trtbuild.pipeline.carried import Carried
    from trtbuild.pipeline.halfway import Until


@click.group()
def cache() -> None:
    """List, count, verify, clean and carry what was built before."""


@cache.command("ls")
@store_option
@json_option
def ls(store: Path, as_json: bool) -> None:
    """List finished steps, newest first."""
    import time

    from trtbuild.pipeline.store import Store
    from trtbuild.pipeline.upkeep import entries
    from trtbuild.reports.console import size

    found = entries(Store(store))
    if as_json:
        click.echo(
            json.dumps([{"key": entry.key, **entry.action.model_dump(mode="json")} for entry in found], indent=2)
        )
        return
    for entry in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.action.finished_at))
        took = f"{entry.action.elapsed_s:7.1f} s"
        click.echo(f"{entry.key[:12]}  {when}  {size(entry.size_bytes):>9}  {took}  {entry.action.step}")


@cache.command()
@store_option
@json_option
def stats(store: Path, as_json: bool) -> None:
    """Say how much the store holds, and of what."""
    from trtbuild.pipeline.store import Store
    from trtbuild.pipeline.upkeep import statistics
    from trtbuild.reports.console import size

    found = statistics(Store(store))
    if as_json:
        click.echo(found.model_dump_json(indent=2))
        return
    click.echo(f"{found.root}: {found.artifacts} artifacts of {found.actions} finished steps, {size(found.size_bytes)}")
    for stage, stage_bytes in found.size_bytes_by_stage.items():
        click.echo(f"  {stage:<12} {size(stage_bytes):>9}")
    if found.leftovers:
        click.echo(
            f"  {found.leftovers} workspaces belong to running builds or to dead ones, "
            "whose `trtbuild cache gc` removes"
        )


@cache.command()
@store_option
@json_option
def verify(store: Path, as_json: bool) -> None:
    """Read every artifact again and check its digest; what is corrupt is set aside and will be made anew."""
    from trtbuild.pipeline.store import Store
    from trtbuild.pipeline.upkeep import verify as check

    found = check(Store(store))
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        click.echo(
            f"{found.checked} artifacts checked, {len(found.corrupt)} corrupt, "
            f"{len(found.incomplete)} actions forgotten"
        )
    if found.corrupt:
        raise StoreError(
            f"{len(found.corrupt)} artifacts did not hold what their digest promised: {', '.join(found.corrupt)}",
            hint=f"they were moved to {store / 'quarantine'}; the next build makes them anew",
        )


@cache.command()
@click.option("--keep-days", type=click.FloatRange(min=0), default=None, help="Forget steps that finished longer ago.")
@click.option("--max-size", default=None, metavar="SIZE", help="Forget the oldest until the store fits: 20GB, 500MB.")
@store_option
@json_option
def gc(keep_days: float | None, max_size: str | None, store: Path, as_json: bool) -> None:
    """Remove old steps, and every artifact that no step refers to. Running builds keep what they use."""
    from trtbuild.pipeline.store import Store
    from trtbuild.pipeline.upkeep import collect
    from trtbuild.reports.console import size

    found = collect(Store(store), keep_days=keep_days, max_bytes=None if max_size is None else _bytes(max_size))
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        click.echo(
            f"forgot {found.actions} steps, removed {found.artifacts} artifacts, freed {size(found.freed_bytes)}"
            + (f"; running builds use {found.in_use} more" if found.in_use else "")
        )


@cache.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--recipe", type=click.Path(path_type=Path), required=True, help="Whose finished steps to take along.")
@variants_option
@sets_option
@click.option(
    "--until",
    type=click.Choice(["export", "calibrate", "insert"]),
    default="insert",
    show_default=True,
    help="How far to take them.",
)
@store_option
@json_option
def export(
    file: Path,
    recipe: Path,
    variants: tuple[str, ...],
    sets: tuple[str, ...],
    until: Until,
    store: Path,
    as_json: bool,
) -> None:
    """Write the finished steps of a recipe into FILE, for a machine that goes on from them."""
    from trtbuild.pipeline.carried import export as write

    _carried(write(recipe, file, sets=sets, variants=variants, until=until, store=store), "written to", as_json)


@cache.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@store_option
@json_option
def take_in(file: Path, store: Path, as_json: bool) -> None:
    """Take in the finished steps of FILE, which `trtbuild cache export` wrote elsewhere; every digest is checked."""
    from trtbuild.pipeline.carried import take_in as read

    _carried(read(file, store=store), "taken in from", as_json)


def _carried(carried: Carried, done: str, as_json: bool) -> None:
    from trtbuild.reports.console import size

    if as_json:
        click.echo(carried.model_dump_json(indent=2))
        return
    click.echo(
        f"{len(carried.steps)} steps of {carried.recipe} with {carried.artifacts} artifacts, "
        f"{size(carried.size_bytes)}, {done} {carried.file}"
    )


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([\d.]+)\s*([kMGT]?)B?", text.strip())
    if not match:
        raise click.BadParameter(f"{text!r} is no size; write for example 20GB or 500MB", param_hint="--max-size")
    return int(float(match[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[match[2]])
