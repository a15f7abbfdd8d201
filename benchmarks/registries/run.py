"""A large engine to a registry and an object store and back, on loopback, with connections cut on the way.

    python -m benchmarks.registries.run [--size-mb 2000] [--cuts 20] [--folder DIR]

For docker-registry (`oci://`) and moto (`s3://`): `trtbuild publish` and `trtbuild pull` in processes of their own,
with peak resident memory and rate; the rate of a raw copy before and after, which is one HTTP request to the same
server without any hashing, each direction; and the same again through a proxy that cuts `cuts` connections. Writes
results.json beside this file.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import mean
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore.store import S3Store

from tests.bundles import write_bundle
from tests.registries import servers

MB = 1e6
MEASURED = r"""
import json, re, sys, time
sys.argv = ["trtbuild", *sys.argv[1:]]
from trtbuild.cli.main import main
began = time.perf_counter()
try:
    main()
finally:
    print(json.dumps({"elapsed_s": time.perf_counter() - began,
                      "peak_mb": int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) * 1024 / 1e6}),
          file=sys.stderr)
"""


def trtbuild(*arguments: object) -> dict[str, Any]:
    """Run a command in a process of its own; its time and peak memory, and the report it printed."""
    os.sync()
    command = [sys.executable, "-c", MEASURED, *map(str, arguments), "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))} failed:\n{done.stderr}")
    return {**json.loads(done.stderr.splitlines()[-1]), "report": json.loads(done.stdout)}


def timed(work: Callable[[], None]) -> float:
    """Seconds that work takes, on a disk that has nothing left to write from before."""
    os.sync()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def raw_put(file: Path, url: str, method: str = "PUT") -> None:
    """One request with the file as its body."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=600, blocksize=1 << 22)
    with file.open("rb") as stream:
        connection.request(
            method,
            f"{parts.path}?{parts.query}",
            body=stream,
            headers={"Content-Length": str(file.stat().st_size), "Content-Type": "application/octet-stream"},
        )
        response = connection.getresponse()
        response.read()
    if response.status >= 300:
        raise SystemExit(f"raw {method} of {url}: {response.status}")


def raw_get(url: str, file: Path) -> None:
    """One request whose answer is written to a file and flushed, as a pull does."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=600)
    connection.request("GET", f"{parts.path}?{parts.query}")
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"raw GET of {url}: {response.status}")
    with file.open("wb") as stream:
        shutil.copyfileobj(response, stream, 1 << 20)
        stream.flush()
        os.fsync(stream.fileno())


@dataclass(frozen=True)
class Raw:
    """Copies to and from a server with the fewest requests, and no hashing on our side."""

    kind: str
    plan: Path
    sha256: str
    address: str
    copy: Path

    def put(self, number: int) -> None:
        """A monolithic upload to a registry; to S3 one object in one request. Each number is another place."""
        if self.kind == "s3":
            raw_put(self.plan, self._signed("PUT"))
            return
        connection = http.client.HTTPConnection(self.address, timeout=60)
        connection.request("POST", f"/v2/raw{number}/blobs/uploads/", body=b"")
        location = connection.getresponse().headers["Location"]
        raw_put(self.plan, f"{location}&digest=sha256:{self.sha256}")

    def get(self) -> None:
        """Into a file."""
        oci = f"http://{self.address}/v2/raw0/blobs/sha256:{self.sha256}"
        raw_get(oci if self.kind == "oci" else self._signed("GET"), self.copy)

    def _signed(self, method: str) -> str:
        """The address of one object, with the signature in it that any HTTP client may use."""
        store = S3Store(servers.BUCKET, endpoint=self.address, client_options={"allow_http": True})
        return obstore.sign(store, method, "raw", timedelta(hours=1))


def rates(size: int, published: dict[str, Any], pulled: dict[str, Any], up_s: float, down_s: float) -> dict[str, Any]:
    """What one round says."""
    return {
        "publish_mb_s": round(size / MB / published["report"]["elapsed_s"], 1),
        "raw_put_mb_s": round(size / MB / up_s, 1),
        "publish_share": round(up_s / published["report"]["elapsed_s"], 3),
        "pull_mb_s": round(size / MB / pulled["report"]["elapsed_s"], 1),
        "raw_get_mb_s": round(size / MB / down_s, 1),
        "pull_share": round(down_s / pulled["report"]["elapsed_s"], 3),
        "publish_peak_mb": round(published["peak_mb"], 1),
        "pull_peak_mb": round(pulled["peak_mb"], 1),
    }


def there_and_back(bundle: Path, place: str, output: Path, key: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Publish, pull, verify; the pulled folder is removed."""
    published = trtbuild("publish", bundle, place)
    pulled = trtbuild("pull", published["report"]["reference"], "--all", "-o", output, "--key", key)
    shutil.rmtree(output)
    return published, pulled


