"""MiniLM with its real weights behind its real tokenizer, served as one model that takes strings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from recipes.minilm.minilm import model_folder
from tests.triton.server import TritonServer
from trtbuild.backends.onnxruntime.backend import OnnxRuntime
from trtbuild.core.artifacts import Engine
from trtbuild.pipeline.build import build
from trtbuild.pipeline.triton import publish_triton
from trtbuild.triton.options import TextOptions, TritonOptions
from trtbuild.triton.server import Server

RECIPE = Path(__file__).parents[2] / "recipes" / "minilm"
TEXTS = ["A cat sat on the mat.", "TensorRT builds engines.", "short", "the quick brown fox " * 30]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM's FP16 engine."""
    folder = tmp_path_factory.mktemp("minilm")
    sets = ["data.calibration=16", "data.evaluation=16", "measure.runs=3", "engine.tactics=default"]
    build(RECIPE, sets=sets, variants=["fp16"], store=folder / "store", output=folder / "engines")
    return folder / "engines" / "minilm" / "fp16"


def here(engine: Path, texts: list[str]) -> np.ndarray:
    """The embeddings by the same steps in this process."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(texts)
    ids, mask = (np.array([getattr(row, each) for row in rows], dtype=np.int64) for each in ("ids", "attention_mask"))
    session = OnnxRuntime().open(Engine(engine), 0)
    hidden = session.infer({"input_ids": ids, "attention_mask": mask})["last_hidden_state"].astype(np.float32)
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    found: np.ndarray = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return found


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_strings_go_in_and_embeddings_come_out(triton_home: Path, encoder: Path, tmp_path: Path, protocol: str) -> None:
    options = TritonOptions(name="embed", text=TextOptions(tokenizer=model_folder() / "tokenizer.json"), warm_up=False)
    report = publish_triton([encoder], tmp_path / "models", options=options)
    assert set(report.versions) == {"embed", "embed_tokenizer", "embed_encoder", "embed_pooling"}
    assert publish_triton([encoder], tmp_path / "models", options=options).versions == report.versions
    module = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    with TritonServer(triton_home, tmp_path / "server", tmp_path / "models") as server:
        assert Server(server.url).wait_ready("embed", 1, 90) is None, server.log.read_text()[-3000:]
        client = module.InferenceServerClient(f"127.0.0.1:{getattr(server, protocol)}")
        given = module.InferInput("TEXT", [len(TEXTS), 1], "BYTES")
        given.set_data_from_numpy(np.array([[text.encode()] for text in TEXTS], dtype=object))
        found = client.infer("embed", [given]).as_numpy("embedding")
        client.close()
    np.testing.assert_allclose(found, here(encoder, TEXTS), atol=2e-3)  # the engine computes in FP16
