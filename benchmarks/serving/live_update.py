"""A new version goes live, is rolled back and a broken one is refused, all under load: how many requests fail?

    python benchmarks/serving/live_update.py --seconds 30 --rate 200

Runs the real tritonserver binary (Triton 2.51, of the nvidia-pytriton wheel) on loopback with a tiny model. The
arithmetic is ONNX Runtime's in Triton's Python backend: see tests/triton/server.py. Writes live_update.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import tritonclient.http

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.models import write_tiny_recipe
from tests.triton.server import TritonServer, unpacked
from trtbuild.core import machine
from trtbuild.core.errors import StoreError
from trtbuild.pipeline.build import build
from trtbuild.pipeline.triton import publish_triton, roll_back_triton
from trtbuild.triton.options import TritonOptions
from trtbuild.triton.repository import Repository
from trtbuild.triton.server import Server

CLIENTS = 4


def main() -> None:
    """Send a steady rate of requests while versions come and go; write what was answered."""
    words = argparse.ArgumentParser()
    words.add_argument("--seconds", type=float, default=30)
    words.add_argument("--rate", type=float, default=200, help="requests per second, over all clients")
    asked = words.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(write_tiny_recipe(folder / "tiny"), store=folder / "store", output=folder / "engines")
        engine = folder / "engines" / "tiny" / "fp32"
        publish_triton([engine], folder / "models")
        home = unpacked(Path.home() / ".cache" / "trtbuild-tritonserver")
        arguments = ("--model-control-mode=explicit", "--load-model=*")
        with TritonServer(home, folder / "server", folder / "models", *arguments) as server:
            Server(server.url).wait_ready("tiny", 1)
            result = measured(server, engine, folder / "models", asked.seconds, asked.rate)
    file = Path(__file__).with_suffix(".json")
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(file.read_text())


def measured(server: TritonServer, engine: Path, repository: Path, seconds: float, rate: float) -> dict[str, object]:
    """The load and what happened to it."""
    times: list[float] = []
    failures: list[str] = []
    ends = time.monotonic() + seconds
    clients = [
        threading.Thread(target=load, args=(server.http, rate / CLIENTS, ends, times, failures)) for _ in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    live = rolled_back = refused = 0
    control = Server(server.url)
    while time.monotonic() < ends - 4:
        delay = 0.1 * (1 + live % 5)
        publish_triton([engine], repository, options=changed(delay), server_url=server.url)
        live += 1
        try:
            Repository(repository).publish(
                "tiny", (repository / "tiny/config.pbtxt").read_text(), broken, keep=3, server=control
            )
        except StoreError:
            refused += 1
        roll_back_triton("tiny", repository, server_url=server.url)
        rolled_back += 1
    for client in clients:
        client.join()
    return {
        "machine": machine.processor(),
        "seconds": seconds,
        "requests_per_s": round((len(times) + len(failures)) / seconds, 1),
        "requests": len(times) + len(failures),
        "failed": len(failures),
        "failures": failures[:3],
        "versions_gone_live": live,
        "broken_versions_refused": refused,
        "rolled_back": rolled_back,
        "latency_ms": {
            "median": round(statistics.median(times), 2),
            "p99": round(statistics.quantiles(times, n=100)[98], 2),
        },
    }


def changed(delay_ms: float) -> TritonOptions:
    """Options that differ a little, so that each publication is a new version."""
    return TritonOptions.model_validate({"batching": {"max_queue_delay_ms": delay_ms}})


def broken(folder: Path) -> None:
    """A version that no backend can load."""
    (folder / "model.onnx").write_bytes(b"no model")


def load(port: int, rate: float, ends: float, times: list[float], failures: list[str]) -> None:
    """Requests at a steady rate until the end."""
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}")
    given = tritonclient.http.InferInput("x", [1, 64], "FP32")
    given.set_data_from_numpy(np.zeros((1, 64), np.float32))
    due = time.monotonic()
    while due < ends:
        time.sleep(max(0.0, due - time.monotonic()))
        began = time.perf_counter()
        try:
            client.infer("tiny", [given])
            times.append(1e3 * (time.perf_counter() - began))
        except Exception as error:  # whatever it is, a user's request failed
            failures.append(str(error))
        due += 1 / rate


if __name__ == "__main__":
    main()
