"""What verification refuses: every change, every missing or foreign signature, every file that is not what it seems."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bundles import write_bundle
from trtbuild.core.errors import DataError, StoreError, TrtbuildError, VerificationError
from trtbuild.pipeline.sign import keygen, sign, verify

ENGINE = "fp16.sm_90.nvidia-h200.tensorrt-10.13.2.6"


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles, each signed by one key; a third key signed nothing."""
    folder = tmp_path_factory.mktemp("signed")
    for name in ("ours", "theirs", "nobody"):
        keygen(folder / f"{name}.key")
    for version, key in (("1", "ours"), ("2", "ours")):
        sign(write_bundle(folder, version, seed=int(version)), folder / f"{key}.key")
    return folder


@pytest.fixture
def bundle(signed: Path, tmp_path: Path) -> Path:
    """A copy of the first bundle, to be spoilt."""
    return Path(shutil.copytree(signed / "bundle-1", tmp_path / "bundle"))


def test_a_signed_bundle_verifies(signed: Path, bundle: Path) -> None:
    report = verify(bundle, keys=[signed / "ours.pub"])
    assert report.signed_by == [str(signed / "ours.pub")]
    assert (report.files, report.signatures, report.absent) == (7, 1, [])


def test_signing_again_gives_the_same_bytes(signed: Path, bundle: Path) -> None:
    (envelope,) = bundle.glob("signatures/*")
    before = envelope.read_bytes()
    sign(bundle, signed / "ours.key")
    assert envelope.read_bytes() == before


def test_a_threshold_counts_keys_not_files(signed: Path, bundle: Path) -> None:
    shutil.copy(signed / "ours.pub", bundle.parent / "copy.pub")
    with pytest.raises(VerificationError, match="not signed by 2 of the 2 keys"):
        verify(bundle, keys=[signed / "ours.pub", bundle.parent / "copy.pub"], threshold=2)
    sign(bundle, signed / "theirs.key")
    both = verify(bundle, keys=[signed / "ours.pub", signed / "theirs.pub", signed / "nobody.pub"], threshold=2)
    assert len(both.signed_by) == 2


def test_the_wrong_key(signed: Path, bundle: Path) -> None:
    with pytest.raises(VerificationError, match="not signed by a key that was given"):
        verify(bundle, keys=[signed / "nobody.pub"])


def test_a_missing_signature_where_one_is_demanded(signed: Path, bundle: Path) -> None:
    shutil.rmtree(bundle / "signatures")
    assert verify(bundle).signatures == 0
    with pytest.raises(VerificationError, match="not signed at all, and must be"):
        verify(bundle, keys=[signed / "ours.pub"])


def test_the_signature_of_another_bundle(signed: Path, bundle: Path) -> None:
    (other,) = (signed / "bundle-2").glob("signatures/*")
    shutil.copy(other, bundle / "signatures" / other.name)
    for keys in ([signed / "ours.pub"], []):
        with pytest.raises(VerificationError, match="is the signature of another bundle"):
            verify(bundle, keys=keys)


def test_the_signature_and_the_statement_of_another_bundle(signed: Path, bundle: Path) -> None:
    (other,) = (signed / "bundle-2").glob("signatures/*")
    shutil.copy(other, bundle / "signatures" / other.name)
    shutil.copy(signed / "bundle-2/provenance.json", bundle)
    with pytest.raises(VerificationError, match=r"speaks of another bundle.json than the bundle has"):
        verify(bundle, keys=[signed / "ours.pub"])


def flip(path: str, at: int = -1) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        content = bytearray((bundle / path).read_bytes())
        content[at] ^= 1
        (bundle / path).write_bytes(content)

    return change


