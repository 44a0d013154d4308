"""Archives of every kind a dataset comes in, behind one interface: tar, tar.gz, tar.xz and zip, by content.

Each hands out its members one after the other, so that what is refused of a member is refused in every kind. Reading to
the end finds damage: a cut end, a wrong checksum.
"""

from __future__ import annotations

import io
import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from pipeline.download.gzip_stream import GzipStream, TarDamaged, TarRefused
from pipeline.download.tar_stream import ALWAYS, MAX_MEMBERS, MAX_RATIO, Member, TarReader, check_name, shown
from pipeline.download.transfer import BLOCK, SourceError

_HEAD = 512  # bytes that tell the kinds apart
_USTAR = slice(257, 262)  # where a tar header says so
MAX_XZ_MEMORY = 512 << 20  # bytes; xz -9 takes 65 MiB
MAX_DIRECTORY = 64 << 20  # bytes of the list of members at the end of a zip; MAX_MEMBERS of usual names take 20 MiB
_DIRECTORY_ENTRY = b"PK\1\2"  # what every member's entry in that list begins with
_FEED = 1 << 16
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # Python takes the others' bytes out all at once
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
        """How many bytes can still come."""
        return self._length - self.position

    def read(self, count: int) -> bytes:
        """Up to `count` bytes; fewer only at the end."""
        found = self._file.read(count)
        self.position += len(found)
        return found


class XzStream:
    """What the streams of a file in the xz format hold, in turn; their checksums are compared.

    Raises TarDamaged; TarRefused for one whose header asks for more memory than MAX_XZ_MEMORY.
    """

    def __init__(self, file: BinaryIO, length: int):
        self._file, self._length = file, length
        self._stream = self._new_stream()
        self.position = 0

    def room(self) -> int:
        """How many bytes can still come at most, by the ratio that no xz file exceeds."""
        return (self._length - self._file.tell() + _ROOM) * _XZ_RATIO

    def read(self, count: int) -> bytes:
        """Up to `count` bytes; fewer only at the end. Raises TarDamaged."""
        pieces, missing = [], count
        while missing and (piece := self._next(missing)) is not None:
            pieces.append(piece)
            missing -= len(piece)
        self.position += count - missing
        return b"".join(pieces)

    @staticmethod
    def _new_stream() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY)

    def _next(self, most: int) -> bytes | None:
        """Some bytes, or none, after which the stream has come further; None at its end."""
        if self._stream.eof:
            fed = self._stream.unused_data or self._file.read(_FEED)
            while fed and not (begun := fed.lstrip(b"\0")):  # zeros may fill up
                fed = self._file.read(_FEED)
            if not fed:
                return None
            fed, self._stream = begun, self._new_stream()
        else:
            fed = self._file.read(_FEED) if self._stream.needs_input else b""
            if not fed and self._stream.needs_input:
                raise TarDamaged("it ends before its xz data does")
        try:
            return self._stream.decompress(fed, most)
        except lzma.LZMAError as error:
            if "Memory usage limit" in str(error):
                raise TarRefused(f"it takes {MAX_XZ_MEMORY >> 20} MiB of memory or more; pack it with xz -9") from error
            raise TarDamaged(str(error)) from error


class Zip:
    """A zip file; whoever only iterates reads each member all the same, to compare its checksum."""

    def __init__(self, file: BinaryIO, length: int):
        self._file, self._most = file, ALWAYS + MAX_RATIO * length
        self._entry: zipfile.ZipInfo | None = None  # what was handed out last, until it is read

    def __iter__(self) -> Iterator[Member]:
        try:
            with zipfile.ZipFile(_Listed(self._file)) as self._zip:
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
        """The bytes of the member that was handed out last, once. Raises TarDamaged."""
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


class _Listed(io.RawIOBase):
    """A zip file, of which Python reads the whole list of members at once, whatever size is declared."""

    def __init__(self, file: BinaryIO):
        self._file = file

    def seekable(self) -> bool:
        return True

    def seek(self, at: int, whence: int = 0) -> int:
        return self._file.seek(at, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, count: int = -1) -> bytes:
        most = count if count >= 0 else MAX_DIRECTORY + 1  # the rest, of which a comment is the largest part
        found = self._file.read(min(most, MAX_DIRECTORY + 1))
        if most > MAX_DIRECTORY and len(found) > MAX_DIRECTORY:
            raise TarRefused(f"a list of members of more than {MAX_DIRECTORY >> 20} MiB")
        if most > BLOCK and found.count(_DIRECTORY_ENTRY) > MAX_MEMBERS:
            raise TarRefused(f"more than {MAX_MEMBERS:,} members")
        return found


def _member(entry: zipfile.ZipInfo) -> Member:
    name = entry.filename.rstrip("/")
    check_name(name, name.encode("utf-8", "surrogateescape"))
    if entry.compress_type not in _METHODS:
        raise TarRefused(f"member {shown(name)} is packed by method {entry.compress_type}; pack the zip with deflate")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if not entry.is_dir() and kind not in (0, stat.S_IFREG):
        what = "link" if kind == stat.S_IFLNK else "device or other special file"
        raise TarRefused(f"unsafe archive: member {shown(name)} is a {what}, not a plain file or folder")
    return Member(name, entry.file_size, entry.is_dir())
