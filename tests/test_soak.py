"""Three kills of one training that DVC runs: the stage outright, the stage by SIGTERM, and DVC outright."""

import time

import pytest
from soak import KILLS, RUN, Repro, Soak, mlflow_run


@pytest.fixture(scope="module")
def soak(tmp_path_factory):
    return Soak(tmp_path_factory.mktemp("soak"))


def wait_for_a_checkpoint(project, repro: Repro) -> None:
    """Until this attempt has written one."""
    began = time.time()
    while not any(path.stat().st_mtime > began for path in project.root.glob(".runs/train/*/checkpoint.pt")):
        assert repro.process.poll() is None, repro.output.read_text()
        time.sleep(0.01)


def test_a_killed_training_ends_as_one_that_was_not(soak):
    project = soak.fresh()
    for way, status in (
        ("SIGKILL to the stage", "RUNNING"),  # nobody was left to say so
        ("SIGTERM to the stage", "KILLED"),
        ("SIGKILL to DVC", "KILLED"),
    ):
        repro = Repro(project)
        wait_for_a_checkpoint(project, repro)
        KILLS[way](repro)
        assert repro.end() != 0
        assert mlflow_run(project)[0].info.status == status, way
    repro = Repro(project)
    assert repro.end(within=300) == 0, repro.output.read_text()
    soak.check(project)
    assert project.json(f"models/{RUN}/run.json")["resumed"] == 3
