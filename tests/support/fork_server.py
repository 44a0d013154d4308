"""A process that has imported DVC, MLflow, torch and all stages, and forks a process for each command that it is given.

Importing takes most of the time of a stage that trains for a second; a fork takes none. What runs is `dvc` and
`python -m stages.NAME` as anybody starts them: a process of its own, whose child each stage is, with DVC's environment,
closed descriptors and a traceback where one is due. Only DVC's shell is left out, `stages.parallel` forks its DVCs,
and DVC parses its lock file in C.
Reads one order a line, as JSON: a command to run, one to start, or a started one to look at; prints the answer.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

LIBRARY = ctypes.CDLL(None)  # of tests/faults, inject.c is preloaded
COMMAND_ENDS = 0.02  # seconds between two looks at a command
PR_SET_NAME = 15


def serve() -> None:
    """Run the commands that stdin names until it ends."""
    import_everything()
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        began = time.monotonic()
        if "started" in order:
            answer = {"code": ended(order["started"])}
        elif "imports" in order:
            answer = {"imports": order["imports"] in BEFORE_EDGES}
        else:
            answer = {"session": start(order)}
            if "limit" in order:
                answer |= {"code": wait(answer["session"], began + order["limit"]), "seconds": time.monotonic() - began}
        print(json.dumps(answer), flush=True)


def start(order: dict[str, Any]) -> int:
    """Begin a command, the leader of a session of its own; its process."""
    pid = os.fork()
    if not pid:
        os.setsid()
        enter(order)
        leave(lambda: command(ORDER["command"]))
    return pid


PRELOADED = (  # with what these import, all but a hundred small modules of what the commands need
    *(
        "dvc.cli.parser",
        "dvc.cachemgr",
        "dvc.data_cloud",
        "dvc.fs",
        "dvc.lock",
        "dvc.repo.artifacts",
        "dvc.repo.datasets",
    ),
    *(
        "dvc.repo.graph",
        "dvc.repo.index",
        "dvc.repo.metrics",
        "dvc.repo.open_repo",
        "dvc.repo.params",
        "dvc.repo.plots",
    ),
    *("dvc.repo.stage", "dvc.repo.trie", "dvc.rwlock", "dvc.scm", "dvc.stage.cache", "dvc.stage.run"),
    *("dvc.utils.strictyaml", "dvc_data.hashfile.db.local", "networkx", "scmrepo.git", "zc.lockfile", "flufl.lock"),
    *("alembic.command", "git", "matplotlib.pyplot", "mlflow.store.tracking.rest_store", "sqlalchemy.dialects.sqlite"),
    *("mlflow.store.tracking.sqlalchemy_workspace_store", "opentelemetry.sdk.metrics", "torch"),
    *(
        "pipeline.comparison.baselines",
        "pipeline.tools.doctor",
        "pipeline.evaluation.evaluate_run",
        "pipeline.tools.launcher",
        "pipeline.report.markdown",
        "pipeline.search.run",
        "pipeline.search.summary",
    ),
    *(
        "pipeline.tools.changed_sources",
        "pipeline.tools.parallel",
        "pipeline.tools.saved_model",
        "pipeline.params.timm_names",
        "pipeline.tools.trace",
        "pipeline.train.train_run",
        "stages._entry",
    ),
)


BEFORE_EDGES: set[str] = set()  # modules that everything imports which scores no edges
SET_BY_IMPORTS: dict[str, str] = {}  # variables that modules set when they are imported


def import_everything() -> None:
    before = dict(os.environ)
    for name in PRELOADED:
        importlib.import_module(name)
    BEFORE_EDGES.update(sys.modules)
    numpy, boundaries = sys.modules["numpy"], importlib.import_module("pipeline.metrics.boundaries")
    if not hasattr(LIBRARY, "faults_arm"):  # no fault is tried on edges
        edge = numpy.eye(4, dtype=bool)  # what it takes is compiled once, for all forks
        boundaries.count_boundaries(edge.astype("float32"), edge, numpy.ones_like(edge), 0.1)
    assert sys.modules["torch"].get_num_threads() == 1, "threads would not survive the fork"
    sys.modules["dvc.stage.run"].subprocess = SubprocessOfDvc()
    sys.modules["pipeline.tools.parallel"].subprocess = SubprocessOfParallel()
    parse_locks_in_c(sys.modules["dvc.utils.serialize._yaml"])
    SET_BY_IMPORTS.update(set(os.environ.items()) - set(before.items()))
    gc.freeze()


def parse_locks_in_c(reader: Any) -> None:
    """DVC parses dvc.lock after each stage in Python, for comments, of which it has none: half a second each time.

    It writes the same bytes either way: see test_dvc_lock.py.
    """
    parse_for_update = reader.parse_yaml_for_update

    def parse(text: str, path: str) -> object:
        return (reader.parse_yaml if Path(path).name == "dvc.lock" else parse_for_update)(text, path)

    reader.parse_yaml_for_update = parse


def become(folder: str, environment: Mapping[str, str]) -> None:
    """Be a process in this folder with this environment, no descriptors but the first three."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update({**SET_BY_IMPORTS, **environment})
    os.closerange(3, 4096)


