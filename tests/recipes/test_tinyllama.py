"""The recipe's text, metric and training: what its perplexities rest on."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from trtbuild.decoding.likelihood import log_softmax
from trtbuild.decoding.tokenizer import stop_tokens_of, tokenizer_of

FOLDER = Path(__file__).parents[2] / "recipes" / "tinyllama"


@pytest.fixture(scope="module")
def tinyllama() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        import tinyllama
        import train  # noqa: F401 - tinyllama:model imports it
    finally:
        sys.path.remove(str(FOLDER))
    return tinyllama


@pytest.fixture(scope="module")
def trained(tinyllama: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sys.modules["train"].train_once(tmp_path_factory.mktemp("models") / "tiny", steps=2)


def test_no_long_paragraph_is_in_both_splits(tinyllama: ModuleType) -> None:
    training, held_out = (
        {part.strip() for text in tinyllama.documents(split) for part in text.split("\n\n") if len(part) > 60}
        for split in ("training", "held_out")
    )
    assert not training & held_out
    assert len(tinyllama.token_ids("training")) > 200_000
    assert len(tinyllama.token_ids("held_out")) > 33_000  # enough for 128 passages of a whole context


def test_passages_are_whole_contexts_of_their_split(tinyllama: ModuleType) -> None:
    batches = list(tinyllama.passages("evaluation", 20))
    assert [batch["input_ids"].shape for batch in batches] == [(8, 256), (8, 256), (4, 256)]
    rows = np.concatenate([batch["input_ids"] for batch in batches])
    assert rows.dtype == np.int64
    assert (rows[:, 0] == tinyllama.BOS).all()
    text = tinyllama.token_ids("held_out").astype("<u2").tobytes()
    for row in rows:
        assert row[1:].astype("<u2").tobytes() in text
    assert len({row.tobytes() for row in rows}) == 20
    with pytest.raises(ValueError, match="1000000 are wanted"):
        list(tinyllama.passages("evaluation", 1_000_000))


def test_the_metric_of_known_odds(tinyllama: ModuleType) -> None:
    """The reference gives the right token 1/2, the model 1/4, of four tokens; the rest is shared."""
    ids = np.array([[0, 1, 2, 3, 0]])

    def logits(chance: float) -> dict[str, np.ndarray]:
        chances = np.full((1, 5, 4), (1 - chance) / 3)
        chances[0, np.arange(4), ids[0, 1:]] = chance
        return {"logits": np.log(chances).astype(np.float32)}

    found = tinyllama.language_modelling([logits(0.25 - 1e-7)], [logits(0.5)], [{"input_ids": ids}])
    assert found["perplexity"] == pytest.approx(4, rel=1e-5)
    assert found["perplexity_ratio"] == pytest.approx(2, rel=1e-5)
    assert found["kl_divergence"] == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-4)
    assert found["top1_agreement"] == 0
    same = tinyllama.language_modelling([logits(0.5)], [logits(0.5)], [{"input_ids": ids}])
    assert (same["top1_agreement"], same["kl_divergence"], same["perplexity_ratio"]) == (1, 0, 1)


def test_training_is_the_same_each_time_and_happens_once(tinyllama: ModuleType, trained: Path, tmp_path: Path) -> None:
    train = sys.modules["train"]
    facts = json.loads((trained / "training.json").read_text())
    assert 50 < facts["held_out_perplexity"] < 264
    assert train.train(tmp_path, steps=2) == facts["held_out_perplexity"]
    first, second = (
        hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() for folder in (trained, tmp_path)
    )
    assert first == second
    before = (trained / "model.safetensors").stat().st_mtime_ns
    train.train_once(trained, steps=2)
    assert (trained / "model.safetensors").stat().st_mtime_ns == before
    (trained / "training.json").write_text(json.dumps(facts | {"fingerprint": "other"}))
    train.train_once(trained, steps=2)
    assert json.loads((trained / "training.json").read_text()) == facts


def test_the_tokenizer_is_the_text_s_bytes_behind_bos(tinyllama: ModuleType, trained: Path) -> None:
    text = "The “with” statement\n\n   with A() as a: \t日本\x00\x7f"
    tokenizer = tokenizer_of(trained)
    tokens = tokenizer.encode(text)
    assert tokens == [tinyllama.BOS, *text.encode()]
    assert tokenizer.decode([*tokens, tinyllama.EOS, tinyllama.VOCABULARY - 1]) == text
    assert stop_tokens_of(trained) == [tinyllama.EOS]


def test_the_factory_gives_the_trained_module(
    tinyllama: ModuleType, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("TINYLLAMA", str(trained))
    monkeypatch.setattr(sys.modules["train"], "train_once", lambda folder: folder)
    module = tinyllama.model()
    (batch,) = tinyllama.passages("evaluation", 8)
    with torch.no_grad():
        logits = module(torch.from_numpy(batch["input_ids"])).logits.numpy()
    assert logits.shape == (8, 256, tinyllama.VOCABULARY)
    nats = -np.take_along_axis(log_softmax(logits[:, :-1]), batch["input_ids"][:, 1:, None], axis=-1).mean()
    facts = json.loads((trained / "training.json").read_text())
    assert np.exp(nats) == pytest.approx(facts["held_out_perplexity"], rel=0.2)
