"""DVC stage `download`: fetch the archive of the dataset that params.yaml names into data/raw."""

from pipeline import paths
from pipeline.datasets import get_dataset
from pipeline.datasets.archive import fetch
from pipeline.params import Params
from stages._entry import run_stage


def main(params: Params) -> None:
    dataset = get_dataset(params.data.dataset)
    record = fetch(dataset.archive, paths.RAW, params.data.archive)
    if dataset.archive is None:
        print(f"{dataset.name} is generated: nothing to download")
    else:
        size, sha256 = record["size"] / 1e6, record["sha256"][:12]
        which = "" if record["published"] else ", not the published archive"
        print(f"{record['file_name']}: {size:.1f} MB from {record['source']}, sha256 {sha256}...{which}")


if __name__ == "__main__":
    run_stage(main)
