"""A stand-in for the Hugging Face Hub, which nobody can run at home: the HTTP calls that huggingface_hub makes, with
commits that name their parent, large files by LFS, and reads by revision. It proves our side of the protocol only."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

LFS_BYTES = 10_000
"""Files of at least this size go to LFS; the Hub decides so by size and name."""


class Hub(BaseHTTPRequestHandler):
    """One repository, `team/engines`."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    commits: ClassVar[list[dict[str, bytes]]] = []
    storage: ClassVar[dict[str, bytes]] = {}
    lock: ClassVar[threading.Lock] = threading.Lock()
    token = "hf_right"

    def _answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _snapshot(self, revision: str) -> dict[str, bytes]:
        return self.commits[-1 if revision == "main" else int(revision, 16)]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if not path.startswith(("/team/engines/", "/api/models/team/engines")):
            self._answer({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif match := re.fullmatch(r"/team/engines/resolve/(\w+)/(.*)", path):
            content = self._snapshot(match[1]).get(match[2])
            if content is None:
                self._answer({}, 404, {"X-Error-Code": "EntryNotFound"})
            elif asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
                left = content[int(asked[1]) :]
                self._answer(left, 206 if left else 416)
            else:
                self._answer(content)
        elif match := re.match(r"/api/models/team/engines/tree/\w+/(.*)", path):
            found = [name for name in self._snapshot("main") if name.startswith(f"{match[1]}/")]
            listed = [self._entry(name) for name in found]
            self._answer(listed) if listed else self._answer({}, 404, {"X-Error-Code": "EntryNotFound"})
        else:
            head = f"{len(self.commits) - 1:040x}"
            self._answer({"id": "team/engines", "sha": head, "siblings": [], "tags": [], "private": False})

    def _entry(self, name: str) -> dict[str, Any]:
        content = self._snapshot("main")[name]
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"type": "file", "path": name, "size": len(content), "oid": oid}

    def do_POST(self) -> None:
        body, path = self._body(), self.path.partition("?")[0]
        if path.endswith("/paths-info/main"):
            wanted = re.findall(r"paths=([^&]*)", body.decode()) or json.loads(body)["paths"]
            known = self._snapshot("main")
            names = [name.replace("%2F", "/") for name in wanted]
            self._answer([self._entry(name) for name in names if name in known])
        elif self.headers.get("Authorization") != f"Bearer {self.token}":
            self._answer({"error": "no"}, 403)
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "lfs" if f["size"] >= LFS_BYTES else "regular"} for f in files]
            self._answer({"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]})
        elif path.endswith(".git/info/lfs/objects/batch"):
            host = self.headers["Host"]
            objects = [
                {**each, "actions": {"upload": {"href": f"http://{host}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        else:
            self._commit([json.loads(line) for line in body.splitlines() if line])

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        with self.lock:
            head = f"{len(self.commits) - 1:040x}"
            if lines[0]["value"].get("parentCommit") not in (None, head):
                self._answer({"error": "the branch was updated"}, 412)
                return
            files = dict(self.commits[-1])
            for line in lines[1:]:
                value = line["value"]
                known = self.storage.get(value.get("oid", ""))
                files[value["path"]] = base64.b64decode(value["content"]) if line["key"] == "file" else known or b""
            self.commits.append(files)
        head = f"{len(self.commits) - 1:040x}"
        self._answer({"commitOid": head, "commitUrl": f"http://{self.headers['Host']}/team/engines/commit/{head}"})

    def do_PUT(self) -> None:
        content, oid = self._body(), self.path.rpartition("/")[2]
        right = hashlib.sha256(content).hexdigest() == oid
        if right:
            self.storage[oid] = content
        self._answer({}, 200 if right else 400)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def hub() -> Iterator[tuple[str, type[Hub]]]:
    """Run one; gives its address, and the class that holds what it keeps."""
    kind = type("OneHub", (Hub,), {"commits": [{}], "storage": {}, "lock": threading.Lock()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", kind
    finally:
        server.shutdown()
        server.server_close()
