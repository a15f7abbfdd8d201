"""`trtbuild lint`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from trtbuild.cli.options import json_option


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@json_option
def lint(model: Path, as_json: bool) -> None:
    """Find what strong typing refuses or misreads in MODEL, an ONNX file. Exit code 3 where it finds errors."""
    from trtbuild.core.errors import ModelError
    from trtbuild.graph import document
    from trtbuild.graph.lint import lint as find
    from trtbuild.reports.lint import lint_lines

    findings = find(document.load(model))
    if as_json:
        click.echo(json.dumps([finding.model_dump() for finding in findings], indent=2))
    else:
        click.echo("\n".join(lint_lines(str(model), findings)))
    if any(finding.severity == "error" for finding in findings):
        sys.exit(ModelError.exit_code)
