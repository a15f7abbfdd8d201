"""The files of a bundle, in a folder or in a tar file, read as a stranger's: no links, no way out, no end of names."""

from __future__ import annotations

import os
import stat
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trtbuild.bundle.manifest import BUNDLE_FILE, MAX_FILES, SIGNATURES_FOLDER, is_safe_path
from trtbuild.core.disk import CHUNK_BYTES
from trtbuild.core.errors import StoreError, VerificationError

_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
"""Sparse members are left out: a few bytes of them can stand for terabytes."""
_MAX_ENTRIES = MAX_FILES + 100
"""Files and folders: more are not even listed."""


class Contents(ABC):
    """Files by path, with their sizes in bytes."""

    where: Path
    files: dict[str, int]

    @abstractmethod
    def open(self, path: str) -> IO[bytes]:
        """A file's bytes, to be closed by the caller."""

    def read(self, path: str, limit: int) -> bytes:
        """A small file whole. Raises VerificationError where it is missing or larger than the limit."""
        if path not in self.files:
            raise VerificationError(
                f"{self.where} holds no {path}", hint="name a bundle that `trtbuild package` or `trtbuild pull` wrote"
            )
        if self.files[path] > limit:
            raise VerificationError(
                f"{self.where}: {path} has {self.files[path]} bytes, and at most {limit} are read",
                hint="no `trtbuild package` writes that much: ask whoever gave it to you",
            )
        with self.open(path) as stream:
            return stream.read(limit + 1)

    def chunks(self, path: str) -> Iterator[bytes]:
        """A file in pieces."""
        with self.open(path) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk

    @property
    def signatures(self) -> list[str]:
        """The paths of the envelopes."""
        return sorted(path for path in self.files if path.startswith(f"{SIGNATURES_FOLDER}/"))


class Folder(Contents):
    """A bundle's folder."""

    def __init__(self, where: Path) -> None:
        """List it. Raises VerificationError where it holds a link, a device or a name that no bundle has."""
        self.where = where
        self.files = {}
        if not (where / BUNDLE_FILE).exists():
            raise StoreError(f"{where} holds no {BUNDLE_FILE}", hint="name a folder that `trtbuild package` wrote")
        self._list(where, "")

    def _list(self, folder: Path, above: str) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = above + entry.name
                if not is_safe_path(path):
                    raise VerificationError(f"{self.where} holds {path!r}, a name that no bundle has")
                if entry.is_dir(follow_symlinks=False):
                    self._list(Path(entry.path), f"{path}/")
                    continue
                status = entry.stat(follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode):
                    raise VerificationError(
                        f"{self.where}: {path} is a link or a device", hint="a bundle holds plain files only"
                    )
                self.files[path] = status.st_size
                _limit(self)

    def open(self, path: str) -> IO[bytes]:
        """Open it, following no link."""
        return os.fdopen(os.open(self.where / path, os.O_RDONLY | os.O_NOFOLLOW), "rb")


class Archive(Contents):
    """A bundle's tar file, uncompressed, as `package --archive` writes it."""

    def __init__(self, where: Path, tar: tarfile.TarFile) -> None:
        """List it. Raises VerificationError where it holds anything but plain files with safe names."""
        self.where = where
        self.files = {}
        self._tar = tar
        self._members: dict[str, tarfile.TarInfo] = {}
        for member in tar:
            if member.type not in _PLAIN or not is_safe_path(member.name):
                raise VerificationError(
                    f"{where} holds {member.name[:200]!r}, which is no plain file of a bundle",
                    hint="links, absolute names and ways up are refused; nothing was unpacked",
                )
            if member.name in self.files:
                raise VerificationError(f"{where} holds {member.name!r} twice")
            self.files[member.name], self._members[member.name] = member.size, member
            _limit(self)

    def open(self, path: str) -> IO[bytes]:
        """Read it out of the tar file."""
        stream = self._tar.extractfile(self._members[path])
        assert stream is not None
        return stream


@contextmanager
def opened(where: Path) -> Iterator[Contents]:
    """A bundle's contents. Raises StoreError where there is none, VerificationError where it is not to be trusted."""
    if where.is_dir():
        yield Folder(where)
        return
    try:
        with tarfile.open(where, "r:") as tar:
            yield Archive(where, tar)
    except FileNotFoundError as error:
        raise StoreError(f"there is no bundle {where}", hint="`trtbuild package` writes one") from error
    except (tarfile.TarError, EOFError) as error:
        raise VerificationError(f"{where} is no bundle: {error}", hint="it is damaged, or no tar file") from error


def _limit(contents: Contents) -> None:
    if len(contents.files) > _MAX_ENTRIES:
        raise VerificationError(
            f"{contents.where} holds more than {_MAX_ENTRIES} files, which no bundle does",
            hint="it is not read any further",
        )
