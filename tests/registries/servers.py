"""Real servers on loopback: Debian's docker-registry, moto as S3, and a proxy that cuts connections.

docker-registry is one binary. Where it is not installed, `apt-get download` fetches its package (a download, no change
of the system), and the binary is kept below `.venv` or in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAKE_KEYS = {"AWS_ACCESS_KEY_ID": "fake", "AWS_SECRET_ACCESS_KEY": "fake", "AWS_REGION": "us-east-1"}
BUCKET = "engines"


class NoRegistry(Exception):
    """This machine has no docker-registry, and no apt-get to fetch it with."""


def registry_binary() -> Path:
    """docker-registry, fetched where it is missing."""
    if found := shutil.which("docker-registry"):
        return Path(found)
    cache = ROOT / ".venv" if (ROOT / ".venv").is_dir() else Path.home() / ".cache" / "trtbuild-tests"
    folder = cache / "docker-registry"
    binary = folder / "usr/bin/docker-registry"
    if binary.exists():
        return binary
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise NoRegistry("docker-registry is not installed, and there is no apt-get to fetch it: OCI was not tested")
    loading = folder.with_name(f"docker-registry.{os.getpid()}")
    loading.mkdir(parents=True)
    try:
        done = subprocess.run(
            ["apt-get", "download", "docker-registry"], cwd=loading, capture_output=True, text=True, check=False
        )
        packages = list(loading.glob("*.deb"))
        if done.returncode or not packages:
            raise NoRegistry(f"apt-get download docker-registry failed, so OCI was not tested: {done.stderr[-500:]}")
        subprocess.run(["dpkg", "-x", packages[0], loading], check=True)
        with contextlib.suppress(OSError):  # another test process was faster
            loading.rename(folder)
    finally:
        shutil.rmtree(loading, ignore_errors=True)
    return binary


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def registry(folder: Path, *, auth: str = "", tls: tuple[Path, Path] | None = None) -> Iterator[str]:
    """docker-registry in a folder; gives `host:port`. `auth` is the section of its configuration."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    secured = f"\n  tls: {{certificate: {tls[0]}, key: {tls[1]}}}" if tls else ""
    (folder / "config.yml").write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}, delete: {{enabled: true}}}}\n"
        f"http:\n  addr: 127.0.0.1:{port}\n  secret: a-test{secured}\n{auth}"
    )
    command = [str(registry_binary()), "serve", str(folder / "config.yml")]
    with _running(command, folder / "registry.log", port):
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[str]:
    """moto's server with one bucket; gives its address."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, folder / "moto.log", port):
        address = f"http://127.0.0.1:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=20).close()
        yield address


@contextlib.contextmanager
def _running(command: list[str], log: Path, port: int) -> Iterator[None]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}  # its settings
    with log.open("wb") as written:
        server = subprocess.Popen(command, stdout=written, stderr=written, env=environment)
    try:
        for _ in range(1200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if server.poll() is not None:
                raise AssertionError(f"{command[0]} ended: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        server.kill()
        server.wait()


class CuttingProxy:
    """Passes TCP on to a server, and cuts connections: each of `cuts` after so many more bytes went through."""

    def __init__(self, server: str, *, cuts: int, after_bytes: int) -> None:
        host, _, port = server.rpartition("://")[2].partition(":")
        self._server = (host, int(port))
        self._left, self._after_bytes, self._until = cuts, after_bytes, after_bytes
        self._lock = threading.Lock()
        self.made = 0
        """Cuts so far."""
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> CuttingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._server)
            except OSError:
                return
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                sink.sendall(data)
                if self._is_time(len(data)):
                    for each in (source, sink):
                        # Reset instead of an orderly end. Shutting down first wakes the thread of the other direction.
                        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                        each.shutdown(socket.SHUT_RDWR)
                        each.close()
                    return
            sink.shutdown(socket.SHUT_WR)

    def _is_time(self, passed: int) -> bool:
        with self._lock:
            self._until -= passed
            if self._until > 0 or not self._left:
                return False
            self._until, self._left, self.made = self._after_bytes, self._left - 1, self.made + 1
            return True


@contextlib.contextmanager
def answering(handle: Callable[[bytes], bytes]) -> Iterator[str]:
    """A server that answers each connection's first bytes with what `handle` makes of them; gives `host:port`."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.sendall(handle(client.recv(1 << 16)))

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.close()
