"""What the machine lacks: space, memory, open files, permission. Such a failure is nobody's bug and damages no data.

A stage prints one line for it and ends with exit code 2. Readers of data tell it from a damaged file, which may be left
out: a good one must not be, because memory ran short.
"""

from __future__ import annotations

import errno
import os
from concurrent.futures import BrokenExecutor
from pathlib import Path

from pipeline.core.errors import MachineError

_SPACE = "free some space"
_RIGHTS = "fix the permissions of that file or folder, or of the disk that holds it"
_FILES = "close other programs, or allow more open files (`ulimit -n`)"
_MEMORY = "close other programs, or let fewer things happen at once: a smaller batch_size, PIPELINE_WORKERS, --jobs"
_DISK = "look after the disk or network that holds it"

_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: f"{_SPACE}, or allow larger files (`ulimit -f`)",
    errno.EROFS: _RIGHTS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: _MEMORY,  # no further process or thread
    errno.EIO: _DISK,
    errno.ESTALE: _DISK,
}
# What is in the way of a stage that writes; in data that is read, it is the data's fault.
_IN_THE_WAY = {
    errno.ENOTDIR: "a file is where a folder should be: move it away",
    errno.EISDIR: "a folder is where a file should be: move it away",
    errno.ENAMETOOLONG: "put the project into a folder with a shorter path, or give shorter names",
}
# What torch, OpenCV, Python and its loader of libraries say in errors without a number.
_SAID = {
    "can't allocate memory": _MEMORY,
    "Cannot allocate memory": _MEMORY,
    "out of memory": _MEMORY,
    "Insufficient memory": _MEMORY,
    "failed to map segment": _MEMORY,
    "can't start new thread": _MEMORY,
    "Too many open files": _FILES,
    "No space left on device": _SPACE,
}


def remedy(error: BaseException) -> str | None:
    """What to do about a failure that is the machine's; None for any other."""
    if isinstance(error, OSError):
        return _REMEDIES.get(error.errno or 0)
    if isinstance(error, MemoryError | BrokenExecutor):
        return _MEMORY
    if isinstance(error, RuntimeError | ImportError) or type(error).__module__ == "cv2":
        return next((found for words, found in _SAID.items() if words in str(error)), None)
    return None


def explain(error: BaseException) -> str | None:
    """One line for people, with the remedy; None for a failure that is not the machine's."""
    in_the_way = _IN_THE_WAY.get(error.errno or 0) if isinstance(error, OSError) else None
    found = remedy(error) or in_the_way
    return f"{_reason(error)}: {found}, then run it again" if found else None


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        where = f"{' -> '.join(names)}: " if names else ""
        return f"{where}{error.strerror or error}"
    if isinstance(error, BrokenExecutor):
        return "a worker process ended by itself, as when memory runs out"
    first = (str(error).splitlines() or [""])[0]
    if isinstance(error, MemoryError):
        return f"out of memory ({first:.200})" if first else "out of memory"
    return f"{first:.300}"


def raise_if_of_the_machine(error: BaseException, path: Path) -> None:
    """Raise MachineError for a failure to read `path` that says nothing of what is in it."""
    if (found := remedy(error)) is not None:
        reason = error.strerror if isinstance(error, OSError) else _reason(error)
        raise MachineError(f"{path} can't be read now ({reason}): {found}, then run it again") from None
