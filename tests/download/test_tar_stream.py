"""Archives whose headers say what can't be: refused in one line within a second, before anything is written."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tarfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.download.transfer import SourceError
from pipeline.download.unpack import inspect, unpack

END = bytes(1024)


def header(name: bytes = b"labels/a.txt", size: bytes = b"00000000000\0", kind: bytes = b"0", **fields: bytes) -> bytes:
    """One header block; fields: mtime, mode, magic, prefix, checksum as they stand in it."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = fields.get("mode", b"0000644\0")
    block[124 : 124 + len(size)] = size
    block[136:148] = fields.get("mtime", b"00000000000\0")
    block[156:157] = kind
    block[257:265] = fields.get("magic", b"ustar\x0000")
    prefix = fields.get("prefix", b"")
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b" " * 8
    block[148:156] = fields.get("checksum", b"%06o\0 " % sum(block))
    return bytes(block)


def octal(number: int) -> bytes:
    return b"%011o\0" % number


def member(name: bytes, content: bytes = b"", **fields: bytes) -> bytes:
    return header(name, octal(len(content)), **fields) + content + bytes(-len(content) % 512)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    return member(b"PaxHeaders/a", b"".join(records), kind=kind)


GOOD = member(b"labels/good.txt", b"good")


def packed(blocks: bytes) -> bytes:
    return gzip.compress(blocks, 1)


REFUSED = {
    "size beyond the stream": (GOOD + header(size=octal(8**11 - 1)), "'labels/a.txt' is said to have 8,589,934,591"),
    "size of 2**88": (GOOD + header(size=b"\x80" + b"\xff" * 11), "more than the file can hold"),
    "negative size": (GOOD + header(size=b"\xff" * 12), "a header whose size is negative"),
    "size that is no number": (GOOD + header(size=b"9x7\0"), "a header whose size is no number"),
    "size a little beyond the end": (GOOD + header(size=octal(5000)) + b"abc", "before the end of a member"),
    "pax header cut": (GOOD + header(b"p", octal(5000), b"x") + b"abc", "before the end of a member"),
    "pax size beyond the stream": (GOOD + pax(record(b"size", b"9" * 18)) + header() + END, "more than the file can"),
    "pax size of 5000 digits": (GOOD + pax(record(b"size", b"9" * 5000)) + header() + END, "a size that is no number"),
    "negative pax size": (GOOD + pax(record(b"size", b"-5")) + header() + END, "a size that is no number"),
    "pax header of 100 MB": (GOOD + header(b"p", octal(100_000_000), b"x"), "a pax header of 100,000,000 bytes"),
    "global header of 8 GB": (header(b"p", octal(8**11 - 1), b"g"), "a pax header of 8,589,934,591 bytes"),
    "long name of 8 GB": (GOOD + header(b"p", octal(8**11 - 1), b"L"), "a long name of 8,589,934,591 bytes"),
    "pax record of length 0": (GOOD + pax(b"0 path=x\n") + header() + END, "not made of records"),
    "pax record beyond its header": (GOOD + pax(b"999 path=x\n") + header() + END, "not made of records"),
    "pax headers without end": (GOOD + pax(record(b"comment", b"x")) * 100, "headers in front of one member"),
    "pax header before nothing": (GOOD + pax(record(b"path", b"x")) + END, "belongs to a member"),
    "one name for all": (pax(record(b"path", b"x"), kind=b"g") + GOOD + END, "a global pax header gives all members"),
    "NUL in a name": (pax(record(b"path", b"labels/a\0b")) + header() + END, r"'labels/a\x00b' has control characters"),
    "line feed in a name": (member(b"labels/a\nb") + END, r"'labels/a\nb' has control characters"),
    "escape in a name": (member(b"labels/\x1b[2J") + END, r"'labels/\x1b[2J' has control characters"),
    "no name": (header(b"") + END, "a member without a name"),
    "deep path": (pax(record(b"path", b"a/" * 1000 + b"b")) + header() + END, "lies 1000 folders deep"),
    "long part": (pax(record(b"path", b"a" * 300)) + header() + END, "has a name of 300 bytes"),
    "long path": (pax(record(b"path", b"/".join([b"a" * 200] * 20))) + header() + END, "has a name of 4019 bytes"),
    "outside": (pax(record(b"path", b"labels/../../x")) + header() + END, "would be written outside"),
    "absolute": (member(b"passwd", prefix=b"/etc") + END, "would be written outside"),
    "sparse": (GOOD + header(kind=b"S") + END, "is a sparse file"),
    "pax sparse": (GOOD + pax(record(b"GNU.sparse.major", b"1")) + header() + END, "is a sparse file"),
    "sparse without end": (GOOD + header(b"a", octal(512), b"S") + b"\x01" * 512 * 50, "is a sparse file"),
    "continued on another volume": (GOOD + header(kind=b"M") + END, "is a device or other special file"),
    "damaged header": (GOOD + header(checksum=b"000001\0 ") + GOOD + END, "no tar header at byte 1,024"),
    "no end mark": (GOOD, "where a header or the end mark of the archive should be"),
    "half a header": (GOOD + header()[:100], "where a header or the end mark of the archive should be"),
    "two archives": (GOOD + END + GOOD + END, "a second archive behind the end of the first"),
    "twenty megabytes behind": (GOOD + END + bytes(20 << 20), "more than 16 MiB behind the end"),
    "bomb": (header(size=octal(2**31)) + random.Random(0).randbytes(3 << 20), "more than 250 times its size"),
}  # fmt: skip


