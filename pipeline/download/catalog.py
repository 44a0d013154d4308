"""The archive of each dataset: its file names, its addresses, and the files that identify it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """A tar (plain, gzip, xz) or zip archive and its addresses.

    file_name: its name in `data/raw` and in a person's folder of archives; aliases: other names it has there. Where
    sha256 is None, one of these may be a folder of its files; nothing could tell that from the published archive.
    sources: http(s) addresses or `gdrive:<file id>`, tried in order.
    sha256, size (bytes): None where the publisher promises none; what came is recorded in any case.
    marker: the paths, or patterns of them (`depth/*.npy`), that must all exist inside, below any one folder; they
    identify the archive.
    namesakes: (pattern, what it is) for archives of the same name that lack a marker; the error message names it.
    kept_at: where its authors keep it, for people, where that is no address that a program can rely on.
    """

    file_name: str
    sources: tuple[str, ...]
    sha256: str | None
    size: int | None
    marker: str | tuple[str, ...]
    aliases: tuple[str, ...] = ()
    namesakes: tuple[tuple[str, str], ...] = ()
    kept_at: str | None = None

    @property
    def markers(self) -> tuple[str, ...]:
        """`marker`, as a tuple also where it is one."""
        return (self.marker,) if isinstance(self.marker, str) else self.marker


CCP_COMMIT = "fe34fb77721a9973fbae92c05f7f12b664d10110"

CCP = Archive(
    file_name="clothing-co-parsing.tar.gz",
    sources=(f"https://github.com/bearpaw/clothing-co-parsing/archive/{CCP_COMMIT}.tar.gz",),
    sha256=None,  # made on demand: the host does not promise the same bytes twice
    size=None,
    marker="annotations/pixel-level",
    aliases=(f"clothing-co-parsing-{CCP_COMMIT}.tar.gz", f"{CCP_COMMIT}.tar.gz"),
)

NYUD = Archive(
    file_name="NYUD_MT.tgz",
    sources=("gdrive:14EAEMXmd3zs2hIMY63UhHPSFPDAkiTzw",),
    sha256="33338d895404a9144a2c6892a8b0d6d5c26b02021f945b12e36c431fb369fcb2",
    size=4_215_751_725,
    marker=("gt_sets/train.txt", "gt_sets/val.txt", "images/*.jpg", "segmentation/*.png", "depth/*.npy"),
    namesakes=(
        ("segmentation/*.mat", "ASTMT's NYUD_MT.tgz, whose labels are MATLAB files and JPEGs"),
        ("images/*.png", "ATRC's NYUDv2.tar.gz, with frames of 425x560"),
    ),
)

PASCAL_CONTEXT = Archive(
    file_name="PASCAL_MT.tgz",
    sources=("https://data.vision.ee.ethz.ch/kmaninis/share/MTL/PASCAL_MT.tgz",),
    sha256=None,  # none was published
    size=None,
    marker=("ImageSets/Context", "JPEGImages/*.jpg", "human_parts/*.mat", "pascal-context/trainval/*.mat"),
)

NYUV2_288 = Archive(
    file_name="nyuv2.zip",
    sources=(),
    sha256=None,  # none was published
    size=None,
    marker=tuple(
        f"{split}/{kind}/0.npy" for split in ("train", "val") for kind in ("image", "label", "depth", "normal")
    ),
    aliases=("nyuv2",),
    kept_at="a Dropbox folder that the README of the repository lorenmt/mtan links to as `NYUv2`",
)

CITYSCAPES_128 = Archive(
    file_name="cityscapes2.zip",
    sources=(),
    sha256=None,  # none was published
    size=None,
    marker=tuple(f"{split}/{kind}/0.npy" for split in ("train", "val") for kind in ("image", "label*", "depth")),
    aliases=("cityscapes2",),
    kept_at="a Dropbox folder that the README of the repository lorenmt/mtan links to as `CityScapes`, 128x256",
)

# By the name that data.dataset uses; None: generated, or a person's own folder.
ARCHIVES: dict[str, Archive | None] = {
    "rooms": None,
    "ccp": CCP,
    "nyud": NYUD,
    "pascal_context": PASCAL_CONTEXT,
    "nyuv2_288": NYUV2_288,
    "cityscapes_128": CITYSCAPES_128,
    "folder": None,
}
