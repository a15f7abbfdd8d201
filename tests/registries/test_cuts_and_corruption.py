"""Connections that are cut, fetches that are killed, and stores that lie: nothing wrong is ever kept."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import trtbuild
from tests.bundles import write_bundle, write_engine
from tests.registries import servers
from tests.registries.test_places import files
from trtbuild.core.errors import TrtbuildError, VerificationError
from trtbuild.core.events import TransferListener
from trtbuild.pipeline.package import package

ROOT = Path(__file__).parents[2]
Place = Callable[[str], str]


class Cuts(TransferListener):
    """Counts what was interrupted, and what had to begin again."""

    def __init__(self) -> None:
        self.cuts = 0

    def interrupted(self, name: str, reason: str) -> None:
        self.cuts += 1


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of 80 MB: two chunks of an upload to a registry, ten parts of one to S3."""
    return write_bundle(tmp_path_factory.mktemp("large"), "1", size_bytes=80_000_000)


@pytest.mark.parametrize("kind", ["oci", "s3"])
def test_20_cuts_each_way(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = request.getfixturevalue(kind)
    large = write_bundle(tmp_path, "1", size_bytes=40_000_000)
    for direction in ("up", "down"):
        with servers.CuttingProxy(server, cuts=20, after_bytes=1_500_000) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxy.address}")
            place = f"oci://{proxy.address}/cut/model" if kind == "oci" else f"s3://{servers.BUCKET}/cut"
            if direction == "up":
                trtbuild.publish(large, place)
            else:
                trtbuild.pull(f"{place}:1", everything=True, output=tmp_path / "out")
            assert proxy.made == 20
    assert files(tmp_path / "out") == files(large)


def test_an_upload_goes_on_behind_the_last_whole_chunk(oci: str, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut between two chunks: what the registry has is not sent again."""
    from trtbuild.destinations.oci.uploading import UPLOAD_CHUNK_BYTES, Uploads
    from trtbuild.destinations.protocol import Interrupted

    positions: list[int] = []

    class Watching(TransferListener):
        def reached(self, name: str, position: int) -> None:
            if name.endswith("engine.plan"):
                positions.append(position)

    finish = Uploads._finish
    cut = iter([True])

    def cut_once(self: Uploads, *arguments: object) -> None:
        if positions and next(cut, False):
            self._open[arguments[0].descriptor.digest] = str(arguments[1])  # type: ignore[attr-defined]
            raise Interrupted("a cable was pulled")
        finish(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Uploads, "_finish", cut_once)
    trtbuild.publish(large, f"oci://{oci}/resumed/model", listener=Watching())
    again = [now for before, now in itertools.pairwise(positions) if now <= before]
    assert again == [80_000_000] or again[0] >= UPLOAD_CHUNK_BYTES


def test_a_killed_pull_is_gone_on_with(oci: str, large: Path, tmp_path: Path) -> None:
    place = f"oci://{oci}/killed/model"
    trtbuild.publish(large, place)
    with servers.CuttingProxy(oci, cuts=0, after_bytes=1) as proxy:
        command = [sys.executable, "-m", "trtbuild", "pull", f"oci://{proxy.address}/killed/model:1"]
        puller = subprocess.Popen([*command, "--all", "-o", "out", "-q"], cwd=tmp_path, env=_environment())
        part = None
        for _ in range(2000):
            part = next(tmp_path.glob(".out.*/engines/*/engine.plan.part"), None)
            if puller.poll() is not None or (part is not None and part.stat().st_size > 10_000_000):
                break
            time.sleep(0.005)
        puller.send_signal(signal.SIGKILL)
        puller.wait()
    assert not (tmp_path / "out").exists()
    assert part is not None
    had = part.stat().st_size if part.exists() else 80_000_000
    assert had > 10_000_000
    first: list[int] = []

    class Watching(TransferListener):
        def reached(self, name: str, position: int) -> None:
            if name == "engine.plan":
                first.append(position)

    trtbuild.pull(f"{place}:1", everything=True, output=tmp_path / "out", listener=Watching())
    assert not first or first[0] > had
    assert files(tmp_path / "out") == files(large)


def test_a_part_that_rotted_is_fetched_again(fresh_place: Place, bundles: Path, tmp_path: Path) -> None:
    place = fresh_place("oci")
    digest = trtbuild.publish(bundles / "bundle-2.0", place).digest
    (plan,) = (bundles / "bundle-2.0").glob("engines/*/engine.plan")
    part = tmp_path / f".out.{digest[7:19]}" / plan.relative_to(bundles / "bundle-2.0")
    part.parent.mkdir(parents=True)
    part.with_name("engine.plan.part").write_bytes(b"?" * 4_000_000)
    trtbuild.pull(f"{place}:2.0", everything=True, output=tmp_path / "out")
    assert files(tmp_path / "out") == files(bundles / "bundle-2.0")


def test_two_pulls_at_once(fresh_place: Place, bundles: Path, tmp_path: Path) -> None:
    place = fresh_place("dir")
    trtbuild.publish(bundles / "bundle-2.0", place)
    command = [sys.executable, "-m", "trtbuild", "pull", f"{place}:2.0", "--all", "-o", "out", "-q"]
    both = [subprocess.Popen(command, cwd=tmp_path, env=_environment(), stderr=subprocess.PIPE) for _ in range(2)]
    told = [each.communicate()[1].decode() for each in both]
    assert [each.returncode for each in both] == [0, 0], told
    assert files(tmp_path / "out") == files(bundles / "bundle-2.0")


def damaged(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One way in which a stored blob goes wrong."""
    at = rng.randrange(len(content))
    return rng.choice(
        [
            lambda: content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :],
            lambda: content[:at],
            lambda: content + rng.randbytes(rng.randrange(1, 100)),
            lambda: b"",
            lambda: rng.randbytes(len(content)),
            lambda: rng.choice(others),
            lambda: content[:at] + content[at + 1 :],
        ]
    )()


