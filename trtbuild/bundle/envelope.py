"""A statement in a DSSE envelope: signed by a key, and whose signatures are right.

[secure-systems-lab/dsse, envelope.md and protocol.md; in-toto attestation framework, spec/v1/envelope.md]
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from collections.abc import Sequence

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as LibraryError
from securesystemslib.signer import CryptoSigner, SSlibKey

from trtbuild.core.errors import VerificationError
from trtbuild.core.values import canonical_json

_KEY_ID = re.compile(r"[0-9a-f]{16,128}")
PAYLOAD_TYPE = "application/vnd.in-toto+json"


def signed(statement: bytes, by: CryptoSigner) -> bytes:
    """The envelope, as JSON."""
    envelope = Envelope(statement, PAYLOAD_TYPE, {})
    envelope.sign(by)
    return (canonical_json(envelope.to_dict()) + "\n").encode()


def file_name(envelope: bytes, where: str) -> str:
    """What its file is called: after the key that signed, or where that has no usual name, after its content."""
    ids = list(_read(envelope, where).signatures)
    name = ids[0] if ids and _KEY_ID.fullmatch(ids[0]) else hashlib.sha256(envelope).hexdigest()
    return f"{name[:16]}.dsse.json"


def payload(envelope: bytes, where: str) -> bytes:
    """The statement inside, which nobody has vouched for yet. Raises VerificationError where it is no envelope."""
    return _read(envelope, where).payload


def signers(envelope: bytes, keys: Sequence[SSlibKey], where: str) -> list[SSlibKey]:
    """Those of the keys by which an envelope is signed. Raises VerificationError where it is no envelope."""
    read = _read(envelope, where)
    found = []
    for key in keys:
        try:
            read.verify([key], 1)
        except (LibraryError, ValueError):
            continue
        found.append(key)
    return found


def _read(content: bytes, where: str) -> Envelope:
    try:
        envelope = Envelope.from_dict(json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error, LibraryError) as error:
        raise VerificationError(f"{where} is no DSSE envelope", hint="sign the bundle again") from error
    if envelope.payload_type != PAYLOAD_TYPE:
        raise VerificationError(f"{where} signs {envelope.payload_type[:80]!r}, not an in-toto statement")
    return envelope
