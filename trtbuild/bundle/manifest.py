"""`bundle.json`: what a bundle holds, engine by engine, with the digest of every file."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationError

from trtbuild.core.errors import VerificationError
from trtbuild.core.target import Target
from trtbuild.core.values import Value, digest_of

BUNDLE_FILE, SBOM_FILE, PROVENANCE_FILE = "bundle.json", "sbom.cdx.json", "provenance.json"
ENGINES_FOLDER, PLUGINS_FOLDER, SIGNATURES_FOLDER = "engines", "plugins", "signatures"
FORMAT: Final = 1
MAX_MANIFEST_BYTES = 1 << 20
"""Of bundle.json: some 4,000 files. What is larger was not made by `trtbuild package`."""
MAX_FILES = 2000
MAX_ENGINES = 200

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=,@-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_safe_path(path: str) -> bool:
    """Whether a path stays below a bundle's folder: plain names, parted by slashes, none of them hidden."""
    return len(path) < 500 and all(_NAME.fullmatch(part) for part in path.split("/"))


def _safe(path: str) -> str:
    if not is_safe_path(path):
        raise ValueError(f"{path[:80]!r} is no path inside a bundle")
    return path


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no name")
    return text


def _sha256(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is no sha256")
    return text


SafePath = Annotated[str, AfterValidator(_safe)]
Name = Annotated[str, AfterValidator(_name)]
Sha256 = Annotated[str, AfterValidator(_sha256)]


class FileEntry(Value):
    """One file."""

    bytes: int = Field(ge=0)
    sha256: Sha256


class VerdictEntry(Value):
    """Whether an engine may ship, and by what numbers."""

    outcome: Literal["passed", "failed"]
    reasons: list[str] = []
    """Why it failed."""
    remarks: list[str] = []
    accuracy: dict[str, float] = {}
    speedup: float
    """Against the reference engine on the same machine."""
    size_ratio: float
    coverage_asked: int
    """Modules that were asked to run quantized."""
    coverage_ran: int
    median_ms: float
    """Of one call at the `opt` shapes."""
    device: str
    """What it was measured on."""


class CalibrationEntry(Value):
    """What an engine was calibrated on."""

    generator: str
    samples: int
    digest: str
    """Of the sample set, as the store counts it."""


class PluginEntry(Value):
    """A shared library that an engine needs at run time."""

    path: SafePath
    """In the bundle."""
    needs: list[str] = []
    """Libraries that it is linked with, as the dynamic loader looks for them."""


class EngineEntry(Value):
    """One engine."""

    name: Name
    """Of its folder: variant, GPU, version."""
    variant: str
    precision: str
    """Of what is not quantized."""
    quantization: str | None
    """The quantization format; None where nothing is quantized."""
    target: Target
    main: SafePath
    """The file that a runtime loads."""
    engine_digest: str
    """Of the engine in the store that built it."""
    verdict: VerdictEntry
    calibration: CalibrationEntry | None = None
    plugins: list[PluginEntry] = []
    files: dict[SafePath, FileEntry]
    """By path in the bundle."""

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(file.bytes for file in self.files.values())


class Bundle(Value):
    """What a bundle holds."""

    format: Literal[1] = FORMAT
    recipe: Name
    version: Name
    created: str
    """When the youngest engine was finished, or SOURCE_DATE_EPOCH; UTC, RFC 3339."""
    trtbuild: str
    """The version that packaged it."""
    model: Sha256
    """Digest of the model's source and shapes, which all engines share."""
    allow_failed: bool = False
    """Whether engines that failed their gates were let in on purpose."""
    engines: list[EngineEntry] = Field(min_length=1, max_length=MAX_ENGINES)
    files: dict[SafePath, FileEntry]
    """Files that belong to the whole: plugins and the bill of materials."""

    @property
    def failed(self) -> list[EngineEntry]:
        """Engines that failed their gates."""
        return [engine for engine in self.engines if engine.verdict.outcome == "failed"]

    @property
    def all_files(self) -> dict[str, FileEntry]:
        """Every file that the bundle lists, by path."""
        own = dict(self.files)
        for engine in self.engines:
            own |= engine.files
        return own

    def content(self) -> bytes:
        """bundle.json."""
        return (self.model_dump_json(indent=1) + "\n").encode()

    @classmethod
    def parse(cls, content: bytes, where: str) -> Bundle:
        """Read a stranger's bundle.json. Raises VerificationError where it is none."""
        if len(content) > MAX_MANIFEST_BYTES:
            raise VerificationError(f"{where}: {BUNDLE_FILE} has {len(content)} bytes, more than any bundle needs")
        try:
            bundle = cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise VerificationError(
                f"{where}: {BUNDLE_FILE} is none of trtbuild's: {place + ': ' if place else ''}{first['msg']}",
                hint="name a bundle that `trtbuild package` wrote; a newer one needs a newer trtbuild",
            ) from error
        bundle._check(where)
        return bundle

    def _check(self, where: str) -> None:
        names = [engine.name for engine in self.engines]
        if len(set(names)) != len(names):
            raise VerificationError(f"{where}: two engines of the bundle have one name")
        listed = len(self.files) + sum(len(engine.files) for engine in self.engines)
        if listed > MAX_FILES:
            raise VerificationError(f"{where}: lists {listed} files, and a bundle has {MAX_FILES} at most")
        for engine in self.engines:
            folder = f"{ENGINES_FOLDER}/{engine.name}/"
            if engine.main not in engine.files or not all(path.startswith(folder) for path in engine.files):
                raise VerificationError(f"{where}: engine {engine.name} lists files that are not its own")
            if not all(plugin.path in self.files for plugin in engine.plugins):
                raise VerificationError(f"{where}: engine {engine.name} needs a plugin that the bundle lacks")
        for path in self.files:
            if path != SBOM_FILE and not path.startswith(f"{PLUGINS_FOLDER}/"):
                raise VerificationError(f"{where}: lists {path}, which no bundle holds")


def version_of(recipe: str, engines: list[EngineEntry]) -> str:
    """The version of a bundle that nobody gave one: the beginning of a digest of all that its engines are."""
    files = {path: file.sha256 for engine in engines for path, file in engine.files.items()}
    return digest_of({"recipe": recipe, "files": files})[:12]
