from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trtbuild.core.disk import discard, write_atomically
from trtbuild.core.errors import StoreError
from trtbuild.pipeline import upkeep
from trtbuild.pipeline.store import Action, Store, StoredOutput, now


def put(store: Store, name: str, content: bytes) -> StoredOutput:
    folder = store.workspace() / name
    folder.mkdir()
    (folder / "file").write_bytes(content)
    return store.put(folder, "OnnxModel")


def commit(store: Store, key: str, *outputs: StoredOutput, finished_at: float | None = None) -> None:
    action = Action(
        step=f"step-{key[:4]}",
        ingredients={"stage": "build v1"},
        outputs={f"out{number}": output for number, output in enumerate(outputs)},
        elapsed_s=1.0,
        finished_at=finished_at or now(),
    )
    store.commit(key, "recipe", action)


def test_an_artifact_is_named_by_its_content_wherever_it_was_made(tmp_path: Path) -> None:
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    assert put(one, "a", b"same").digest == put(two, "b", b"same").digest
    assert put(one, "a", b"same").digest != put(one, "a", b"other").digest


def test_artifacts_are_read_only(store: Path) -> None:
    opened = Store(store)
    folder = opened.folder_of(put(opened, "a", b"x").digest)
    assert (folder / "file").stat().st_mode & 0o222 == 0


def test_an_action_without_its_outputs_does_not_count(store: Path) -> None:
    opened = Store(store)
    output = put(opened, "a", b"x")
    commit(opened, "ab" * 32, output)
    assert opened.action("ab" * 32) is not None
    discard(opened.folder_of(output.digest))
    assert opened.action("ab" * 32) is None


def test_verify_sets_corrupt_artifacts_aside_and_forgets_what_named_them(store: Path) -> None:
    opened = Store(store)
    good, bad = put(opened, "a", b"good"), put(opened, "b", b"bad")
    commit(opened, "aa" * 32, good)
    commit(opened, "bb" * 32, bad)
    file = opened.folder_of(bad.digest) / "file"
    file.chmod(0o644)
    file.write_bytes(b"bit rot")
    found = upkeep.verify(opened)
    assert found.corrupt == [bad.digest]
    assert found.incomplete == ["bb" * 32]
    assert opened.action("aa" * 32) is not None
    assert len(list((store / "quarantine").iterdir())) == 1
    assert upkeep.verify(opened).corrupt == []


def test_collect_removes_the_oldest_actions_first_and_keeps_what_others_share(store: Path) -> None:
    opened = Store(store)
    shared, old = put(opened, "s", b"s" * 10), put(opened, "o", b"o" * 1000)
    commit(opened, "aa" * 32, shared, old, finished_at=now() - 90 * 86400)
    commit(opened, "bb" * 32, shared)
    found = upkeep.collect(opened, keep_days=30)
    assert (found.actions, found.artifacts) == (1, 1)
    assert opened.action("bb" * 32) is not None
    assert not opened.folder_of(old.digest).exists()


def test_collect_by_size(store: Path) -> None:
    opened = Store(store)
    for number in range(4):
        commit(
            opened, f"{number}" * 64, put(opened, "a", bytes([number]) * 1000), finished_at=now() - 100 * (4 - number)
        )
    assert upkeep.collect(opened, max_bytes=2000).actions == 2
    assert [entry.key[0] for entry in upkeep.entries(opened)] == ["3", "2"]


def test_collect_leaves_young_artifacts_of_running_builds(store: Path) -> None:
    opened = Store(store)
    output = put(opened, "a", b"not recorded yet")
    assert upkeep.collect(opened).artifacts == 0
    assert opened.folder_of(output.digest).is_dir()
    os.utime(opened.folder_of(output.digest), (0, 0))
    assert upkeep.collect(opened).artifacts == 1


def test_workspaces_of_dead_builds_are_swept_and_live_ones_kept(store: Path) -> None:
    opened = Store(store)
    mine = opened.workspace()
    code = (
        f"from pathlib import Path; from trtbuild.pipeline.store import Store; Store(Path({str(store)!r})).workspace()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(list((store / "tmp").iterdir())) == 2
    assert opened.sweep() == 1
    assert mine.is_dir()


def test_a_store_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written") as caught:
        Store(tmp_path / "file" / "store")
    assert "--store" in caught.value.hint


def test_a_full_disk_leaves_nothing_and_says_what_to_do(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Store(store)
    folder = opened.workspace() / "a"
    folder.mkdir()
    (folder / "file").write_bytes(b"x")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left") as caught:
        opened.put(folder, "OnnxModel")
    assert "cache gc" in caught.value.hint
    assert list(opened.artifacts()) == []


def test_an_atomic_write_keeps_the_old_text_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f.json"
    write_atomically(file, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(StoreError, match="full"):
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def _hold(root: str, ready: multiprocessing.synchronize.Event) -> None:
    with Store(Path(root)).lock("k"):
        ready.set()
        multiprocessing.Event().wait()


def test_a_lock_is_free_when_its_holder_is_killed(store: Path) -> None:
    opened = Store(store)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(str(store), ready))
    holder.start()
    assert ready.wait(20)
    holder.kill()
    holder.join()
    with opened.lock("k").acquire(timeout=5):
        pass