def refusal(path: Path, folder: Path) -> tuple[str, float]:
    """What reading the archive ends with, and the seconds of processor time that it took."""
    before = time.process_time()
    with pytest.raises(SourceError) as caught:
        inspect(path, ("labels",))
    seconds = time.process_time() - before
    folder.mkdir()
    with pytest.raises(SourceError):
        unpack(path, folder)
    return str(caught.value), seconds


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_is_refused_at_once(tmp_path: Path, name: str) -> None:
    blocks, message = REFUSED[name]
    (tmp_path / "a.tgz").write_bytes(packed(blocks))
    told, seconds = refusal(tmp_path / "a.tgz", tmp_path / "out")
    assert message in told and "\n" not in told and len(told) < 400 and told.isprintable()
    assert seconds < 1
    assert {each.name for each in tmp_path.iterdir()} == {"a.tgz", "out"}, "nothing outside its folder"


@pytest.mark.slow
def test_members_without_end(tmp_path: Path) -> None:
    squeeze = zlib.compressobj(1, wbits=31)
    with (tmp_path / "a.tgz").open("wb") as file:
        for _ in range(210):
            file.write(squeeze.compress(member(b"labels/a.txt") * 1000))
        file.write(squeeze.compress(END) + squeeze.flush())
    before = time.process_time()
    with pytest.raises(SourceError, match="more than 200,000 members"):
        inspect(tmp_path / "a.tgz", ("labels",))
    assert time.process_time() - before < 15  # two seconds on an idle core


WHOLE = packed(GOOD + END)

GZIP = {
    "ends in its header": (WHOLE[:6], "it ends before its gzip data does"),
    "ends in its data": (packed(random.Random(0).randbytes(5000))[:3000], "no tar header"),
    "ends in its checksum": (WHOLE[:-3], "it ends before its gzip data does"),
    "wrong checksum": (WHOLE[:-8] + b"\0\0\0\0" + WHOLE[-4:], "incorrect data check"),
    "wrong length": (WHOLE[:-4] + b"\xff\0\0\0", "incorrect length check"),
    "text behind": (WHOLE + b"sent by mail", "incorrect header check"),
    "a name without end": (b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 5_000_000, "it ends before its gzip data does"),
    "parts that hold nothing": (WHOLE[:0] + gzip.compress(b"") * 200_000, "more than 1000 gzip parts hold nothing"),
    "empty": (b"", "it is empty"),
}


@pytest.mark.parametrize("name", GZIP)
def test_gzip_that_is_no_whole_one(tmp_path: Path, name: str) -> None:
    content, message = GZIP[name]
    (tmp_path / "a.tgz").write_bytes(content)
    told, seconds = refusal(tmp_path / "a.tgz", tmp_path / "out")
    assert message in told and seconds < 1


