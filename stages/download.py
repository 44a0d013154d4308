"""DVC stage `download`: fetch the archive of the dataset that params.yaml names into data/raw."""

from pipeline.core import paths
from pipeline.download.archive import fetch
from pipeline.download.catalog import ARCHIVES
from pipeline.params.schema import Params
from stages._entry import run_stage


def main(params: Params) -> None:
    """Fetch the archive of the dataset that params name, if it has one."""
    archive = ARCHIVES[params.data.dataset]
    record = fetch(archive, paths.RAW, params.data.archive)
    if archive is None:
        print(f"{params.data.dataset} is generated: nothing to download")
    else:
        size, sha256 = record["size"] / 1e6, record["sha256"][:12]
        which = "" if record["published"] else ", not the published archive"
        print(f"{record['file_name']}: {size:.1f} MB from {record['source']}, sha256 {sha256}...{which}")


if __name__ == "__main__":
    run_stage(main)
