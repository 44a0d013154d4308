"""A tar archive read strictly, in one pass over a stream that can't be searched, in memory of a fixed size.

Python's `tarfile` believes what a header says: it looks for a next header behind sizes that no file has, keeps each
member in memory, reads a pax header of any size whole, takes a damaged header for the end, and gives up with errors of
many kinds where a time or a name is absurd. A dataset's archive holds plain files and folders, so this reads those and
nothing else, and each of its loops ends with the bytes that there are.

Format: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; the GNU tar manual, "Basic Tar Format"
(long names, numbers in base 256). Owners, modes and times of members are not used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pipeline.download.gzip_stream import BLOCK, TarDamaged, TarRefused

MAX_MEMBERS = 200_000  # the largest data set that we read, PASCAL-Context, has under 100,000
MAX_DEPTH = 32  # folders above a file
MAX_NAME = 255  # bytes of one part of a path: what the usual file systems take
MAX_PATH = 2048  # bytes of a path; systems take 4096, with the folder that it is unpacked into
MAX_HEADER = 1 << 20  # bytes of a pax header or a long name
MAX_HEADERS = 8  # in front of one member
MAX_BEHIND = 16 << 20  # bytes behind the end of the archive, where tar fills up its last record
MAX_RATIO, ALWAYS = 250, 1 << 30  # an archive of n bytes may hold ALWAYS + MAX_RATIO * n

_OCTAL = re.compile(rb"[0-7]{1,12}")
_RECORD = re.compile(rb"([0-9]{1,8}) ([^=\n]{1,200})=")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_PLAIN = {b"0", b"\0", b"7"}
_KINDS = {b"1": "link", b"2": "link"}


@dataclass(frozen=True)
class Member:
    """A plain file of `size` bytes, or a folder; `name`: a relative path without `..`."""

    name: str
    size: int
    is_folder: bool


class Stream(Protocol):
    """Bytes that are read once. position: how many were given out."""

    position: int

    def room(self) -> int:
        """The most bytes that can still come."""

    def read(self, count: int) -> bytes:
        """`count` bytes, or fewer where the stream ends. Raises TarDamaged."""


class TarReader:
    """Iterate over it for the members, in order; `copy` gives out the bytes of the one at hand.

    Raises TarDamaged and TarRefused, as soon as they are seen. The stream is then read to its end, so that checksums
    are compared.
    """

    def __init__(self, stream: Stream, length: int):
        self._stream = stream
        self._most = ALWAYS + MAX_RATIO * length
        self._rest = 0  # bytes of the member at hand that were not read, padding included
        self._content = 0  # of these, the bytes of the file
        self._total = 0

    def __iter__(self) -> Iterator[Member]:
        count = 0
        while (member := self._next_member()) is not None:
            count += 1
            if count > MAX_MEMBERS:
                raise TarRefused(f"more than {MAX_MEMBERS:,} members")
            yield member
        self._read_behind()

    def copy(self) -> Iterator[bytes]:
        """The bytes of the member at hand, in pieces."""
        while self._content:
            piece = self._exactly(min(self._content, 1 << 20))
            self._content -= len(piece)
            self._rest -= len(piece)
            yield piece

    def _next_member(self) -> Member | None:
        while self._rest:
            self._rest -= len(self._exactly(min(self._rest, 1 << 20)))
        long_name: bytes | None = None
        pax: dict[str, bytes] = {}
        for _ in range(MAX_HEADERS):
            header = self._header()
            if header is None:
                if long_name is not None or pax:
                    raise TarDamaged("it ends behind a header that belongs to a member")
                return None
            kind, size = header[156:157], _number(header[124:136], "size")
            if kind in (b"x", b"X"):
                pax |= _records(self._metadata(size, "pax header"))
            elif kind == b"g":
                if {"path", "size"} & _records(self._metadata(size, "pax header")).keys():
                    raise TarRefused("a global pax header gives all members one path or size")
            elif kind == b"L":
                long_name = self._metadata(size, "long name").partition(b"\0")[0]
            elif kind == b"K":
                self._metadata(size, "long link")
            else:
                return self._member(header, kind, size, long_name, pax)
        raise TarRefused(f"more than {MAX_HEADERS} headers in front of one member")

    def _member(self, header: bytes, kind: bytes, size: int, long_name: bytes | None, pax: dict[str, bytes]) -> Member:
        raw = pax.get("path", long_name if long_name is not None else _name(header))
        name = raw.decode("utf-8", "surrogateescape")
        is_folder = kind == b"5" or (kind in _PLAIN and name.endswith("/"))
        name = name.rstrip("/") if is_folder else name
        check_name(name, raw)
        if kind == b"S" or (pax and any(key.startswith("GNU.sparse.") for key in pax)):
            raise TarRefused(f"member {shown(name)} is a sparse file; pack it without --sparse")
        if kind not in _PLAIN and kind != b"5":
            what = _KINDS.get(kind, "device or other special file")
            raise TarRefused(f"unsafe archive: member {shown(name)} is a {what}, not a plain file or folder")
        if "size" in pax:
            size = _decimal(pax["size"], name)
        if is_folder:
            size = 0
        if size:
            self._declare(size, f"member {shown(name)}")
        self._count(size, f"member {shown(name)}")
        self._content, self._rest = size, _padded(size)
        return Member(name, size, is_folder)

    def _header(self) -> bytes | None:
        """The next header block; None at the end, which is a block of zeros."""
        block = self._stream.read(BLOCK)
        if block == bytes(BLOCK):
            return None
        if len(block) < BLOCK:
            raise TarDamaged("it ends where a header or the end mark of the archive should be")
        if not _is_header(block):
            raise TarDamaged(f"there is no tar header at byte {self._stream.position - BLOCK:,} of what it holds")
        return block

    def _metadata(self, size: int, what: str) -> bytes:
        if size > MAX_HEADER:
            raise TarRefused(f"a {what} of {size:,} bytes; {MAX_HEADER:,} are allowed")
        self._count(size, f"a {what}")
        self._declare(size, f"a {what}")
        return self._exactly(_padded(size))[:size]

    def _count(self, size: int, what: str) -> None:
        self._total += size
        if self._total > self._most:
            raise TarRefused(f"with {what} it holds {self._total / 1e9:.1f} GB, more than {MAX_RATIO} times its size")

    def _declare(self, size: int, what: str) -> None:
        if size > self._stream.room():
            raise TarDamaged(f"{what} is said to have {size:,} bytes, more than the file can hold")

    def _exactly(self, count: int) -> bytes:
        piece = self._stream.read(count)
        if len(piece) < count:
            raise TarDamaged(f"it ends {count - len(piece):,} bytes or more before the end of a member")
        return piece

    def _read_behind(self) -> None:
        """To the end of the stream. Old writers leave anything there, but a header is a second archive."""
        read = 0
        while block := self._stream.read(1 << 18):
            read += len(block)
            if read > MAX_BEHIND:
                raise TarRefused(f"more than {MAX_BEHIND >> 20} MiB behind the end of the archive")
            for at in range(0, len(block), BLOCK):
                if any(piece := block[at : at + BLOCK]) and _is_header(piece):
                    raise TarRefused("a second archive behind the end of the first; join them with tar, not with cat")


def shown(name: str) -> str:
    """A name for a message: quoted, without control characters, and not too long."""
    text = ascii(name) if any(0xDC80 <= ord(letter) <= 0xDCFF for letter in name) else repr(name)
    return text if len(text) <= 120 else f"{text[:80]}...{text[-30:]}"


def _is_header(block: bytes) -> bool:
    """Whether the block's checksum is that of its bytes, the checksum's own counted as blanks."""
    if len(block) < BLOCK:
        return False
    digits = block[148:156].strip(b" \0")
    if not _OCTAL.fullmatch(digits):
        return False
    wanted = int(digits, 8)
    total = sum(block[:148]) + sum(block[156:]) + 8 * 32
    return total == wanted or total - 256 * sum(byte > 127 for byte in block[:148] + block[156:]) == wanted


def _number(field: bytes, what: str) -> int:
    """Octal digits, or base 256 where the first bit is set."""
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise TarDamaged(f"a header whose {what} is negative or beyond any file")
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits and not _OCTAL.fullmatch(digits):
        raise TarDamaged(f"a header whose {what} is no number: {digits!r}")
    return int(digits or b"0", 8)


def _decimal(digits: bytes, name: str) -> int:
    if not re.fullmatch(rb"[0-9]{1,19}", digits):
        raise TarDamaged(f"member {shown(name)} has a size that is no number: {digits[:30]!r}")
    return int(digits)


def _name(header: bytes) -> bytes:
    name, prefix = header[:100].partition(b"\0")[0], b""
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix else name


def _records(content: bytes) -> dict[str, bytes]:
    """The records `length key=value` + newline of a pax header."""
    found, at = {}, 0
    while at < len(content) and content[at]:
        match = _RECORD.match(content, at)
        end = at + int(match[1]) if match else 0
        if not match or not match.end() < end <= len(content) or content[end - 1 : end] != b"\n":
            raise TarDamaged("a pax header that is not made of records `length key=value`")
        found[match[2].decode("utf-8", "replace")] = content[match.end() : end - 1]
        at = end
    return found


def check_name(name: str, raw: bytes) -> None:
    """Raise TarRefused for what is no plain path below a folder."""
    if _CONTROL.search(name):
        raise TarRefused(f"member {shown(name)} has control characters in its name")
    parts = name.split("/")
    if (not parts[0] and name) or ".." in parts:
        raise TarRefused(f"unsafe archive: member {shown(name)} would be written outside its folder")
    if not name:
        raise TarRefused("a member without a name")
    if len(parts) > MAX_DEPTH + 1:
        raise TarRefused(f"member {shown(name)} lies {len(parts) - 1} folders deep; {MAX_DEPTH} are allowed")
    if len(raw) > MAX_PATH or len(max(raw.split(b"/"), key=len)) > MAX_NAME:
        raise TarRefused(
            f"member {shown(name)} has a name of {len(raw)} bytes; {MAX_PATH} are allowed, {MAX_NAME} in one part"
        )


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
