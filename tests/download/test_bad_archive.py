"""Whatever is wrong with an archive or its source, `download` ends with one clear message, and takes nothing."""

from __future__ import annotations

import gzip
import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

import stages.download
from pipeline.core.errors import DataError
from stages._entry import run_stage
from tests.support.archive_site import GOOD, NOISE, WHOLE, Site, get, names, serve, tar_gz, wanted


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def tar_of(compression: str, files: dict[str, bytes] = GOOD) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(files: dict[str, bytes] = GOOD, mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def flipped(archive: bytes, within: bytes) -> bytes:
    """The archive with one bit of this content turned, and its checksum left as it was."""
    at = archive.index(within[:1000]) + 500
    return archive[:at] + bytes([archive[at] ^ 1]) + archive[at + 1 :]


def cut_between_files(archive: bytes) -> bytes:
    """A plain tar up to the end of its last file: each file in it is whole, and tarfile sees nothing wrong."""
    end = len(archive.rstrip(b"\0"))
    return archive[: end + -end % tarfile.BLOCKSIZE]


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as served:
        yield served


@dataclass(frozen=True)
class Bad:
    content: bytes
    message: str
    changes: dict = field(default_factory=dict)


BAD = {
    "web page": Bad(
        b"<!DOCTYPE html><html><head><title>Quota &amp;\n limits</title>", "web page titled 'Quota & limits'"
    ),
    "truncated": Bad(WHOLE[:200_000], "not a whole tar.gz archive"),
    "truncated checksum": Bad(WHOLE[:-4], "not a whole tar.gz archive"),
    "flipped byte": Bad(WHOLE[:-5] + bytes([WHOLE[-5] ^ 1]) + WHOLE[-4:], "not a whole tar.gz archive"),
    "no archive": Bad(b"nonsense" * 100, "not an archive that can be read: a tar (plain, gzip or xz) or a zip can"),
    "gzip but no tar": Bad(gzip.compress(b"nonsense" * 1000), "not a whole tar.gz archive"),
    "another compression": Bad(tar_of("bz2"), "not an archive that can be read"),
    "truncated tar": Bad(tar_of("")[:200_000], "not a whole tar archive"),
    "tar that ends between two files": Bad(cut_between_files(tar_of("")), "not a whole tar archive (it ends where"),
    "truncated tar.xz": Bad(tar_of("xz")[:-30], "not a whole tar.xz archive"),
    "flipped byte in tar.xz": Bad(flipped(tar_of("xz"), tar_of("xz")[5000:]), "not a whole tar.xz archive"),
    "truncated zip": Bad(zip_of()[:200_000], "not a whole zip archive"),
    "flipped byte in zip": Bad(flipped(zip_of(), NOISE), "not a whole zip archive (Bad CRC-32"),
    "zip with a password": Bad(
        zip_of()
        .replace(b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0")
        .replace(b"PK\3\4\x14\0\0\0", b"PK\3\4\x14\0\1\0"),
        "password required",
    ),
    "zip with traversal": Bad(zip_of(GOOD | {"set-1/../../evil": b""}), "'set-1/../../evil' would be written outside"),
    "zip with a link": Bad(zip_of({"labels/evil": b"/etc"}, 0o120777), "'labels/evil' is a link"),
    "empty": Bad(b"", "it is empty"),
    "archive of nothing": Bad(tar_gz({}), "another archive: no labels inside, but nothing"),
    "sha256": Bad(WHOLE, "sha256 is", {"sha256": "0" * 64}),
    "size": Bad(WHOLE, "bytes instead of 7", {"size": 7}),
    "other layout": Bad(tar_gz({"other/images/1.png": b"1"}), "another archive: no labels inside, but other/images"),
    "namesake": Bad(
        tar_gz({"set/labels/1.mat": b"1"}),
        "another archive: the older set (it holds labels/*.mat; no labels/*.npy inside)",
        {"marker": ("labels", "labels/*.npy"), "namesakes": (("*.gif", "nobody's"), ("labels/*.mat", "the older set"))},
    ),
    "traversal": Bad(tar_gz(GOOD | {"set-1/../../evil": b""}), "'set-1/../../evil' would be written outside"),
    "absolute": Bad(tar_gz(GOOD | {"/evil": b""}), "'/evil' would be written outside"),
    "symlink": Bad(tar_gz(GOOD, special("set-1/evil", tarfile.SYMTYPE, "/etc")), "'set-1/evil' is a link"),
    "hard link": Bad(tar_gz(GOOD, special("set-1/evil", tarfile.LNKTYPE, "/etc/x")), "'set-1/evil' is a link"),
    "device": Bad(tar_gz(GOOD, special("set-1/evil", tarfile.CHRTYPE)), "'set-1/evil' is a device"),
    "pipe": Bad(tar_gz(GOOD, special("set-1/evil", tarfile.FIFOTYPE)), "'set-1/evil' is a device or other"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_archive_is_named_and_the_next_source_tried(site: Site, tmp_path: Path, bad: Bad) -> None:
    site.files["bad"] = bad.content
    archive = wanted(site.url("bad"), **bad.changes)
    with pytest.raises(DataError) as caught:
        get(archive, tmp_path / "raw")
    assert bad.message in str(caught.value)
    assert names(tmp_path / "raw") == []
    if not bad.changes:
        site.files["good"] = WHOLE
        record = get(wanted(site.url("bad"), site.url("good")), tmp_path / "raw")
        assert record["source"] == site.url("good")


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_copy_in_the_folder_is_named_too(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Bad
) -> None:
    (tmp_path / "set.tar.gz").write_bytes(bad.content)
    monkeypatch.setenv("PIPELINE_ARCHIVES", str(tmp_path))
    with pytest.raises(DataError) as caught:
        get(wanted(**bad.changes), tmp_path / "raw")
    message = str(caught.value)
    if "web page" not in bad.message:  # a file is no answer: it is told as what it is, no archive
        assert bad.message in message
    assert "PIPELINE_ARCHIVES: " in message
    assert names(tmp_path / "raw") == [] and (tmp_path / "set.tar.gz").read_bytes() == bad.content


def test_page_is_recognised_by_its_type_too(site: Site, tmp_path: Path) -> None:
    site.files["a"], site.content_type = b"Please log in", "text/html; charset=utf-8"
    with pytest.raises(DataError, match="a web page instead of the archive"):
        get(wanted(site.url("a")), tmp_path / "raw")


@pytest.mark.parametrize(("status", "attempts"), [(403, 1), (404, 1), (410, 1), (500, 5), (503, 5), (429, 5)])
def test_what_the_server_answers_is_told(site: Site, tmp_path: Path, status: int, attempts: int) -> None:
    site.files["a"], site.failures = WHOLE, [status] * attempts
    with pytest.raises(DataError, match=f"/a: HTTP {status} "):
        get(wanted(site.url("a")), tmp_path / "raw")
    assert len(site.asked) == attempts


# Through the stage itself, as a person meets it: what data.archive names, and what the message says.
NAMED = {
    "page.tgz": "a web page titled 'Log in' instead of the archive",
    "cut.tgz": "not a whole tar.gz archive",
    "evil.tgz": "unsafe archive: member '../evil' would be written outside its folder",
    "other.tgz": "another archive: no annotations/pixel-level inside, but x/y",
    "gone.tgz": "HTTP 404 Not Found",
}


@pytest.fixture
def stage(site: Site, in_tmp: Path, root: Path):
    """A project whose data.archive names a file on the site; `params(name)` writes it."""
    site.files |= {
        "page.tgz": b"<html><title>Log in</title>",
        "cut.tgz": WHOLE[:50_000],
        "evil.tgz": tar_gz({"x/annotations/pixel-level/1.mat": b"1", "../evil": b""}),
        "other.tgz": tar_gz({"x/y": b"1"}),
    }
    params = yaml.safe_load((root / "profiles/ccp.yaml").read_text())

    def write(archive: str) -> None:
        params["data"]["archive"] = archive
        (in_tmp / "params.yaml").write_text(yaml.safe_dump(params))

    return write


@pytest.mark.parametrize("name", NAMED)
def test_one_message_and_exit_code_2(site: Site, stage, in_tmp: Path, capsys, name: str) -> None:
    stage(site.url(name))
    with pytest.raises(SystemExit) as ended:
        run_stage(stages.download.main, argv=[])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "Traceback" not in told
    assert re.fullmatch(
        rf"data\.archive could not be used\. {site.url(name)}: .*{re.escape(NAMED[name])}.*\nIt may .*\n", told
    )
    assert names(in_tmp / "data/raw") == []


def test_in_a_process_of_its_own(site: Site, stage, in_tmp: Path, root: Path) -> None:
    stage(site.url("evil.tgz"))
    done = subprocess.run(
        [sys.executable, "-m", "stages.download"],
        cwd=in_tmp,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert done.stderr.startswith("data.archive could not be used.") and NAMED["evil.tgz"] in done.stderr
    assert names(in_tmp / "data/raw") == [] and names(in_tmp) == ["data", "params.yaml"]
