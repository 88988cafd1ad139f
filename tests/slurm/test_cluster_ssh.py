"""`iredinterp cluster` through a real ssh server, in front of a real scheduler."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from lab import NoLabError, client, wait_until
from project import Project
from sshd import HOST, running_server
from submission import FAST, Submitter

from iredinterp.cluster.login import started_at

PATIENCE = 120  # seconds
GATED = ("adopted", "other")
WORKFLOW = """
configfile: "config/config.yaml"

rule gated:
    output:
        "results/{name}/artifact.txt",
    resources:
        mem_mb=1000,
        runtime=10,
    shell:
        "echo begun > {output}; until [ -e gate-{wildcards.name} ]; do sleep 0.2; done; echo {wildcards.name} > {output}"

rule exp901:
    input:
        expand("results/{name}/artifact.txt", name=config["gated"]),
    localrule: True
"""

pytestmark = pytest.mark.xdist_group("slurm")


@pytest.fixture(scope="module")
def server(slurm, tmp_path_factory):
    try:
        with running_server(tmp_path_factory.mktemp("ssh")) as server:
            yield server
    except NoLabError as reason:
        pytest.skip(f"NO SSH, so iredinterp cluster is not tested: {reason}")


@pytest.fixture
def study(server, tmp_path):
    """A committed project on a laptop in a folder of an unlucky name, and an empty folder on the host."""
    laptop = tmp_path / 'the laptop\'s "own" $(touch pwned) `touch pwned`; touch pwned'
    project = Project(laptop)
    shutil.rmtree(laptop / "workflow")
    (laptop / "workflow").mkdir()
    (laptop / "workflow/Snakefile").write_text(WORKFLOW)
    (laptop / ".gitignore").write_text("/results/*\n/runs/\n")
    for arguments in (["init"], ["add", "--all"], ["commit", "--message", "A study"]):
        who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=laptop, check=True, capture_output=True)
    configuration = laptop / 'ssh\'s "own" configuration'
    configuration.write_text(server.client.read_text())
    host = tmp_path / "host"
    host.mkdir()
    (host / ".venv").symlink_to(sys.prefix)
    yield SimpleNamespace(project=project, laptop=laptop, host=host, configuration=configuration)
    assert not list(tmp_path.rglob("pwned*"))
    kill(host)


def iredinterp(study, command, *arguments, folder=None, fails=False, start=False):
    """What a command prints, run on the laptop; or the running command."""
    options = ("--ssh-config", study.configuration)
    place = f"{HOST}:{folder or study.host}"
    process = subprocess.Popen(
        [sys.executable, "-m", "iredinterp", "cluster", command, *options, place, *arguments],
        cwd=study.laptop,
        env=os.environ | {"PYTHONPATH": str(study.laptop / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    if start:
        return process
    output, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode != 0) == fails, output
    assert "Traceback" not in output
    return output


def submit(study, *arguments, gated=GATED, fails=False):
    options = [*FAST, "--config", f"gated={list(gated)}"]
    return iredinterp(study, "submit", *arguments, "exp901", "--", *options, fails=fails)


def record(host):
    return json.loads((host / "logs/cluster.json").read_text())


def log(host):
    return (host / "logs/cluster.log").read_text()


def kill(host, which=slice(None)):
    """As a reboot of the login node does; jobs go on."""
    if not (host / "logs/cluster.json").exists():
        return
    for pid, start in record(host)["processes"][which]:
        if started_at(pid) == start:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid, start=start: started_at(pid) != start, f"{pid} is gone", PATIENCE)


def begun(host, names=GATED):
    return all((host / f"results/{name}/artifact.txt").exists() for name in names)


def open_gates(host):
    for name in GATED:
        (host / f"gate-{name}").touch()


def artifacts(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.glob("results/*/artifact.txt")}


def lifetimes(host):
    """By wildcard, when its jobs were submitted and when they ended, of the scheduler's records."""
    found = {}
    for text in client("scontrol", "--oneliner", "show", "jobs").splitlines():
        if f" WorkDir={host} " in text:
            fields = dict(re.findall(r"(\w+)=(\S*)", text))
            times = fields["SubmitTime"], fields["EndTime"]
            found.setdefault(fields["Comment"].rpartition("_")[2], []).append(times)
    return found


def test_a_lost_connection_and_a_killed_snakemake_lose_nothing_and_orphans_that_finish_count(study, server):
    assert "alive" in submit(study)
    wait_until(lambda: begun(study.host), "both jobs run", PATIENCE)

    server.stop()
    for command in ("status", "fetch", "submit"):
        said = iredinterp(study, command, fails=True)
        assert re.fullmatch(f"error: {HOST}: .*Connection refused.*\n", said, re.DOTALL), said
    server.start()

    said = iredinterp(study, "status")
    assert "run of exp901: alive" in said
    assert "exp901: 2 jobs to do" in said
    assert "2 jobs (2 running)" in said
    assert "exp901: alive" in submit(study, fails=True)
    assert "0 finished files" in iredinterp(study, "fetch")
    assert artifacts(study.laptop) == {}, "half an artifact was fetched"

    kill(study.host, slice(-1, None))
    wait_until(lambda: record(study.host)["status"] == -signal.SIGKILL, "the kill is on record", PATIENCE)
    assert "run of exp901: was killed" in iredinterp(study, "status")
    submit(study)
    wait_until(lambda: "waiting for 2 jobs (2 running)" in log(study.host), "it waits for them", PATIENCE)
    open_gates(study.host)
    wait_until(lambda: record(study.host)["status"] is not None, "it ends", PATIENCE)

    assert record(study.host)["status"] == 0, log(study.host)
    assert {name: len(jobs) for name, jobs in lifetimes(study.host).items()} == dict.fromkeys(GATED, 1)
    said = iredinterp(study, "status")
    assert "run of exp901: ended with status 0" in said
    assert "exp901: done" in said
    assert "2 finished files" in iredinterp(study, "fetch")
    assert artifacts(study.laptop) == artifacts(study.host)
    assert set(artifacts(study.laptop).values()) == {b"adopted\n", b"other\n"}


