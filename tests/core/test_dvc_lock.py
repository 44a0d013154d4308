"""DVC's own slips: a dvc.lock that a kill left damaged, and exit code 0 after a copy that failed. By the real DVC."""

import os
import resource
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from dvc.utils.serialize import _yaml

from pipeline.core import dvc_lock
from pipeline.core.errors import DataError, StageError
from pipeline.evaluation import evaluate_run
from pipeline.tools import dvc_orphans, parallel
from pipeline.tools.doctor import emptied, half_written, stops_dvc, uncached
from pipeline.train import resume
from tests.support import forked
from tests.support.project import ROOT

pytestmark = pytest.mark.e2e

# The second stage renames a file, so that a limit on the size of files stops DVC's copy of it alone.
GRAPH = {
    "stages": {
        "small": {"cmd": "echo small >> ran && mkdir small && echo 1 > small/a", "deps": ["source"], "outs": ["small"]},
        "train": {
            "cmd": "echo train >> ran && mkdir -p models/pair-0 && mv spare models/pair-0/weights",
            "deps": ["small"],
            "outs": ["models/pair-0"],
        },
    }
}
MODEL = Path("models/pair-0")


def run(*command: str) -> str:
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def dvc(*arguments: str) -> str:
    """What it prints, as a fork of a process that has imported it."""
    code, output = forked.run(Path.cwd(), ("dvc", *arguments), os.environ)
    assert code == 0, output
    return output


def dvc_fails(*arguments: str) -> str:
    code, output = forked.run(Path.cwd(), ("dvc", *arguments), os.environ)
    assert code, "DVC does it well now"
    return output


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    """Nobody here is writing what is looked at again: a second each time."""
    for module in (dvc_lock, dvc_orphans):
        monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.005)


