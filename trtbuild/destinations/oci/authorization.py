"""What a registry asks for by WWW-Authenticate, and what it gets: a user's name, or a token for one repository."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

import httpx

from trtbuild.core.errors import DestinationError
from trtbuild.destinations.oci.credentials import Credentials, credentials_for

_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_EARLY_S = 15
"""How long before its end a token is not used any more."""
_USUAL_LIFE_S = 60
"""Of a token whose life is not told. [distribution, docs/spec/auth/token.md]"""


@dataclass(frozen=True)
class _Token:
    header: str
    until: float


class Authorization:
    """The Authorization headers of one registry."""

    def __init__(self, host: str, client: httpx.Client) -> None:
        self._host = host
        self._client = client
        self._credentials: Credentials | None = None
        self._looked = False
        self._basic = ""
        self._tokens: dict[str, _Token] = {}

    def header(self, scope: str) -> dict[str, str]:
        """What to send along, as far as it is known without asking."""
        token = self._tokens.get(scope)
        if token is not None and time.monotonic() < token.until:
            return {"Authorization": token.header}
        return {"Authorization": self._basic} if self._basic else {}

    def answer(self, challenge: str, scope: str, secure: bool) -> None:
        """Get what a 401 asks for. Raises DestinationError where nothing is known, or it is refused."""
        if not self._looked:
            self._credentials, self._looked = credentials_for(self._host), True
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "bearer":
            self._tokens[scope] = self._token(dict(_PARAMETER.findall(rest)), scope, secure)
        elif scheme.lower() == "basic" and self._credentials is not None and not self._basic:
            self._basic = self._credentials.basic
        else:
            raise self.refused()

    def refused(self) -> DestinationError:
        """The error for credentials that are missing or wrong."""
        if self._credentials is None:
            return DestinationError(
                f"{self._host} wants credentials, and none were found",
                hint=f"docker login {self._host}, or set TRTBUILD_REGISTRY_USERNAME and TRTBUILD_REGISTRY_PASSWORD",
            )
        return DestinationError(
            f"{self._host} refuses the credentials of {self._credentials.username or 'the identity token'}",
            hint=f"docker login {self._host} again, and check what this user may do there",
        )

    def _token(self, asked: dict[str, str], scope: str, secure: bool) -> _Token:
        realm = asked.get("realm", "")
        if not realm.startswith("https://") and secure:
            raise DestinationError(
                f"{self._host} sends to {realm or 'nowhere'} for a token, without TLS",
                hint="credentials are not sent there",
            )
        known = self._credentials
        wanted = {"service": asked.get("service", ""), "scope": scope}
        try:
            if known is not None and known.identity_token:
                form = {"grant_type": "refresh_token", "refresh_token": known.identity_token, "client_id": "trtbuild"}
                response = self._client.post(realm, data={**form, **wanted})
            else:
                headers = {"Authorization": known.basic} if known is not None else {}
                response = self._client.get(realm, params=wanted, headers=headers)
        except httpx.HTTPError as error:
            raise DestinationError(
                f"{realm}, where {self._host} gives out tokens, cannot be reached: {error}", hint="check the network"
            ) from error
        if response.status_code in (400, 401, 403):
            raise self.refused()
        try:
            answer: dict[str, Any] = response.raise_for_status().json()
            token = str(answer.get("token") or answer["access_token"])
            life_s = float(answer.get("expires_in", _USUAL_LIFE_S))
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise DestinationError(
                f"{realm}, where {self._host} gives out tokens, answers with {response.status_code} and no token"
            ) from error
        return _Token(f"Bearer {token}", time.monotonic() + max(life_s - _EARLY_S, life_s / 2))
