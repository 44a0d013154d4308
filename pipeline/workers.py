"""Worker processes that end with their parent, even one that was killed outright and could not stop them."""

from __future__ import annotations

import os
import threading
import time


def end_with_parent(parent: int) -> None:
    """Initializer of a process pool: watch for the process `parent`, which made the pool, and end when it is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
