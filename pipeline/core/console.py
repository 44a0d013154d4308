"""Words for whoever watches a stage."""

from __future__ import annotations

import contextlib
import sys


def warn(text: str) -> None:
    """Print a line on stderr. A terminal or reader that is gone is no reason to fail."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