def measure(kind: str, folder: Path, bundle: Path, size: int, cuts: int, key: Path) -> dict[str, Any]:
    """Both directions of one kind of place: plain, raw, and cut."""
    (plan,) = bundle.glob("engines/*/engine.plan")
    sha256 = json.loads((bundle / "bundle.json").read_text())["engines"][0]["files"][str(plan.relative_to(bundle))][
        "sha256"
    ]
    data = folder / kind
    server = servers.registry(data) if kind == "oci" else servers.s3(data)
    with server as address:
        os.environ["AWS_ENDPOINT_URL"] = address
        host = address.rpartition("//")[2]
        place = f"oci://{host}/a/model" if kind == "oci" else f"s3://{servers.BUCKET}/a"
        raw = Raw(kind, plan, sha256, address, folder / "raw")
        up_s, down_s = [timed(lambda: raw.put(0))], [timed(raw.get)]
        published, pulled = there_and_back(bundle, place, folder / "pulled", key)
        up_s.append(timed(lambda: raw.put(1)))
        down_s.append(timed(raw.get))
        (folder / "raw").unlink()
        found = rates(size, published, pulled, mean(up_s), mean(down_s))
    shutil.rmtree(data)
    server = servers.registry(data) if kind == "oci" else servers.s3(data)
    with server as address, servers.CuttingProxy(address, cuts=cuts, after_bytes=size * 2 // (cuts + 2)) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = f"http://{proxy.address}"
        place = f"oci://{proxy.address}/b/model" if kind == "oci" else f"s3://{servers.BUCKET}/b"
        published, pulled = there_and_back(bundle, place, folder / "pulled", key)
        found |= {
            "cuts": proxy.made,
            "cut_publish_s": round(published["report"]["elapsed_s"], 1),
            "cut_pull_s": round(pulled["report"]["elapsed_s"], 1),
            "cut_publish_peak_mb": round(published["peak_mb"], 1),
            "cut_pull_peak_mb": round(pulled["peak_mb"], 1),
        }
    shutil.rmtree(data)
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=2000)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--only", choices=["oci", "s3"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"))
    asked = parser.parse_args()
    os.environ.update(servers.FAKE_KEYS)
    size = asked.size_mb * 1_000_000
    folder = Path(tempfile.mkdtemp(dir=asked.folder))
    try:
        bundle = write_bundle(folder, size_bytes=size)
        shutil.rmtree(folder / "built-1.0")
        trtbuild_plain = [sys.executable, "-m", "trtbuild"]
        subprocess.run([*trtbuild_plain, "keygen", str(folder / "bench")], check=True, capture_output=True)
        subprocess.run(
            [*trtbuild_plain, "sign", str(bundle), "--key", str(folder / "bench.key")], check=True, capture_output=True
        )
        results: dict[str, Any] = {"size_mb": asked.size_mb, "load_1min": os.getloadavg()[0]}
        for kind in [asked.only] if asked.only else ["oci", "s3"]:
            results[kind] = measure(kind, folder, bundle, size, asked.cuts, folder / "bench.pub")
            print(kind, json.dumps(results[kind]), flush=True)
        asked.output.write_text(json.dumps(results, indent=1) + "\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
