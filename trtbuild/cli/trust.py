"""`trtbuild keygen`, `sign` and `verify`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from trtbuild.cli.options import json_option, keys_option, threshold_option


@click.command()
@click.argument("name", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def keygen(name: Path, as_json: bool) -> None:
    """Make a key pair for signing: NAME.key stays secret, NAME.pub is for everybody.

    Ed25519, offline. Set TRTBUILD_KEY_PASSPHRASE to encrypt the private key.
    """
    from trtbuild.pipeline.sign import keygen as run

    private = name if name.suffix == ".key" else name.with_name(f"{name.name}.key")
    public = run(private)
    if as_json:
        click.echo(json.dumps({"private": str(private), "public": str(public)}, indent=2))
    else:
        click.echo(f"{private}: keep it secret (mode 0600)\n{public}: give it to whoever verifies")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="TRTBUILD_SIGNING_KEY",
    help="A private key. Default: $TRTBUILD_SIGNING_KEY.",
)
@json_option
def sign(bundle: Path, key: Path, as_json: bool) -> None:
    """Sign BUNDLE: its statement, in a DSSE envelope, into signatures/."""
    from trtbuild.pipeline.sign import sign as run

    report = run(bundle, key)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        click.echo(f"{report.signature}: signed by {report.key_id[:16]}")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@keys_option
@threshold_option
@json_option
def verify(bundle: Path, keys: tuple[Path, ...], threshold: int, as_json: bool) -> None:
    """Check BUNDLE, a folder or a tar file: every digest, and with --key who signed.

    Nothing is unpacked or loaded. Exits with 10 where anything is missing, changed or unsigned.
    """
    from trtbuild.pipeline.sign import verify as run

    report = run(bundle, keys=keys, threshold=threshold)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
        return
    from trtbuild.reports.console import size

    click.echo(
        f"{report.bundle}: {report.recipe} {report.version}, {report.files} files, {size(report.size_bytes)}, ok"
    )
    for engine in report.engines:
        click.echo(f"  {engine.name}  {engine.verdict}")
    if report.absent:
        click.echo(f"  not here: {', '.join(report.absent)}")
    if report.signed_by:
        click.echo(f"  signed by {', '.join(report.signed_by)}")
    else:
        click.echo(f"  {report.signatures} signatures, by whom was not asked: name public keys by --key")
