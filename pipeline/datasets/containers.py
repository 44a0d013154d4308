"""Archives of every kind a dataset comes in, behind one interface: tar, tar.gz, tar.xz and zip, by content.

Each hands out its members one after the other, so that what is refused of a member is refused in every kind. Reading to
the end finds damage: a cut end, a wrong checksum.
"""

from __future__ import annotations

import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from pipeline.datasets.tar_stream import (
    ALWAYS,
    MAX_MEMBERS,
    MAX_RATIO,
    GzipStream,
    Member,
    TarDamaged,
    TarReader,
    TarRefused,
    check_name,
    shown,
)
from pipeline.datasets.transfer import BLOCK, SourceError

_HEAD = 512  # bytes that tell the kinds apart
_USTAR = slice(257, 262)  # where a tar header says so
_XZ_RATIO = 10_000  # more than LZMA2 saves, whose best case is zeros
_ROOM = 1 << 16
# What zipfile raises of a damaged archive; RuntimeError is a password, NotImplementedError a method, ValueError a time.
_ZIP_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError, ValueError, OverflowError)


class Container(Protocol):
    """An archive that is read once, in order. Raises TarDamaged and TarRefused, whatever its kind."""

    def __iter__(self) -> Iterator[Member]: ...

    def copy(self) -> Iterator[bytes]:
        """The bytes of the member that was handed out last, in pieces."""


def opened(file: BinaryIO, length: int) -> tuple[str, Container]:
    """(its kind, the archive) that `file` of `length` bytes holds. Raises SourceError where it is none of them."""
    head = file.read(_HEAD)
    file.seek(0)
    if not head:
        raise SourceError("it is empty")
    if head.startswith(b"\x1f\x8b"):
        return "tar.gz", TarReader(GzipStream(file, length), length)
    if head.startswith(b"\xfd7zXZ\0"):
        return "tar.xz", TarReader(XzStream(file, length), length)
    if head.startswith(b"PK"):
        return "zip", Zip(file, length)
    if head[_USTAR] == b"ustar":
        return "tar", TarReader(PlainStream(file, length), length)
    raise SourceError("it is not an archive that can be read: a tar (plain, gzip or xz) or a zip can")


class PlainStream:
    """The bytes of a file as they are."""

    def __init__(self, file: BinaryIO, length: int):
        self._file, self._length = file, length
        self.position = 0

    def room(self) -> int:
        return self._length - self.position

    def read(self, count: int) -> bytes:
        found = self._file.read(count)
        self.position += len(found)
        return found


class XzStream:
    """What a file in the xz format holds; its checksums are compared. Raises TarDamaged."""

    def __init__(self, file: BinaryIO, length: int):
        self._file, self._length = file, length
        self._stream = lzma.LZMAFile(file)  # noqa: SIM115  (whoever opened `file` closes it)
        self.position = 0

    def room(self) -> int:
        return (self._length - self._file.tell() + _ROOM) * _XZ_RATIO

    def read(self, count: int) -> bytes:
        try:
            found = self._stream.read(count)
        except (EOFError, lzma.LZMAError) as error:
            raise TarDamaged(str(error)) from error
        self.position += len(found)
        return found


class Zip:
    """A zip file; whoever only iterates reads each member all the same, to compare its checksum."""

    def __init__(self, file: BinaryIO, length: int):
        self._file, self._most = file, ALWAYS + MAX_RATIO * length
        self._entry: zipfile.ZipInfo | None = None  # what was handed out last, until it is read

    def __iter__(self) -> Iterator[Member]:
        try:
            with zipfile.ZipFile(self._file) as self._zip:
                entries = self._zip.infolist()
                self._check(entries)
                for entry in entries:
                    member = _member(entry)
                    self._entry = None if member.is_folder else entry
                    yield member
                    for _ in self.copy():
                        pass
        except _ZIP_DAMAGE as error:
            raise TarDamaged(str(error)) from error

    def copy(self) -> Iterator[bytes]:
        entry, self._entry = self._entry, None
        if entry is None:
            return
        try:
            with self._zip.open(entry) as content:
                while piece := content.read(BLOCK):
                    yield piece
        except _ZIP_DAMAGE as error:
            raise TarDamaged(str(error)) from error

    def _check(self, entries: list[zipfile.ZipInfo]) -> None:
        if len(entries) > MAX_MEMBERS:
            raise TarRefused(f"more than {MAX_MEMBERS:,} members")
        if (total := sum(entry.file_size for entry in entries)) > self._most:
            raise TarRefused(f"it holds {total / 1e9:.1f} GB, more than {MAX_RATIO} times its size")


def _member(entry: zipfile.ZipInfo) -> Member:
    name = entry.filename.rstrip("/")
    check_name(name, name.encode("utf-8", "surrogateescape"))
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if not entry.is_dir() and kind not in (0, stat.S_IFREG):
        what = "link" if kind == stat.S_IFLNK else "device or other special file"
        raise TarRefused(f"unsafe archive: member {shown(name)} is a {what}, not a plain file or folder")
    return Member(name, entry.file_size, entry.is_dir())
