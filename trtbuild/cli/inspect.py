"""`trtbuild inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from trtbuild.cli.options import json_option


@click.command("inspect")
@click.argument("engine", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--layers", is_flag=True, help="Every module that was asked to run quantized.")
@json_option
def inspect(engine: Path, layers: bool, as_json: bool) -> None:
    """Show what ENGINE (a folder that `build` wrote) is made of, after checking its digests."""
    from trtbuild.pipeline.inspect import inspect as read

    manifest = read(engine)
    if as_json:
        click.echo(json.dumps(manifest, indent=2, sort_keys=True))
        return
    from trtbuild.reports.console import size

    verdict = manifest["verdict"]
    click.echo(f"{manifest['recipe']}/{manifest['variant']}, built by {manifest['backend']}, {verdict['outcome']}")
    if manifest.get("approximates"):
        click.echo(f"  approximates {manifest['approximates']}")
    for reason in verdict["reasons"]:
        click.echo(f"  {reason}")
    for name, facts in manifest["files"].items():
        click.echo(f"  {name:<16} {size(facts['bytes']):>9}  sha256 {facts['sha256'][:16]}  ok")
    click.echo(f"  machine: {manifest['machine']['processor']}, Python {manifest['machine']['python']}")
    click.echo(f"  speed: {verdict['speedup']:.2f} x {manifest['reference']}; size: {verdict['size_ratio']:.2f} x")
    for name, value in verdict["accuracy"].items():
        click.echo(f"  {name}: {value:.5g}")
    _coverage(manifest["coverage"], layers)
    for name, step in manifest["steps"].items():
        click.echo(f"  step {name}: {step['elapsed_s']:.1f} s, {step['ingredients']['stage']}")


def _coverage(found: dict[str, Any], every_layer: bool) -> None:
    from trtbuild.core.results import Coverage

    coverage = Coverage.model_validate(found)
    if not coverage.asked:
        return
    untold = f", {coverage.untold} untold" if coverage.untold else ""
    click.echo(
        f"  coverage: {coverage.asked} asked, {coverage.inserted} in the graph, {coverage.ran} run quantized{untold}"
    )
    left = coverage.smoothing_left
    click.echo(f"  smoothing: {coverage.smoothing_folded} folded, {len(left)} left as a Mul")
    for layer in coverage.layers:
        if every_layer or layer.reason:
            reason = f": {layer.reason}" if layer.reason else ""
            click.echo(f"    {layer.module}: {layer.format}, runs in {layer.ran or '?'}{reason}")
    for module, reason in (coverage.kept_high if every_layer else coverage.kept_by_default).items():
        click.echo(f"    {module}: left in high precision; {reason}")
