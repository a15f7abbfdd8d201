"""Key pairs for signing, made and read offline. Private keys are PKCS #8 PEM files.

A passphrase in TRTBUILD_KEY_PASSPHRASE encrypts and opens them. Ed25519 is what is made; ECDSA and RSA keys that a
team already has sign and verify too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, SSlibKey

from trtbuild.core.disk import explained
from trtbuild.core.errors import DataError, StoreError

PASSPHRASE = "TRTBUILD_KEY_PASSPHRASE"  # noqa: S105  # the name of a variable
"""The environment variable that encrypts and opens private keys."""


def make_pair(private: Path) -> Path:
    """Write an Ed25519 key pair: `release.key` (mode 0600) and beside it `release.pub`, which is returned.

    Raises StoreError where one of the two is there already.
    """
    public = private.with_suffix(".pub")
    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase) if (passphrase := _passphrase()) else _NONE,
    )
    with explained(private):
        try:
            private.parent.mkdir(parents=True, exist_ok=True)
            _create(private, content, 0o600)
            shown = key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            _create(public, shown, 0o644)
        except FileExistsError as error:
            raise StoreError(
                f"{error.filename} is there already", hint="a key is never overwritten: choose another name"
            ) from error
    return public


def signer(private: Path) -> CryptoSigner:
    """What signs with a private key. Raises DataError where the file is none, or is encrypted otherwise."""
    try:
        key: Any = serialization.load_pem_private_key(private.read_bytes(), _passphrase())
        return CryptoSigner(key)
    except OSError as error:
        raise DataError(f"{private} cannot be read: {error.strerror}", hint="`trtbuild keygen` makes a key") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DataError(
            f"{private} is no private key that can be read: {str(error).splitlines()[0]}",
            hint=f"name a PEM file with a private key; where it is encrypted, set {PASSPHRASE}",
        ) from error


def public_key(file: Path) -> SSlibKey:
    """A public key. Raises DataError where the file holds none."""
    try:
        return SSlibKey.from_crypto(serialization.load_pem_public_key(file.read_bytes()))
    except OSError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror}", hint="name the .pub file of whoever signs"
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DataError(f"{file} is no public key", hint="name the .pub file of whoever signs") from error


_NONE = serialization.NoEncryption()


def _passphrase() -> bytes | None:
    return os.environ[PASSPHRASE].encode() if os.environ.get(PASSPHRASE) else None


def _create(file: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(content)
