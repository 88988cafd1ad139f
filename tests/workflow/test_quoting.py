"""Names and paths that a shell would run reach none."""

import hashlib
import shutil

import pytest
from project import MODEL, Project

from iredinterp.tables import read_provenance

STRANGE = """it's $(touch ran) `touch ran` "quoted"; touch ran & spaced"""


@pytest.fixture
def project(tmp_path):
    """In a folder of that name, with a checkpoint of that name."""
    project = Project(tmp_path / STRANGE)
    checkpoint = f"resources/{STRANGE}.safetensors"
    shutil.copy(project.folder / f"resources/checkpoints/{MODEL}.safetensors", project.folder / checkpoint)
    project.configure({"models": {"strange": {"checkpoint": checkpoint, "problems": "inverse-n5"}}})
    return project


def test_strange_paths_are_read_and_never_run(project, tmp_path):
    project.configure({"select": ["strange"]})
    target = "results/competence/strange.parquet"
    project.snakemake(target)
    checkpoint = (project.folder / f"resources/{STRANGE}.safetensors").read_bytes()
    found = read_provenance(project.folder / target)["inputs"]["checkpoint"]
    assert found == hashlib.sha256(checkpoint).hexdigest()
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("name", ["$(touch ran)", "a b", "../a", "a;b", "a'b"])
def test_a_name_that_is_more_than_a_name_is_refused(project, name):
    checkpoint = f"resources/checkpoints/{MODEL}.safetensors"
    project.configure({"models": {name: {"checkpoint": checkpoint, "problems": "inverse-n5"}}})
    output = project.snakemake("--dry-run", fails=True)
    assert repr(name) in output or name in output
    assert not list(project.folder.rglob("ran"))
