"""The content-addressed store: what was built, by content; what each action gave, by key.

    cas/ab/<digest>/     an artifact: a sealed, read-only folder, named by the digest of its listing
    ac/ab/<key>.json     an action: its stage, every named ingredient of its key, its outputs' digests
    last/<recipe>/<step> the key a step had when it last finished, for `explain`
    imported/<key>       empty; says that another machine made the action (see `carried`)
    locks/ tmp/ jobs/    one lock an action; workspaces; job files and logs
    leases/              what living builds use, which garbage collection leaves alone (see `leases`)

The shape is Bazel's (remote-apis, ActionCache and ContentAddressableStorage), with a folder instead of a blob as the
unit: readers need a model and its external data side by side, and onnx and ONNX Runtime refuse links for them.

Commits are atomic: files are flushed, the folder renamed into place, then the action written beside and renamed.
Whoever dies in between leaves something in tmp/ that the next `gc` removes, and nothing that anyone can see.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from trtbuild.core.disk import discard, explained, flush, sha256_of, write_atomically
from trtbuild.core.values import Value, canonical_json
from trtbuild.pipeline.leases import Leases


class StoredOutput(Value):
    """One output of an action."""

    kind: str
    digest: str
    size_bytes: int


class Action(Value):
    """What one step did: the record that a later build reuses."""

    step: str
    ingredients: dict[str, str]
    """Everything the key was made of, by name."""
    outputs: dict[str, StoredOutput]
    elapsed_s: float
    finished_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class Listing:
    """The files of a folder, by relative name."""

    files: dict[str, tuple[int, str]]
    """Size and sha256 of each."""

    @property
    def digest(self) -> str:
        """The folder's identity."""
        return hashlib.sha256(canonical_json(self.files).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(size for size, _ in self.files.values())

    @classmethod
    def of(cls, folder: Path) -> Listing:
        """Read and hash every file below a folder."""
        files = sorted(entry for entry in folder.rglob("*") if entry.is_file())
        return cls({str(file.relative_to(folder)): (file.stat().st_size, sha256_of(file)) for file in files})


class Store:
    """A store in a folder. Many processes may use one at the same time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with explained(root):
            for part in ("cas", "ac", "last", "locks", "tmp", "jobs", "leases", "imported"):
                (root / part).mkdir(parents=True, exist_ok=True)
        self.leases = Leases(root / "leases")

    def folder_of(self, digest: str) -> Path:
        """Where the artifact with this digest lies, or would lie."""
        return self.root / "cas" / digest[:2] / digest

    def action(self, key: str) -> Action | None:
        """The action with this key, if it finished and all it gave is still here."""
        try:
            action = Action.model_validate_json(self._action_file(key).read_bytes())
        except (OSError, ValueError):
            return None
        return action if all(self.folder_of(output.digest).is_dir() for output in action.outputs.values()) else None

    def claim(self, key: str) -> Action | None:
        """The action with this key, which stays until the build that this store was leased to ends (see `leased`)."""
        with explained(self.root):
            self.leases.note(key)
        return self.action(key)

    @contextmanager
    def leased(self) -> Iterator[None]:
        """Be a living build: nothing goes before the end that is claimed, put or committed inside."""
        with ExitStack() as until_the_end:
            with explained(self.root):
                until_the_end.enter_context(self.leases.held())
            yield

    def last(self, recipe: str, step: str) -> Action | None:
        """What a step of a recipe gave when it last finished, whatever its key was."""
        try:
            key = self._last_file(recipe, step).read_text()
            return Action.model_validate_json(self._action_file(key).read_bytes())
        except (OSError, ValueError):
            return None

    def lock(self, key: str) -> FileLock:
        """The lock of one action: of two builds that want it, one runs and the other reuses. Freed when its
        holder dies."""
        return FileLock(self.root / "locks" / key, thread_local=False)

    def workspace(self) -> Path:
        """A fresh, empty folder on the store's own file system."""
        folder = self.root / "tmp" / f"{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
        with explained(self.root):
            folder.mkdir()
        return folder

    def sweep(self) -> int:
        """Remove the workspaces of builds on this host that died; returns how many there were."""
        dead = [folder for folder in (self.root / "tmp").iterdir() if _is_dead(folder.name)]
        for folder in dead:
            discard(folder)
        return len(dead)

    def put(self, folder: Path, kind: str) -> StoredOutput:
        """Seal a folder and move it in. Its files must lie on the store's file system (see `workspace`)."""
        with explained(self.root):
            listing = Listing.of(folder)
            self.leases.note(listing.digest)
            target = self.folder_of(listing.digest)
            if not target.is_dir():
                for entry in folder.rglob("*"):
                    if entry.is_file():
                        flush(entry)
                        entry.chmod(0o444)
                flush(folder)
                target.parent.mkdir(exist_ok=True)
                try:
                    folder.rename(target)
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another build sealed the same bytes first
                        raise
                flush(target.parent)
        return StoredOutput(kind=kind, digest=listing.digest, size_bytes=listing.size_bytes)

    def commit(self, key: str, recipe: str, action: Action) -> None:
        """Record a finished action under its key, and as the step's last."""
        with explained(self.root):
            self.leases.note(key)
        write_atomically(self._action_file(key), action.model_dump_json(indent=1))
        write_atomically(self._last_file(recipe, action.step), key)

    def adopt(self, key: str, action: Action) -> None:
        """Record an action that another machine finished, whose outputs are here already."""
        write_atomically(self._action_file(key), action.model_dump_json(indent=1))
        write_atomically(self.root / "imported" / key, "")

    @property
    def has_imported(self) -> bool:
        """Whether another machine made some of what is here."""
        return any((self.root / "imported").iterdir())

    def imported(self) -> Iterator[tuple[str, Action]]:
        """Every action that another machine made, with its key."""
        for marker in sorted((self.root / "imported").iterdir()):
            if (action := self.action(marker.name)) is not None:
                yield marker.name, action

    def remember(self, key: str, recipe: str, step: str) -> None:
        """Note that a step reused this action, so that `explain` compares with it next time."""
        file = self._last_file(recipe, step)
        if not file.is_file() or file.read_text() != key:
            write_atomically(file, key)

    def actions(self) -> Iterator[tuple[str, Action]]:
        """Every readable action with its key."""
        for file in sorted((self.root / "ac").glob("*/*.json")):
            try:
                yield file.stem, Action.model_validate_json(file.read_bytes())
            except (OSError, ValueError):
                continue

    def artifacts(self) -> Iterator[Path]:
        """The folder of every artifact."""
        yield from sorted(self.root.glob("cas/*/*"))

    def forget(self, key: str) -> None:
        """Remove an action; what it gave stays until nothing refers to it."""
        self._action_file(key).unlink(missing_ok=True)
        (self.root / "imported" / key).unlink(missing_ok=True)

    def _action_file(self, key: str) -> Path:
        return self.root / "ac" / key[:2] / f"{key}.json"

    def _last_file(self, recipe: str, step: str) -> Path:
        return self.root / "last" / recipe / step.replace("/", ".")


_HOST = platform.node().replace("-", "_") or "host"


def _is_dead(name: str) -> bool:
    """Whether the process whose workspace this is runs no more. Other hosts' workspaces count as alive."""
    host, _, rest = name.partition("-")
    pid = rest.partition("-")[0]
    if host != _HOST or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def now() -> float:
    """Seconds since the epoch."""
    return time.time()
