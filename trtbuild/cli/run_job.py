"""`trtbuild run-job`: one step alone, in this process, with everything it prints."""

from __future__ import annotations

from pathlib import Path

import click

from trtbuild.cli.options import json_option


@click.command("run-job")
@click.argument("job", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help="An empty folder for what the step writes. Default: a fresh one beside the job file.",
)
@json_option
def run_job(job: Path, output: Path | None, as_json: bool) -> None:
    """Run the step of JOB, a file that a build left in its store. The store itself stays as it is."""
    import contextlib
    import json
    import sys
    import tempfile

    from pydantic import ValidationError

    from trtbuild.core.errors import StepFailed
    from trtbuild.pipeline.job import Job, run

    try:
        found = Job.model_validate_json(job.read_bytes())
    except ValidationError as error:
        raise StepFailed(f"{job} is no job file: {error.errors()[0]['msg']}") from error
    if missing := [str(folder) for folder in found.inputs.values() if not folder.is_dir()]:
        raise StepFailed(
            f"{job}: its inputs are no longer in the store: {', '.join(missing)}", hint="build the recipe again"
        )
    workspace = output or Path(tempfile.mkdtemp(prefix=f"{job.stem}.", dir=job.parent))
    workspace.mkdir(parents=True, exist_ok=True)
    if any(workspace.iterdir()):
        raise click.BadParameter(f"{workspace} is not empty", param_hint="--output")
    with contextlib.redirect_stdout(sys.stderr):
        outputs = run(found, workspace.absolute())
    if as_json:
        click.echo(json.dumps({name: made.model_dump(mode="json") for name, made in outputs.items()}, indent=2))
    else:
        for name, made in outputs.items():
            click.echo(f"{name}: {made.kind} in {made.folder}")
