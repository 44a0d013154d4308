"""A training that DVC runs: killed outright, by SIGTERM and with DVC itself; edited meanwhile; out of the run cache."""

import shutil

import pytest

from tests.soak import KILLS, RUN, STAGE, Repro, Soak, mlflow_run, resumptions

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def soak(request, tmp_path_factory):
    return Soak(tmp_path_factory.mktemp("soak"), request.param)


def test_a_killed_training_ends_as_one_that_was_not(soak):
    """Of DVC it is killed as people start it, a process with a shell between it and the stage; else forks save time."""
    project = soak.fresh()
    for way, status, forks in (
        ("SIGKILL to the stage", "RUNNING", True),  # nobody was left to say so
        ("SIGTERM to the stage", "KILLED", True),
        ("SIGKILL to DVC", "KILLED", False),
    ):
        repro = Repro(project, forks=forks)
        repro.wait_for_a_checkpoint()
        KILLS[way](repro)
        assert repro.end() != 0
        assert mlflow_run(project)[0].info.status == status, way
    repro = Repro(project, forks=True)
    assert repro.end(within=300) == 0, repro.output.read_text()
    soak.check(project)
    assert resumptions(project) == {RUN: 3}


def test_the_epoch_was_chosen_on_training_samples_kept_out(soak):
    scored, (run, metrics) = soak.undisturbed.json(f"reports/metrics/{RUN}.json"), mlflow_run(soak.undisturbed)
    assert scored["weights"] in {f"epoch {epoch}, best on a tenth of train kept out" for epoch in (2, 4)}
    assert run.data.tags["weights"] == scored["weights"]
    assert len(metrics["holdout/semseg/mIoU"]) == 2 and not any(name.startswith("val/") for name in metrics)


def test_an_edit_meanwhile_fails_the_stage_and_is_named(soak):
    project = soak.fresh()
    repro = Repro(project, forks=True)
    repro.wait_for_a_checkpoint()
    for name, old, new in (
        ("params.yaml", "lr: 0.001", "lr: 0.002"),
        ("pipeline/tasks/losses.py", "import", "# edited\nimport"),
    ):
        file = project.root / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
    assert repro.end(within=300) != 0
    told = repro.output.read_text()
    assert "inputs changed while the stage was running" in told
    assert "\n  file pipeline/tasks/losses.py\n  param training.lr\n" in told
    assert list(project.root.glob(".runs/train/*/checkpoint.pt")) and not (project.root / "models" / RUN).exists()
    assert mlflow_run(project)[0].info.status == "FAILED"


def test_the_run_cache_brings_back_all_that_a_training_left(soak):
    project = soak.undisturbed.copy(soak.undisturbed.root.parent / "cached")
    for name in ("models", "reports"):
        shutil.rmtree(project.root / name)
    (project.root / "dvc.lock").unlink()
    told = project.dvc("repro", STAGE)
    assert all(f"Stage '{stage}' is cached - skipping run" in told for stage in ("prepare", f"train@{RUN}", STAGE)), (
        told
    )
    for name in (f"models/{RUN}/run.json", f"models/{RUN}/weights.safetensors", f"reports/metrics/{RUN}.json"):
        assert (project.root / name).read_bytes() == (soak.undisturbed.root / name).read_bytes()
    traced = project.stage("trace", f"models/{RUN}")
    assert mlflow_run(project)[0].info.run_id in traced and "reproducible: every input" in traced
