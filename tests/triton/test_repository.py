"""A version appears whole or not at all, and goes back."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from trtbuild.core.errors import DataError, StoreError
from trtbuild.pipeline.triton import publish_triton, roll_back_triton
from trtbuild.triton.options import TritonOptions
from trtbuild.triton.repository import Repository


def fill(content: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.onnx").write_text(content)

    return write


def test_versions_count_up_and_old_ones_go(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    done = [repository.publish("m", f"# {number}", fill(str(number)), keep=2) for number in range(4)]
    assert [each.version for each in done] == [1, 2, 3, 4]
    assert repository.versions("m") == [3, 4]
    assert done[-1].removed == [2]
    assert {entry.name for entry in (tmp_path / "models").iterdir()} == {"m"}
    assert {entry.name for entry in (tmp_path / "models" / "m").iterdir()} == {"config.pbtxt", "3", "4"}


def test_the_same_version_again_adds_nothing(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    for _ in range(2):
        assert repository.publish("m", "# c", fill("x"), keep=2).version == 1
    (tmp_path / "models/m/1/__pycache__").mkdir()
    assert repository.publish("m", "# c", fill("x"), keep=2).version == 1
    assert repository.publish("m", "# other", fill("x"), keep=2).version == 2


def test_a_roll_back_brings_the_configuration_back_and_its_number_is_not_given_again(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    for number in (1, 2):
        repository.publish("m", f"# {number}", fill(str(number)), keep=3)
    assert repository.roll_back("m") == 1
    assert (tmp_path / "models/m/config.pbtxt").read_text() == "# 1"
    assert repository.publish("m", "# 3", fill("3"), keep=3).version == 3
    with pytest.raises(StoreError, match="no version"):
        repository.roll_back("other")


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(28, os.strerror(28))

    with pytest.raises(StoreError, match="No space left"):
        repository.publish("m", "# c", fail, keep=1)
    assert [*(tmp_path / "models").iterdir()] == []
    assert [*(tmp_path / ".trtbuild" / "stage").iterdir()] == []


def test_two_at_once_get_two_versions(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    threads = [
        threading.Thread(target=repository.publish, args=("m", f"# {number}", fill(str(number))), kwargs={"keep": 9})
        for number in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert repository.versions("m") == [1, 2, 3, 4, 5, 6]
    for version in range(1, 7):
        assert (tmp_path / f"models/m/{version}/model.onnx").is_file()


def test_an_engine_that_was_changed_or_failed_is_not_served(engine: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in engine.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["verdict"] |= {"outcome": "failed", "reasons": ["cosine_min is 0.5"]}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"failed its gates: cosine_min is 0\.5"):
        publish_triton([copy], tmp_path / "models")
    assert publish_triton([copy], tmp_path / "models", allow_failed=True).versions == {"tiny": 1}
    (copy / "engine.onnx").write_bytes(b"other")
    with pytest.raises(StoreError, match="not the ones that were built"):
        publish_triton([copy], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_the_repository_cannot_say_stands_beside_it(engine: Path, tmp_path: Path) -> None:
    report = publish_triton([engine], tmp_path / "models", options=TritonOptions(response_cache=True))
    env = (tmp_path / "models.env").read_text()
    assert "--cache-config=local" in env
    assert report.start.startswith(f". {tmp_path / 'models.env'}")
    assert "-b 4" in (tmp_path / "models.load" / "tiny.perf_analyzer.sh").read_text()
    assert "profile_models" in (tmp_path / "models.load" / "tiny.model_analyzer.yaml").read_text()
    with pytest.raises(StoreError, match="has no model 'nothing'"):
        roll_back_triton("nothing", tmp_path / "models")
