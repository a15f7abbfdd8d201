"""The real server takes what `trtbuild triton` writes: it answers, goes live under load, refuses and comes back."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from tests.triton.server import TritonServer
from trtbuild.backends.onnxruntime.backend import OnnxRuntime
from trtbuild.core.artifacts import Engine
from trtbuild.core.errors import StoreError
from trtbuild.pipeline.triton import publish_triton, roll_back_triton
from trtbuild.triton.options import TritonOptions
from trtbuild.triton.repository import Repository
from trtbuild.triton.server import Server

Array = np.ndarray


@pytest.fixture(scope="module")
def live(
    triton_home: Path, engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TritonServer, Path]]:
    """A server in explicit mode, and its repository, which holds the tiny engine as version 1."""
    folder = tmp_path_factory.mktemp("live")
    repository = folder / "models"
    publish_triton([engine], repository)
    arguments = ("--model-control-mode=explicit", "--load-model=*")
    with TritonServer(triton_home, folder / "server", repository, *arguments) as server:
        assert Server(server.url).wait_ready("tiny", 1, 60) is None, server.log.read_text()
        yield server, repository


def rows(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 64)).astype(np.float32)


def asked(client_module: object, url: str, x: Array) -> Array:
    """One request through HTTP or gRPC."""
    module = tritonclient.http if client_module is tritonclient.http else tritonclient.grpc
    client = module.InferenceServerClient(url)
    given = module.InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    try:
        answer = client.infer("tiny", [given])
        found: Array = answer.as_numpy(
            answer.get_response()["outputs"][0]["name"] if module is tritonclient.http else "r2"
        )
        return found
    finally:
        client.close()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_server_answers_as_the_engine_does(live: tuple[TritonServer, Path], engine: Path, protocol: str) -> None:
    server, _ = live
    x = rows(4)
    session = OnnxRuntime().open(Engine(engine), 1)
    expected = next(iter(session.infer({"x": x}).values()))
    module, port = {"http": (tritonclient.http, server.http), "grpc": (tritonclient.grpc, server.grpc)}[protocol]
    np.testing.assert_array_equal(asked(module, f"127.0.0.1:{port}", x), expected)


def test_the_server_read_the_configuration_as_it_was_meant(live: tuple[TritonServer, Path], engine: Path) -> None:
    server, _ = live
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.http}")
    config = client.get_model_config("tiny")
    client.close()
    digest = json.loads((engine / "manifest.json").read_text())["engine_digest"]
    assert config["max_batch_size"] == 8
    assert config["dynamic_batching"]["preferred_batch_size"] == [4]
    assert [each["dims"] for each in (*config["input"], *config["output"])] == [[64], [64]]
    assert config["metric_tags"]["engine_digest"] == digest[:16]
    assert config["model_warmup"][0]["batch_size"] == 4


def test_requests_never_fail_while_a_new_version_goes_live_and_comes_back(
    live: tuple[TritonServer, Path], engine: Path
) -> None:
    server, repository = live
    failures: list[str] = []
    answered = [0]
    stop = threading.Event()

    def load() -> None:
        client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.http}")
        given = tritonclient.http.InferInput("x", [1, 64], "FP32")
        given.set_data_from_numpy(rows(1))
        while not stop.is_set():
            try:
                client.infer("tiny", [given])
                answered[0] += 1
            except Exception as error:
                failures.append(str(error))
        client.close()

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        before = Repository(repository).versions("tiny")[-1]
        options = TritonOptions(batching=None)  # another configuration: the same engine again would add nothing
        report = publish_triton([engine], repository, options=options, server_url=server.url)
        assert (report.versions, report.live) == ({"tiny": before + 1}, True)
        time.sleep(0.5)
        assert roll_back_triton("tiny", repository, server_url=server.url) == before
        time.sleep(0.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert answered[0] > 50


def test_a_broken_version_is_taken_back_and_the_old_one_serves(
    live: tuple[TritonServer, Path], engine: Path, tmp_path: Path
) -> None:
    server, repository = live
    before = Repository(repository).versions("tiny")
    config = (repository / "tiny" / "config.pbtxt").read_text()

    def broken(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(b"no model")

    connection = Server(server.url)
    with pytest.raises(StoreError, match=r"refuses tiny version \d+"):
        Repository(repository).publish("tiny", config, broken, keep=3, server=connection)
    assert Repository(repository).versions("tiny") == before
    assert connection.wait_ready("tiny", before[-1], 30) is None
    assert asked(tritonclient.http, f"127.0.0.1:{server.http}", rows(2)).shape == (2, 64)


def test_the_layout_of_a_tensorrt_repository_loads_with_a_stand_in_backend(
    triton_home: Path, engine: Path, tmp_path: Path
) -> None:
    """A `model.plan` that is an ONNX file, served by the stand-in: proves layout and configuration, not TensorRT."""
    from trtbuild.core.interface import Interface
    from trtbuild.triton.config import as_text, model_config
    from trtbuild.triton.options import Cuda

    options = TritonOptions(cuda=Cuda(graphs=True), response_cache=True)
    config = model_config(
        Interface.read(engine), options, name="tiny", backend="tensorrt", model_file="model.plan", tags={}
    )
    repository = tmp_path / "models"
    Repository(repository).publish(
        "tiny", as_text(config), lambda folder: shutil.copyfile(engine / "engine.onnx", folder / "model.plan"), keep=1
    )
    with TritonServer(triton_home, tmp_path / "server", repository) as server:
        assert Server(server.url).wait_ready("tiny", 1, 60) is None, server.log.read_text()[-3000:]
        assert asked(tritonclient.http, f"127.0.0.1:{server.http}", rows(3)).shape == (3, 64)


def test_a_server_that_is_not_there_is_named_within_seconds(engine: Path, tmp_path: Path) -> None:
    began = time.perf_counter()
    with pytest.raises(StoreError, match=r"no Triton server answers at http://127\.0\.0\.1:9"):
        publish_triton([engine], tmp_path / "models", server_url="http://127.0.0.1:9")
    assert time.perf_counter() - began < 10
    assert not (tmp_path / "models").exists()
