"""`download`, killed outright: it goes on where it was, and nothing half-written is ever taken for whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.core.errors import DataError
from pipeline.download.archive import extracted
from tests.support.archive_site import Site, names, serve, tar_gz

pytestmark = pytest.mark.e2e

NOISE = random.Random(0).randbytes(3_000_000)
ARCHIVE = tar_gz({"ccp/annotations/pixel-level/1.mat": b"1", "ccp/photos/noise.bin": NOISE})
SMALL = tar_gz({"ccp/annotations/pixel-level/1.mat": NOISE[:100_000]})

# Imports the stage once and runs it in a new process for each line of its input: 0, or the number of the change to the
# file system before which that process kills itself. Prints the process id, then the exit code.
LAUNCHER = """
import os, signal, sys
import stages.download
from stages._entry import run_stage

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.link", "fcntl.flock"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

def kill_at(number):
    left = number
    def hook(event, args):
        nonlocal left
        if event in CHANGES or (event == "open" and args[2] & WRITING):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        if int(line):
            kill_at(int(line))
        try:
            run_stage(stages.download.main, argv=[])
        except SystemExit as ended:
            sys.stdout.flush()
            os._exit(ended.code)  # tidying up the interpreter takes longer than the stage
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Project:
    """A folder with a params.yaml whose data.archive is on the site, and the processes that run the stage in it."""

    def __init__(self, folder: Path, root: Path, archive: str):
        params = yaml.safe_load((root / "profiles/ccp.yaml").read_text())
        params["data"]["archive"] = archive
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        self.data = folder / "data"
        self.raw = self.data / "raw"
        (folder / "launcher.py").write_text(LAUNCHER)
        self.process = subprocess.Popen(
            [sys.executable, "launcher.py"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(root)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr").open("w"),
        )

    def start(self, kill_before_change: int = 0) -> int:
        self.process.stdin.write(f"{kill_before_change}\n")
        self.process.stdin.flush()
        return int(self._line())

    def end(self) -> int:
        return int(self._line())

    def run(self, kill_before_change: int = 0) -> int:
        self.start(kill_before_change)
        return self.end()

    def _line(self) -> str:
        while not (line := self.process.stdout.readline()).strip().lstrip("-").isdigit():
            assert line, "the launcher ended"  # other lines are the stage's own
        return line

    def arrived(self) -> int:
        """Bytes of the archive that an unfinished download has written."""
        partial = self.data / "raw.partial"
        sizes = [path.stat().st_size for path in partial.glob("*.tar.gz.????????")] if partial.exists() else []
        return max(sizes, default=0)

    def tree(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.raw.iterdir()}

    def check_nothing_half(self, whole: dict[str, bytes], before: dict[str, bytes] | None = None) -> bool:
        """Whether data/raw holds the archive; if not, it holds what it held before or must not pass for it."""
        if (self.raw / "source.json").exists():
            assert self.tree() in (whole, before)
            return self.tree() == whole
        with pytest.raises(DataError, match="is missing"), extracted(self.raw, self.data / "scratch"):
            pass
        return False


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as served:
        served.files["a.tgz"] = ARCHIVE
        yield served


@pytest.fixture
def project(site: Site, in_tmp: Path, root: Path) -> Iterator[Project]:
    project = Project(in_tmp, root, site.url("a.tgz"))
    yield project
    project.process.stdin.close()
    project.process.wait()


def test_killed_at_ten_moments_of_one_download(project: Project, site: Site) -> None:
    assert project.run() == 0
    undisturbed = project.tree()
    assert undisturbed["clothing-co-parsing.tar.gz"] == ARCHIVE
    shutil.rmtree(project.raw)

    site.asked.clear()
    site.sent, site.pause = 0, 0.001
    chance = random.Random(0)  # one moment in each eleventh, so that each process gets some way
    moments = [(i + chance.uniform(0.4, 0.95)) / 11 * len(ARCHIVE) for i in range(10)]
    for moment in moments:
        site.hold = moment + 0.03 * len(ARCHIVE)  # however late this process is woken, the download has not ended
        process = project.start()
        deadline = time.monotonic() + 30
        while project.arrived() < moment and time.monotonic() < deadline:
            time.sleep(0.0005)
        os.kill(process, signal.SIGKILL)
        assert project.end() == -signal.SIGKILL
        assert not project.check_nothing_half(undisturbed)
        shutil.rmtree(project.raw)  # as DVC does before it runs the stage again

    site.hold = None
    assert project.run() == 0
    assert project.tree() == undisturbed
    assert names(project.data) == ["raw"]
    begun = [int((asked or "bytes=0-").removeprefix("bytes=").removesuffix("-")) for _, asked in site.asked]
    assert len(begun) == 11 and begun[0] == 0
    assert all(start >= moment for start, moment in zip(begun[1:], moments, strict=True))
    assert site.sent < 2 * len(ARCHIVE)  # instead of eleven times


@pytest.mark.parametrize("source", ["address", "folder"])
def test_killed_before_every_change_to_the_file_system(project: Project, site: Site, in_tmp: Path, source: str) -> None:
    """Each moment that matters, one after the other: between any two changes nothing differs on the disk.

    From the address into an empty folder; from a file of one's own in place of what that file held before.
    """
    site.files["a.tgz"] = SMALL
    before = None
    if source == "folder":
        params = (in_tmp / "params.yaml").read_text()
        (in_tmp / "params.yaml").write_text(params.replace(site.url("a.tgz"), "own.tgz"))
        (in_tmp / "own.tgz").write_bytes(tar_gz({"annotations/pixel-level/1.mat": NOISE[:50_000]}))
        assert project.run() == 0
        before = project.tree()
        (in_tmp / "own.tgz").write_bytes(SMALL)
    assert project.run() == 0
    undisturbed = project.tree()
    assert undisturbed["clothing-co-parsing.tar.gz"] == SMALL
    whole = number = 0
    while True:
        number += 1
        shutil.rmtree(project.data)
        for name, content in (before or {}).items():
            project.raw.mkdir(parents=True, exist_ok=True)
            (project.raw / name).write_bytes(content)
        code = project.run(number)
        whole += project.check_nothing_half(undisturbed, before) if project.raw.exists() else False
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert project.run() == 0  # without DVC, which would clear data/raw first
        assert project.tree() == undisturbed and names(project.data) == ["raw"]
    assert number > 10 and 1 < whole < number  # it was killed both before and after the archive was whole
