"""What DVC has recorded of this project: dvc.lock, and whether its cache holds the outs that are named there.

DVC 3.67.1 rewrites dvc.lock in place, so that a kill in that moment leaves it empty. And it ends with exit code 0 where
a file of a folder could not be copied into its cache, as on a full disk: the stage counts as done, nothing can restore
its out, and the next `dvc repro` runs it again (findings/dvc-ends-well-after-a-failed-copy.sh).
"""

from __future__ import annotations

import configparser
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.errors import DataError

LOCK = Path("dvc.lock")
_DVC = Path(".dvc")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where it was compiled
_TRIES, _PAUSE_SECONDS = 20, 0.05  # while another DVC rewrites dvc.lock


def stages() -> dict[str, dict[str, Any]]:
    """{stage: what dvc.lock says of it}; empty where there is no dvc.lock.

    Raises DataError, with what loses nothing, for one that is empty, cut short or damaged.
    """
    try:
        text = LOCK.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(f"can't be read: {error}") from None
    if not text.strip():
        raise _damaged("is empty")
    try:
        content = yaml.load(text, _LOADER)
    except yaml.YAMLError as error:
        raise _damaged(f"is no YAML: {str(error).splitlines()[0]}") from None
    if not text.endswith("\n"):
        raise _damaged("is cut short")
    found = content.get("stages", {}) if isinstance(content, dict) and "schema" in content else None
    if not isinstance(found, dict) or not all(isinstance(stage, dict) for stage in found.values()):
        raise _damaged("holds no list of stages")
    return found


def outs() -> dict[str, tuple[str, Mapping[str, Any]]]:
    """{path: (the stage that made it, its entry)} of all outs in dvc.lock. Raises DataError as `stages` does."""
    return {
        out["path"]: (name, out)
        for name, stage in stages().items()
        for out in stage.get("outs", ())
        if isinstance(out, dict) and isinstance(out.get("path"), str)
    }


def is_cached(path: Path) -> bool | None:
    """Whether DVC's cache holds what dvc.lock names as the out `path`; None where dvc.lock does not name it.

    For stages, which run while DVC may be writing dvc.lock: one that stays unreadable says nothing is recorded.
    """
    for _ in range(_TRIES):
        try:
            _, out = outs().get(str(path), (None, {}))
            break
        except DataError:
            time.sleep(_PAUSE_SECONDS)
    else:
        return None
    digest = out.get("md5")
    if not isinstance(digest, str):
        return None
    return any((folder / "files" / "md5" / digest[:2] / digest[2:]).exists() for folder in _caches())


def not_in_cache() -> dict[str, str]:
    """{path: stage} of outs that dvc.lock names and that lie here, while DVC's cache lacks them; by DVC itself.

    Raises DataError where DVC can't tell.
    """
    if not _DVC.is_dir() or not LOCK.exists():
        return {}
    answer = _ask_dvc("data", "status", "--json")
    try:
        lacking = {path.rstrip("/") for path in json.loads(answer).get("not_in_cache", ())}
    except (ValueError, AttributeError) as error:
        raise DataError(f"`dvc data status --json` gave no JSON ({error}): {answer[:200]!r}") from None
    return {path: stage for path, (stage, _) in outs().items() if path in lacking and Path(path).exists()}


def lost_message(lacking: Mapping[str, str]) -> str:
    """What to do about outs that are `not_in_cache`."""
    return (
        f"DVC's cache lacks {', '.join(lacking)}, though dvc.lock names them: DVC could not copy them (`failed to "
        "transfer`), as on a full disk, and would run their stages again. Free some space, then run "
        f"`dvc commit {' '.join(dict.fromkeys(lacking.values()))}`: it copies them and computes nothing"
    )


def _damaged(fault: str) -> DataError:
    first = f"put back the last commit's with `git checkout {LOCK}`" if _is_committed() else f"remove it (`rm {LOCK}`)"
    return DataError(
        f"{LOCK} {fault}, as after a kill while DVC wrote it. No result is lost: {first}, then run `dvc repro`. It "
        "finds in DVC's run cache what each stage left, and runs again only what that does not know"
    )


def _is_committed() -> bool:
    try:
        return subprocess.run(["git", "cat-file", "-e", f"HEAD:./{LOCK}"], capture_output=True).returncode == 0
    except OSError:  # no git here
        return False


def _caches() -> Iterator[Path]:
    """Where DVC's cache may be, the likely place first: to ask DVC itself takes a second."""
    yield from likely_caches()
    try:
        yield Path(_ask_dvc("cache", "dir").strip())
    except DataError:  # no DVC here: then it keeps nothing
        return


def likely_caches() -> Iterator[Path]:
    """Where the project's own settings say that DVC's cache is, and the usual place."""
    for name in ("config.local", "config"):
        config = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            config.read(_DVC / name)
        except (configparser.Error, UnicodeDecodeError):
            continue
        if folder := config.get("cache", "dir", fallback=None):
            yield _DVC / folder
    yield _DVC / "cache"


def _ask_dvc(*arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"`dvc {' '.join(arguments)}` failed:\n{done.stderr.strip()}")
    return done.stdout
