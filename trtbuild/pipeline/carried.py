"""Finished steps in one file, for a machine that goes on from them: a tar of actions and what they gave.

    carried.json         format, recipe, and the keys of the actions
    ac/<key>.json        an action; its key is the digest of its ingredients
    cas/<digest>/<file>  an artifact; its digest is that of its listing

Nothing in such a file is believed: every digest is computed again, and no member leaves the folder it is read into.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from trtbuild.core.disk import discard, explained
from trtbuild.core.errors import StoreError
from trtbuild.core.values import Result, Value, digest_of
from trtbuild.pipeline.compose import compose
from trtbuild.pipeline.decide import Reuse
from trtbuild.pipeline.explain import foresee
from trtbuild.pipeline.file_digests import FileDigests
from trtbuild.pipeline.halfway import Until
from trtbuild.pipeline.store import Action, Listing, Store
from trtbuild.recipe.load import load

FORMAT = 1
HEAD_FILE = "carried.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 22


class Head(Value):
    """What a carried file says of itself."""

    format: int
    recipe: str
    keys: list[str]


class Carried(Result):
    """What was written or taken in."""

    recipe: str
    file: str
    steps: list[str]
    artifacts: int
    size_bytes: int
    """Of the artifacts."""


def export(
    recipe: str | Path,
    file: Path,
    *,
    sets: Sequence[str] = (),
    variants: Sequence[str] = (),
    until: Until = "insert",
    store: Path,
) -> Carried:
    """Write the finished steps of a recipe, as far as `until`, and all that they gave.

    Raises StoreError where one of them is not finished, or the file cannot be written.
    """
    loaded = load(recipe, sets, variants)
    opened = Store(store)
    plan = compose(loaded, variants, until=until, elsewhere=opened.has_imported).plan
    decided = foresee(plan, opened, FileDigests(store / "digests.sqlite"))
    if missing := [step.name for step, decision in decided if not isinstance(decision, Reuse)]:
        raise StoreError(
            f"{len(missing)} steps are not finished, {missing[0]} first",
            hint=f"run `trtbuild build {recipe} --until {until}` with the same --set and --variant before",
        )
    reused = {step.name: decision for step, decision in decided if isinstance(decision, Reuse)}
    actions = {decision.key: decision.action for decision in reused.values()}
    outputs = {output.digest: output for action in actions.values() for output in action.outputs.values()}
    with explained(file), tarfile.open(file, "w") as archive:
        _add(archive, HEAD_FILE, Head(format=FORMAT, recipe=plan.recipe, keys=list(actions)))
        for key, action in actions.items():
            _add(archive, f"ac/{key}.json", action)
        for digest in outputs:
            folder = opened.folder_of(digest)
            for entry in sorted(entry for entry in folder.rglob("*") if entry.is_file()):
                archive.add(entry, f"cas/{digest}/{entry.relative_to(folder).as_posix()}", recursive=False)
    return Carried(
        recipe=plan.recipe,
        file=str(file),
        steps=list(reused),
        artifacts=len(outputs),
        size_bytes=sum(output.size_bytes for output in outputs.values()),
    )


def take_in(file: Path, *, store: Path) -> Carried:
    """Put the steps of a carried file into the store; what is there already stays.

    Raises StoreError where the file cannot be read, or one of its digests is wrong: then nothing is taken in.
    """
    opened = Store(store)
    scratch = opened.workspace()
    try:
        with explained(store):
            _unpack(file, scratch)
        head, actions = _read(file, scratch)
        kinds = {output.digest: output.kind for action in actions.values() for output in action.outputs.values()}
        folders = {digest: scratch / "cas" / digest for digest in kinds}
        for digest, folder in folders.items():
            if not folder.is_dir() and not opened.folder_of(digest).is_dir():
                raise StoreError(f"{file}: artifact {digest[:12]} is named and not there", hint=_AGAIN)
            if folder.is_dir() and Listing.of(folder).digest != digest:
                raise StoreError(f"{file}: artifact {digest[:12]} does not hold what its digest says", hint=_AGAIN)
        sizes = {digest: opened.put(folder, kinds[digest]) for digest, folder in folders.items() if folder.is_dir()}
        for key, action in actions.items():
            if opened.action(key) is None:
                opened.adopt(key, action)
    finally:
        discard(scratch)
    return Carried(
        recipe=head.recipe,
        file=str(file),
        steps=[action.step for action in actions.values()],
        artifacts=len(kinds),
        size_bytes=sum(output.size_bytes for output in sizes.values()),
    )


_AGAIN = "the file is damaged or was changed: write it again with `trtbuild cache export`"


def _add(archive: tarfile.TarFile, name: str, value: Value | Result) -> None:
    content = value.model_dump_json(indent=1).encode()
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _unpack(file: Path, scratch: Path) -> None:
    """Write the members below `scratch`: plain files with the names that `export` gives, and nothing else."""
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content is None or not _is_expected(member.name):
                    raise StoreError(f"{file} holds {member.name!r}, which no export writes", hint=_AGAIN)
                target = scratch.joinpath(*PurePosixPath(member.name).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as written:
                    while chunk := content.read(_CHUNK_BYTES):
                        written.write(chunk)
    except (tarfile.TarError, EOFError, FileExistsError) as error:
        raise StoreError(f"{file} cannot be read: {error}", hint=_AGAIN) from error
    except FileNotFoundError as error:
        raise StoreError(f"there is no file {file}", hint="`trtbuild cache export` writes one") from error


def _is_expected(name: str) -> bool:
    """Whether a member lies where exports put it: no absolute name, no way up, no file of another kind."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        return False
    if parts[0] == "cas":
        return len(parts) > 2 and _DIGEST.fullmatch(parts[1]) is not None
    if parts[0] == "ac":
        return len(parts) == 2 and _DIGEST.fullmatch(parts[1].removesuffix(".json")) is not None
    return parts == [HEAD_FILE]


def _read(file: Path, scratch: Path) -> tuple[Head, dict[str, Action]]:
    """The head and the actions, each under the key that its ingredients give."""
    try:
        head = Head.model_validate_json((scratch / HEAD_FILE).read_bytes())
        if head.format != FORMAT:
            raise StoreError(
                f"{file} has format {head.format}, this trtbuild reads {FORMAT}", hint="use the same trtbuild on both"
            )
        actions = {
            key: Action.model_validate_json((scratch / "ac" / f"{key}.json").read_bytes())
            for key in head.keys
            if _DIGEST.fullmatch(key)
        }
    except (OSError, ValidationError) as error:
        raise StoreError(f"{file} is no file of `trtbuild cache export`: {error}", hint=_AGAIN) from error
    for key, action in actions.items():
        if digest_of(action.ingredients) != key:
            raise StoreError(f"{file}: the key of step {action.step} is not its ingredients' digest", hint=_AGAIN)
        if not all(_DIGEST.fullmatch(output.digest) for output in action.outputs.values()):
            raise StoreError(f"{file}: step {action.step} names an output that is no digest", hint=_AGAIN)
    return head, actions
