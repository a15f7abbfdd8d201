"""The real tritonserver binary, out of the nvidia-pytriton wheel, started on loopback.

That wheel brings the server (Triton 2.51) with its Python backend only. Triton takes `<backends>/<name>/model.py` for a
backend of that name, so `onnxruntime_stand_in.py` stands in as `onnxruntime` and `tensorrt`: layout,
configuration, loading, batching and answers are the real server's; the arithmetic is ONNX Runtime's in Python.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import zipfile
from pathlib import Path

import onnxruntime

WHEELS = ("nvidia-pytriton==0.7.0", "numpy==1.26.4")
"""The server, and the numpy of its Python backend, which is older than numpy 2 and reads such arrays wrong."""
STAND_IN = Path(__file__).with_name("onnxruntime_stand_in.py")
READY_S = 60.0


def unpacked(cache: Path) -> Path:
    """The wheels' content, fetched once into `cache` with pip."""
    home = cache / "-".join(WHEELS).replace("==", "-")
    if not (home / "done").is_file():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(home), *WHEELS]
        subprocess.run(command, check=True)
        for wheel in home.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(home)
            wheel.unlink()
        (home / "pytriton/tritonserver/bin/tritonserver").chmod(0o755)
        (home / "done").touch()
    return home


def backends(home: Path, folder: Path) -> Path:
    """A folder of backends: the real Python backend, and the stand-ins."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "python"
    shutil.copytree(home / "pytriton/tritonserver/backends/python", python)
    stub = python / "triton_python_backend_stub"
    shutil.copyfile(home / f"pytriton/tritonserver/python_backend_stubs/{version}/triton_python_backend_stub", stub)
    stub.chmod(0o755)
    packages = [str(home), str(Path(onnxruntime.__file__).parents[1])]
    support = python / "triton_python_backend_utils.py"  # every Python model imports it, in a Python that knows no venv
    support.write_text(f"import sys\nsys.path[:0] = {packages!r}\n{support.read_text()}")
    for name in ("onnxruntime", "tensorrt"):
        (folder / name).mkdir()
        shutil.copyfile(STAND_IN, folder / name / "model.py")
    return folder


class TritonServer:
    """A running server. Use it as a context."""

    def __init__(self, home: Path, folder: Path, repository: Path, *arguments: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.http, self.grpc, self.metrics = _free_ports(3)
        self.log = folder / "tritonserver.log"
        libraries = [str(home / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR") or "")]
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(each for each in libraries if each),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [
            str(home / "pytriton/tritonserver/bin/tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={backends(home, folder / 'backends')}",
            f"--cache-directory={home / 'pytriton/tritonserver/caches'}",
            "--exit-timeout-secs=2",
            *(f"--{kind}-port={port}" for kind, port in (("http", self.http), ("grpc", self.grpc))),
            f"--metrics-port={self.metrics}",
            *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
            "--exit-on-error=false",
            *arguments,
        ]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    def __enter__(self) -> TritonServer:
        ends = time.monotonic() + READY_S
        while not _answers(f"{self.url}/v2/health/live"):
            if self._process.poll() is not None or time.monotonic() > ends:
                self._process.kill()
                raise AssertionError(f"tritonserver did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
