"""Keep the store small and true: list, statistics, verification, garbage collection."""

from __future__ import annotations

import time
from dataclasses import dataclass

from trtbuild.core.disk import discard
from trtbuild.core.values import Result
from trtbuild.pipeline.store import Action, Listing, Store

TRACES_KEPT_S = 7 * 86400.0
"""How long job files of failed steps, and locks, are kept."""
GRACE_S = 3600.0
"""What is younger is left alone: a running build may not have recorded it yet."""


class StoreStatistics(Result):
    """What a store holds."""

    root: str
    actions: int
    artifacts: int
    size_bytes: int
    size_bytes_by_stage: dict[str, int]
    """Bytes of the outputs of each stage; artifacts that two actions share count twice."""
    leftovers: int
    """Workspaces of builds that died."""


class Verification(Result):
    """Whether every artifact still is what its name says."""

    checked: int
    corrupt: list[str]
    """Digests of artifacts whose content changed; they were moved to `quarantine/`, and the next build makes them
    anew."""
    incomplete: list[str]
    """Keys of actions whose outputs are gone; they were forgotten."""


class Collected(Result):
    """What garbage collection removed."""

    actions: int
    artifacts: int
    freed_bytes: int
    in_use: int = 0
    """Actions that stayed only because running builds use them."""


@dataclass(frozen=True)
class Entry:
    """One action, for `cache ls`."""

    key: str
    action: Action

    @property
    def size_bytes(self) -> int:
        """Bytes of its outputs."""
        return sum(output.size_bytes for output in self.action.outputs.values())


def entries(store: Store) -> list[Entry]:
    """Every action, newest first."""
    found = [Entry(key, action) for key, action in store.actions()]
    return sorted(found, key=lambda entry: -entry.action.finished_at)


def statistics(store: Store) -> StoreStatistics:
    """Count what the store holds."""
    by_stage: dict[str, int] = {}
    actions = entries(store)
    for entry in actions:
        stage = entry.action.ingredients["stage"].split()[0]
        by_stage[stage] = by_stage.get(stage, 0) + entry.size_bytes
    artifacts = list(store.artifacts())
    return StoreStatistics(
        root=str(store.root),
        actions=len(actions),
        artifacts=len(artifacts),
        size_bytes=sum(file.stat().st_size for folder in artifacts for file in folder.rglob("*") if file.is_file()),
        size_bytes_by_stage=dict(sorted(by_stage.items(), key=lambda pair: -pair[1])),
        leftovers=sum(1 for _ in (store.root / "tmp").iterdir()),
    )


def verify(store: Store) -> Verification:
    """Read every artifact again; quarantine what changed, forget actions that lost an output."""
    corrupt = []
    artifacts = list(store.artifacts())
    for folder in artifacts:
        if Listing.of(folder).digest != folder.name:
            (store.root / "quarantine").mkdir(exist_ok=True)
            folder.rename(store.root / "quarantine" / f"{folder.name}-{time.time_ns()}")
            corrupt.append(folder.name)
    incomplete = [key for key, _ in store.actions() if store.action(key) is None]
    for key in incomplete:
        store.forget(key)
    return Verification(checked=len(artifacts), corrupt=corrupt, incomplete=incomplete)


def collect(store: Store, *, keep_days: float | None = None, max_bytes: int | None = None) -> Collected:
    """Remove actions older than `keep_days`, then the oldest until the store fits in `max_bytes`, then what nobody
    refers to. What running builds use stays, and they need not stop (see `leases`).

    Actions go before the artifacts they name, so that whoever reads at the same time finds either both or neither.
    """
    now = time.time()
    grave = store.workspace()
    with store.leases.guarded():
        in_use = store.leases.in_use()
        kept = entries(store)
        gone: list[Entry] = []
        spared: list[Entry] = []
        for entry in reversed(list(kept)):
            too_old = keep_days is not None and now - entry.action.finished_at > keep_days * 86400
            if not too_old and (max_bytes is None or _total(kept) <= max_bytes):
                continue
            if entry.key in in_use:
                spared.append(entry)
                continue
            gone.append(entry)
            kept.remove(entry)
        for entry in gone:
            store.forget(entry.key)
        alive = in_use | _outputs(kept)
        orphans = _outputs(gone)
        for folder in list(store.artifacts()):
            if folder.name not in alive and (folder.name in orphans or now - folder.stat().st_mtime > GRACE_S):
                folder.rename(grave / folder.name)
    removed = list(grave.iterdir())
    freed = sum(file.stat().st_size for file in grave.rglob("*") if file.is_file())
    discard(grave)
    store.sweep()
    for part in ("jobs", "locks"):
        for file in (store.root / part).rglob("*"):
            if file.is_file() and now - file.stat().st_mtime > TRACES_KEPT_S:
                file.unlink(missing_ok=True)
    return Collected(actions=len(gone), artifacts=len(removed), freed_bytes=freed, in_use=len(spared))


def _total(entries_kept: list[Entry]) -> int:
    sizes = {output.digest: output.size_bytes for entry in entries_kept for output in entry.action.outputs.values()}
    return sum(sizes.values())


def _outputs(found: list[Entry]) -> set[str]:
    return {output.digest for entry in found for output in entry.action.outputs.values()}
