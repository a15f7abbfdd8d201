"""Every command as a user calls it: standard output is the result and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from tests.models import write_onnx, write_tiny_recipe
from trtbuild.recipe.load import load

ROOT = Path(__file__).parents[2]


class Shell:
    """Runs trtbuild in a folder with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = write_tiny_recipe(folder / "tiny")

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "trtbuild", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "TRTBUILD_STORE": str(self.folder / "store"), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def json(self, *arguments: object) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    shell = Shell(tmp_path_factory.mktemp("shell"))
    assert shell.run("build", "tiny", "-q").returncode == 0
    return shell


def test_build_json_has_the_promised_keys(shell: Shell) -> None:
    report = shell.json("build", "tiny")
    assert report["recipe"] == "tiny"
    assert report["recommended"] == "fp32"
    (variant,) = report["variants"]
    assert variant["name"] == "fp32"
    assert (shell.folder / variant["engine"]).is_file()
    assert variant["size_bytes"] == sum(
        file.stat().st_size for file in (shell.folder / "engines/tiny/fp32").iterdir() if file.name != "manifest.json"
    )
    assert {"median", "p95"} <= variant["latency_ms"].keys()
    assert variant["speedup_vs_reference"] == 1.0
    assert variant["accuracy"]["cosine_min"] > 0.9999
    assert variant["coverage"] == {"asked": 0, "inserted": 0, "ran": 0, "untold": 0}
    assert (variant["verdict"], variant["reasons"], variant["reused"]) == ("passed", [], True)


def test_build_ends_with_a_table_and_what_to_ship(shell: Shell) -> None:
    done = shell.run("build", "tiny")
    assert "ship fp32" in done.stdout
    assert "passed" in done.stdout
    assert "nothing ran" in done.stderr


def test_a_failed_gate_is_exit_code_8_and_a_reason_in_the_json(shell: Shell) -> None:
    done = shell.run("validate", "tiny", "--set", "gates.accuracy.cosine_min.min=2", "--json")
    assert done.returncode == 8, done.stderr
    report = json.loads(done.stdout)
    assert report["recommended"] is None
    assert report["variants"][0]["reasons"] == ["cosine_min is 1, at least 2 is wanted"]


def test_plan_and_explain(shell: Shell) -> None:
    plan = shell.json("plan", "tiny")
    assert [step["name"] for step in plan["steps"]][:2] == ["sample", "adopt"]
    assert shell.json("explain", "tiny", "adopt")["steps"][0]["decision"] == "reuse"
    assert "adopt" in shell.run("plan", "tiny").stdout
    unknown = shell.run("explain", "tiny", "export")
    assert unknown.returncode == 2
    assert "there is no step 'export'" in unknown.stderr


def test_plan_values_say_where_each_came_from(shell: Shell) -> None:
    values = shell.json("plan", "tiny", "--values", "--set", "measure.runs=7")
    assert values["measure.runs"] == {"value": 7, "from": "--set measure.runs=7"}
    assert values["data.calibration"] == {"value": 8, "from": "tiny/recipe.yaml:8"}
    assert values["export.opset"]["from"] == "default"


def test_bench_times_engines_in_turns(shell: Shell) -> None:
    report = shell.json("bench", "engines/tiny/fp32", "engines/tiny/fp32", "--runs", "3")
    assert report["shapes"] == {"x": [4, 64]}
    assert report["engines"]["engines/tiny/fp32"]["median"] > 0


def test_inspect_shows_the_manifest_and_refuses_changed_bytes(shell: Shell, tmp_path: Path) -> None:
    assert shell.json("inspect", "engines/tiny/fp32")["variant"] == "fp32"
    assert "ok" in shell.run("inspect", "engines/tiny/fp32").stdout
    copy = Shell(tmp_path)
    copy.run("build", "tiny", "-q")
    engine = tmp_path / "engines/tiny/fp32/engine.onnx"
    engine.write_bytes(engine.read_bytes()[:-1] + b"?")
    for command in ("inspect", "bench"):
        changed = copy.run(command, "engines/tiny/fp32")
        assert changed.returncode == 7
        assert "its bytes are not the ones that were built" in changed.stderr
    assert copy.run("build", "tiny", "-q").returncode == 0, "a build does not read what it did not change"


def test_doctor_says_what_is_there(shell: Shell) -> None:
    report = shell.json("doctor")
    can = {capability["name"]: capability for capability in report["capabilities"]}
    assert can["build and run ONNX Runtime engines"]["available"]
    assert not can["build and run TensorRT engines"]["available"]
    assert report["cores"] >= 1
    assert "onnxruntime" in shell.run("doctor").stdout


