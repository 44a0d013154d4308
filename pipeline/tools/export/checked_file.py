"""A file that is read again and compared before it takes its place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core import paths
from pipeline.core.errors import DataError


@contextmanager
def checked_file(file: Path) -> Iterator[Path]:
    """A path beside `file` to write to and to check within the block, which then becomes `file`; nothing if it raises.

    Raises DataError where it can't be written.
    """
    partial = file.with_name(f".{file.name}{paths.PARTIAL}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, file)
    except OSError as error:
        raise DataError(f"{file} can't be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
