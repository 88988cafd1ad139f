"""profiles/slurm on a real scheduler: where jobs go, what a failure, a limit, a cancellation or a crash leaves behind."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lab
import numpy as np
import pytest
import yte
from lab import wait_until
from project import MODEL, OTHER_RECIPE, Project
from snakemake_executor_plugin_slurm.partitions import get_best_partition, read_partition_file
from submission import Submitter, kill

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "profiles/slurm"
BROKEN = "inverse-n5-seed2"
BROKEN_CHECKPOINT = f"resources/checkpoints/{BROKEN}.safetensors"
GPU = "gres:gpu:a100:1"
# Partition, GPUs, memory in MB and minutes at the first attempt: every rule with a GPU, and two without.
EXPECTED = {
    "problems": ("cpu", "", 2000, 10),
    "gather": ("cpu", "", 4000, 10),
    "competence": ("gpu_test", GPU, 4000, 30),
    "points": ("gpu_test", GPU, 4000, 60),
    "gradients": ("gpu_test", GPU, 4000, 30),
    "hessian_block": ("gpu_test", GPU, 8000, 60),
    "tangent_block": ("gpu_test", GPU, 8000, 60),
    "grassmann_block": ("gpu_test", GPU, 4000, 60),
    "landscape_block": ("gpu", GPU, 8000, 120),
    "landscape_connectivity": ("gpu_test", GPU, 8000, 30),
    "score_block": ("gpu_test", GPU, 8000, 60),
    "score_pair": ("gpu_test", GPU, 8000, 60),
    "annealing_block": ("gpu_test", GPU, 8000, 60),
    "implicit_bias_block": ("gpu_test", GPU, 8000, 60),
    "implicit_bias_course": ("gpu", GPU, 8000, 240),
    "ntk_block": ("gpu_test", GPU, 8000, 60),
    "ntk_course": ("gpu", GPU, 8000, 240),
    "circuits_search": ("gpu", GPU, 8000, 120),
    "difference_pair": ("gpu", GPU, 8000, 120),
    "difference_course": ("gpu", GPU, 8000, 240),
    "sae_field": ("gpu", GPU, 8000, 120),
    "sae_train": ("gpu", GPU, 8000, 120),
    "train": ("gpu", GPU, 4000, 240),
}
TARGETS = (
    f"results/gradients/{MODEL}/trained/block-0.parquet",
    f"results/hessian/{MODEL}/trained/metrics.parquet",
    f"results/tangent/{MODEL}/trained/blocks/0/metrics.parquet",
    f"results/grassmann/{MODEL}/trained/blocks/0/metrics.parquet",
    f"results/landscape/{MODEL}/trained/blocks/0/metrics.parquet",
    f"results/score/{MODEL}/trained/blocks/0/metrics.parquet",
    f"results/score/{MODEL}/trained/agreement.parquet",
    f"results/annealing/{MODEL}/trained/blocks/0/metrics.parquet",
    f"results/landscape/{MODEL}/connectivity.parquet",
    f"results/implicit_bias/{MODEL}/trained/blocks/0/metrics.parquet",
    "results/implicit_bias/courses/inverse-n5/metrics.parquet",
    f"results/ntk/{MODEL}/trained/blocks/0/metrics.parquet",
    "results/ntk/courses/inverse-n5/metrics.parquet",
    f"results/circuits/{MODEL}/trained/metrics.parquet",
    f"results/difference/{MODEL}/inverse-n5-seed1/trained/metrics.parquet",
    "results/difference/courses/inverse-n5/metrics.parquet",
    f"results/sae/{MODEL}/trained/gradient/width-30/metrics.parquet",
    f"results/competence/{BROKEN}.parquet",
    "results/training/tiny/history.parquet",
)
LIMITED = [f"{name}.txt" for name in ("hungry", "slow", "gated-cancelled", "hour", "unstated")]
# What `module load` leaves in the shell that submits.
LOADED = {"LOADEDMODULES": "python/3.11:cuda/13.0", "LD_LIBRARY_PATH": "/opt/cuda/13.0/lib64"}
PATIENCE = 120  # seconds

pytestmark = pytest.mark.xdist_group("slurm")


@pytest.fixture(scope="module")
def limited(slurm, tmp_path_factory):
    """Jobs that need more than they ask for, and one that is cancelled; they mostly wait, so others run beside them."""
    submitter = trials(tmp_path_factory.mktemp("limited"))
    run = submitter.start(*LIMITED)
    try:
        wait_until(lambda: "RUNNING" in states(submitter.jobs(), "gated"), "the gated job runs", PATIENCE)
        (job,) = [job for job in submitter.jobs() if job.rule == "gated"]
        subprocess.run(["scancel", str(job.id)], check=True, timeout=PATIENCE)
        (submitter.folder / "gate-cancelled").touch()
        yield SimpleNamespace(submitter=submitter, run=run)
    finally:
        if run.poll() is None:
            kill(run)


@pytest.fixture(scope="module")
def submitted(limited, tmp_path_factory):
    """The small workflow, submitted while one of its checkpoints is garbage."""
    project = Project(tmp_path_factory.mktemp("submitted"))
    project.configure({"training": {"tiny": OTHER_RECIPE}})
    (project.folder / BROKEN_CHECKPOINT).write_bytes(b"garbage")
    submitter = Submitter(project.folder, SBATCH_ACCOUNT="lab")
    output = submitter.submit(*TARGETS, fails=True)
    return SimpleNamespace(project=project, submitter=submitter, output=output, jobs=submitter.jobs())


def trials(folder, *options, **environment):
    """A submitter of trials.smk, which needs nothing of the project but its profile."""
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    shutil.copy(Path(__file__).with_name("trials.smk"), folder)
    return Submitter(folder, "--snakefile=trials.smk", *options, **environment)


def states(jobs, rule, wildcards=None):
    return [job.state for job in jobs if job.rule == rule and wildcards in (None, job.wildcards)]


def test_every_request_without_a_gpu_goes_to_cpu_and_with_one_to_the_shortest_partition_that_takes_it(seed):
    partitions = read_partition_file(PROFILE / "partitions.yaml")
    logger = SimpleNamespace(debug=lambda text: None, info=lambda text: None)
    rng = np.random.default_rng(seed)
    for runtime in (1, 60, 61, 1440, *rng.integers(1, 2880, size=200)):
        for gpu in (0, 1):
            resources = {"runtime": int(runtime), "mem_mb": int(rng.integers(500, 64000))}
            resources |= {"gpu": 1, "gpu_model": "a100"} if gpu else {}
            job = SimpleNamespace(name="any", threads=int(rng.integers(1, 9)), resources=resources)
            expected = ("gpu_test" if runtime <= 60 else "gpu") if gpu else "cpu"
            assert get_best_partition(partitions, job, logger) == expected, resources


def test_exactly_the_rules_that_ask_for_a_gpu_are_given_its_model(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("TMPDIR", raising=False)  # the profile does too, for good
    profile = yte.process_yaml((PROFILE / "profile.yaml").read_text(), require_use_yte=True)
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    named = {rule.split(":")[0] for rule in re.split(r"^rule ", rules, flags=re.MULTILINE) if "gpu=1" in rule}
    assert profile["set-resources"] == {rule: {"gpu_model": "a100"} for rule in named}


def test_every_rule_gets_the_partition_gpus_memory_time_and_cpus_it_asks_for(submitted):
    first = {}
    for job in submitted.jobs:
        first.setdefault(job.rule, (job.partition, job.gpus, job.mem_mb, job.minutes))
        assert job.cpus == 1
    assert first == EXPECTED


def test_the_account_is_that_of_the_environment(submitted):
    assert {job.account for job in submitted.jobs} == {"lab"}


def test_jobs_are_named_by_the_prefix_of_the_profile(submitted):
    (run,) = {job.name for job in submitted.jobs}
    assert run.startswith("iredinterp_")


def test_a_failing_job_is_tried_twice_and_reported_with_its_log_while_the_others_finish(submitted):
    assert states(submitted.jobs, "competence", BROKEN) == ["FAILED", "FAILED"]
    assert {job.state for job in submitted.jobs if job.wildcards != BROKEN} == {"COMPLETED"}
    assert f"logs/competence/{BROKEN}.log" in submitted.output
    assert f"{BROKEN_CHECKPOINT}: damaged or not a safetensors file" in submitted.output
    made = {target: (submitted.project.folder / target).exists() for target in TARGETS}
    assert made == {target: BROKEN not in target for target in TARGETS}


def test_once_mended_only_the_failed_job_is_submitted_and_then_nothing_is_left_to_do_anywhere(submitted):
    project, submitter = submitted.project, submitted.submitter
    shutil.copy(ROOT / BROKEN_CHECKPOINT, project.folder / BROKEN_CHECKPOINT)
    submitter.submit(*TARGETS)
    assert [job.rule for job in submitter.jobs()[len(submitted.jobs) :]] == ["competence"]
    assert "Nothing to be done" in submitter.submit(*TARGETS)
    assert project.planned(*TARGETS) == {}, "what the cluster made is not what a laptop would make"


def test_what_runs_out_of_memory_or_time_or_is_cancelled_is_tried_again_with_more(limited):
    submitter = limited.submitter
    output = submitter.finish(limited.run)
    jobs = submitter.jobs()
    asked = {
        rule: [(job.mem_mb, job.minutes) for job in jobs if job.rule == rule] for rule in ("hungry", "slow")
    }
    assert asked == {"hungry": [(500, 10), (1000, 10)], "slow": [(1000, 1), (1000, 2)]}
    # Without cgroups the scheduler has no other word for a job killed for its memory.
    assert states(jobs, "hungry") == ["FAILED", "COMPLETED"]
    assert states(jobs, "slow") == ["TIMEOUT", "COMPLETED"]
    assert states(jobs, "gated") == ["CANCELLED", "COMPLETED"]
    for state in ("FAILED", "TIMEOUT", "CANCELLED"):
        assert f"SLURM status is: '{state}'" in output
    assert states(jobs, "hour") == states(jobs, "unstated") == ["COMPLETED"]
    assert all((submitter.folder / target).exists() for target in LIMITED)


def test_jobs_without_a_gpu_stay_in_cpu_even_where_a_gpu_partition_would_fit_better(limited):
    jobs = limited.submitter.jobs()
    assert {(job.partition, job.gpus) for job in jobs} == {("cpu", "")}
    assert [job.minutes for job in jobs if job.rule == "hour"] == [60]


def test_a_rule_that_states_nothing_gets_the_defaults_of_the_profile(limited):
    (job,) = [job for job in limited.submitter.jobs() if job.rule == "unstated"]
    assert (job.mem_mb, job.minutes) == (2000, 10)


@pytest.mark.parametrize("named", [True, False])
def test_a_job_finds_the_modules_of_the_shell_that_submits_and_the_temporary_folder_of_its_node(
    slurm, tmp_path, named
):
    login, scratch = tmp_path / "login", tmp_path / "node"
    for folder in (login, scratch):
        folder.mkdir()
    # The scheduler hands on what is set here as a node sets it by itself.
    node = {"SLURM_TMPDIR": str(scratch)} if named else {}
    submitter = trials(tmp_path, TMPDIR=str(login), **LOADED, **node)
    submitter.submit("surroundings.json")
    found = json.loads((tmp_path / "surroundings.json").read_text())
    assert (found["prefix"], found["PATH"]) == (sys.prefix, submitter.environment["PATH"])
    assert {name: found[name] for name in LOADED} == LOADED

    temporary = Path(found["temporary"])
    assert temporary.parent == (scratch if named else Path("/tmp"))
    assert Path(found["cache"]).is_relative_to(temporary)
    assert not temporary.exists(), "a job leaves its temporary files behind"
    assert list(login.iterdir()) == list(scratch.iterdir()) == []


def test_after_a_kill_of_snakemake_finished_orphans_count_and_cancelled_ones_are_made_again(slurm, tmp_path):
    submitter = trials(tmp_path)
    run = submitter.start("whole.txt")
    begun = [tmp_path / f"gated-{name}.txt" for name in ("adopted", "cancelled")]
    wait_until(lambda: all(path.exists() for path in begun), "both jobs run", PATIENCE)
    kill(run)
    assert [job.state for job in submitter.jobs()] == ["RUNNING", "RUNNING"]
    assert "--unlock" in submitter.submit("whole.txt", fails=True)

    (tmp_path / "gate-adopted").touch()
    wait_until(
        lambda: states(submitter.jobs(), "gated", "adopted") == ["COMPLETED"], "one orphan is done", PATIENCE
    )
    cancel = [sys.executable, "-m", "iredinterp", "cluster", "orphans", "--cancel"]
    subprocess.run(cancel, cwd=tmp_path, check=True, timeout=PATIENCE)
    assert states(submitter.jobs(), "gated", "cancelled") == ["CANCELLED"]

    (tmp_path / "gate-cancelled").touch()
    submitter.submit("--unlock")
    submitter.submit("whole.txt")
    again = [(job.rule, job.wildcards, job.state) for job in submitter.jobs()[len(begun) :]]
    assert again == [("gated", "cancelled", "COMPLETED"), ("whole", "", "COMPLETED")]
    assert (tmp_path / "whole.txt").read_text() == "adopted\ncancelled\n"


def test_no_job_needs_a_network(tmp_path):
    alone = ["unshare", "--net"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("NO unshare --net here, so that jobs run without a network is not tested")
    target = f"results/points/{MODEL}/trained/block-0.parquet"
    project = Project(tmp_path)
    run = subprocess.run(
        [*alone, sys.executable, "-m", "snakemake", "--cores=1", target],
        cwd=project.folder,
        env=os.environ | {"PYTHONPATH": str(project.folder / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert (project.folder / target).exists()


def test_a_machine_that_belongs_to_a_cluster_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(lab, "LAB", tmp_path / "lab")
    monkeypatch.setattr(lab, "SYSTEM", tmp_path)
    (tmp_path / "slurm.conf").write_text("ClusterName=theirs")
    with pytest.raises(lab.NoLabError, match=f"found another {tmp_path}/slurm.conf"):
        lab.start()
    lab.stop()
    assert (tmp_path / "slurm.conf").read_text() == "ClusterName=theirs"
    assert lab.client("sinfo") == ""


def test_a_port_in_use_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(lab, "LAB", tmp_path / "lab")
    monkeypatch.setattr(lab, "SYSTEM", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr(lab, "PORTS", (port,))
        with pytest.raises(lab.NoLabError, match=rf"ports \[{port}\] taken"):
            lab.start()
