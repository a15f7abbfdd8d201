"""Sign bundles, make keys, and verify what was signed: offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtbuild.bundle import contents, verification
from trtbuild.bundle.manifest import SIGNATURES_FOLDER
from trtbuild.core.disk import write_atomically
from trtbuild.core.errors import StoreError
from trtbuild.core.shipping import SignReport, VerifyReport
from trtbuild.pipeline.package import shipped
from trtbuild.pipeline.published import load_keys, need_signing


def keygen(private: str | Path) -> Path:
    """Make an Ed25519 key pair: the private key in this file, the public one beside it, whose path is returned.

    The private key is encrypted where TRTBUILD_KEY_PASSPHRASE is set. Raises StoreError where a file is there already.
    """
    need_signing()
    from trtbuild.bundle.keys import make_pair

    return make_pair(Path(private))


def sign(bundle: str | Path, key: str | Path) -> SignReport:
    """Sign a bundle's folder with a private key, after every digest in it was checked.

    Raises VerificationError where the bundle was changed, DataError where the key cannot be read.
    """
    need_signing()
    from trtbuild.bundle import envelope
    from trtbuild.bundle.keys import signer

    folder, by = Path(bundle), signer(Path(key))
    if folder.is_file():
        raise StoreError(f"{folder} is a file", hint="sign the folder, and make the file of it afterwards")
    with contents.opened(folder) as read:
        described = verification.read_bundle(read)
        verification.check_digests(described, read)
        statement = verification.check_statement(described, read)
    content = envelope.signed(statement, by)
    signature = folder / SIGNATURES_FOLDER / envelope.file_name(content, str(folder))
    write_atomically(signature, content)
    return SignReport(bundle=str(folder), signature=str(signature), key_id=str(by.public_key.keyid))


def verify(bundle: str | Path, *, keys: Sequence[str | Path] = (), threshold: int = 1) -> VerifyReport:
    """Check a bundle, a folder or a tar file: every digest, the statement, and who signed.

    With `keys` (public keys), `threshold` of them must have signed. Nothing is unpacked or loaded.

    Raises VerificationError where anything is missing, changed or unsigned; StoreError where there is no bundle.
    """
    where = Path(bundle)
    with contents.opened(where) as read:
        described = verification.read_bundle(read)
        statement = verification.check_statement(described, read)
        loaded = load_keys([Path(key) for key in keys])
        if read.signatures:
            need_signing()
        envelopes = {path: read.read(path, verification.MAX_ENVELOPE_BYTES) for path in read.signatures}
        signed_by = verification.check_signatures(statement, envelopes, loaded, threshold, str(where))
        size_bytes = verification.check_digests(described, read)
        present = [engine.name for engine in verification.present_engines(described, read)]
        files = len(read.files)
    return VerifyReport(
        bundle=str(where),
        recipe=described.recipe,
        version=described.version,
        engines=shipped(described, present),
        absent=[engine.name for engine in described.engines if engine.name not in present],
        files=files,
        size_bytes=size_bytes,
        signed_by=signed_by,
        signatures=len(envelopes),
    )
