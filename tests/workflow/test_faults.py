"""Faults that a run survives: kills, a full disk, damaged inputs, an edit in mid-run, a second run at once."""

import os

import disturbance
import numpy as np
import pytest
from disturbance import COMPETENCE, POINTS, PROBLEMS, over, started, wait_until
from project import Project

from iredinterp.tables import read_provenance


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    """A project, how long it runs, and what it makes, when nothing happens."""
    project = Project(tmp_path_factory.mktemp("faults") / "project")
    project.configure(disturbance.SETTINGS)
    return project, *disturbance.undisturbed_run(project)


@pytest.mark.parametrize(
    "kinds", [disturbance.KINDS[:3], disturbance.KINDS[3:]], ids=["any moment", "writing"]
)
def test_a_killed_run_is_made_good_by_the_next_one(workload, kinds, seed):
    project, duration, undisturbed = workload
    rng = np.random.default_rng(seed)
    trial = disturbance.killed_run(project, undisturbed, rng.choice(kinds), rng.uniform(0, duration / 2), rng)
    assert (trial.complaints, trial.other_bytes) == ([], []), trial


def test_a_full_disk_is_named_and_leaves_nothing_half_written(workload, seed):
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    project, _, undisturbed = workload
    try:
        assert disturbance.full_disk(project, undisturbed, np.random.default_rng(seed)) == []
    except PermissionError as error:
        pytest.skip(str(error))


def test_damaged_inputs_are_named_with_what_to_do(tmp_path, seed):
    assert disturbance.damaged_inputs(Project(tmp_path / "project"), np.random.default_rng(seed)) == []


def test_a_second_run_at_once_is_refused_and_the_first_completes(workload):
    project, _, undisturbed = workload
    assert disturbance.two_runs(project, undisturbed) == []


def test_duplicates_that_run_at_once_damage_nothing(workload):
    project, _, undisturbed = workload
    assert disturbance.duplicates(project, undisturbed) == []


def test_an_edit_in_mid_run_reruns_exactly_what_depends_on_it(tmp_path):
    project = Project(tmp_path / "project")
    with started(project, POINTS, COMPETENCE) as run:
        wait_until(lambda: over(run) or (project.folder / PROBLEMS).exists(), "the problems are there")
        project.configure({"competence": {"seed": 9}})
        assert run.wait(disturbance.PATIENCE) == 0
    assert read_provenance(project.folder / COMPETENCE)["seed"] == 1
    assert project.planned(POINTS, COMPETENCE) == {"competence": 1}
    project.snakemake(POINTS, COMPETENCE)
    assert read_provenance(project.folder / COMPETENCE)["seed"] == 9
    assert project.planned(POINTS, COMPETENCE) == {}
