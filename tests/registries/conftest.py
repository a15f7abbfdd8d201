"""Places to publish to: a folder, docker-registry, moto's S3, and a stand-in for the Hugging Face Hub."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bundles import write_bundle
from tests.registries import servers
from tests.registries.hub import hub

KINDS = ("dir", "s3", "oci", "hf")


@pytest.fixture(scope="session", autouse=True)
def no_credentials_of_this_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests see fake keys, and no file of the person who runs them."""
    home = tmp_path_factory.mktemp("home")
    fake = {
        **servers.FAKE_KEYS,
        "HOME": str(home),
        "DOCKER_CONFIG": str(home),
        "REGISTRY_AUTH_FILE": str(home / "none"),
    }
    before = dict(os.environ)
    os.environ.update(fake)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def oci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """docker-registry's `host:port`."""
    with servers.registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """moto's address."""
    with servers.s3(tmp_path_factory.mktemp("s3")) as address:
        yield address


@pytest.fixture
def fresh_place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], str]]:
    """An empty place of a kind, each time another."""
    numbers = itertools.count()
    name = "".join(letter for letter in request.node.name.lower() if letter.isalnum())[-40:]
    with hub() as (address, kind):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", _TEMPLATE.replace("@", address))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", kind.token)

        def place(scheme: str) -> str:
            if scheme == "s3":
                monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3"))
            return {
                "dir": lambda: str(tmp_path / f"releases{next(numbers)}"),
                "oci": lambda: f"oci://{request.getfixturevalue('oci')}/{name}/n{next(numbers)}",
                "s3": lambda: f"s3://{servers.BUCKET}/{name}/n{next(numbers)}",
                "hf": lambda: "hf://team/engines",
            }[scheme]()

        yield place


_TEMPLATE = "@/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions of one engine, version 2 of several megabytes, version 3 with a failed verdict."""
    folder = tmp_path_factory.mktemp("bundles")
    for version, size_bytes, verdict in (
        ("1.0", 200_000, "passed"),
        ("2.0", 9_000_000, "passed"),
        ("3.0", 1000, "failed"),
    ):
        write_bundle(folder, version, size_bytes=size_bytes, seed=int(float(version)), verdict=verdict)
    return folder
