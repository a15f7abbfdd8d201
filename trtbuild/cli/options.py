"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path

import click


def default_store() -> Path:
    """`$TRTBUILD_STORE`, or `trtbuild` in the user's cache folder (XDG base directory specification)."""
    if named := os.environ.get("TRTBUILD_STORE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trtbuild"


recipe_argument = click.argument("recipe", type=click.Path(path_type=Path))

sets_option = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="PATH=VALUE",
    help="Override a value of the recipe: --set shapes.axes.batch.max=8",
)

variants_option = click.option(
    "--variant", "variants", multiple=True, metavar="NAME", help="Only this variant (repeatable)."
)

store_option = click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    default=default_store,
    help="Where finished steps are kept. Default: $TRTBUILD_STORE, else ~/.cache/trtbuild.",
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object to standard output and nothing else."
)

quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress.")

verbose_option = click.option("--verbose", "-v", is_flag=True, help="Say for every step why it ran or was reused.")

keys_option = click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="TRTBUILD_TRUSTED_KEYS",
    help="A public key that must have signed (repeatable). Default: $TRTBUILD_TRUSTED_KEYS, parted by colons.",
)

threshold_option = click.option(
    "--threshold",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many of the keys must have signed.",
)
