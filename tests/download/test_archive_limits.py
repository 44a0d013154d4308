"""What archives declare is held against limits in one pass: small files that ask for much memory, time or disk."""

import io
import lzma
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.download import containers, tar_stream, unpack, unpacked
from pipeline.download.transfer import SourceError


def tar(members: dict[str, bytes], **options) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", **options) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def inspect(folder: Path, content: bytes, marker: str = "a") -> dict:
    (folder / "archive").write_bytes(content)
    return unpack.inspect(folder / "archive", (marker,))


PLAIN = tar({"a": b"1" * 3000, "b": b"2" * 70_000})


@pytest.mark.parametrize(
    "content",
    [
        lzma.compress(PLAIN),
        lzma.compress(PLAIN[:1000]) + lzma.compress(PLAIN[1000:]),
        lzma.compress(PLAIN[:1000]) + bytes(8) + lzma.compress(b"") + lzma.compress(PLAIN[1000:]) + bytes(4),
    ],
    ids=["one stream", "two", "filled up"],
)
def test_xz_streams_are_read_one_after_the_other(tmp_path, content):
    assert inspect(tmp_path, content) == {"root": "", "unpacked_size": 73_000}


@pytest.mark.parametrize("cut", [20, 100, 1])
def test_an_xz_file_that_is_cut_short_is_named(tmp_path, cut):
    with pytest.raises(SourceError, match=r"not a whole tar.xz"):
        inspect(tmp_path, lzma.compress(PLAIN)[:-cut])


def test_an_xz_header_that_asks_for_memory_gets_none(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30, "preset": 0}]
    content = lzma.compress(PLAIN, filters=filters)
    with pytest.raises(SourceError, match="it takes 512 MiB of memory or more; pack it with xz -9"):
        inspect(tmp_path, content)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_python_unpacks_all_at_once_is_refused(tmp_path, method):
    with pytest.raises(SourceError, match=f"member 'a' is packed by method {method}; pack the zip with deflate"):
        inspect(tmp_path, zipped({"a": bytes(10_000_000)}, method))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_usual_zip_with_a_comment_is_read(tmp_path, method):
    (tmp_path / "archive").write_bytes(zipped({"a": b"1", "b/c": b"22"}, method))
    with zipfile.ZipFile(tmp_path / "archive", "a") as archive:
        archive.comment = b"x" * 60_000
    assert unpack.inspect(tmp_path / "archive", ("a",))["unpacked_size"] == 3


def test_the_list_of_a_zip_is_not_read_whole_whatever_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MAX_DIRECTORY", 100_000)
    with pytest.raises(SourceError, match="a list of members of more than"):
        inspect(tmp_path, zipped({"a": b""} | {f"{i:0200}": b"" for i in range(1000)}))


def test_the_members_of_a_zip_are_counted_before_they_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MAX_MEMBERS", 1000)
    monkeypatch.setattr(containers, "BLOCK", 1000)
    monkeypatch.setattr(zipfile, "ZipInfo", lambda *_: pytest.fail("it is listed"))
    content = zipped_without_patch({"a": b""} | {str(i): b"" for i in range(1001)})
    with pytest.raises(SourceError, match="more than 1,000 members"):
        inspect(tmp_path, content)


_ZIPINFO = zipfile.ZipInfo


def zipped_without_patch(members: dict[str, bytes]) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zipfile, "ZipInfo", _ZIPINFO)
        return zipped(members)


def test_headers_count_as_what_an_archive_holds(tmp_path, monkeypatch):
    """A pax header of 1 MiB in front of each member packs to nothing, and takes as long to read as a file."""
    monkeypatch.setattr(tar_stream, "ALWAYS", 3_000_000)
    monkeypatch.setattr(tar_stream, "MAX_RATIO", 1)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for i in range(5):
            info = tarfile.TarInfo(f"a{i}")
            info.pax_headers = {"comment": "x" * 1_000_000}
            archive.addfile(info)
    with pytest.raises(SourceError, match="with a pax header it holds"):
        inspect(tmp_path, content.getvalue())


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_folders_are_counted(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(unpack, "MAX_MEMBERS", 100)
    members = {"a": b""} | {f"{i}/{i}/{i}/{i}/f": b"" for i in range(26)}
    with pytest.raises(SourceError, match="more than 100 folders"):
        inspect(tmp_path, tar(members) if kind == "tar" else zipped(members))
    assert inspect(tmp_path, tar({"a": b""} | {f"x/y/z/{i}": b"" for i in range(200)}))["root"] == ""


# ---- a person's folder -------------------------------------------------------------------------------------------


def test_a_deep_folder_is_refused(tmp_path):
    deep = tmp_path.joinpath("data", *("d" for _ in range(40)))
    deep.mkdir(parents=True)
    (deep / "f").touch()
    with pytest.raises(SourceError, match=r"folders deep; 32 are allowed"):
        list(unpacked.walk(tmp_path / "data"))


def test_links_to_links_to_folders_come_to_an_end(tmp_path, monkeypatch):
    """Ten folders of ten links to the next: ten thousand million files to whoever follows them."""
    monkeypatch.setattr(unpacked, "MAX_FILES", 1000)
    for i in range(10):
        (tmp_path / "data" / str(i)).mkdir(parents=True)
        for j in range(10):
            if i < 9:
                (tmp_path / "data" / str(i) / f"link{j}").symlink_to(tmp_path / "data" / str(i + 1))
            else:
                (tmp_path / "data" / str(i) / f"file{j}").touch()
    with pytest.raises(SourceError, match="more than 1,000 files are in it, links to folders followed"):
        list(unpacked.walk(tmp_path / "data"))


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(SourceError, match="pipe in it is neither a file nor a folder"):
        list(unpacked.walk(tmp_path))
