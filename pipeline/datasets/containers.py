"""Archives of every kind a dataset comes in, behind one interface: tar, tar.gz, tar.xz and zip, by content.

Each hands out its members as tarfile.TarInfo, one after the other, so that whatever is checked of a member is checked
for every kind. Reading to the end finds damage: a cut end, a wrong checksum.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol, Self

from pipeline.datasets.transfer import BLOCK, SourceError

# What a damaged archive raises while it is read; zipfile's RuntimeError is a password, NotImplementedError a method.
DAMAGE = (
    EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, RuntimeError,
)  # fmt: skip
_HEAD = 512  # bytes that tell the kinds apart
_USTAR = slice(257, 262)  # where a tar header says so
_END = bytes(1024)  # two empty blocks end every tar


class Container(Protocol):
    """An archive that is read once, in order."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def __iter__(self) -> Iterator[tarfile.TarInfo]: ...

    def extract(self, member: tarfile.TarInfo, folder: Path) -> None:
        """Write the member that was handed out last below `folder`."""


def opened(file: IO[bytes]) -> tuple[str, Container]:
    """(its kind, the archive) that `file` holds from its start on. Raises SourceError where it is none of them."""
    head = file.read(_HEAD)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return "tar.gz", _CompressedTar(gzip.open(file))
    if head.startswith(b"\xfd7zXZ\0"):
        return "tar.xz", _CompressedTar(lzma.open(file))
    if head.startswith(b"PK"):
        return "zip", _Zip(file)
    if head[_USTAR] == b"ustar":
        return "tar", _PlainTar(file)
    raise SourceError("it is not an archive that can be read: a tar (plain, gzip or xz) or a zip can")


class _Tar:
    def __init__(self, stream: IO[bytes]):
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        with tarfile.open(fileobj=self._stream, mode="r|") as self._tar:
            yield from self._tar
            self._read_on()

    def _read_on(self) -> None:
        raise NotImplementedError

    def extract(self, member: tarfile.TarInfo, folder: Path) -> None:
        self._tar.extract(member, folder, filter="data")


class _CompressedTar(_Tar):
    """tarfile's own decompression neither notices a cut end nor compares the checksum; gzip's and lzma's do both."""

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def _read_on(self) -> None:
        while self._stream.read(BLOCK):
            pass


class _PlainTar(_Tar):
    """Nothing in it but its end tells that it is whole; tarfile takes one that was cut between two files for that."""

    def _read_on(self) -> None:
        self._stream.seek(self._tar.offset)
        if self._stream.read(len(_END)) != _END:
            raise tarfile.ReadError("it ends without the two empty blocks of a tar: cut short")


class _Zip:
    """A zip file; whoever only iterates reads each member all the same, to compare its checksum."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._entry: zipfile.ZipInfo | None = None  # what was handed out last, until it is read

    def __enter__(self) -> Self:
        self._zip = zipfile.ZipFile(self._file)
        return self

    def __exit__(self, *error: object) -> None:
        self._zip.close()

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        for entry in self._zip.infolist():
            self._entry = entry
            yield _as_tar_member(entry)
            if self._entry is not None:
                with self._zip.open(entry) as content:
                    while content.read(BLOCK):
                        pass

    def extract(self, member: tarfile.TarInfo, folder: Path) -> None:
        target = folder / member.name
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._zip.open(self._entry) as content, target.open("wb") as file:
                shutil.copyfileobj(content, file, BLOCK)
        self._entry = None


def _as_tar_member(entry: zipfile.ZipInfo) -> tarfile.TarInfo:
    member = tarfile.TarInfo(entry.filename.rstrip("/"))
    member.size = entry.file_size
    if entry.is_dir():
        member.type = tarfile.DIRTYPE
    elif (kind := stat.S_IFMT(entry.external_attr >> 16)) not in (0, stat.S_IFREG):
        member.type = tarfile.SYMTYPE if kind == stat.S_IFLNK else tarfile.CHRTYPE
    return member
