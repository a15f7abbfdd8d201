"""`trtbuild triton`, as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import write_tiny_recipe
from trtbuild.pipeline.build import build


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(write_tiny_recipe(folder / "tiny"), store=folder / "store", output=folder / "engines")
    return folder / "engines" / "tiny" / "fp32"


def trtbuild(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trtbuild", "triton", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_publish_check_and_roll_back(engine: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    first = trtbuild("publish", engine, "--repository", models)
    assert first.returncode == 0, first.stderr
    assert f"{models / 'tiny'}: version 1" in first.stdout
    assert "tritonserver $TRITON_ARGUMENTS" in first.stdout
    second = trtbuild("publish", engine, "--repository", models, "--set", "instances.count=2", "--json")
    assert json.loads(second.stdout)["versions"] == {"tiny": 2}
    assert "nothing is wrong" in trtbuild("check", models / "tiny").stdout
    assert "version 1 is the newest now" in trtbuild("rollback", "tiny", "--repository", models).stdout


def test_mistakes_have_exit_codes_and_remedies(engine: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    wrong = trtbuild("publish", engine, "--repository", models, "--set", "instances.cuont=2")
    assert wrong.returncode == 2
    assert "instances.cuont: Extra inputs" in wrong.stderr
    assert not models.exists()
    assert trtbuild("publish", tmp_path / "nothing", "--repository", models).returncode == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    no_engine = trtbuild("publish", empty, "--repository", models)
    assert no_engine.returncode == 7
    assert "no readable manifest.json" in no_engine.stderr
    trtbuild("publish", engine, "--repository", models)
    config = models / "tiny" / "config.pbtxt"
    config.write_text(config.read_text() + 'input { name: "x" data_type: TYPE_FP32 dims: 64 }\n')
    found = trtbuild("check", models / "tiny", "--json")
    assert found.returncode == 8
    assert "input x is there 2 times" in json.loads(found.stdout)[str(models / "tiny")][0]
