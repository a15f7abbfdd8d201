"""`trtbuild package`, `publish` and `pull`."""

from __future__ import annotations

from pathlib import Path

import click

from trtbuild.cli.options import json_option, keys_option, quiet_option, threshold_option, variants_option
from trtbuild.core.shipping import ShippedEngine

allow_failed_option = click.option(
    "--allow-failed", is_flag=True, help="Take engines that failed their gates all the same."
)


@click.command()
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=None,
    help="The bundle's folder, or a file that ends in .tar. Default: bundles/RECIPE-VERSION.",
)
@click.option("--version", default=None, help="The recipe's version. Default: a digest of the engines.")
@variants_option
@allow_failed_option
@click.option("--replace", is_flag=True, help="Of two engines for one target, take the one named later.")
@json_option
def package(
    sources: tuple[Path, ...],
    output: Path | None,
    version: str | None,
    variants: tuple[str, ...],
    allow_failed: bool,
    replace: bool,
    as_json: bool,
) -> None:
    """Put engines of one recipe into a bundle, with verdicts, bill of materials and provenance.

    SOURCES are engine folders that `build` wrote, folders of such (engines/minilm), and bundles to add to. Engines for
    several GPUs, versions of TensorRT and precisions lie side by side. Packaging the same engines again gives the same
    bytes.
    """
    from trtbuild.pipeline.package import package as run

    report = run(sources, output=output, version=version, variants=variants, allow_failed=allow_failed, replace=replace)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
        return
    from trtbuild.reports.console import size

    done = "is there already" if report.unchanged else f"{report.files} files, {size(report.size_bytes)}"
    click.echo(f"{report.bundle}: {report.recipe} {report.version}, {done}")
    _list(report.engines)
    click.echo(f"next: trtbuild sign {report.bundle} --key KEY, and trtbuild publish {report.bundle} DESTINATION")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("destination")
@allow_failed_option
@click.option("--replace", is_flag=True, help="Replace a version that is there with other content.")
@click.option(
    "--mount-from",
    multiple=True,
    metavar="REPOSITORY",
    help="oci://: take what this repository of the same registry has, without sending it (repeatable).",
)
@json_option
@quiet_option
def publish(
    bundle: Path,
    destination: str,
    allow_failed: bool,
    replace: bool,
    mount_from: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Publish BUNDLE to DESTINATION, under its version or the tag given there.

    DESTINATION is a path, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, oci://host/repository or
    hf://owner/repository. The tag appears last, when all else is there. Credentials are read from the environment and
    the usual files, such as ~/.docker/config.json.
    """
    from trtbuild.pipeline.publish import publish as run
    from trtbuild.reports.transfers import Transfers

    with Transfers("sent", quiet=quiet) as listener:
        report = run(
            bundle,
            destination,
            allow_failed=allow_failed,
            replace=replace,
            mount_from=mount_from,
            listener=listener,
        )
    if as_json:
        click.echo(report.model_dump_json(indent=2))
        return
    from trtbuild.reports.console import size

    signed = f"{report.signatures} signatures" if report.signatures else "not signed"
    click.echo(f"{report.reference}  {report.digest}")
    click.echo(
        f"  {size(report.sent_bytes)} sent, {size(report.there_bytes)} were there, {signed}, {report.elapsed_s:.1f} s"
    )


@click.command()
@click.argument("reference")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="The bundle's folder. Default: bundles/RECIPE-VERSION.",
)
@click.option("--engine", "engines", multiple=True, metavar="NAME", help="This engine, whether it fits or not.")
@variants_option
@click.option("--all", "everything", is_flag=True, help="Every engine of the bundle.")
@keys_option
@threshold_option
@allow_failed_option
@json_option
@quiet_option
def pull(
    reference: str,
    output: Path | None,
    engines: tuple[str, ...],
    variants: tuple[str, ...],
    everything: bool,
    keys: tuple[Path, ...],
    threshold: int,
    allow_failed: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fetch the engine of a published bundle that fits this machine: its GPU, driver and TensorRT.

    REFERENCE is a place with a version, an alias or a digest: oci://host/minilm:prod. Where nothing fits, the reason is
    said for each engine. Every byte is checked; a fetch that was cut goes on where it stopped.
    """
    from trtbuild.pipeline.pull import pull as run
    from trtbuild.reports.transfers import Transfers

    with Transfers("fetched", quiet=quiet) as listener:
        report = run(
            reference,
            output=output,
            engines=engines,
            variants=variants,
            everything=everything,
            keys=keys,
            threshold=threshold,
            allow_failed=allow_failed,
            listener=listener,
        )
    if as_json:
        click.echo(report.model_dump_json(indent=2))
        return
    from trtbuild.reports.console import size

    click.echo(f"{report.bundle}: {report.recipe} {report.version}, {size(report.fetched_bytes)} fetched")
    click.echo(f"  {report.because}")
    click.echo(f"  signed by {', '.join(report.signed_by)}" if report.signed_by else "  no signature was demanded")
    for file in report.main_files:
        click.echo(f"  {file}")


def _list(engines: list[ShippedEngine]) -> None:
    from trtbuild.reports.console import size

    width = max(len(engine.name) for engine in engines)
    for engine in engines:
        click.echo(f"  {engine.name:<{width}}  {size(engine.size_bytes):>9}  {engine.verdict}  {engine.target}")
