"""The recipe's text and training, and every variant of it, trained for a moment instead of minutes."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from trtbuild.core.report import BuildReport
from trtbuild.datasets.documentation import documents
from trtbuild.decoding.tokenizer import stop_tokens_of, tokenizer_of
from trtbuild.pipeline.build import build
from trtbuild.pipeline.generate import generate

pytest.importorskip("torch")
FOLDER = Path(__file__).parents[2] / "recipes" / "tinyllama"
QUICK = [
    "model.huggingface.made_by.arguments={steps: 12}",
    "data.arguments={length: 128}",
    "data.calibration=16",
    "data.evaluation=16",
    "decoder.capacity=128",
    "decoder.prompt=32",
    "decoder.steps=12",
    "measure.runs=3",
]


@pytest.fixture(scope="module")
def tinyllama() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        import tinyllama
        import train  # noqa: F401 - a test calls it
    finally:
        sys.path.remove(str(FOLDER))
    return tinyllama


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuildReport]:
    folder = tmp_path_factory.mktemp("tinyllama")
    return folder, build(FOLDER, sets=QUICK, store=folder / "store", output=folder / "engines")


def test_no_long_paragraph_is_in_both_splits(tinyllama: ModuleType) -> None:
    training, held_out = (
        {part.strip() for text in documents(split) for part in text.split("\n\n") if len(part) > 60}
        for split in ("calibration", "evaluation")
    )
    assert not training & held_out
    assert len(tinyllama.token_ids("calibration")) > 200_000
    assert len(tinyllama.token_ids("evaluation")) > 33_000  # enough for 128 passages of a whole context


def test_passages_are_whole_contexts_of_their_split(tinyllama: ModuleType) -> None:
    batches = list(tinyllama.passages("evaluation", 20))
    assert [batch["input_ids"].shape for batch in batches] == [(8, 256), (8, 256), (4, 256)]
    rows = np.concatenate([batch["input_ids"] for batch in batches])
    assert rows.dtype == np.int64
    assert (rows[:, 0] == tinyllama.BOS).all()
    text = tinyllama.token_ids("evaluation").astype("<u2").tobytes()
    for row in rows:
        assert row[1:].astype("<u2").tobytes() in text
    assert len({row.tobytes() for row in rows}) == 20
    with pytest.raises(ValueError, match="1000000 are wanted"):
        list(tinyllama.passages("evaluation", 1_000_000))


def test_training_is_the_same_each_time(tinyllama: ModuleType, tmp_path: Path) -> None:
    perplexities, digests = set(), set()
    for folder in (tmp_path / "first", tmp_path / "second"):
        perplexities.add(sys.modules["train"].train(folder, steps=2))
        digests.add(hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())
        assert json.loads((folder / "training.json").read_text())["held_out_perplexity"] in perplexities
    assert len(perplexities) == len(digests) == 1
    assert 50 < perplexities.pop() < 264


def test_the_tokenizer_is_the_text_s_bytes_behind_bos(tinyllama: ModuleType, built: tuple[Path, BuildReport]) -> None:
    text = "The “with” statement\n\n   with A() as a: \t日本\x00\x7f"
    engine = built[0] / "engines" / "tinyllama" / "kv_int8"
    tokenizer = tokenizer_of(engine)
    tokens = tokenizer.encode(text)
    assert tokens == [tinyllama.BOS, *text.encode()]
    assert tokenizer.encode_inside(text) == tokens[1:]
    assert tokenizer.decode([*tokens, tinyllama.EOS, tinyllama.VOCABULARY - 1]) == text
    assert stop_tokens_of(engine) == [tinyllama.EOS]


def test_what_is_asked_of_weights_and_cache_is_what_runs(built: tuple[Path, BuildReport]) -> None:
    coverage = {variant.name: variant.coverage.model_dump() for variant in built[1].variants}
    assert coverage["fp16"]["asked"] == 0
    for name in ("kv_int8", "kv_int8_static", "kv_fp8"):
        assert coverage[name] == {"asked": 4, "inserted": 4, "ran": 4, "untold": 0}
    for name in ("int8_sq_kv_int8", "fp8_kv_fp8", "int4_awq_kv_int8"):
        assert coverage[name] == {"asked": 32, "inserted": 32, "ran": 32, "untold": 0}  # 28 linears and 4 caches


def test_a_cache_in_8_bits_costs_half_and_next_to_nothing(built: tuple[Path, BuildReport]) -> None:
    accuracy = {variant.name: variant.accuracy for variant in built[1].variants}
    assert accuracy["fp16"]["perplexity_ratio_to_model"] == pytest.approx(1, abs=1e-3)
    for name, most in (("kv_int8", 1.002), ("kv_int8_static", 1.02), ("kv_fp8", 1.02)):
        assert accuracy[name]["perplexity_ratio"] <= most
        assert accuracy[name]["kv_bytes_ratio"] <= 0.52
    assert accuracy["kv_int8"]["top1_agreement"] >= 0.98
    report = next(variant for variant in built[1].variants if variant.name == "kv_int8")
    assert report.cache_bytes == 8 * 4 * 2 * 2 * 128 * (128 + 2)  # rows, layers, K and V, heads, slots, codes and scale
    assert report.latency_ms.tokens_per_s
    assert report.latency_ms.first_token


def test_its_engine_writes(built: tuple[Path, BuildReport]) -> None:
    written = generate(built[0] / "engines" / "tinyllama" / "int4_awq_kv_int8", ["The with"], max_new_tokens=5)
    assert written.new_tokens == 5
    assert written.cache == "int8"


def test_a_second_build_runs_nothing(built: tuple[Path, BuildReport]) -> None:
    again = build(FOLDER, sets=QUICK, store=built[0] / "store", output=built[0] / "engines")
    assert again.steps_run == 0
