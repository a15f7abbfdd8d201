"""What can be wrong with a place: a sentence, the next thing to do, in ten seconds, and nothing left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import trtbuild
from tests.registries import servers
from trtbuild.core.errors import BackendMissing, DestinationError, StoreError
from trtbuild.destinations.reference import Reference

Place = Callable[[str], str]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ftp://host/x", "no scheme ftp://"),
        ("ocl://host/x", "did you mean oci://?"),
        ("S3://bucket/x", "no scheme S3://"),
        ("oci://user:secret@host/x", "holds no credentials"),
        ("oci://host", "names no repository"),
        ("oci://host/x:a b", "cannot be a tag"),
        ("oci://host/x@sha256:12", "is no digest"),
        ("s3://", "names no place"),
    ],
)
def test_references_that_cannot_be_meant(text: str, words: str) -> None:
    with pytest.raises(DestinationError) as told:
        Reference.parse(text)
    assert words in str(told.value)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "place", "tag", "digest"),
    [
        ("releases/minilm:1.0", "releases/minilm", "1.0", None),
        ("../x", "../x", None, None),
        ("file:///data/x:prod", "/data/x", "prod", None),
        ("oci://127.0.0.1:5000/a/b", "oci://127.0.0.1:5000/a/b", None, None),
        ("oci://h:1/a:t@sha256:" + "0" * 64, "oci://h:1/a", "t", "sha256:" + "0" * 64),
        ("s3://bucket:prod", "s3://bucket", "prod", None),
    ],
)
def test_references(text: str, place: str, tag: str | None, digest: str | None) -> None:
    found = Reference.parse(text)
    assert (found.place, found.tag, found.digest) == (place, tag, digest)


def publishing_says(place: str, bundle: Path) -> tuple[str, float]:
    """What comes of publishing to a place that nobody reaches, and after how many seconds."""
    began = time.monotonic()
    with pytest.raises(DestinationError) as told:
        trtbuild.publish(bundle, place)
    assert told.value.exit_code == 9
    assert told.value.hint
    return told.value.message, time.monotonic() - began


def point_to(address: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Places of each kind behind one address."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
    template = f"http://{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    return [f"oci://{address}/x", f"s3://{servers.BUCKET}/x", "hf://team/engines"]


def test_a_place_that_never_answers_is_known_within_ten_seconds(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening, ThreadPoolExecutor() as pool:
        places = point_to(f"127.0.0.1:{listening.getsockname()[1]}", monkeypatch)
        for message, elapsed_s in pool.map(publishing_says, places, [bundles / "bundle-1.0"] * len(places)):
            assert elapsed_s < 10
            assert "cannot be reached" in message or "was cut" in message


@pytest.mark.parametrize("how", ["closed", "hangs up"])
def test_a_place_that_cannot_be_reached(how: str, bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor() as pool, servers.answering(lambda _: b"") as hanging_up:
        places = point_to(hanging_up if how == "hangs up" else f"127.0.0.1:{servers.free_port()}", monkeypatch)
        for message, elapsed_s in pool.map(publishing_says, places, [bundles / "bundle-1.0"] * len(places)):
            assert elapsed_s < 10
            assert "cannot be reached" in message or "was cut" in message


def test_a_page_that_is_no_registry(bundles: Path) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/html\r\nConnection: close\r\n\r\nhello"
    with servers.answering(lambda _: page) as host, pytest.raises(DestinationError, match="no OCI manifest"):
        trtbuild.publish(bundles / "bundle-1.0", f"oci://{host}/x")


def test_a_busy_registry_is_waited_for() -> None:
    """429 with Retry-After, as Docker Hub answers: tried again, each time after the seconds asked for."""
    busy = b"HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    none = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    answers = iter([busy, busy, none])
    with servers.answering(lambda _: next(answers)) as host:
        began = time.monotonic()
        assert trtbuild.versions(f"oci://{host}/x").versions == []
        assert time.monotonic() - began > 2


def test_wrong_keys_of_an_object_store(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3's own answer to them: moto checks none."""
    body = b"<?xml version='1.0'?><Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>"
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    with servers.answering(lambda _: head % len(body) + body) as host:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
        with pytest.raises(DestinationError, match="refuses reading with the credentials found") as told:
            trtbuild.publish(bundles / "bundle-1.0", f"s3://{servers.BUCKET}/x")
    assert "AWS_ACCESS_KEY_ID" in told.value.hint
    assert "very-secret" not in f"{told.value}{told.value.__cause__}"


def test_a_bucket_that_is_not_there(s3: str, bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    with pytest.raises(DestinationError, match=r"no such bucket|refuses"):
        trtbuild.publish(bundles / "bundle-1.0", "s3://nowhere/x")


def test_keys_of_a_profile(s3: str, bundles: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[ship]\naws_access_key_id = a\naws_secret_access_key = b\n")
    (tmp_path / "config").write_text("[profile ship]\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "ship")
    assert trtbuild.publish(bundles / "bundle-1.0", f"s3://{servers.BUCKET}/profile").sent_bytes


def test_the_hub_refuses_a_wrong_token(fresh_place: Place, bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = fresh_place("hf")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(DestinationError, match=r"refuses .* with status 403") as told:
        trtbuild.publish(bundles / "bundle-1.0", place)
    assert "HF_TOKEN" in told.value.hint
    assert "hf_wrong" not in str(told.value)
    with pytest.raises(DestinationError, match="no such repository"):
        trtbuild.publish(bundles / "bundle-1.0", "hf://team/other")


def test_a_library_that_is_missing(bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtbuild.core.machine.package_version", lambda _: None)
    for place, name in (("s3://b/x", "obstore"), ("oci://h/x", "httpx"), ("hf://a/b", "huggingface_hub")):
        with pytest.raises(BackendMissing, match=name) as told:
            trtbuild.versions(place)
        assert "trtbuild[publish]" in told.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems")
def test_a_full_disk(fresh_place: Place, bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real, tiny one: told before anything is fetched, and where another program fills it meanwhile."""
    place = fresh_place("dir")
    trtbuild.publish(bundles / "bundle-2.0", place)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this sandbox mounts no file systems")
    try:
        with pytest.raises(StoreError, match="MB free, and 43 MB are needed"):
            trtbuild.pull(f"{place}:2.0", everything=True, output=disk / "out")
        monkeypatch.setattr("trtbuild.pipeline.pull._need_space", lambda *_: None)
        with pytest.raises(StoreError, match="cannot be written: No space left") as told:
            trtbuild.pull(f"{place}:2.0", everything=True, output=disk / "out")
        assert "free some space" in told.value.hint
        assert list(disk.iterdir()) == []
        with pytest.raises(StoreError, match="No space left"):
            trtbuild.publish(bundles / "bundle-2.0", str(disk / "place"))
        assert trtbuild.versions(str(disk / "place")).versions == []
        assert not list(disk.glob("place/blobs/sha256/.*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
