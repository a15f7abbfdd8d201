"""A decoder behind the real server: its tokens stream, and are those that `trtbuild generate` writes."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from tests.pipeline.test_decoder_recipe import LLM, qwen, sets  # noqa: F401 - a fixture is found by its name
from tests.triton.server import TritonServer
from trtbuild.core.errors import ModelError
from trtbuild.pipeline.build import build
from trtbuild.pipeline.generate import generate
from trtbuild.pipeline.triton import publish_triton
from trtbuild.triton.options import TritonOptions
from trtbuild.triton.server import Server

PROMPT = "where is it"


@pytest.fixture(scope="module")
def engines(qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The engines of a small random Qwen2, with an INT8 and an FP8 cache."""
    folder = tmp_path_factory.mktemp("decoder")
    build(LLM, sets=sets(qwen), variants=["kv_int8", "kv_fp8"], store=folder / "store", output=folder / "engines")
    return folder / "engines" / "llm"


def streamed(server: TritonServer, **settings: Any) -> tuple[list[int], str, str]:
    """The tokens and the text of one request, and the error where there is one."""
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}")
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    prompt = tritonclient.grpc.InferInput("prompt", [1], "BYTES")
    prompt.set_data_from_numpy(np.array([settings.pop("prompt", PROMPT).encode()], dtype=object))
    inputs = [prompt]
    for name, value in settings.items():
        kind = {"max_new_tokens": "INT32", "top_k": "INT32", "seed": "INT64", "temperature": "FP32"}[name]
        given = tritonclient.grpc.InferInput(name, [1], kind)
        given.set_data_from_numpy(np.array([value], {"INT32": "i4", "INT64": "i8", "FP32": "f4"}[kind]))
        inputs.append(given)
    client.async_stream_infer("talk", inputs, enable_empty_final_response=True)
    tokens, text = [], b""
    try:
        while True:
            result, error = answers.get(timeout=60)
            if error is not None:
                return tokens, text.decode(), str(error)
            if result.get_response().parameters["triton_final_response"].bool_param:
                return tokens, text.decode(), ""
            tokens.append(int(result.as_numpy("token")[0]))
            text += result.as_numpy("text")[0]
    finally:
        client.stop_stream()
        client.close()


def test_tokens_stream_and_are_those_of_generate(triton_home: Path, engines: Path, tmp_path: Path) -> None:
    engine = engines / "kv_int8"
    options = TritonOptions(name="talk", warm_up=False)
    report = publish_triton([engine], tmp_path / "models", options=options, allow_failed=True)
    assert report.versions == {"talk_step": 1, "talk": 1}
    expected = generate(engine, [PROMPT], max_new_tokens=12).texts[0]
    with TritonServer(triton_home, tmp_path / "server", tmp_path / "models") as server:
        assert Server(server.url).wait_ready("talk", 1, 60) is None, server.log.read_text()[-3000:]
        tokens, text, error = streamed(server, max_new_tokens=12)
        assert (tokens, text, error) == (expected.tokens, expected.text, "")
        drawn = [streamed(server, max_new_tokens=8, temperature=2.0, top_k=20, seed=seed)[0] for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
        assert "the cache holds 1 to" in streamed(server, prompt="where " * 200)[2]


def test_an_fp8_cache_is_refused_with_the_reason(engines: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"float8.*Triton cannot carry"):
        publish_triton([engines / "kv_fp8"], tmp_path / "models", allow_failed=True)
    assert not (tmp_path / "models" / "llm_step").exists()
