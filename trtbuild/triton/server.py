"""A running server, through its model control API: load, look, wait."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlsplit

from trtbuild.core.errors import BackendMissing, StoreError

CONNECT_S = 5.0
LOAD_S = 600.0
"""How long loading may take: a plan of many gigabytes comes from a disk."""
POLL_S = 0.2


class Server:
    """A Triton server at `http://host:port`, or `https://`."""

    def __init__(self, url: str) -> None:
        """Raises BackendMissing where the client is not installed, StoreError where nobody answers within seconds."""
        try:
            from tritonclient.http import InferenceServerClient
        except ImportError as error:
            raise BackendMissing(
                "talking to a Triton server needs tritonclient", hint="pip install 'trtbuild[triton]'"
            ) from error
        parts = urlsplit(url if "//" in url else f"http://{url}")
        self.url = url
        self._client = InferenceServerClient(
            parts.netloc, ssl=parts.scheme == "https", connection_timeout=CONNECT_S, network_timeout=LOAD_S
        )
        try:
            self._client.is_server_live()
        except Exception as error:
            raise StoreError(
                f"no Triton server answers at {url}: {error}", hint="start it, or correct the address"
            ) from None

    def load(self, model: str) -> str | None:
        """Load a model's newest versions, waiting until they are ready. Returns why the server refuses, or None.

        A server in poll mode refuses to be told, and finds the version itself: then this waits for that.
        """
        from tritonclient.utils import InferenceServerException

        try:
            self._client.load_model(model)
        except InferenceServerException as error:
            reason = str(error.message())
            return None if "polling is enabled" in reason else reason
        return None

    def wait_ready(self, model: str, version: int, timeout_s: float = LOAD_S) -> str | None:
        """Wait until a version serves. Returns why it does not, or None."""
        ends = time.monotonic() + timeout_s
        while True:
            found = next((each for each in self.index() if _is(each, model, version)), {})
            if found.get("state") == "READY":
                return None
            reason = str(found.get("reason") or "")
            if found.get("state") == "UNAVAILABLE" and reason not in ("", "unloaded"):
                return reason
            if time.monotonic() > ends:
                return f"not ready after {timeout_s:.0f} s (state {found.get('state', 'unknown')})"
            time.sleep(POLL_S)

    def index(self) -> list[dict[str, Any]]:
        """Every model version the server knows: `name`, `version`, `state`, `reason`."""
        return list(self._client.get_model_repository_index())

    def close(self) -> None:
        """Hang up."""
        self._client.close()


def _is(entry: dict[str, Any], model: str, version: int) -> bool:
    return entry.get("name") == model and entry.get("version") == str(version)