def edit(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        text = (bundle / path).read_text()
        assert old in text
        (bundle / path).write_text(text.replace(old, new, 1))

    return change


def forge(bundle: Path) -> None:
    """Change the engine, and bundle.json with it, so that only the statement tells."""
    plan = bundle / f"engines/{ENGINE}/engine.plan"
    old = hashlib.sha256(plan.read_bytes()).hexdigest()
    plan.write_bytes(plan.read_bytes()[:-1] + b"!")
    edit("bundle.json", old, hashlib.sha256(plan.read_bytes()).hexdigest())(bundle)


def unsign(bundle: Path) -> None:
    """Forge all but the signature."""
    before = hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()
    plan = f"engines/{ENGINE}/engine.plan"
    old = hashlib.sha256((bundle / plan).read_bytes()).hexdigest()
    forge(bundle)
    edit("provenance.json", before, hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest())(bundle)
    edit("provenance.json", old, hashlib.sha256((bundle / plan).read_bytes()).hexdigest())(bundle)


def link(bundle: Path) -> None:
    plan = bundle / f"engines/{ENGINE}/engine.plan"
    plan.rename(bundle.parent / "elsewhere")
    plan.symlink_to(bundle.parent / "elsewhere")


def folder_link(bundle: Path) -> None:
    folder = bundle / "engines" / ENGINE
    folder.rename(bundle.parent / "elsewhere")
    folder.symlink_to(bundle.parent / "elsewhere")


def many(bundle: Path) -> None:
    for number in range(10_000):
        (bundle / f"f{number}").touch()


def nested(size: int) -> Callable[[Path], None]:
    depth = size // 6
    return lambda bundle: (bundle / "bundle.json").write_text('{"a":' * depth + "1" + "}" * depth)  # type: ignore[func-returns-value]


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "a changed engine": (flip(f"engines/{ENGINE}/engine.plan"), "engine.plan is not the file that was packaged"),
    "a changed engine manifest": (flip(f"engines/{ENGINE}/manifest.json", 5), "manifest.json is not the file"),
    "a truncated engine": (
        lambda bundle: os.truncate(bundle / f"engines/{ENGINE}/engine.plan", 10),
        "engine.plan has 10 bytes, packaged with 1000",
    ),
    "a changed manifest": (edit("bundle.json", '"passed"', '"failed"'), "speaks of another bundle.json"),
    "a forged manifest": (forge, "speaks of another"),
    "a forged manifest and statement": (unsign, "the signature of another bundle"),
    "a changed bill": (flip("sbom.cdx.json", 30), "sbom.cdx.json is not the file"),
    "a missing bill": (lambda bundle: (bundle / "sbom.cdx.json").unlink(), "lacks sbom.cdx.json"),
    "a missing statement": (lambda bundle: (bundle / "provenance.json").unlink(), "holds no provenance.json"),
    "a missing engine file": (lambda bundle: (bundle / f"engines/{ENGINE}/engine.json").unlink(), "lacks engines/"),
    "a file too many": (lambda bundle: (bundle / "extra.so").touch(), "extra.so, which its bundle.json does not list"),
    "a hidden file": (lambda bundle: (bundle / ".hidden").touch(), "'.hidden', a name that no bundle has"),
    "a link": (link, "engine.plan is a link or a device"),
    "a linked folder": (folder_link, "is a link or a device"),
    "a pipe": (lambda bundle: os.mkfifo(bundle / "pipe"), "pipe is a link or a device"),
    "10,000 files": (many, "more than 2100 files"),
    "5 MB of nested JSON": (nested(5_000_000), "at most 1048576 are read"),
    "900 kB of nested JSON": (nested(900_000), "bundle.json is none of trtbuild's"),
    "no JSON": (lambda bundle: (bundle / "bundle.json").write_bytes(b"\xff\xfe"), "none of trtbuild's"),
    "a newer format": (edit("bundle.json", '"format": 1', '"format": 2'), "format: Input should be 1"),
    "a path that leads out": (
        edit("bundle.json", f"engines/{ENGINE}/engine.json", "engines/../../x"),
        "no path inside",
    ),
    "an absolute path": (edit("bundle.json", "sbom.cdx.json", "/etc/passwd"), "no path inside a bundle"),
    "a signature that is none": (
        lambda bundle: next(bundle.glob("signatures/*")).write_text('{"payload": 3}'),
        "is no DSSE envelope",
    ),
    "a signature of nested JSON": (
        lambda bundle: next(bundle.glob("signatures/*")).write_text("[" * 100_000),
        "is no DSSE envelope",
    ),
    "an enormous signature": (
        lambda bundle: os.truncate(next(bundle.glob("signatures/*")), 5 << 20),
        "at most 4194304 are read",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_bundle_is_refused(case: str, signed: Path, bundle: Path) -> None:
    spoil, words = SPOILT[case]
    spoil(bundle)
    with pytest.raises(VerificationError) as told:
        verify(bundle, keys=[signed / "ours.pub"])
    assert words in told.value.message
    assert len(str(told.value)) < 1000
    if "signature" not in case and "and statement" not in case:
        with pytest.raises(TrtbuildError):  # what does not agree with itself is not signed either
            sign(bundle, signed / "ours.key")


def member(name: str, **facts: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in facts.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("../../outside"),
        member("/etc/cron.d/x"),
        member("engines/x/../../../y"),
        member("engines\\..\\y"),
        member("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("hard", type=tarfile.LNKTYPE, linkname="bundle.json"),
        member("device", type=tarfile.CHRTYPE),
        member("folder", type=tarfile.DIRTYPE),
        member("sparse", type=tarfile.GNUTYPE_SPARSE),
        member("bundle.json"),
    ],
    ids=lambda info: info.name,
)
def test_an_archive_with_anything_but_plain_files(bad: tarfile.TarInfo, bundle: Path, tmp_path: Path) -> None:
    archive = tmp_path / "bundle.tar"
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for file in sorted(file for file in bundle.rglob("*") if file.is_file()):
            tar.add(file, str(file.relative_to(bundle)))
        tar.addfile(bad, io.BytesIO())
    with pytest.raises(VerificationError):
        verify(archive)
    assert not (tmp_path.parent / "outside").exists()


def test_an_archive_of_10_000_files(tmp_path: Path) -> None:
    archive = tmp_path / "many.tar"
    with tarfile.open(archive, "w") as tar:
        for number in range(10_000):
            tar.addfile(member(f"f{number}"))
    with pytest.raises(VerificationError, match="more than 2100 files"):
        verify(archive)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no bundle"):
        verify(tmp_path / "nothing")
    with pytest.raises(StoreError, match=r"holds no bundle.json"):
        verify(tmp_path)
    (tmp_path / "noise").write_bytes(random.Random(0).randbytes(5000))
    with pytest.raises(VerificationError, match="is no bundle"):
        verify(tmp_path / "noise")


def test_a_bundle_of_one_engine_of_several_says_what_is_absent(signed: Path, bundle: Path) -> None:
    described = json.loads((bundle / "bundle.json").read_text())
    assert len(described["engines"]) == 1
    shutil.rmtree(bundle / "engines")
    report = verify(bundle, keys=[signed / "ours.pub"])
    assert (report.engines, report.absent) == ([], [ENGINE])


def test_keys(signed: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (signed / "ours.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(StoreError, match="is there already"):
        keygen(signed / "ours.key")
    with pytest.raises(DataError, match="is no public key"):
        verify(bundle, keys=[signed / "ours.key"])
    with pytest.raises(DataError, match="is no private key"):
        sign(bundle, signed / "ours.pub")
    with pytest.raises(DataError, match="cannot be read"):
        sign(bundle, signed / "missing.key")
    monkeypatch.setenv("TRTBUILD_KEY_PASSPHRASE", "correct horse")
    keygen(bundle.parent / "locked.key")
    sign(bundle, bundle.parent / "locked.key")
    assert verify(bundle, keys=[bundle.parent / "locked.pub"]).signed_by
    monkeypatch.setenv("TRTBUILD_KEY_PASSPHRASE", "wrong")
    with pytest.raises(DataError, match="no private key that can be read"):
        sign(bundle, bundle.parent / "locked.key")
    monkeypatch.delenv("TRTBUILD_KEY_PASSPHRASE")
    with pytest.raises(DataError, match="no private key that can be read") as told:
        sign(bundle, bundle.parent / "locked.key")
    assert "TRTBUILD_KEY_PASSPHRASE" in told.value.hint


def test_keys_of_other_kinds_sign_too(bundle: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    (bundle.parent / "p256.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (bundle.parent / "p256.pub").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    sign(bundle, bundle.parent / "p256.key")
    assert verify(bundle, keys=[bundle.parent / "p256.pub"]).signed_by
