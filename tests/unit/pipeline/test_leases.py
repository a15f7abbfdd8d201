"""Leases: what a living build noted stays, what a dead one noted goes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from trtbuild.pipeline import upkeep
from trtbuild.pipeline.leases import Leases
from trtbuild.pipeline.store import Action, Store, StoredOutput, now

KEY = "ab" * 32


def put(store: Store, content: bytes) -> StoredOutput:
    folder = store.workspace() / "made"
    folder.mkdir()
    (folder / "file").write_bytes(content)
    return store.put(folder, "OnnxModel")


def committed(store: Store, key: str = KEY, *, content: bytes = b"x") -> Path:
    """An old action; returns the folder of what it gave."""
    output = put(store, content)
    action = Action(
        step="step", ingredients={"stage": "build v1"}, outputs={"out": output}, elapsed_s=1.0, finished_at=now() - 9
    )
    store.commit(key, "recipe", action)
    return store.folder_of(output.digest)


def test_what_a_living_build_claimed_stays_until_it_ends(store: Path) -> None:
    building, collecting = Store(store), Store(store)
    kept, gone = committed(building, KEY, content=b"kept"), committed(building, "cd" * 32, content=b"gone")
    with building.leased():
        assert building.claim(KEY) is not None
        found = upkeep.collect(collecting, keep_days=0)
        assert (found.actions, found.artifacts, found.in_use) == (1, 1, 1)
        assert found.freed_bytes == len(b"gone")
        assert building.action(KEY) is not None
        assert kept.is_dir()
        assert not gone.exists()
        assert upkeep.collect(collecting, max_bytes=0).in_use == 1
    assert upkeep.collect(collecting, keep_days=0).actions == 1
    assert not kept.exists()
    assert [file.name for file in (store / "leases").iterdir()] == ["guard"]


def test_what_a_living_build_commits_stays(store: Path) -> None:
    building = Store(store)
    with building.leased():
        folder = committed(building)
        assert upkeep.collect(Store(store), keep_days=0).in_use == 1
        assert folder.is_dir()


def test_an_old_artifact_that_a_living_build_makes_again_stays(store: Path) -> None:
    """Nothing refers to it yet: it was there already, and the action that names it is not recorded."""
    building = Store(store)
    folder = building.folder_of(put(building, b"same").digest)
    os.utime(folder, (0, 0))
    with building.leased():
        put(building, b"same")
        assert upkeep.collect(Store(store), keep_days=0).artifacts == 0
    assert upkeep.collect(Store(store)).artifacts == 1


def test_what_was_collected_cannot_be_claimed(store: Path) -> None:
    building = Store(store)
    committed(building)
    with building.leased():
        upkeep.collect(Store(store), keep_days=0)
        assert building.claim(KEY) is None


def test_two_builds_keep_what_either_uses(store: Path) -> None:
    one, two = Store(store), Store(store)
    committed(one)
    with one.leased():
        with two.leased():
            one.claim(KEY)
            two.claim(KEY)
        assert upkeep.collect(Store(store), keep_days=0).in_use == 1
    assert upkeep.collect(Store(store), keep_days=0).in_use == 0


def test_a_build_that_failed_leaves_no_lease(store: Path) -> None:
    building = Store(store)
    with pytest.raises(OSError, match="broken"), building.leased():  # not turned into the store's own error
        raise OSError("broken")
    assert [file.name for file in (store / "leases").iterdir()] == ["guard"]


def test_without_a_lease_nothing_is_noted(store: Path) -> None:
    opened = Store(store)
    committed(opened)
    assert opened.claim(KEY) is not None
    assert list((store / "leases").iterdir()) == []


def _hold(root: str, ready: multiprocessing.synchronize.Event) -> None:
    building = Store(Path(root))
    with building.leased():
        building.claim(KEY)
        ready.set()
        multiprocessing.Event().wait()


def test_the_lease_of_a_killed_build_counts_no_more(store: Path) -> None:
    opened = Store(store)
    committed(opened)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(str(store), ready))
    holder.start()
    assert ready.wait(20)
    assert upkeep.collect(opened, keep_days=0).in_use == 1
    holder.kill()
    holder.join()
    found = upkeep.collect(opened, keep_days=0)
    assert (found.actions, found.in_use) == (1, 0)
    assert [file.name for file in (store / "leases").iterdir()] == ["guard"]


@pytest.mark.parametrize("what", ["begin", "note"])
def test_who_collects_lets_nobody_begin_or_note_meanwhile(tmp_path: Path, what: str) -> None:
    building, collecting, started, done = Leases(tmp_path), Leases(tmp_path), threading.Event(), threading.Event()

    def act() -> None:
        started.set()
        if what == "begin":
            with building.held():
                done.set()
        else:
            building.note("a")
            done.set()

    def beside(action: Callable[[], None]) -> None:
        thread = threading.Thread(target=action)
        with collecting.guarded():
            thread.start()
            assert started.wait(5)
            assert not done.wait(0.3)
        assert done.wait(5)
        thread.join(5)

    if what == "begin":
        beside(act)
    else:
        with building.held():
            beside(act)


def test_what_was_found_never_goes_however_they_meet(store: Path) -> None:
    """One thread collects without a pause, the others make and claim the same few actions."""
    stop, broken = threading.Event(), []
    keys = [f"{number:x}" * 64 for number in range(4)]

    def collect() -> None:
        while not stop.is_set():
            upkeep.collect(Store(store), keep_days=0)

    def build(seed: int) -> None:
        for turn in range(12):
            building = Store(store)
            with building.leased():
                used = []
                for number in range(4):
                    key = keys[(seed + turn + number) % 4]
                    action = building.claim(key)
                    if action is None:
                        used.append(committed(building, key, content=key.encode()))
                    else:
                        used.append(building.folder_of(action.outputs["out"].digest))
                broken.extend(folder for folder in used if not (folder / "file").is_file())

    collector = threading.Thread(target=collect)
    builders = [threading.Thread(target=build, args=(seed,)) for seed in range(3)]
    for thread in (collector, *builders):
        thread.start()
    for thread in builders:
        thread.join()
    stop.set()
    collector.join()
    assert broken == []
    assert upkeep.collect(Store(store), keep_days=0).in_use == 0