def ended(pid: int) -> int | None:
    """The exit code of a child, negative for a signal; None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def wait(pid: int, deadline: float) -> int | None:
    """The exit code of a child; None, and the whole session killed, where it takes too long."""
    while time.monotonic() < deadline:
        if (code := ended(pid)) is not None:
            return code
        time.sleep(COMMAND_ENDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


ORDER: dict[str, Any] = {}  # what this process runs


def enter(order: dict[str, Any]) -> None:
    """Become the process of a command: its folder, environment and output."""
    ORDER.update(order)
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, target)
    become(order["folder"], order["environment"])
    for number in (signal.SIGINT, signal.SIGHUP):  # ignored where the harness runs in the background
        signal.signal(number, signal.SIG_DFL)


def command(words: list[str]) -> None:
    if words[0] == "dvc":
        dvc(words)
    if words[0] == "mlflow":
        return mlflow_server(words)
    stage(words[0], words[1:])


def dvc(words: list[str]) -> NoReturn:
    import dvc.cli

    be_called("dvc")
    arm_if("dvc")
    sys.argv = list(words)
    sys.exit(dvc.cli.main(words[1:]))


def mlflow_server(words: list[str]) -> None:
    """`mlflow server ...`, in this process; MLflow would have uvicorn begin in another and import everything again."""
    import mlflow.server

    def start_uvicorn(command: Sequence[str], extra_env: Mapping[str, str], **_: object) -> None:
        assert command[1:3] == ["-m", "uvicorn"], command
        os.environ.update(extra_env)
        sys.argv = command[2:]
        runpy.run_module("uvicorn", run_name="__main__", alter_sys=True)

    be_called("mlflow")
    mlflow.server._exec_cmd = start_uvicorn
    sys.argv = list(words)
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)


def stage(module: str, arguments: Sequence[str]) -> None:
    """`python -m MODULE ARGUMENTS`, in this process."""
    be_called(module)
    arm_if(os.environ.get("DVC_STAGE") or module)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def be_called(name: str) -> None:
    """The command line is that of this server: let the name of the process say what it is, in 15 characters."""
    LIBRARY.prctl(PR_SET_NAME, name.encode())


def arm_if(name: str) -> None:
    """Lay the fault, where it is one of the process of this name; lift that of the parent."""
    if not hasattr(LIBRARY, "faults_arm"):
        return
    LIBRARY.faults_disarm()
    fault = ORDER.get("fault")
    if fault and fault["process"] == name:
        file, folder = fault["shared"].encode(), ORDER["folder"].encode()
        how = fault["kinds"], ctypes.c_long(fault["n"]), fault["action"], int(fault["stays"])
        assert LIBRARY.faults_arm(file, folder, *how) == 0


def leave(work: Callable[[], None]) -> NoReturn:
    """Do the work and end this process as Python does: its exit functions, a traceback, the exit code."""
    code: object = 0
    try:
        work()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    try:
        atexit._run_exitfuncs()  # a stage's last one is os._exit
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


class SubprocessOfDvc:
    """In the place of `subprocess` where DVC starts a stage: forks where the command is a stage of ours.

    Stages that the order lists as `processes` become processes of their own, which import everything themselves.
    """

    @classmethod
    def Popen(cls, arguments: Sequence[str], **options: Any) -> subprocess.Popen | SubprocessOfDvc.Fork:  # noqa: N802
        """One of ours is `python -m stages.NAME ...`; another graph's goes to a shell, as DVC means it."""
        if arguments[-1].startswith("python -m stages."):
            return cls.Fork(arguments, options["cwd"], options["env"])
        return subprocess.Popen(arguments, **options)

    class Fork:
        """What DVC uses of a `Popen`."""

        def __init__(self, arguments: Sequence[str], cwd: str, env: dict[str, str]):
            words = arguments[-1].split()
            sys.stdout.flush()
            sys.stderr.flush()
            self.pid = os.fork()
            if not self.pid:
                become(cwd, env)
                if words[2] in ORDER.get("processes", ()):
                    os.execvpe(words[0], words, env)
                leave(lambda: stage(words[2], words[3:]))
            self.stage, self.returncode = env["DVC_STAGE"], 0

        def communicate(self) -> None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            if notes := ORDER.get("stages"):
                note = {"stage": self.stage, "code": self.returncode}
                with Path(notes).open("a") as file:
                    file.write(json.dumps(note) + "\n")


class SubprocessOfParallel:
    """In the place of `subprocess` where `stages.parallel` starts DVC, which it forks."""

    PIPE, STDOUT, CompletedProcess = subprocess.PIPE, subprocess.STDOUT, subprocess.CompletedProcess

    class Popen:
        """What is used of it. Its output is one pipe or that of this process."""

        def __init__(
            self,
            arguments: Sequence[str],
            env: Mapping[str, str] | None = None,
            stdout: int | None = None,
            stderr: int | None = None,
            text: bool = True,
        ):
            assert tuple(arguments[:3]) == (sys.executable, "-m", "dvc") and text, arguments
            ends = os.pipe() if stdout == subprocess.PIPE else None
            environment = dict(os.environ if env is None else env)
            self.pid = os.fork()
            if not self.pid:
                for end in (1, 2) if stderr == subprocess.STDOUT else (1,):
                    if ends:
                        os.dup2(ends[1], end)
                atexit._clear()  # what `stages.parallel` does at its end
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_DFL)
                become(os.getcwd(), environment)
                leave(lambda: dvc(list(arguments[2:])))
            self.returncode: int | None = None
            self.stdout = None
            if ends:
                os.close(ends[1])
                self.stdout = os.fdopen(ends[0])

        def poll(self) -> int | None:
            if self.returncode is None:
                self.returncode = ended(self.pid)
            return self.returncode

        def wait(self) -> int:
            if self.returncode is None:
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            return self.returncode

        def terminate(self) -> None:
            if self.poll() is None:
                os.kill(self.pid, signal.SIGTERM)

    @classmethod
    def run(cls, arguments: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        """With its output captured; what it writes to stderr is that of this process."""
        process = cls.Popen(arguments, stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            output = process.stdout.read()
        return subprocess.CompletedProcess(list(arguments), process.wait(), output, "")


if __name__ == "__main__":
    serve()
