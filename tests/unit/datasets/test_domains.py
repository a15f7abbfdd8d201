"""Calibration sets by domain: shares that are exact, conversations that are written as the recipe says."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.datasets.files import write_lines, write_tokenizer
from trtbuild.core.errors import DataError
from trtbuild.core.sources import SAMPLE_IDS
from trtbuild.datasets.passages import of_files
from trtbuild.datasets.records import records
from trtbuild.datasets.text import lines

WEIGHTS = {"general*": 0.4, "code*": 0.3, "math*": 0.2, "chat*": 0.1}


def messages(first: int) -> str:
    turns = [("system", "w0"), ("user", f"w{first}"), ("assistant", f" w{first + 1} w{first + 2} ")]
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})


@pytest.fixture
def corpus(tmp_path: Path) -> list[Path]:
    """Four domains of very different sizes; every word is its own token."""
    words = [f"w{number}" for number in range(2000)]
    return [
        write_tokenizer(tmp_path),
        write_lines(tmp_path / "general-a.txt", [" ".join(words[:600])]),
        write_lines(tmp_path / "general-b.txt", [" ".join(words[600:900])]),
        write_lines(
            tmp_path / "code.jsonl", [json.dumps({"text": " ".join(words[n : n + 9])}) for n in range(900, 1400, 9)]
        ),
        write_lines(tmp_path / "math.txt", [" ".join(words[1400:1700])]),
        write_lines(tmp_path / "chat.jsonl", [messages(n) for n in range(1700, 1990, 3)]),
    ]


def shares(batches: list[dict[str, Any]]) -> Counter[str]:
    return Counter(
        source.partition(":")[0].split("-")[0].split(".")[0] for batch in batches for source in batch[SAMPLE_IDS]
    )


def test_passages_of_each_domain_in_exact_shares_mixed_and_disjoint(corpus: list[Path]) -> None:
    asked = {"length": 8, "batch": 5, "chat": dict.fromkeys(("system", "user", "assistant"), "{content} ")}
    calibration = list(of_files("calibration", 30, corpus, weights=WEIGHTS, **asked))
    assert shares(calibration) == {"general": 12, "code": 9, "math": 6, "chat": 3}
    assert len(shares(calibration[:1])) > 1
    again = list(of_files("calibration", 30, corpus[::-1], weights=WEIGHTS, **asked))
    assert all(np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(calibration, again, strict=True))
    held_out = list(of_files("evaluation", 10, corpus, weights=WEIGHTS, **asked))
    rows = [{tuple(row) for batch in split for row in batch["input_ids"].tolist()} for split in (calibration, held_out)]
    assert not rows[0] & rows[1]


def test_a_domain_that_is_too_small_is_named(corpus: list[Path]) -> None:
    with pytest.raises(DataError, match=r"passages of 8 tokens in math\*, 80 are wanted"):
        list(of_files("calibration", 100, corpus, length=8, chat="chatml", weights={**WEIGHTS, "math*": 3.2}))
    with pytest.raises(DataError, match=r"math\.txt is matched by no pattern"):
        list(of_files("calibration", 10, corpus, length=8, weights={"general*": 1, "code*": 1, "chat*": 1}))


def test_conversations_are_written_by_role(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "chat.jsonl", [messages(5), json.dumps({"text": "plain"})])
    written = [text for _, text in records("chat.jsonl", file, "text", "chatml")]
    assert written == [
        "<|im_start|>system\nw0<|im_end|>\n<|im_start|>user\nw5<|im_end|>\n<|im_start|>assistant\nw6 w7<|im_end|>\n",
        "plain",
    ]
    own = {"system": "", "user": "[INST] {content} [/INST]", "assistant": "{content}</s>"}
    with pytest.raises(DataError, match=r"system must have \{content\} once"):
        list(records("chat.jsonl", file, "text", own))
    own["system"] = "{content}\n"
    assert next(records("chat.jsonl", file, "text", own)) == (1, "w0\n[INST] w5 [/INST]w6 w7</s>")


def test_conversations_are_samples_of_lines_too(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "chat.jsonl", [messages(n) for n in range(0, 300, 3)])
    chat = dict.fromkeys(("system", "user", "assistant"), "{content} ")
    found = list(lines("calibration", 8, [write_tokenizer(tmp_path), file], max_length=16, batch=8, chat=chat))
    (batch,) = found
    assert batch["input_ids"].shape == (8, 6)  # [CLS], four words, [SEP]
    assert np.array_equal(np.diff(batch["input_ids"][:, 2:5]), np.ones((8, 2)))


@pytest.mark.parametrize(
    ("line", "chat", "match"),
    [
        (messages(1), None, "no text 'text'"),
        (messages(1), "alpaca", "no chat 'alpaca'; known are chatml, llama3"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "llama3", "a message of 'tool'"),
        ('{"messages": [{"role": "user"}]}', "llama3", "without a role and a text"),
        ('{"messages": "hello"}', "chatml", "without a role and a text"),
    ],
)
def test_what_is_no_conversation_is_told_with_its_line(line: str, chat: str | None, match: str, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "chat.jsonl", ["", line])
    with pytest.raises(DataError, match=match) as raised:
        list(records("chat.jsonl", file, "text", chat))
    assert chat == "alpaca" or "chat.jsonl:2" in raised.value.message
