"""What decides the bytes of data/prepared."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.core import names, paths
from pipeline.core.provenance import ABSENT, Inputs, collect_inputs
from pipeline.params.schema import Data

_PACKING_VERSIONS = ("numba", "numpy", "opencv-python-headless", "scipy")  # thins boundaries; and reads .mat files
_BLOCK = 1 << 22
_IGNORED = (".*.partial", ".*.tmp", ".DS_Store", "._*", ".nfs*")  # as in .dvcignore


def packing_inputs(data: Data) -> Inputs:
    """What decides the bytes of data/prepared: code, params, versions, and the archive or a person's own files.

    Those two are ABSENT where they are not here; so is the section of params for generated rooms where it says nothing.
    """
    values = data.model_dump(exclude=set() if data.dataset == "rooms" else {"rooms"})
    found = collect_inputs("prepare", {"data": values}, "", packages=_PACKING_VERSIONS).values
    del found["data"]
    if data.dataset == "folder":
        found["own data"] = _folder_digest(Path(data.folder))
    elif data.dataset not in names.WITHOUT_ARCHIVE:
        source = paths.RAW / "source.json"
        found["archive"] = paths.read_json(source).get("sha256", ABSENT) if source.exists() else ABSENT
    return Inputs(found)


def _folder_digest(folder: Path) -> str:
    """sha256 over names and bytes of all files in a folder."""
    if not folder.is_dir():
        return ABSENT
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not _is_ignored(path.name)):
        total.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                total.update(block)
    return total.hexdigest()


def _is_ignored(name: str) -> bool:
    """Whether .dvcignore has DVC pass over it: a file that is being written, or what systems leave in folders."""
    return any(fnmatchcase(name, pattern) for pattern in _IGNORED)
