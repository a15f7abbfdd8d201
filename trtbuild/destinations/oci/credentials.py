"""Where docker and podman keep the credentials of registries. Nothing found here is ever logged or stored.

In this order: TRTBUILD_REGISTRY_USERNAME and _PASSWORD; a credential helper of the registry, stored credentials, or the
common helper, in $DOCKER_CONFIG/config.json, ~/.docker/config.json, $REGISTRY_AUTH_FILE or podman's auth.json.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtbuild.core.errors import DestinationError

_HELPER_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_HELPER_TIMEOUT_S = 20
_DOCKER_HUB = "https://index.docker.io/v1/"
"""What docker calls its own registry in config.json."""


@dataclass(frozen=True)
class Credentials:
    """A user with a password, or a token that stands for one."""

    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)
    """Exchanged for access tokens, where the registry gave one."""

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def credentials_for(host: str) -> Credentials | None:
    """What is known for a registry; None where nothing is. Raises DestinationError where a helper fails."""
    user, password = os.environ.get("TRTBUILD_REGISTRY_USERNAME"), os.environ.get("TRTBUILD_REGISTRY_PASSWORD")
    if user and password:
        return Credentials(user, password)
    names = [host, f"https://{host}", *([_DOCKER_HUB] if host in ("docker.io", "registry-1.docker.io") else [])]
    for config in _configs():
        helpers = config.get("credHelpers", {})
        for name in names:
            if helper := helpers.get(name):
                return _from_helper(helper, name)
            if (entry := config.get("auths", {}).get(name)) and (found := _from_entry(entry)):
                return found
        if (helper := config.get("credsStore")) and (found := _from_helper(helper, names[-1])):
            return found
    return None


def _configs() -> Iterator[dict[str, Any]]:
    docker = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    podman = Path(os.environ.get("XDG_RUNTIME_DIR") or "/run") / "containers" / "auth.json"
    for file in (docker, Path(os.environ.get("REGISTRY_AUTH_FILE") or podman)):
        try:
            config = json.loads(file.read_text())
        except OSError:
            continue
        except ValueError as error:
            raise DestinationError(f"{file} is not JSON: {error}", hint="log in again with docker or podman") from error
        if isinstance(config, dict):
            yield config


def _from_entry(entry: dict[str, Any]) -> Credentials | None:
    token = str(entry.get("identitytoken", ""))
    try:
        user, _, password = base64.b64decode(entry.get("auth", "")).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return Credentials(user, password.rstrip("\0"), token) if user or token else None


def _from_helper(helper: str, server: str) -> Credentials | None:
    """Ask `docker-credential-<helper>`. [docker/docker-credential-helpers: a server on stdin, JSON on stdout]"""
    if not _HELPER_NAME.fullmatch(helper):
        raise DestinationError(f"{helper!r} cannot be a credential helper", hint="look into docker's config.json")
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=server,
            capture_output=True,
            text=True,
            timeout=_HELPER_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DestinationError(
            f"the credential helper docker-credential-{helper} cannot be run: {type(error).__name__}",
            hint="install it, or log in without it",
        ) from error
    if done.returncode:
        return None  # it holds nothing for this server
    try:
        found = json.loads(done.stdout)
        user, secret = str(found["Username"]), str(found["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise DestinationError(
            f"the credential helper docker-credential-{helper} answers in no known way", hint="update it"
        ) from error
    return Credentials("", "", secret) if user == "<token>" else Credentials(user, secret)
