"""From a built engine to a promoted one, as a user types it: standard output is the result and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.cli.test_commands import Shell


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A recipe that was built, and packaged and signed as version 1."""
    shell = Shell(tmp_path_factory.mktemp("shipping"))
    assert shell.run("build", "tiny", "-q").returncode == 0
    assert shell.json("package", "engines/tiny", "--version", "1")["bundle"] == "bundles/tiny-1"
    assert shell.json("keygen", "release") == {"private": "release.key", "public": "release.pub"}
    assert shell.json("sign", "bundles/tiny-1", "--key", "release.key")["signature"].startswith("bundles/tiny-1/sign")
    return shell


def test_the_whole_way(shell: Shell) -> None:
    place = "registry/tiny"
    published = shell.json("publish", "bundles/tiny-1", place)
    assert published["reference"] == f"{place}:1"
    assert published["signatures"] == 1
    promoted = shell.json("promote", f"{place}:1", "prod", "--key", "release.pub")
    assert promoted["verdicts"] == dict.fromkeys(promoted["verdicts"], "passed")
    pulled = shell.json("pull", f"{place}:prod", "-o", "live", "--key", "release.pub")
    assert pulled["because"].startswith("it fits this machine (linux/")
    assert pulled["signed_by"] == ["release.pub"]
    (engine,) = pulled["main_files"]
    verified = shell.json("verify", "live", "--key", "release.pub")
    assert verified["signed_by"] == ["release.pub"]
    folder = str(Path(engine).parent)
    assert shell.json("inspect", folder)["variant"] == "fp32"
    assert shell.json("bench", folder, "--runs", "3")["engines"][folder]["median"] > 0, "what was pulled runs"
    versions = shell.json("versions", place)
    assert [alias["alias"] for alias in versions["aliases"]] == ["prod"]


def test_for_people(shell: Shell) -> None:
    done = shell.run("publish", "bundles/tiny-1", "people/tiny")
    assert re.search(r"people/tiny:1  sha256:[0-9a-f]{64}", done.stdout)
    assert "1 signatures" in done.stdout
    assert "fp32.linux-" in shell.run("package", "engines/tiny", "--version", "1").stdout
    assert "is there already" in shell.run("package", "engines/tiny", "--version", "1").stdout
    assert "leads to 1" in shell.run("promote", "people/tiny:1", "prod").stdout
    listed = shell.run("versions", "people/tiny").stdout
    assert "<- prod" in listed
    assert "prod -> 1 since" in listed
    assert "signed by release.pub" in shell.run("verify", "bundles/tiny-1", "--key", "release.pub").stdout
    assert "fits this machine" in shell.run("pull", "people/tiny:prod").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("publish", "bundles/tiny-1", "ftp://x/y"), 9, "there is no scheme ftp://"),
        (("publish", "engines/tiny/fp32", "x"), 7, "holds no bundle.json"),
        (("pull", "nowhere/tiny:1"), 9, "nowhere/tiny has no 1"),
        (("pull", "oci://127.0.0.1:9/x:1"), 9, "cannot be reached"),
        (("rollback", "nowhere/tiny"), 9, "names no alias"),
        (("verify", "bundles/tiny-1", "--key", "engines/tiny/report.json"), 4, "is no public key"),
        (("package", "registry"), 7, "holds no engine"),
        (("package", "engines/tiny", "--variant", "int8"), 7, "there are: fp32"),
        (("keygen", "release"), 7, "release.key is there already"),
    ],
)
def test_mistakes(shell: Shell, arguments: tuple[str, ...], code: int, words: str) -> None:
    (shell.folder / "registry").mkdir(exist_ok=True)
    done = shell.run(*arguments)
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


def test_a_changed_bundle_is_exit_code_10(shell: Shell) -> None:
    changed = shell.folder / "changed"
    shutil.copytree(shell.folder / "bundles/tiny-1", changed)
    engine = next(changed.glob("engines/*/engine.onnx"))
    engine.write_bytes(engine.read_bytes()[:-1] + b"?")
    for command in (
        ("verify", "changed"),
        ("publish", "changed", "elsewhere/tiny"),
        ("sign", "changed", "--key", "release.key"),
    ):
        done = shell.run(*command)
        assert done.returncode == 10, done.stderr
        assert "engine.onnx is not the file" in done.stderr
    assert json.loads(shell.run("versions", "elsewhere/tiny", "--json").stdout)["versions"] == []


def test_the_environment_may_demand_signatures(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.run("keygen", "other")
    monkeypatch.setenv("TRTBUILD_TRUSTED_KEYS", "other.pub")
    refused = shell.run("verify", "bundles/tiny-1")
    assert refused.returncode == 10
    assert "not signed by a key that was given" in refused.stderr
    monkeypatch.setenv("TRTBUILD_TRUSTED_KEYS", "other.pub:release.pub")
    assert shell.run("verify", "bundles/tiny-1").returncode == 0
