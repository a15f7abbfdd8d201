"""Where kernel times are kept, and that a build which dies leaves the old file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trtbuild.backends.tensorrt import timing_cache
from trtbuild.core.errors import ModelError
from trtbuild.core.gpu import Device

H200 = Device("NVIDIA H200", (9, 0), 132, 150_000_000_000, "580.95.05", "13.0")


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"TRTBUILD_TIMING_CACHE": "/a", "TRTBUILD_STORE": "/b"}, "/a"),
        ({"TRTBUILD_STORE": "/b"}, "/b/timing"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/trtbuild/timing"),
    ],
)
def test_the_shared_file_is_one_for_each_version_and_gpu(environment: dict, folder: str) -> None:
    file = timing_cache.path_of("shared", "8.6.0", H200, environment)
    assert file == Path(folder) / "tensorrt-8.6.0-sm_90-nvidia-h200.cache"


def test_a_path_is_taken_and_off_is_none() -> None:
    assert timing_cache.path_of("mine.cache", "8.6.0", H200) == Path("mine.cache")
    assert timing_cache.path_of("off", "8.6.0", H200) is None


class Config:
    """Takes caches whose bytes begin with `good`, as TensorRT takes those of its own; builds nothing."""

    def __init__(self) -> None:
        self.taken = None

    def create_timing_cache(self, content: bytes):
        if content == b"raises":
            raise RuntimeError("bad buffer")
        return Cache(content) if content.startswith(b"good") or not content else None

    def set_timing_cache(self, cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.taken = cache
        return cache.content != b"good, of another GPU"

    def get_timing_cache(self):
        return self.taken


class Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def combine(self, other: Cache, ignore_mismatch: bool) -> bool:
        self.content += b"+" + other.content
        return True

    def serialize(self) -> bytes:
        return self.content


def test_a_build_begins_with_what_the_file_holds_and_merges_what_others_wrote(tmp_path) -> None:
    file, config = tmp_path / "new" / "cache", Config()
    attached = timing_cache.attach(config, file, locked=False)
    assert attached.sha256 == ""
    attached.cache.content = b"good mine"
    timing_cache.keep(config, file)
    assert file.read_bytes() == b"good mine"
    attached = timing_cache.attach(config, file, locked=False)
    assert len(attached.sha256) == 64
    file.write_bytes(b"good theirs")
    timing_cache.keep(config, file)
    assert file.read_bytes() == b"good mine+good theirs"
    assert [each.name for each in file.parent.iterdir() if not each.name.endswith(".lock")] == ["cache"]


@pytest.mark.parametrize("content", [b"damaged", b"raises", b"good, of another GPU"])
def test_a_file_that_tensorrt_refuses_is_left_out_unless_the_build_is_locked_to_it(tmp_path, content: bytes) -> None:
    file = tmp_path / "cache"
    file.write_bytes(content)
    assert timing_cache.attach(Config(), file, locked=False).sha256 == ""
    with pytest.raises(ModelError, match="refuses this timing cache"):
        timing_cache.attach(Config(), file, locked=True)


def test_a_locked_build_needs_a_file(tmp_path) -> None:
    assert timing_cache.attach(Config(), None, locked=False) is None
    with pytest.raises(ModelError, match="needs a file"):
        timing_cache.attach(Config(), None, locked=True)
    with pytest.raises(ModelError, match="no timing cache to lock"):
        timing_cache.attach(Config(), tmp_path / "none", locked=True)


def test_a_folder_that_cannot_be_written_does_not_fail_a_build(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    config = Config()
    timing_cache.attach(config, tmp_path / "file" / "cache", locked=False)
    timing_cache.keep(config, tmp_path / "file" / "cache")
    assert "not kept" in capsys.readouterr().out


def test_a_killed_writer_leaves_a_whole_file(tmp_path) -> None:
    file, size = tmp_path / "cache", 1 << 20
    code = f"""
from pathlib import Path
from trtbuild.backends.tensorrt.timing_cache import replace
print("go", flush=True)
while True:
    for letter in b"ab":
        replace(Path({str(file)!r}), bytes([letter]) * {size})
"""
    for pause_s in (0.05, 0.1, 0.15):
        writer = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}
        )
        assert writer.stdout.readline() == b"go\n"
        while not file.exists():
            time.sleep(0.01)
        time.sleep(pause_s)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        content = file.read_bytes()
        assert len(content) == size
        assert len(set(content)) == 1
