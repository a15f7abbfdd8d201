"""What only container registries have: logins, tokens, TLS, mounts, and registries that take no chunks."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import json
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

import trtbuild
from tests.registries import servers
from trtbuild.core.errors import DestinationError

BCRYPT_OF_SECRET = "$2y$05$rLqE7dVcfWaAPLKC7bCUgO1s4CMcjyYXx7AQjbd2diCuhi0gs.EZO"
"""The only hash that docker-registry takes."""


def htpasswd(folder: Path) -> Path:
    """User `ship`, password `secret`."""
    file = folder / "htpasswd"
    file.write_text(f"ship:{BCRYPT_OF_SECRET}\n")
    return file


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with basic authentication."""
    folder = tmp_path_factory.mktemp("locked")
    with servers.registry(folder, auth=f"auth: {{htpasswd: {{realm: here, path: {htpasswd(folder)}}}}}\n") as host:
        yield host


def login(folder: Path, host: str, password: str = "secret", **entry: Any) -> None:
    """What `docker login` writes."""
    auth = base64.b64encode(f"ship:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: entry or {"auth": auth}}}))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for docker's config.json."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    return tmp_path


def test_basic_authentication(locked: str, bundles: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"oci://{locked}/basic/model"
    with pytest.raises(DestinationError, match="wants credentials, and none were found") as told:
        trtbuild.publish(bundles / "bundle-1.0", place)
    assert f"docker login {locked}" in told.value.hint
    login(config, locked, "wrong")
    with pytest.raises(DestinationError, match="refuses the credentials of ship") as told:
        trtbuild.publish(bundles / "bundle-1.0", place)
    assert "wrong" not in str(told.value)
    login(config, locked)
    assert trtbuild.publish(bundles / "bundle-1.0", place).tags == ["1.0"]
    (config / "config.json").unlink()
    monkeypatch.setenv("TRTBUILD_REGISTRY_USERNAME", "ship")
    monkeypatch.setenv("TRTBUILD_REGISTRY_PASSWORD", "secret")
    assert trtbuild.versions(place).versions


def test_credential_helpers(locked: str, bundles: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = config / "docker-credential-ours"
    helper.write_text('#!/bin/sh\nread server\necho "{\\"Username\\": \\"ship\\", \\"Secret\\": \\"secret\\"}"\n')
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(config), prepend=":")
    (config / "config.json").write_text(json.dumps({"credHelpers": {locked: "ours"}}))
    assert trtbuild.publish(bundles / "bundle-1.0", f"oci://{locked}/helper/model").sent_bytes
    (config / "config.json").write_text(json.dumps({"credsStore": "ours"}))
    assert trtbuild.versions(f"oci://{locked}/helper/model").versions
    (config / "config.json").write_text(json.dumps({"credHelpers": {locked: "lost"}}))
    with pytest.raises(DestinationError, match="docker-credential-lost cannot be run"):
        trtbuild.versions(f"oci://{locked}/helper/model")
    (config / "config.json").write_text(json.dumps({"credHelpers": {locked: "../../bin/sh"}}))
    with pytest.raises(DestinationError, match="cannot be a credential helper"):
        trtbuild.versions(f"oci://{locked}/helper/model")
    (config / "config.json").write_text("{")
    with pytest.raises(DestinationError, match="is not JSON"):
        trtbuild.versions(f"oci://{locked}/helper/model")


class Tokens(BaseHTTPRequestHandler):
    """Gives out tokens as Docker's own service does. [distribution, docs/spec/auth/jwt.md]"""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    asked: list[dict[str, Any]]
    life_s = 3600

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        _, _, encoded = self.headers.get("Authorization", "").partition(" ")
        allowed = base64.b64decode(encoded) == b"ship:secret"
        self._give(query.get("scope", [""])[0], allowed, "basic")

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self._give(form["scope"][0], form["refresh_token"] == ["identity"], "refresh")

    def _give(self, scope: str, allowed: bool, how: str) -> None:
        self.asked.append({"scope": scope, "how": how})
        access = []
        for each in scope.split():
            kind, name, actions = each.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        content = json.dumps({"token": self._token(access), "expires_in": self.life_s}).encode() if allowed else b"{}"
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _token(self, access: list[dict[str, Any]]) -> str:
        chain = base64.b64encode(self.certificate.public_bytes(serialization.Encoding.DER)).decode()
        now = int(time.time())
        claims = {
            "iss": "ours",
            "sub": "ship",
            "aud": "registry",
            "exp": now + self.life_s,
            "nbf": now - 10,
            "iat": now,
            "jti": str(now),
            "access": access,
        }
        parts = [
            _base64(json.dumps(each).encode()) for each in ({"typ": "JWT", "alg": "ES256", "x5c": [chain]}, claims)
        ]
        r, s = decode_dss_signature(self.key.sign(".".join(parts).encode(), ec.ECDSA(hashes.SHA256())))
        return ".".join([*parts, _base64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def certificate(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate, Path, Path]:
    """A key and a certificate for 127.0.0.1, signed by itself, and the files of both."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return key, made, pem, secret


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, type[Tokens]]]:
    """A registry that wants bearer tokens, and who gives them out."""
    folder = tmp_path_factory.mktemp("tokens")
    key, made, pem, _ = certificate(folder)
    handler: type[Tokens] = type("Ours", (Tokens,), {"key": key, "certificate": made, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    realm = f"http://127.0.0.1:{server.server_port}/token"
    auth = f"auth: {{token: {{realm: '{realm}', service: registry, issuer: ours, rootcertbundle: {pem}}}}}\n"
    with servers.registry(folder, auth=auth) as host:
        yield host, handler
    server.shutdown()
    server.server_close()


def test_bearer_tokens(tokens: tuple[str, type[Tokens]], bundles: Path, config: Path, tmp_path: Path) -> None:
    host, service = tokens
    place = f"oci://{host}/bearer/model"
    with pytest.raises(DestinationError, match="wants credentials"):
        trtbuild.publish(bundles / "bundle-1.0", place)
    login(config, host, "wrong")
    with pytest.raises(DestinationError, match="refuses the credentials of ship"):
        trtbuild.publish(bundles / "bundle-1.0", place)
    login(config, host)
    service.asked.clear()
    trtbuild.publish(bundles / "bundle-1.0", place)
    assert service.asked == [{"scope": "repository:bearer/model:pull,push", "how": "basic"}], "one token for all"
    login(config, host, identitytoken="identity", auth="")
    trtbuild.pull(f"{place}:1.0", everything=True, output=tmp_path / "out")
    assert service.asked[-1] == {"scope": "repository:bearer/model:pull", "how": "refresh"}


def test_a_token_that_ends_under_way_is_replaced(
    tokens: tuple[str, type[Tokens]], bundles: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, service = tokens
    login(config, host)
    monkeypatch.setattr(service, "life_s", 1)
    service.asked.clear()
    trtbuild.publish(bundles / "bundle-2.0", f"oci://{host}/short/model")
    time.sleep(1)
    assert trtbuild.publish(bundles / "bundle-2.0", f"oci://{host}/short/model").sent_bytes == 0
    assert len(service.asked) >= 2


def test_tls(tmp_path: Path, bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name instead of address, since loopback addresses are spoken to without TLS."""
    from trtbuild.destinations.oci import session

    monkeypatch.setattr(session, "_is_loopback", lambda _: False)
    _, _, pem, key = certificate(tmp_path)
    with servers.registry(tmp_path / "registry", tls=(pem, key)) as host:
        with pytest.raises(DestinationError, match="no certificate that is trusted here") as told:
            trtbuild.publish(bundles / "bundle-1.0", f"oci://{host}/tls/model")
        assert "SSL_CERT_FILE" in told.value.hint
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        assert trtbuild.publish(bundles / "bundle-1.0", f"oci://{host}/tls/model").sent_bytes
        assert ssl.OPENSSL_VERSION


def test_blobs_are_mounted_from_another_repository(oci: str, bundles: Path, tmp_path: Path) -> None:
    from trtbuild.destinations.oci.uploading import Uploads

    trtbuild.publish(bundles / "bundle-2.0", f"oci://{oci}/mount/staging")
    sent: list[str] = []
    finish = Uploads._finish
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Uploads, "_finish", lambda self, blob, *rest: (sent.append(blob.name), finish(self, blob, *rest)))
        trtbuild.publish(bundles / "bundle-2.0", f"oci://{oci}/mount/live", mount_from=["mount/staging"])
    assert sent == []
    trtbuild.pull(f"oci://{oci}/mount/live:2.0", everything=True, output=tmp_path / "out")
    with pytest.raises(DestinationError, match="mounts nothing"):
        trtbuild.publish(bundles / "bundle-2.0", str(tmp_path / "dir"), mount_from=["x"])


def test_a_registry_that_takes_no_chunks(oci: str, bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some want an upload in one piece: the first chunk is refused, and the blob sent as a whole."""
    from trtbuild.destinations.oci import uploading
    from trtbuild.destinations.oci.session import Session

    monkeypatch.setattr(uploading, "UPLOAD_CHUNK_BYTES", 1 << 20)
    request, patches = Session.request, []

    def refusing(self: Session, method: str, url: str, **facts: Any) -> Any:
        if method == "PATCH":
            patches.append(url)
            url = url.replace("/uploads/", "/uploads/no-such-")  # the registry answers 404
        return request(self, method, url, **facts)

    monkeypatch.setattr(Session, "request", refusing)
    trtbuild.publish(bundles / "bundle-2.0", f"oci://{oci}/whole/model")
    assert len(patches) == 1
    assert trtbuild.versions(f"oci://{oci}/whole/model").versions


def test_other_tools_find_what_they_expect(oci: str, bundles: Path) -> None:
    """Documents as the specifications say: index with platforms, ModelPack manifests, referrers by the fallback tag."""
    import httpx

    digest = trtbuild.publish(bundles / "bundle-1.0", f"oci://{oci}/spec/model").digest
    accept = {"Accept": "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"}
    base = f"http://{oci}/v2/spec/model"
    index = httpx.get(f"{base}/manifests/1.0", headers=accept)
    assert f"sha256:{hashlib.sha256(index.content).hexdigest()}" == digest
    engine = next(each for each in index.json()["manifests"] if "platform" in each)
    assert engine["platform"] == {"os": "linux", "architecture": "amd64"}
    assert engine["annotations"]["ai.trtbuild.sm"] == "9.0"
    assert engine["annotations"]["ai.trtbuild.tensorrt"] == "10.13.2.6"
    manifest = httpx.get(f"{base}/manifests/{engine['digest']}", headers=accept).json()
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    kinds = {
        layer["annotations"]["org.cncf.model.filepath"].rpartition("/")[2]: layer["mediaType"]
        for layer in manifest["layers"]
    }
    assert kinds["engine.plan"] == "application/vnd.cncf.model.weight.v1.raw"
    assert kinds["engine.json"] == "application/vnd.cncf.model.weight.config.v1.raw"
    assert kinds["manifest.json"] == "application/vnd.cncf.model.doc.v1.raw"
    config = httpx.get(f"{base}/blobs/{manifest['config']['digest']}").json()
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]
    referrers = httpx.get(f"{base}/manifests/{digest.replace(':', '-')}", headers=accept).json()["manifests"]
    assert [each["artifactType"] for each in referrers] == ["application/vnd.cyclonedx+json"]
    bill = httpx.get(f"{base}/manifests/{referrers[0]['digest']}", headers=accept).json()
    assert bill["subject"]["digest"] == digest


def test_commands_exist_for_the_fixtures() -> None:
    """A registry that cannot be had is an error of the test run, never a skip."""
    assert subprocess.run([servers.registry_binary(), "--version"], capture_output=True, check=True).stdout
