"""Whether a bundle is whole, unchanged, and signed by whom it must be. Nothing of it is loaded to find out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trtbuild.bundle.contents import Contents
from trtbuild.bundle.manifest import (
    BUNDLE_FILE,
    MAX_MANIFEST_BYTES,
    PROVENANCE_FILE,
    SBOM_FILE,
    Bundle,
    EngineEntry,
)
from trtbuild.bundle.statement import MAX_STATEMENT_BYTES, subjects
from trtbuild.core.errors import VerificationError

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

MAX_ENVELOPE_BYTES = 4 << 20
"""Of a signature, which holds the statement."""
_CHANGED = "it was changed after packaging, or damaged: get it again from where it was published"


def read_bundle(contents: Contents) -> Bundle:
    """bundle.json, and whether the files that are there are those it lists: by name and size, not yet by digest.

    An engine may be missing as a whole, as where another machine's were left out. Raises VerificationError.
    """
    bundle = Bundle.parse(contents.read(BUNDLE_FILE, MAX_MANIFEST_BYTES), str(contents.where))
    listed = bundle.all_files
    own = {BUNDLE_FILE, PROVENANCE_FILE, *contents.signatures}
    if extra := [path for path in contents.files if path not in listed and path not in own]:
        raise VerificationError(
            f"{contents.where} holds {extra[0]}, which its {BUNDLE_FILE} does not list", hint="remove it"
        )
    present = present_engines(bundle, contents)
    needed = {SBOM_FILE, *(plugin.path for engine in present for plugin in engine.plugins)}
    needed |= {path for engine in present for path in engine.files}
    for path in sorted(needed):
        if path not in contents.files:
            raise VerificationError(f"{contents.where} lacks {path}", hint=_CHANGED)
    for path, size in contents.files.items():
        if path in listed and listed[path].bytes != size:
            raise VerificationError(
                f"{contents.where}: {path} has {size} bytes, packaged with {listed[path].bytes}", hint=_CHANGED
            )
    return bundle


def present_engines(bundle: Bundle, contents: Contents) -> list[EngineEntry]:
    """The engines of which there is any file."""
    return [engine for engine in bundle.engines if any(path in contents.files for path in engine.files)]


def check_digests(bundle: Bundle, contents: Contents) -> int:
    """Read every listed file that is there. Returns how many bytes. Raises VerificationError where one differs."""
    total = 0
    for path, entry in bundle.all_files.items():
        if path not in contents.files:
            continue
        digest = hashlib.sha256()
        for chunk in contents.chunks(path):
            digest.update(chunk)
        if digest.hexdigest() != entry.sha256:
            raise VerificationError(f"{contents.where}: {path} is not the file that was packaged", hint=_CHANGED)
        total += entry.bytes
    return total


def check_statement(bundle: Bundle, contents: Contents) -> bytes:
    """The statement, if it speaks of exactly this bundle. Raises VerificationError where it does not."""
    content = contents.read(PROVENANCE_FILE, MAX_STATEMENT_BYTES)
    check_subjects(content, contents.read(BUNDLE_FILE, MAX_MANIFEST_BYTES), bundle, f"{contents.where}")
    return content


def check_subjects(statement: bytes, bundle_content: bytes, bundle: Bundle, where: str) -> None:
    """Compare what a statement speaks of with a bundle. Raises VerificationError where they differ."""
    expected = {path: file.sha256 for path, file in bundle.all_files.items()}
    expected[BUNDLE_FILE] = hashlib.sha256(bundle_content).hexdigest()
    told = subjects(statement, f"{where}: {PROVENANCE_FILE}")
    if told != expected:
        differing = sorted(path for path in {*told, *expected} if told.get(path) != expected.get(path))
        raise VerificationError(
            f"{where}: {PROVENANCE_FILE} speaks of another {differing[0]} than the bundle has", hint=_CHANGED
        )


def check_signatures(
    statement: bytes, envelopes: Mapping[str, bytes], keys: Mapping[str, SSlibKey], threshold: int, where: str
) -> list[str]:
    """The names of the keys that signed the statement.

    Every envelope must hold this very statement. With keys, at least `threshold` of them must have signed; without,
    nothing is demanded. Raises VerificationError.
    """
    if keys or envelopes:
        from trtbuild.bundle import envelope  # brings a cryptography library, which unsigned bundles do without
    signed_by = set()
    for name, content in envelopes.items():
        if envelope.payload(content, f"{where}: {name}") != statement:
            raise VerificationError(
                f"{where}: {name} is the signature of another bundle",
                hint="a signature counts for the bundle it was made for only: sign this one",
            )
        found = envelope.signers(content, list(keys.values()), f"{where}: {name}")
        signed_by |= {key_name for key_name, key in keys.items() if key in found}
    # Two files may hold one key, which counts once.
    if keys and len({keys[name].keyid for name in signed_by}) < threshold:
        wanted = f"{threshold} of the {len(keys)} keys given" if threshold > 1 else "a key that was given"
        raise VerificationError(
            f"{where} is not signed by {wanted}" if envelopes else f"{where} is not signed at all, and must be",
            hint="ask who packaged it for `trtbuild sign`, or name the key that signed by --key",
        )
    return sorted(signed_by)