def test_recipes_lists_recipes_and_names_broken_ones(shell: Shell, tmp_path: Path) -> None:
    write_tiny_recipe(tmp_path / "good")
    write_tiny_recipe(tmp_path / "bad", recipe="recipe: [")
    found = {Path(entry["path"]).name: entry for entry in shell.json("recipes", tmp_path)}
    assert found["good"]["variants"] == ["fp32"]
    assert "not YAML" in found["bad"]["problem"]


def test_schema_validates_the_shipped_recipes() -> None:
    done = subprocess.run([sys.executable, "-m", "trtbuild", "schema"], capture_output=True, text=True, check=True)
    schema = json.loads(done.stdout)
    for recipe in (ROOT / "recipes").rglob("recipe.yaml"):
        jsonschema.validate(load(recipe, only=None).document.value, schema)  # with what it extends


def test_cache_commands(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.run("build", "tiny", "-q")
    assert {entry["step"] for entry in shell.json("cache", "ls")} >= {"adopt", "fp32/build"}
    assert shell.json("cache", "stats")["actions"] == 7
    assert shell.json("cache", "verify") == {"checked": 10, "corrupt": [], "incomplete": []}
    assert shell.json("cache", "gc", "--keep-days", "0")["actions"] == 7
    assert shell.json("cache", "stats")["artifacts"] == 0
    assert shell.run("cache", "gc", "--max-size", "huge").returncode == 2


def test_a_corrupt_artifact_is_set_aside_and_made_anew(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.run("build", "tiny", "-q")
    file = next((tmp_path / "store/cas").rglob("model.onnx"))
    file.chmod(0o644)
    file.write_bytes(b"rot")
    verified = shell.run("cache", "verify")
    assert verified.returncode == 7
    assert "made anew" in verified.stdout + verified.stderr or "makes them anew" in verified.stderr
    assert shell.json("build", "tiny")["steps_run"] >= 1
    assert shell.run("cache", "verify").returncode == 0


def test_init_for_an_onnx_file_gives_a_recipe_that_builds(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    write_onnx(tmp_path / "mine.onnx")
    made = shell.json("init", "mine.onnx", "-o", "mine")
    assert {Path(name).name for name in made["files"]} == {"recipe.yaml", "samples.py", "recipe.schema.json"}
    no_samples = shell.run("build", "mine", "-q")
    assert no_samples.returncode == 3
    assert "put .npz files with real inputs" in no_samples.stderr
    rng = np.random.default_rng(0)
    for split in ("calibration", "evaluation"):
        (tmp_path / "mine/samples" / split).mkdir(parents=True)
        np.savez(tmp_path / f"mine/samples/{split}/0.npz", x=rng.standard_normal((8, 64)).astype(np.float32))
    report = shell.json("build", "mine")
    assert {variant["name"]: variant["verdict"] for variant in report["variants"]} == {
        "fp16": "passed",
        "fp32": "passed",
    }
    again = shell.run("init", "mine.onnx", "-o", "mine")
    assert again.returncode == 7
    assert "has a recipe.yaml already" in again.stderr


def test_init_for_a_hugging_face_folder_gives_a_recipe_that_builds(tmp_path: Path) -> None:
    """A BERT of two layers made here, with a pooler whose output the recipe does not take, and a tokenizer of words."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "at", "night"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    shell = Shell(tmp_path)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer.save(str(tmp_path / "bert" / "tokenizer.json"))
    shell.json("init", "bert")
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(words[2:], 12)) for _ in range(64)]
    (tmp_path / "recipes/bert/calibration.txt").write_text("\n".join(lines[:32]))
    (tmp_path / "recipes/bert/evaluation.txt").write_text("\n".join(lines[32:]))
    done = shell.run("build", "recipes/bert", "--set", "gates.pays='no'", "--json", "-q")
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    coverage = {variant["name"]: variant["coverage"] for variant in report["variants"]}
    assert coverage["int8"] == coverage["int8_weights"] == {"asked": 12, "inserted": 12, "ran": 12, "untold": 0}
    assert done.returncode == 0, report
    kept = shell.json("inspect", "engines/bert/int8")["coverage"]["kept_high"]
    assert kept == {"pooler.dense": "no exported output depends on it"}


def test_init_refuses_what_is_no_model(shell: Shell) -> None:
    done = shell.run("init", "tiny")
    assert done.returncode == 3
    assert "neither an ONNX file nor a Hugging Face folder" in done.stderr


def test_a_misspelt_command_gets_the_nearest_name(shell: Shell) -> None:
    done = shell.run("biuld", "tiny")
    assert done.returncode == 2
    assert "Did you mean 'build'?" in done.stderr
