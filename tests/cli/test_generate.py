"""`trtbuild generate`, on a decoder whose text is known: it counts on from the last byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper, save

ROOT = Path(__file__).parents[2]
CAPACITY = 24
TYPES = {"float": TensorProto.FLOAT16, "fp8": TensorProto.FLOAT8E4M3FN}
NAMES = {"float": "float16", "fp8": "float8e4m3fn"}


def counting_decoder(folder: Path, mode: str = "float") -> Path:
    """A graph that gives each byte's successor, and the cache back as it came; `cache.json` beside it."""
    folder.mkdir()
    cache = [("cache.0.key", TYPES[mode]), ("cache.0.value", TYPES[mode])]
    dims = ["batch", 1, CAPACITY, 2]
    one = helper.make_tensor("one", TensorProto.INT64, [], [1])
    depth = helper.make_tensor("depth", TensorProto.INT64, [], [256])
    values = helper.make_tensor("values", TensorProto.FLOAT, [2], [0, 9])
    nodes = [
        helper.make_node("Add", ["input_ids", "one"], ["next"]),
        helper.make_node("OneHot", ["next", "depth", "values"], ["logits"], axis=-1),
        *(helper.make_node("Identity", [name], [f"{name}.out"]) for name, _ in cache),
    ]
    inputs = [("input_ids", TensorProto.INT64, ["batch", "tokens"]), ("lengths", TensorProto.INT64, ["batch"])]
    graph = helper.make_graph(
        nodes,
        "counting",
        [helper.make_tensor_value_info(*each) for each in [*inputs, *((name, kind, dims) for name, kind in cache)]],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", 256]),
            *(helper.make_tensor_value_info(f"{name}.out", kind, dims) for name, kind in cache),
        ],
        [one, depth, values],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "model.onnx")
    facts = {"mode": mode, "layers": 1, "kv_heads": 1, "head_dim": 2, "capacity": CAPACITY}
    facts |= {"dtypes": [NAMES[mode]], "excluded": [], "windows": [None]}
    (folder / "cache.json").write_text(json.dumps(facts))
    return folder


def generate(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trtbuild", "generate", *map(str, (folder, *arguments))],
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_text_goes_to_standard_output_and_what_it_cost_to_the_other(tmp_path: Path) -> None:
    done = generate(counting_decoder(tmp_path / "decoder"), "-p", "xyzA", "--max-new-tokens", 5, "--tokenizer", "bytes")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "xyzABCDEF\n"
    assert "4 tokens read, 5 written (ended by length)" in done.stderr
    assert "cache float: 192 B, 1.000 x FP16" in done.stderr


def test_several_prompts_are_shown_one_behind_the_other(tmp_path: Path) -> None:
    done = generate(
        counting_decoder(tmp_path / "decoder"), "-p", "A", "-p", "xyz", "--max-new-tokens", 2, "--tokenizer", "bytes"
    )
    assert done.stdout == "--- 1\nABC\n--- 2\nxyz{|\n"


def test_a_prompt_that_is_answered_with_nothing_is_shown(tmp_path: Path) -> None:
    done = generate(counting_decoder(tmp_path / "decoder"), "-p", "A", "--stop-token", 66, "--tokenizer", "bytes")
    assert done.stdout == "A\n"
    assert "ended by stop" in done.stderr


def test_json_is_one_object_and_nothing_else(tmp_path: Path) -> None:
    """In FP8, too: whose codes travel as bytes."""
    folder = counting_decoder(tmp_path / "decoder", "fp8")
    done = generate(folder, "-p", "A", "-p", "some a", "--stop-token", ord("d"), "--tokenizer", "bytes", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert done.stderr == ""
    assert [text["text"] for text in report["texts"]] == ["BCDEFGHIJKLMNOPQRSTUVWXY", "bc"]
    assert [text["ending"] for text in report["texts"]] == ["capacity", "stop"]
    assert report["texts"][1]["tokens"] == [98, 99]
    assert report["cache_bytes"] / report["cache_bytes_fp16"] == 0.5
    assert {"device", "first_token_ms", "decode_tokens_per_s"} <= report.keys()


def test_the_model_s_own_stop_tokens_count(tmp_path: Path) -> None:
    folder = counting_decoder(tmp_path / "decoder")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [ord("D"), 0]}))
    done = generate(folder, "-p", "A", "--tokenizer", "bytes")
    assert done.stdout == "ABC\n"


@pytest.mark.parametrize(
    ("damage", "arguments", "code", "says"),
    [
        ("", ["-p", "A"], 4, "tokenizer.json"),
        ("", ["-p", "A" * 25, "--tokenizer", "bytes"], 4, "prompt 0 has 25 tokens, the cache holds 24"),
        ("", ["-p", "", "--tokenizer", "bytes"], 4, "prompt 0 has no tokens"),
        ("", ["-p", "A", "--top-p", "2"], 4, "top_p"),
        ("cache.json", ["-p", "A", "--tokenizer", "bytes"], 3, "cache.json"),
        ("model.onnx", ["-p", "A", "--tokenizer", "bytes"], 3, "neither engine.json nor model.onnx"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, damage: str, arguments: list[str], code: int, says: str) -> None:
    folder = counting_decoder(tmp_path / "decoder")
    if damage:
        (folder / damage).unlink()
    done = generate(folder, *arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert says in done.stderr
    assert "Traceback" not in done.stderr
