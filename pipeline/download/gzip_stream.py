"""The gzip parts of a file as one stream, each part checked (RFC 1952), in memory of a fixed size."""

from __future__ import annotations

import zlib
from typing import BinaryIO

BLOCK = 512  # bytes; what every part of a tar archive is a multiple of
DEFLATE_RATIO = 1032  # the most that deflate can save, RFC 1951: 258 bytes in two bits
_FEED = 1 << 16
_SMALL_PARTS = 1000  # gzip parts that hold less than a block; a writer of many parts makes them large


class TarDamaged(Exception):
    """It is no such archive, or not all of one."""


class TarRefused(Exception):
    """It is one, but holds what is unsafe, or more than can be right."""


class GzipStream:
    """What the gzip parts of a file (RFC 1952) hold, one after the other; each part's length and checksum are checked.

    length: of the file, in bytes. Raises TarDamaged for a file that is cut short, damaged or has something else behind.
    """

    def __init__(self, file: BinaryIO, length: int):
        self._file, self._length = file, length
        self._part = self._new_part()
        self._waiting = b""  # read, and not yet decompressed
        self._ready, self._at = b"", 0  # decompressed, and given out up to there
        self._begun = self._ended = False
        self._held = 0  # bytes of the part at hand
        self._small = 0
        self.position = 0  # bytes that were given out

    def room(self) -> int:
        """The most bytes that can still come."""
        packed = self._length - self._file.tell() + len(self._waiting)
        return len(self._ready) - self._at + packed * DEFLATE_RATIO + _FEED

    def read(self, count: int) -> bytes:
        """`count` bytes, or fewer where the stream ends."""
        while len(self._ready) - self._at < count and not self._ended:
            if piece := self._next(max(count, _FEED)):
                self._ready, self._at = self._ready[self._at :] + piece, 0
        found = self._ready[self._at : self._at + count]
        self._at += len(found)
        self.position += len(found)
        return found

    @staticmethod
    def _new_part() -> zlib._Decompress:
        return zlib.decompressobj(wbits=31)  # 31: gzip alone

    def _next(self, most: int) -> bytes:
        """Some bytes, or none, after which the stream has come further or ended."""
        if self._part.eof:
            self._begin_part()
            return b""
        fed = self._waiting or self._file.read(_FEED)
        if fed:
            self._begun = True
        try:
            piece = self._part.decompress(fed, most)
        except zlib.error as error:
            raise TarDamaged(str(error).removeprefix("Error -3 while decompressing data: ")) from error
        self._waiting = self._part.unused_data if self._part.eof else self._part.unconsumed_tail
        if not fed and not piece and not self._part.eof:
            raise TarDamaged("it ends before its gzip data does" if self._begun else "it is empty")
        self._held += len(piece)
        return piece

    def _begin_part(self) -> None:
        """After the end of a part: another one, or zeros to the end of the file."""
        self._small += self._held < BLOCK
        if self._small > _SMALL_PARTS:
            raise TarRefused(f"more than {_SMALL_PARTS} gzip parts hold nothing")
        fed = self._waiting or self._file.read(_FEED)
        while fed and not fed.strip(b"\0"):
            fed = self._file.read(_FEED)
        self._waiting = fed.lstrip(b"\0")
        if not self._waiting:
            self._ended = True
            return
        self._part, self._held = self._new_part(), 0
