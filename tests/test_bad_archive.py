"""Whatever is wrong with an archive or its source, `download` ends with one clear message, and takes nothing."""

from __future__ import annotations

import gzip
import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

import stages.download
from pipeline.errors import DataError
from stages._entry import run_stage
from tests.archive_site import GOOD, WHOLE, Site, get, names, serve, tar_gz, wanted


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def tar_of(compression: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as tar:
        tar.addfile(tarfile.TarInfo("labels"))
    return buffer.getvalue()


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
    "no archive": Bad(b"nonsense" * 100, "not a whole tar.gz archive"),
    "gzip but no tar": Bad(gzip.compress(b"nonsense" * 1000), "not a whole tar.gz archive"),
    "tar but no gzip": Bad(tar_of(""), "not a whole tar.gz archive"),
    "another compression": Bad(tar_of("xz"), "not a whole tar.gz archive"),
    "empty": Bad(b"", "not a whole tar.gz archive"),
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
