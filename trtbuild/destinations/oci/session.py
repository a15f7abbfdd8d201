"""Requests to one repository of a registry: authorized, explained, and told apart by whether another try helps."""

from __future__ import annotations

import ipaddress
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urljoin, urlsplit

import httpx
from httpcore._sync.http11 import HTTP11Connection

from trtbuild.core.errors import DestinationError
from trtbuild.destinations.oci.authorization import Authorization
from trtbuild.destinations.protocol import Interrupted

Content = Callable[[], Iterator[bytes]]
"""Gives the body of a request, each time from its beginning."""

HTTP11Connection.READ_NUM_BYTES = 1 << 20
"""httpcore reads 64 KiB at a time and has no setting for it: a third of the processor time of a fast download."""
_FIRST_TIMEOUT = httpx.Timeout(4, connect=3)
"""Until the registry has answered once, so that one that does not is known within ten seconds."""
_TIMEOUT = httpx.Timeout(30, connect=3)
_COMMIT_TIMEOUT = httpx.Timeout(600, connect=3)
"""In seconds. A registry answers the end of an upload only after it has hashed and moved the blob."""
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_MOST_RETRY_AFTER_S = 60.0


class Session:
    """One repository, with one connection pool."""

    def __init__(self, host: str, repository: str, *, plain: bool) -> None:
        self.host, self.repository = host, repository
        self._secure = not (plain or _is_loopback(host))
        self._origin = f"{'https' if self._secure else 'http'}://{host}"
        self._client = httpx.Client(timeout=_FIRST_TIMEOUT, headers={"User-Agent": "trtbuild"}, trust_env=True)
        self._authorization = Authorization(host, self._client)
        self._answered = False
        self.scopes = f"repository:{repository}:pull"

    def may_push(self, *also_from: str) -> None:
        """Ask for tokens that allow pushing from now on, and reading from other repositories."""
        self.scopes = " ".join(
            [f"repository:{self.repository}:pull,push", *(f"repository:{other}:pull" for other in also_from)]
        )

    def url(self, path: str) -> str:
        """The address of something in the repository: `blobs/uploads/`."""
        return f"{self._origin}/v2/{self.repository}/{path}"

    def located(self, response: httpx.Response) -> str:
        """Where a response says to go on."""
        return str(urljoin(str(response.request.url), response.headers.get("Location", "")))

    def request(
        self,
        method: str,
        url: str,
        *,
        accept: tuple[int, ...],
        headers: dict[str, str] | None = None,
        content: bytes | Content = b"",
    ) -> httpx.Response:
        """Send one request and read the whole answer.

        Raises Interrupted where another try may help, DestinationError where the status is not among `accept`.
        """
        with self.stream(method, url, accept=accept, headers=headers, content=content) as response:
            with self._connected():
                response.read()
            return response

    @contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        accept: tuple[int, ...],
        headers: dict[str, str] | None = None,
        content: bytes | Content = b"",
    ) -> Iterator[httpx.Response]:
        """Send one request, whose answer is read by the caller."""
        response = self._sent(method, url, headers or {}, content)
        if response.status_code == 401:
            challenge = response.headers.get("WWW-Authenticate", "")
            response.close()
            self._authorization.answer(challenge, self.scopes, self._secure)
            response = self._sent(method, url, headers or {}, content)
        try:
            if response.status_code not in accept:
                raise self._error(response)
            yield response
        finally:
            response.close()

    def chunks(self, response: httpx.Response, chunk_bytes: int) -> Iterator[bytes]:
        """The bytes of an answer as they come. Raises Interrupted where the connection ends before them."""
        with self._connected():
            yield from response.iter_raw(chunk_bytes)

    def _sent(self, method: str, url: str, headers: dict[str, str], content: bytes | Content) -> httpx.Response:
        own = self._authorization.header(self.scopes) if url.startswith(f"{self._origin}/") else {}
        request = self._client.build_request(
            method,
            url,
            headers={**headers, **own},
            content=content() if callable(content) else content,
            timeout=self._timeout(method),
        )
        with self._connected():
            # What a redirect leads to, mostly an object store, is another origin: httpx takes no credentials along.
            response = self._client.send(request, stream=True, follow_redirects=method in ("GET", "HEAD"))
        self._answered = True
        return response

    def _timeout(self, method: str) -> httpx.Timeout:
        if not self._answered:
            return _FIRST_TIMEOUT
        return _COMMIT_TIMEOUT if method == "PUT" else _TIMEOUT

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            if isinstance(error.__cause__, ssl.SSLError) or "CERTIFICATE" in str(error) or "SSL" in str(error):
                raise DestinationError(
                    f"{self.host} has no certificate that is trusted here: {error}",
                    hint="name its authority by SSL_CERT_FILE; a registry without TLS is oci+http://",
                ) from error
            raise Interrupted(f"{self.host} cannot be reached: {error}") from error
        except (httpx.TransportError, httpx.StreamError) as error:
            raise Interrupted(f"the connection to {self.host} was cut: {str(error) or type(error).__name__}") from error

    def _error(self, response: httpx.Response) -> DestinationError:
        with self._connected():
            response.read()
        status, said = response.status_code, _essence(response)
        if status in (401, 403):
            return self._authorization.refused()
        if status in _BUSY:
            wait = response.headers.get("Retry-After", "")
            wait_s = min(float(wait), _MOST_RETRY_AFTER_S) if wait.isdigit() else 0.0
            return Interrupted(f"{self.host} answers {status}: {said}", retry_after_s=wait_s, answered=True)
        return DestinationError(
            f"{self.host} answers {status} to {response.request.method} of {self.repository}: {said}",
            hint="check that the repository exists and that the address is a registry's",
        )

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()


def _essence(response: httpx.Response) -> str:
    """The registry's own words. [distribution-spec, "Error Codes"]"""
    try:
        errors = json.loads(response.content)["errors"]
        return "; ".join(f"{each.get('code', '')} {each.get('message', '')}".strip() for each in errors)[:300]
    except (ValueError, KeyError, TypeError, AttributeError):
        return " ".join(response.text.split())[:200] or response.reason_phrase


def _is_loopback(host: str) -> bool:
    """Whether a registry is on this machine, where docker too speaks without TLS."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