@pytest.fixture
def neighbour(slurm, tmp_path):
    """A job of the same name in another folder."""
    folder = tmp_path / "neighbour"
    folder.mkdir()
    command = ["sbatch", "--parsable", "--job-name=iredinterp_neighbour", "--mem=100", "--wrap=sleep 600"]
    job = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
    yield job
    subprocess.run(["scancel", job], check=True)


def test_cancelled_orphans_are_gone_before_their_files_are_made_again_and_others_are_left_alone(
    study, neighbour
):
    submit(study, gated=["other"])
    wait_until(lambda: begun(study.host, ["other"]), "the job runs", PATIENCE)
    kill(study.host)

    environment = os.environ | {"PYTHONPATH": str(study.host / "src")}
    said = subprocess.run(
        [sys.executable, "-m", "iredinterp", "cluster", "orphans"],
        cwd=study.host,
        env=environment,
        capture_output=True,
        text=True,
    ).stdout
    assert "1 job (1 running) of this folder" in said

    submit(study, "--orphans", "cancel", gated=["other"])
    wait_until(lambda: len(lifetimes(study.host)["other"]) == 2, "it is submitted again", PATIENCE)
    open_gates(study.host)
    wait_until(lambda: record(study.host)["status"] is not None, "it ends", PATIENCE)
    assert record(study.host)["status"] == 0, log(study.host)
    states = sorted(job.state for job in Submitter(study.host).jobs())
    assert states == ["CANCELLED", "COMPLETED"]
    (_, cancelled), (again, _) = sorted(lifetimes(study.host)["other"])
    assert cancelled <= again, "two jobs wrote one file"
    assert client("squeue", "--noheader", "--jobs", neighbour, "--format=%T").strip() == "RUNNING"


def test_a_transfer_cut_off_goes_on_and_leaves_no_half_file(study, server, tmp_path):
    folder = tmp_path / 'the host\'s "own" $(touch pwned) `touch pwned`; touch pwned | & *'
    big = folder / "results/big.bin"
    big.parent.mkdir(parents=True)
    (folder / ".venv").symlink_to(sys.prefix)
    with big.open("wb") as file:
        file.writelines(os.urandom(2**20) * 2 for _ in range(150))
    here = study.laptop / "results/big.bin"
    pieces = (".big.bin.*", ".rsync-partial/big.bin")

    fetch = iredinterp(study, "fetch", folder=folder, start=True)
    wait_until(lambda: list(here.parent.glob(pieces[0])), "the transfer has begun", PATIENCE, pause=0.01)
    server.stop()
    output, _ = fetch.communicate(timeout=PATIENCE)
    server.start()
    assert fetch.returncode != 0, "the transfer was over before it was cut off"
    assert output.startswith(f"error: {HOST}: ")
    assert not here.exists()
    assert any(list(here.parent.glob(piece)) for piece in pieces)

    assert "1 finished file" in iredinterp(study, "fetch", folder=folder)
    assert here.read_bytes() == big.read_bytes()
    assert "nothing was submitted to this folder" in iredinterp(study, "status", folder=folder)
    said = iredinterp(study, "submit", folder=folder, fails=True)
    assert "the shell of a job would split, run or change this" in said


def test_the_configuration_and_its_checkpoints_travel_and_what_the_host_made_stays(study):
    made = study.host / "results/mine/artifact.txt"
    made.parent.mkdir(parents=True)
    made.write_text("of the host")
    (study.laptop / "runs").mkdir()
    (study.laptop / "runs/model-1.pt").write_bytes(b"untracked")
    (study.laptop / "runs/unnamed.pt").write_bytes(b"not asked for")
    (study.laptop / "config/mine.yaml").write_text(
        "models: {mine: {checkpoint: runs/model-1.pt, problems: inverse-n5}}\n"
    )
    submit(study, "--configfile", "config/mine.yaml", gated=[])
    assert (study.host / "runs/model-1.pt").read_bytes() == b"untracked"
    assert not (study.host / "runs/unnamed.pt").exists()
    assert not (study.host / ".git").exists()
    assert made.read_text() == "of the host"
    wait_until(lambda: record(study.host)["status"] == 0, "Snakemake has ended", PATIENCE)

    (study.laptop / "config/config.yaml").write_text("changed: true\n")
    said = submit(study, fails=True)
    assert said.startswith("error: not committed: config/config.yaml; commit")
