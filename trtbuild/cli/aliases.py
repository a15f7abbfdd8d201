"""`trtbuild promote`, `rollback` and `versions`."""

from __future__ import annotations

from pathlib import Path

import click

from trtbuild.cli.options import json_option, keys_option, threshold_option
from trtbuild.core.shipping import PromotionReport


@click.command()
@click.argument("reference")
@click.argument("alias")
@keys_option
@threshold_option
@click.option("--allow-failed", is_flag=True, help="Promote a version with engines that failed their gates.")
@json_option
def promote(
    reference: str, alias: str, keys: tuple[Path, ...], threshold: int, allow_failed: bool, as_json: bool
) -> None:
    """Let ALIAS (staging, prod) lead to the version or alias REFERENCE of the same place.

    The verdicts of its engines and what it replaces are kept with the alias, so that `rollback` finds the way back.
    """
    from trtbuild.pipeline.promote import promote as run

    _show(run(reference, alias, keys=keys, threshold=threshold, allow_failed=allow_failed), as_json)


@click.command()
@click.argument("reference")
@json_option
def rollback(reference: str, as_json: bool) -> None:
    """Let the alias of REFERENCE (oci://host/minilm:prod) lead to the version before; again, to the one before that."""
    from trtbuild.pipeline.promote import rollback as run

    _show(run(reference), as_json)


@click.command()
@click.argument("place")
@json_option
def versions(place: str, as_json: bool) -> None:
    """List what PLACE holds: versions with their engines, and aliases with what they lead to."""
    from trtbuild.pipeline.promote import versions as run

    report = run(place)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
        return
    aliases: dict[str, list[str]] = {}
    for alias in report.aliases:
        aliases.setdefault(alias.digest, []).append(alias.alias)
    for version in report.versions:
        named = f"  <- {', '.join(aliases.get(version.digest, []))}" if version.digest in aliases else ""
        click.echo(f"{version.tag}  {version.created}  {version.digest[:19]}{named}")
        for engine in version.engines:
            click.echo(f"  {engine}{'  failed its gates' * (engine in version.failed)}")
    for alias in report.aliases:
        before = f", before that {alias.before}" if alias.before else ""
        click.echo(f"{alias.alias} -> {alias.version} since {alias.since} ({alias.action}{before})")
    if not report.versions:
        click.echo(f"{report.place} holds no bundle")


def _show(report: PromotionReport, as_json: bool) -> None:
    if as_json:
        click.echo(report.model_dump_json(indent=2))
        return
    replaced = f", it was {report.replaced}" if report.replaced else ""
    click.echo(f"{report.place}:{report.alias} leads to {report.version}{replaced}  {report.digest}")
    for engine, verdict in report.verdicts.items():
        click.echo(f"  {engine}  {verdict}")