@contextmanager
def no_space_for_large_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def working_in(root: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("DVC_ROOT", raising=False)
        yield root


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project of two stages, not run."""
    with working_in(tmp_path_factory.mktemp("made")) as root:
        run("git", "init")
        run("git", "config", "user.name", "test")
        run("git", "config", "user.email", "test@example.org")
        dvc("init")
        shutil.copy(ROOT / ".dvc" / "config", ".dvc/config")
        (root / "dvc.yaml").write_text(yaml.safe_dump(GRAPH))
        (root / "source").touch()
        (root / "spare").write_bytes(os.urandom(3_000_000))
        return root


@pytest.fixture(scope="module")
def lost_once(made, tmp_path_factory):
    """The project after DVC could not copy the model; what `parallel.repro` says of it."""
    root = tmp_path_factory.mktemp("lost") / "project"
    shutil.copytree(made, root)
    with working_in(root), no_space_for_large_files(), pytest.raises(StageError) as caught:
        parallel.repro(None, [{}])
    return root, str(caught.value)


@pytest.fixture
def project(made, tmp_path):
    shutil.copytree(made, tmp_path / "project")
    with working_in(tmp_path / "project") as root:
        yield root


@pytest.fixture
def lost(lost_once, tmp_path):
    shutil.copytree(lost_once[0], tmp_path / "project")
    with working_in(tmp_path / "project") as root:
        yield root


# ---- a copy into the cache that failed -------------------------------------------------------------------------


def test_a_result_that_dvc_could_not_keep_fails_with_a_remedy_that_loses_nothing(lost, lost_once):
    assert lost_once[1].startswith("DVC's cache lacks models/pair-0") and "`dvc commit train`" in lost_once[1]
    content = (MODEL / "weights").read_bytes()
    dvc("commit", "train")  # the remedy
    parallel.repro(None, [{}])
    assert (lost / "ran").read_text().split() == ["small", "train"], "nothing is computed again"
    shutil.rmtree(MODEL)
    dvc("checkout")
    assert (MODEL / "weights").read_bytes() == content


def test_what_failed_before_is_told_too(lost, monkeypatch):
    def fail(params, slots):
        raise StageError("a stage failed")

    monkeypatch.setattr(parallel, "_all_stages", fail)
    with pytest.raises(StageError, match=r"a stage failed\nDVC's cache lacks models/pair-0,"):
        parallel.repro(None, [{}])


def test_doctor_finds_it(lost):
    (finding,) = uncached()
    assert "models/pair-0" in finding.what and "`dvc commit train`" in finding.remedy and finding.fix is None
    dvc("commit", "train")
    assert list(uncached()) == []


def test_what_is_not_here_is_not_lost(lost):
    """As in a clone without its data."""
    shutil.rmtree("models")
    assert dvc_lock.not_in_cache() == {}


def test_the_checkpoint_stays_until_dvc_has_the_model(lost, capsys):
    folder, digest = Path("models/pair-0"), "a" * 64
    with resume.attempt("k" * 64) as attempt:
        attempt.finish("pair-0", digest)
        (attempt.folder / "checkpoint.pt").write_bytes(b"hours")
    evaluate_run._forget_checkpoint(folder, digest, "train")
    assert (attempt.folder / "checkpoint.pt").exists()
    assert "warning: DVC's cache lacks models/pair-0" in capsys.readouterr().err
    dvc("commit", "train")
    evaluate_run._forget_checkpoint(folder, digest, "train")
    assert not attempt.folder.exists() and capsys.readouterr().err == ""


@pytest.mark.parametrize(("config", "place"), [("config", "../elsewhere"), ("config.local", "{absolute}/elsewhere")])
def test_the_cache_is_found_where_dvc_has_it(project, config, place, monkeypatch):
    local = ["--local"] if config == "config.local" else []
    dvc("config", *local, "cache.dir", place.format(absolute=project.resolve()))
    dvc("repro", "-q")
    monkeypatch.setattr(dvc_lock, "_ask_dvc", lambda *_: pytest.fail("that takes a second"))
    assert dvc_lock.is_cached(MODEL) and not (project / ".dvc" / "cache" / "files").exists()


def test_a_cache_that_is_set_for_all_projects_is_found(project, monkeypatch):
    for name in ("XDG_CONFIG_HOME", "DVC_GLOBAL_CONFIG_DIR"):
        monkeypatch.setenv(name, str(project / "global"))
    dvc("config", "--global", "cache.dir", str(project / "shared"))
    dvc("repro", "-q")
    assert dvc_lock.is_cached(MODEL) and (project / "shared").is_dir()


def test_what_was_never_recorded_is_in_no_cache(project):
    assert dvc_lock.is_cached(MODEL) is None and dvc_lock.outs() == {} and dvc_lock.not_in_cache() == {}


def test_a_dvc_lock_that_is_being_written_is_read_again(project, monkeypatch):
    dvc("repro", "-q")
    whole, tries = dvc_lock.LOCK.read_text(), []
    dvc_lock.LOCK.write_text("")
    monkeypatch.setattr(dvc_lock.time, "sleep", lambda seconds: tries.append(dvc_lock.LOCK.write_text(whole)))
    assert dvc_lock.is_cached(MODEL) and len(tries) == 1


# ---- a dvc.lock that a kill left damaged -----------------------------------------------------------------------

WHOLE = "schema: '2.0'\nstages:\n  a:\n    cmd: b\n    outs:\n    - path: c\n      md5: d\n"
DAMAGE = {
    "empty": (lambda text: "", "is empty"),
    "blank": (lambda text: "\n\n", "is empty"),
    "cut short": (lambda text: text[: len(text) // 2], r"is cut short|is no YAML"),
    "zeros": (lambda text: "\0" * len(text), "is no YAML"),
    "merged": (lambda text: f"<<<<<<< HEAD\n{text}", "is no YAML"),
    "another file": (lambda text: "- 1\n- 2\n", "holds no list of stages"),
    "no stages": (lambda text: "schema: '2.0'\nstages: [a]\n", "holds no list of stages"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_dvc_lock_is_named_with_its_remedy(in_tmp, damage):
    change, fault = DAMAGE[damage]
    dvc_lock.LOCK.write_text(
        change("schema: '2.0'\nstages:\n  a:\n    cmd: b\n    outs:\n    - path: c\n      md5: d\n")
    )
    with pytest.raises(DataError, match=rf"dvc.lock ({fault}).*`rm dvc.lock`.*dvc repro"):
        dvc_lock.stages()


def test_wherever_it_was_cut(in_tmp):
    for end in range(1, len(WHOLE)):
        dvc_lock.LOCK.write_text(WHOLE[:end])
        try:
            dvc_lock.stages()
        except DataError:
            continue
        assert WHOLE[end - 1] == "\n", "whole lines are left, which DVC takes for fewer stages and repairs by itself"


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
def test_its_remedy_loses_nothing(project, committed):
    dvc("repro", "-q", "small")
    if committed:
        run("git", "add", "dvc.lock")
        run("git", "commit", "-m", "Start")
    dvc("repro", "-q")
    whole = dvc_lock.LOCK.read_text()
    dvc_lock.LOCK.write_text("")
    with pytest.raises(DataError) as caught:
        dvc_lock.stages()
    remedy = "git checkout dvc.lock" if committed else "rm dvc.lock"
    assert f"`{remedy}`" in str(caught.value)
    run(*remedy.split())
    dvc("repro")
    assert (project / "ran").read_text().split() == ["small", "train"], "nothing is computed again"
    assert dvc_lock.LOCK.read_text() == whole


def test_forks_of_dvc_parse_it_faster_and_write_the_same():
    """As tests/support/fork_server.py has them do; of every kind of dependency and out that our stages have."""
    stages = _yaml.parse_yaml(Path(ROOT / "dvc.lock").read_text(), "dvc.lock")["stages"]
    kinds = {name.partition("@")[0]: name for name in stages}
    text = _yaml.dumps_yaml({"schema": "2.0", "stages": {name: stages[name] for name in kinds.values()}})
    slowly, fast = (_yaml.parse_yaml(text, "dvc.lock", kind) for kind in ("rt", "safe"))
    assert len(kinds) > 5 and _yaml.dumps_yaml(slowly) == _yaml.dumps_yaml(fast) == text


@pytest.mark.parametrize("command", ["check", "parallel", "doctor"])
def test_every_command_that_meets_it_first_names_it(root, in_tmp, command):
    shutil.copy(root / "params.yaml", in_tmp)
    shutil.copy(root / "dvc.yaml", in_tmp)
    dvc_lock.LOCK.touch()
    code, output = forked.run(in_tmp, (f"stages.{command}",), os.environ)
    assert code == 2 and output.startswith("dvc.lock is empty, as after a kill while DVC wrote it.")
    assert "Traceback" not in output and output.count("\n") == 1


# ---- what a kill of DVC left, over which every later one fails ---------------------------------------------------


def test_what_stops_dvc_is_named_and_fixed(project):
    """A folder of the run cache without its file or with half of it, and the file of paths in use, cut."""
    dvc("repro", "small")
    assert list(dvc_orphans.leftovers()) == []
    (entry,) = Path(".dvc/cache/runs").glob("*/*/*")
    in_use = Path(".dvc/tmp/rwlock")

    def half() -> None:
        entry.rename(entry.with_name(".j2TDv6rE5TU07OWZe4GiAQ.tmp")).write_text("cmd: echo small\n")

    for path, damage, says in (
        (entry.parent, entry.unlink, "join() argument must be str"),
        (entry.parent, half, "'outs'"),
        (in_use, lambda: in_use.write_text('{"read": {"a": [{"pid": 1'), "JSON structure is corrupted"),
    ):
        damage()
        shutil.rmtree("small", ignore_errors=True)
        Path("dvc.lock").unlink(missing_ok=True)  # the kill came before it was written
        assert says in dvc_fails("repro", "small"), "DVC does it well now"
        with pytest.raises(DataError, match=rf"^{path} is .*`python -m stages.doctor --fix`"):
            dvc_orphans.check()
        (finding,) = stops_dvc()
        finding.fix()
        dvc_orphans.check()
        dvc("repro", "small")
    assert (project / "ran").read_text().split() == ["small"] * 3, "the last one was in the run cache"


def test_an_object_that_stayed_empty_is_named_and_replaced(project):
    """DVC trusts one that can't be written to, whatever is in it: `dvc checkout` would give out an empty file."""
    dvc("repro")
    objects = [path for path in Path(".dvc/cache/files/md5").glob("??/*") if path.suffix != ".dir"]
    (path,) = (path for path in objects if path.stat().st_size > 2)
    content = path.read_bytes()
    dvc_orphans.check()
    path.unlink()
    path.touch(0o444)
    dvc("repro")
    assert path.stat().st_size == 0, "DVC finds it by itself now"
    with pytest.raises(DataError, match=rf"^{path}: empty, .*`python -m stages.doctor --fix`"):
        dvc_orphans.check()
    (finding,) = emptied()
    assert finding.remedy == "replace it by models/pair-0/weights, which is whole"
    finding.fix()
    dvc_orphans.check()
    assert path.read_bytes() == content


def test_a_graph_that_is_cut_short_is_named(project):
    """DVC takes what is left for the whole, where that is YAML still."""
    graph = Path("dvc.yaml")
    dvc_orphans.check()
    graph.write_bytes(graph.read_bytes()[:-1])
    dvc("status")
    with pytest.raises(DataError, match=r"^dvc\.yaml is cut short.*`git checkout dvc\.yaml`"):
        dvc_orphans.check()


@pytest.mark.parametrize("content", [b"\xee\x80[core]\n", b"null\n"])
@pytest.mark.parametrize(("name", "remedy"), [("config", "git checkout .dvc/config"), ("config.local", "--local")])
def test_settings_of_dvc_that_it_can_not_read_are_named(project, name, remedy, content):
    dvc("config", "--local", "cache.type", "hardlink,symlink")
    dvc_orphans.check()
    path = Path(".dvc") / name
    path.write_bytes(content)
    assert f".dvc/{name}" not in dvc_fails("repro"), "DVC names it now"
    with pytest.raises(DataError, match=rf"^\.dvc/{name} is damaged: .*{remedy}"):
        dvc_orphans.check()


def test_what_a_killed_copy_of_dvc_left_changes_no_hash_and_is_found(in_tmp, monkeypatch):
    left, other = Path("reports/history/.oLHZX8OLlUPnV9hC6_08rA.tmp"), Path("reports/history/.mine.tmp")
    left.parent.mkdir(parents=True)
    for path in (left, other):
        path.touch()
    assert list(half_written()) == [], "it may be being written"
    monkeypatch.setattr(dvc_orphans, "_QUIET_SECONDS", -1.0)
    (finding,) = half_written()
    assert finding.what.startswith(str(left))
    finding.fix()
    assert not left.exists() and other.exists()
    assert ".*.tmp" in (ROOT / ".dvcignore").read_text().split()
