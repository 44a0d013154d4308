"""Words for whoever watches a stage."""

from __future__ import annotations

import contextlib
import sys


def duration(seconds: float) -> str:
    """Roughly, in words: seconds up to a minute and a half, then minutes, then hours."""
    if seconds <= 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def warn(text: str) -> None:
    """Print a line on stderr. A terminal or reader that is gone is no reason to fail."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
