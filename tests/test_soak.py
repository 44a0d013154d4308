"""Three kills of one training that DVC runs: the stage outright, the stage by SIGTERM, and DVC outright."""

import pytest
from soak import KILLS, RUN, Repro, Soak, mlflow_run


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def soak(request, tmp_path_factory):
    return Soak(tmp_path_factory.mktemp("soak"), request.param)


def test_a_killed_training_ends_as_one_that_was_not(soak):
    project = soak.fresh()
    for way, status in (
        ("SIGKILL to the stage", "RUNNING"),  # nobody was left to say so
        ("SIGTERM to the stage", "KILLED"),
        ("SIGKILL to DVC", "KILLED"),
    ):
        repro = Repro(project)
        repro.wait_for_a_checkpoint()
        KILLS[way](repro)
        assert repro.end() != 0
        assert mlflow_run(project)[0].info.status == status, way
    repro = Repro(project)
    assert repro.end(within=300) == 0, repro.output.read_text()
    soak.check(project)
    assert project.json(f"models/{RUN}/run.json")["resumed"] == 3


def test_the_epoch_was_chosen_on_training_samples_kept_out(soak):
    scored, (run, metrics) = soak.undisturbed.json(f"reports/metrics/{RUN}.json"), mlflow_run(soak.undisturbed)
    assert scored["weights"] in {f"epoch {epoch}, best on a tenth of train kept out" for epoch in (2, 4)}
    assert run.data.tags["weights"] == scored["weights"]
    assert len(metrics["holdout/semseg/mIoU"]) == 2 and not any(name.startswith("val/") for name in metrics)
