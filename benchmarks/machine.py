"""What a measurement ran on, in one line, so that every table says it."""

from __future__ import annotations

import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

import psutil


def describe(*packages: str) -> str:
    """Date, processor, cores, memory, versions of Python and of `packages`."""
    memory = psutil.virtual_memory().total / 2**30
    parts = [date.today().isoformat(), _processor(), f"{psutil.cpu_count()} cores", f"{memory:.0f} GiB"]
    parts += [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
    return ", ".join(parts)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
