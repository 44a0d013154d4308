"""What git knows of this project: commits, whether the tree differs from the last, which commit holds given code."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

_WRITTEN_BY_DVC = {"params.yaml", "dvc.lock"}


def git_state() -> dict[str, str]:
    """Commit and whether the tree differs from it. What DVC itself rewrites does not make it dirty.

    Of a repository of which this project is a subfolder, only that folder counts.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {"git.commit": "none", "git.dirty": "unknown"}
    prefix = _git("rev-parse", "--show-prefix") or ""  # `git status --porcelain` names paths from the top on
    lines = (_git("status", "--porcelain", "--untracked-files=no", "--", ".") or "").splitlines()
    changed = [line[3:].removeprefix(prefix) for line in lines]
    dirty = [path for path in changed if path not in _WRITTEN_BY_DVC and not path.startswith("reports/")]
    dirty += (_git("ls-files", "--others", "--exclude-standard", "pipeline", "stages") or "").splitlines()
    return {"git.commit": commit, "git.dirty": str(bool(dirty)).lower()}


def committed_in(path: Path) -> str | None:
    """The commit that brought a file to what it is; None outside git, and for a file that is not as committed."""
    if _git("status", "--porcelain", "--ignored", "--", str(path)) != "":
        return None
    return _git("log", "-1", "--format=%H", "--", str(path)) or None


def commit_with(files: Mapping[str, str], folders: Iterable[str] = ()) -> str | None:
    """The newest commit of this history that brought `files`, {path: sha256}, all to just this content; else None.

    folders: may hold no Python files but those. Later commits have the same content until one changes any of them.
    """
    digests: dict[str, str] = {}  # by blob, since most files are the same in most commits
    where = [*files, *folders]
    for commit in (_git("rev-list", "--full-history", "HEAD", "--", *where) or "").splitlines():
        listed = (_git("ls-tree", "-r", commit, "--", *where) or "").splitlines()
        entries = (line.partition("\t") for line in listed)
        blobs = {path: entry.split()[2] for entry, _, path in entries if path in files or path.endswith(".py")}
        if blobs.keys() == files.keys() and all(_digest(blobs[path], digests) == files[path] for path in files):
            return commit
    return None


def _digest(blob: str, known: dict[str, str]) -> str:
    if blob not in known:
        done = subprocess.run(["git", "cat-file", "blob", blob], capture_output=True)
        known[blob] = "" if done.returncode else hashlib.sha256(done.stdout).hexdigest()  # a clone may lack old files
    return known[blob]


def is_repository() -> bool:
    """Whether this project is in git, with a commit."""
    return _git("rev-parse", "HEAD") is not None


def is_shallow() -> bool:
    """Whether this is a clone without its history."""
    return _git("rev-parse", "--is-shallow-repository") == "true"


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.rstrip("\n")
