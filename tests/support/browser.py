"""A page as a real browser shows it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def dump_dom(page: str, folder: Path, milliseconds: int = 10_000) -> str:
    """The elements of `page`, an address, as chromium has them after so many milliseconds of its own clock.

    folder: where its profile may lie. Skips the test without a browser: it is no Python package that requirements could
    name, so a machine has one or not. What the page is made of is tested beside, without.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium or google-chrome here")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1600,900"]
    options += [f"--user-data-dir={folder / 'profile'}", f"--virtual-time-budget={milliseconds}", "--dump-dom"]
    command = [browser, *options, page]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
