"""A decoder's recipe on the command line: what is planned, what is refused, what is timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_generate import counting_decoder

ROOT = Path(__file__).parents[2]


def trtbuild(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trtbuild", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TRTBUILD_STORE": str(folder / "store")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What planning looks at in a decoder's folder."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_init_writes_a_decoder_s_recipe_that_plans(tmp_path: Path, model: Path) -> None:
    done = trtbuild(tmp_path, "init", model, "--output", "words")
    assert done.returncode == 0, done.stderr
    assert "next: run: trtbuild build words" in done.stdout
    assert not (tmp_path / "words" / "samples.py").exists()
    plan = trtbuild(tmp_path, "plan", "words", "--json")
    assert plan.returncode == 0, plan.stderr
    steps = {step["name"]: step["does"] for step in json.loads(plan.stdout)["steps"]}
    assert steps["export"] == "Export the decoder to ONNX with an FP16 cache"
    assert {"kv_int8/cache", "kv_int8/read", "kv_int8/validate", "calibrate-int4_awq"} <= steps.keys()
    assert "make" not in steps


def test_a_recipe_that_trains_its_model_plans_that_first(tmp_path: Path) -> None:
    plan = trtbuild(tmp_path, "plan", ROOT / "recipes" / "tinyllama", "--json")
    assert plan.returncode == 0, plan.stderr
    first, *others = json.loads(plan.stdout)["steps"]
    assert (first["name"], first["decision"]) == ("make", "run")
    reading = [step["name"] for step in others if "make" in step["inputs"].values()]
    assert reading[0] == "export"
    assert {"calibrate-cache", "calibrate-int8_sq", "read"} <= {*reading}


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("variants.kv_int8.kv_cache=int3", "int3"),
        ("decoder.capacity=4096", "knows 512 positions"),
        ("decoder.prompt=512", "leaves no room"),
        ("engine.target='8.6'", "needs TensorRT 10.9"),
    ],
)
def test_what_cannot_work_is_a_sentence_with_its_place(tmp_path: Path, model: Path, setting: str, says: str) -> None:
    assert trtbuild(tmp_path, "init", model, "--output", "words").returncode == 0
    done = trtbuild(tmp_path, "build", "words", "--set", setting)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert f"--set {setting}" in done.stderr or "recipe.yaml:" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_folder_without_a_tokenizer_or_a_shard_is_said_at_once(tmp_path: Path, model: Path) -> None:
    assert trtbuild(tmp_path, "init", model, "--output", "words").returncode == 0
    (model / "tokenizer.json").unlink()
    done = trtbuild(tmp_path, "plan", "words")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no tokenizer.json" in done.stderr
    assert "decoder.tokenizer" in done.stderr
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    done = trtbuild(tmp_path, "plan", "words")
    assert "lacks 1 of 2 weight shards, first model-1.safetensors" in done.stderr


def test_bench_times_decoders_whose_caches_differ(tmp_path: Path) -> None:
    """Engines as `build` leaves them, as far as timing needs."""
    import onnxruntime

    folders = [counting_decoder(tmp_path / mode, mode) for mode in ("float", "fp8")]
    inputs = {"input_ids": {"shape": [2, 5], "dtype": "int64"}, "lengths": {"shape": [2], "dtype": "int64"}}
    for folder in folders:
        (folder / "model.onnx").rename(folder / "engine.onnx")
        (folder / "engine.json").write_text(json.dumps({"onnxruntime": onnxruntime.__version__}))
        manifest = {"files": {}, "backend": "onnxruntime", "inputs": inputs}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    done = trtbuild(tmp_path, "bench", *folders, "--runs", 3, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["shapes"] == {"input_ids": [2, 5], "lengths": [2]}
    assert all(engine["median"] > 0 for engine in report["engines"].values())
