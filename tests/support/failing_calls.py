"""A stage in whose process a system call fails, from its first use on: KIND PLACE STAGE [ARGUMENTS].

KIND: what the machine lacks, of `NUMBERS`. PLACE: paths that hold this can't be written, or opened at all where files
are lacking. Of the stage's output, that on stdout is left out.
"""

from __future__ import annotations

import errno
import os
import runpy
import sys
from collections.abc import Callable
from typing import Any

NUMBERS = {"full": errno.ENOSPC, "read-only": errno.EROFS, "no files": errno.EMFILE}


def failing(kind: str, place: str) -> Callable[[str, tuple[Any, ...]], None]:
    """The audit hook by which calls fail."""
    number = NUMBERS[kind]

    def is_there(path: object) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and place in os.path.abspath(os.fsdecode(path))

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        opens = event == "open" and (kind == "no files" or arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if (opens or event == "os.mkdir") and is_there(arguments[0]):
            raise OSError(number, os.strerror(number), str(arguments[0]))

    return audit


if __name__ == "__main__":
    kind, place, stage = sys.argv[1:4]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.addaudithook(failing(kind, place))
    sys.argv = [stage, *sys.argv[4:]]
    runpy.run_module(f"stages.{stage}", run_name="__main__")