@pytest.mark.parametrize("cut", [1, 10, 200, 600, 1000])
def test_parts_of_gzip_one_after_the_other_are_one_stream(tmp_path: Path, cut: int) -> None:
    """As pigz and bgzip write them; zeros behind are padding of a tape or disk."""
    blocks = GOOD + END
    content = gzip.compress(b"") + gzip.compress(blocks[:cut]) + gzip.compress(blocks[cut:]) + bytes(70_000)
    (tmp_path / "a.tgz").write_bytes(content)
    assert inspect(tmp_path / "a.tgz", ("labels",)) == {"root": "", "unpacked_size": 4}
    unpack(tmp_path / "a.tgz", tmp_path / "out")
    assert (tmp_path / "out/labels/good.txt").read_bytes() == b"good"


ABSURD = {
    "negative time": {"mtime": b"\xff" * 12},
    "time of 2**80": {"mtime": b"\x80" + b"\xff" * 11},
    "time that is no number": {"mtime": b"yesterday!!!"},
    "mode that is no number": {"mode": b"rwxrwxrw"},
    "unwritable": {"mode": b"0000000\0"},
}


@pytest.mark.parametrize("name", ABSURD)
def test_times_and_modes_do_not_matter(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.tgz").write_bytes(packed(member(b"labels/a.txt", b"text", **ABSURD[name]) + END))
    assert inspect(tmp_path / "a.tgz", ("labels",))["unpacked_size"] == 4
    unpack(tmp_path / "a.tgz", tmp_path / "out")
    assert (tmp_path / "out/labels/a.txt").read_bytes() == b"text"


def test_pax_times_do_not_matter(tmp_path: Path) -> None:
    blocks = pax(record(b"mtime", b"1e400"), record(b"atime", b"-9" * 50)) + member(b"labels/a.txt", b"text") + END
    (tmp_path / "a.tgz").write_bytes(packed(blocks))
    unpack(tmp_path / "a.tgz", tmp_path / "out")
    assert (tmp_path / "out/labels/a.txt").read_bytes() == b"text"


def test_names_that_are_not_utf_8_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.tgz").write_bytes(packed(member(b"labels/caf\xe9.txt", b"1") + END))
    unpack(tmp_path / "a.tgz", tmp_path / "out")
    assert [name for name in (tmp_path / "out/labels").iterdir()] == [tmp_path / "out/labels/caf\udce9.txt"]
    with pytest.raises(SourceError) as caught:
        inspect(tmp_path / "a.tgz", ("photos",))
    assert str(caught.value).isprintable() and r"caf\udce9" in str(caught.value)


def trees() -> Iterator[tuple[int, dict[str, bytes]]]:
    draw = random.Random(0)
    for case in range(10):
        files = {}
        for i in range(draw.randrange(1, 20)):
            folders = [draw.choice("abé漢") * draw.choice((1, 7, 40)) for _ in range(draw.randrange(4))]
            size = draw.choice((0, 1, 511, 512, 513, 9000))
            files["/".join(["labels", *folders, f"{i} x.txt"])] = draw.randbytes(size)
        yield case, files


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_what_python_writes_is_what_is_read(tmp_path: Path, form: int) -> None:
    for case, files in trees():
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", format=form, pax_headers={"comment": "é" * 300}) as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime = len(content), 1.5e9 + 0.25
                tar.addfile(entry, io.BytesIO(content))
        path, out = tmp_path / f"{case}.tgz", tmp_path / str(case)
        path.write_bytes(buffer.getvalue())
        assert inspect(path, ("labels",)) == {"root": "", "unpacked_size": sum(map(len, files.values()))}
        unpack(path, out)
        found = {str(each.relative_to(out)): each.read_bytes() for each in out.rglob("*") if each.is_file()}
        assert found == files


def test_size_in_base_256(tmp_path: Path) -> None:
    size = b"\x80" + struct.pack(">3xQ", 4)
    (tmp_path / "a.tgz").write_bytes(packed(header(size=size) + b"text" + bytes(508) + END))
    unpack(tmp_path / "a.tgz", tmp_path / "out")
    assert (tmp_path / "out/labels/a.txt").read_bytes() == b"text"
