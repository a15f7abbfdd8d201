"""The entry point: parse, dispatch, turn errors into words and exit codes."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

import click

from trtbuild.core.errors import INTERRUPTED_EXIT_CODE, RecipeError, TrtbuildError

COMMANDS = {
    "build": ("trtbuild.cli.build:build", "Build, check and measure the engines of a recipe."),
    "plan": ("trtbuild.cli.plan:plan", "Show the steps of a recipe and what a build would do."),
    "explain": ("trtbuild.cli.plan:explain", "Say for each step why a build would run or reuse it."),
    "validate": ("trtbuild.cli.build:validate", "Judge a recipe's engines by its gates, writing no engine folder."),
    "bench": ("trtbuild.cli.bench:bench", "Time built engines against each other."),
    "inspect": (
        "trtbuild.cli.inspect:inspect",
        "Show what an engine is made of, layer by layer, and check its digests.",
    ),
    "generate": ("trtbuild.cli.generate:generate", "Continue prompts with a built decoder, and say what it cost."),
    "triton": ("trtbuild.cli.triton:triton", "Serve engines with Triton: publish, check, roll back."),
    "package": ("trtbuild.cli.ship:package", "Put engines of one recipe into a bundle, with all that proves them."),
    "sign": ("trtbuild.cli.trust:sign", "Sign a bundle with a private key."),
    "verify": ("trtbuild.cli.trust:verify", "Check a bundle: every digest, and who signed."),
    "keygen": ("trtbuild.cli.trust:keygen", "Make a key pair for signing."),
    "publish": ("trtbuild.cli.ship:publish", "Publish a bundle to a folder, an object store, a registry or a hub."),
    "pull": ("trtbuild.cli.ship:pull", "Fetch the engine of a published bundle that fits this machine."),
    "promote": ("trtbuild.cli.aliases:promote", "Let an alias such as prod lead to a published version."),
    "rollback": ("trtbuild.cli.aliases:rollback", "Let an alias lead to what it led to before."),
    "versions": ("trtbuild.cli.aliases:versions", "List the versions and aliases that a place holds."),
    "formats": ("trtbuild.cli.formats:formats", "List every quantization format, by its name here and elsewhere."),
    "advise": ("trtbuild.cli.advise:advise", "Say which formats to try first on a GPU, and why; measures nothing."),
    "lint": ("trtbuild.cli.lint:lint", "Find what strong typing refuses or misreads in an ONNX file."),
    "doctor": ("trtbuild.cli.doctor:doctor", "Say what this machine can do, and how to get what is missing."),
    "init": ("trtbuild.cli.recipes:init", "Write a first recipe: for a model, or out of a LightX2V or LightTTS setup."),
    "recipes": ("trtbuild.cli.recipes:recipes", "List the recipes below a folder, or those that come with trtbuild."),
    "schema": ("trtbuild.cli.recipes:schema", "Print the JSON Schema of recipes, for editors."),
    "cache": ("trtbuild.cli.cache:cache", "List, count, verify and clean what was built before."),
    "run-job": ("trtbuild.cli.run_job:run_job", "Run one step alone from its job file."),
}
"""Every command: where it lives, and its line in the help. A command is imported when it is called."""


class _Commands(click.Group):
    """Finds commands in the table, so that `--help` imports none of them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(context, args)
        except click.UsageError as error:
            import difflib

            if close := difflib.get_close_matches(args[0], COMMANDS, n=1):
                raise click.UsageError(f"{error.message} Did you mean {close[0]!r}?", context) from error
            raise

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="trtbuild", prog_name="trtbuild")
def trtbuild() -> None:
    """One recipe in, a validated engine out.

    Exit codes: 0 all passed; 2 recipe; 3 model; 4 data; 5 a backend is missing; 6 a step broke; 7 store;
    8 a variant failed its gates; 9 a registry; 10 a bundle does not verify; 130 interrupted.
    """


def main() -> None:
    """Run the command line and exit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a container is stopped with
    try:
        code = trtbuild.main(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("\ninterrupted: finished steps are kept, the next build goes on from there", err=True)
        code = INTERRUPTED_EXIT_CODE
    except TrtbuildError as error:
        _say(error)
        code = error.exit_code
    except BrokenPipeError:  # `trtbuild plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _say(error: TrtbuildError) -> None:
    if isinstance(error, RecipeError) and error.problems:
        for problem in error.problems:
            click.echo(f"{click.style('error', fg='red')}: {problem}", err=True)
    else:
        click.echo(f"{click.style('error', fg='red')}: {error.message}", err=True)
    if error.hint:
        click.echo(f"  {error.hint}", err=True)