def corrupted(blobs: list[Path], rounds: int, seed: int) -> Iterator[Path]:
    """Damage one blob after the other, and mend it behind."""
    rng = random.Random(seed)
    whole = {blob: blob.read_bytes() for blob in blobs}
    for _ in range(rounds):
        blob = rng.choice(blobs)
        broken = damaged(whole[blob], list(whole.values()), rng)
        if broken == whole[blob]:
            continue
        blob.chmod(0o644)
        blob.write_bytes(broken)
        yield blob
        blob.write_bytes(whole[blob])


@pytest.mark.parametrize(("kind", "rounds"), [("dir", 470), ("oci", 40)])
def test_no_corruption_is_accepted(
    kind: str,
    rounds: int,
    fresh_place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Flipped bits, truncated, longer, empty, foreign, shortened: an error, or byte for byte what was sent."""
    monkeypatch.setattr("trtbuild.destinations.patience.WITHOUT_PROGRESS_S", 0.0)
    bundle = tmp_path / "bundle"
    package([write_engine(tmp_path / "built", size_bytes=4000)], output=bundle, version="1")
    trtbuild.keygen(tmp_path / "k.key")
    trtbuild.sign(bundle, tmp_path / "k.key")
    before = set(_blobs(kind, tmp_path, tmp_path_factory, ""))
    place = fresh_place(kind)
    trtbuild.publish(bundle, place)
    blobs = [blob for blob in _blobs(kind, tmp_path, tmp_path_factory, place) if blob not in before]
    assert len(blobs) > 10
    expected, refused, harmless = files(bundle), 0, 0
    for blob in corrupted(blobs, rounds, seed=len(kind)):
        try:
            trtbuild.pull(f"{place}:1", everything=True, output=tmp_path / "out", keys=[tmp_path / "k.pub"])
        except TrtbuildError:
            refused += 1
            assert not (tmp_path / "out").exists()
        else:
            harmless += 1  # a blob that this pull did not need: the bill's referrer, the ModelPack config
            assert files(tmp_path / "out") == expected, blob
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        for left in tmp_path.glob(".out.*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    assert refused > harmless
    trtbuild.pull(f"{place}:1", everything=True, output=tmp_path / "out", keys=[tmp_path / "k.pub"])


def _blobs(kind: str, folder: Path, factory: pytest.TempPathFactory, place: str) -> list[Path]:
    if kind == "dir":
        return sorted(Path(place).glob("blobs/sha256/*")) if place else []
    return sorted(factory.getbasetemp().glob("registry*/data/**/data"))


def test_a_lying_registry_is_told_apart_from_a_cut_one(fresh_place: Place, bundles: Path, tmp_path: Path) -> None:
    place = fresh_place("dir")
    trtbuild.publish(bundles / "bundle-2.0", place)
    plan = max(Path(place).glob("blobs/sha256/*"), key=lambda file: file.stat().st_size)
    plan.chmod(0o644)
    os.truncate(plan, 5_000_000)
    began = time.monotonic()
    with pytest.raises(VerificationError, match="ends after 5000000 of 9000000 bytes"):
        trtbuild.pull(f"{place}:2.0", everything=True, output=tmp_path / "out")
    assert time.monotonic() - began < 5
    assert not (tmp_path / "out").exists()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
