"""`iredinterp cluster` without a cluster: quoting, what is pushed, what a run on record says, whose jobs are whose."""

import contextlib
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from debian import lacking
from snakemake.persistence.file import FilePersistence
from snakemake.utils import update_config, validate

from iredinterp.__main__ import main
from iredinterp.cluster import laptop, login
from iredinterp.config import expanded_models
from iredinterp.errors import ClusterError

ROOT = Path(__file__).parents[1]
STRANGE = 'the host\'s "own" $(touch pwned) `touch pwned`; touch pwned | & * ~'
# As ssh does: what follows the host is joined by blanks and read by the shell of the other side.
SSH = """#!/bin/sh
while [ "$1" != -- ] && [ "${1#-}" != "$1" ]; do [ "$1" = -o ] && shift; shift; done
[ "$1" = -- ] && shift
shift
exec /bin/sh -c "$*"
"""


@pytest.fixture
def rsync():
    if reason := lacking({"rsync": "rsync"}):
        pytest.skip(f"NO rsync, so transfers are not tested: {reason}")


@pytest.fixture
def place(tmp_path):
    """A folder of a strange name on this machine, behind something that treats its words as ssh does."""
    ssh = tmp_path / "the ssh's"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    folder = tmp_path / STRANGE
    folder.mkdir()
    yield laptop.Place("host", str(folder), (str(ssh), "-o", "ServerAliveInterval=15"))
    assert not list(tmp_path.rglob("pwned*"))


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    shutil.copytree(ROOT / "config", folder / "config", ignore=shutil.ignore_patterns("paper.yaml"))
    (folder / "workflow").mkdir()
    (folder / "workflow/Snakefile").write_text("rule exp901:\n")
    for arguments in (["init"], ["add", "--all"], ["commit", "--message", "Begin"]):
        who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """Stands in for squeue, which prints the file `queue`, and scancel, which notes its arguments and empties that."""
    commands = tmp_path / "bin"
    commands.mkdir()
    queue, cancelled = tmp_path / "queue", tmp_path / "cancelled"
    queue.touch()
    for name, script in (
        ("squeue", f"cat {shlex.quote(str(queue))}"),
        ("scancel", f"echo $* > {shlex.quote(str(cancelled))}; : > {shlex.quote(str(queue))}"),
    ):
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    folder = tmp_path / "study | with"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return tmp_path


def words(seed, count=20):
    """Random words of what shells mind."""
    rng = np.random.default_rng(seed)
    letters = list(string.punctuation + " \t\nabcé~")
    return ["".join(rng.choice(letters, size=rng.integers(0, 12))) for _ in range(count)]


def of_this_process(**other):
    values = {
        "by": login.whoami(),
        "options": [],
        "targets": ["exp001"],
        "processes": [login.identity(os.getpid())],
    }
    return login.Run(**values | other)


@pytest.mark.parametrize(
    ("text", "host", "folder"),
    [
        ("cluster:study", "cluster", "./study"),
        ("me@login.example.org:/work/me/study", "me@login.example.org", "/work/me/study"),
        ("cluster:~/study", "cluster", "./study"),
        ("cluster::module", "cluster", "./:module"),
        ("cluster:-e touch", "cluster", "./-e touch"),
    ],
)
def test_a_place_is_a_host_and_a_folder_below_its_home_or_root(text, host, folder):
    place = laptop.Place.parse(text)
    assert (place.host, place.folder) == (host, folder)


@pytest.mark.parametrize(
    "text",
    [
        "-oProxyCommand=touch pwned:x",
        "-F:x",
        "a b:x",
        "$(touch pwned):x",
        "a;b:x",
        ":x",
        "folder",
        "cluster:",
        "cluster:~",
        "c:a\nb",
    ],
)
def test_what_is_no_place_is_refused_in_one_line(text):
    with pytest.raises(ClusterError, match="write HOST:FOLDER") as error:
        laptop.Place.parse(text)
    assert len(str(error.value).splitlines()) == 1


def test_every_word_arrives_on_the_other_side_as_it_was(place, seed):
    sent = words(seed)
    printed = place.run('cd -- "$1" && shift && printf "%s\\0" "$PWD" "$@"', *sent)
    assert printed.split("\0")[:-1] == [place.folder, *sent]


@pytest.mark.usefixtures("rsync")
def test_files_travel_both_ways_between_folders_of_any_name(place, tmp_path, seed):
    here, there = tmp_path / "here $(touch pwned)", Path(place.folder)
    names = [f"{STRANGE}/a.txt", "-e touch pwned", "new\nline"]
    for name in [*names, "other"]:
        (there / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (there / "results" / name).write_text(str(seed))
    here.mkdir()
    place.pull(here, [*names, "vanished"])
    files = {path.relative_to(here / "results"): path for path in here.rglob("*") if path.is_file()}
    assert set(map(str, files)) == set(names)
    assert {path.read_text() for path in files.values()} == {str(seed)}

    (here / "-e touch pwned").write_text("made here")
    place.push(here, ["-e touch pwned"])
    assert (there / "-e touch pwned").read_text() == "made here"
    assert (there / "results/other").exists()


@pytest.mark.usefixtures("rsync")
def test_results_may_lie_on_another_disk_here_and_there(place, tmp_path):
    here, there = tmp_path / "here", Path(place.folder)
    here.mkdir()
    for folder in (here, there):
        scratch = tmp_path / f"scratch of {folder.name}"
        scratch.mkdir()
        (folder / "results").symlink_to(scratch)
    (there / "results/points").mkdir()
    (there / "results/points/a.parquet").touch()
    place.pull(here, ["points/a.parquet"])
    assert (here / "results/points/a.parquet").exists()
    assert (here / "results").is_symlink()


@pytest.mark.usefixtures("rsync")
def test_a_push_replaces_no_link(place, tmp_path):
    (Path(place.folder) / "resources").symlink_to(tmp_path)
    (tmp_path / "here/resources").mkdir(parents=True)
    (tmp_path / "here/resources/a").touch()
    with contextlib.suppress(ClusterError):  # rsync 3.5 refuses to write through a link.
        place.push(tmp_path / "here", ["resources/a"])
    assert (Path(place.folder) / "resources").is_symlink()


def test_a_failure_there_is_one_error_with_the_host_and_what_was_said(place):
    with pytest.raises(ClusterError, match=r"^host: it is full$"):
        place.run("echo 'error: it is full' >&2; exit 3")
    with pytest.raises(ClusterError, match="no-such-ssh: not found; install it"):
        laptop.Place("host", ".", ("no-such-ssh",)).run("true")


@pytest.mark.parametrize("staged", [False, True])
def test_uncommitted_changes_are_refused_by_name_and_untracked_files_are_not(repository, staged):
    (repository / "untracked").touch()
    assert "untracked" not in laptop.committed(repository)
    (repository / "config/config.yaml").write_text("changed")
    (repository / "config/README.md").unlink()
    if staged:
        subprocess.run(["git", "add", "--all"], cwd=repository, check=True)
    with pytest.raises(ClusterError, match=r"^not committed: config/README.md, config/config.yaml"):
        laptop.committed(repository)


def test_a_folder_without_the_workflow_is_no_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClusterError, match="not a git repository"):
        laptop.repository()
    subprocess.run(["git", "init"], check=True, capture_output=True)
    with pytest.raises(ClusterError, match="no workflow/Snakefile"):
        laptop.repository()


@pytest.mark.parametrize(
    "name", sorted(path.name for path in (ROOT / "config").glob("*.yaml") if path.name != "hypotheses.yaml")
)
def test_the_checkpoints_are_those_that_the_workflow_expands(name):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config = laptop.merged(config, yaml.safe_load((ROOT / "config" / name).read_text()))
    paths = set(laptop.checkpoints(config))
    validate(config, str(ROOT / "workflow/schemas/config.schema.yaml"))
    models = expanded_models(config).values()
    expected = {path for model in models for path in model["checkpoint"].values()}
    assert paths == {path for path in expected if not path.startswith("results/planted/")}


def test_configurations_merge_as_in_snakemake(seed):
    rng = np.random.default_rng(seed)

    def drawn(depth):
        keys = rng.choice(list("abcd"), size=3, replace=False)
        return {
            str(key): drawn(depth - 1) if depth and rng.random() < 0.6 else [None, 1][rng.integers(2)]
            for key in keys
        }

    for _ in range(50):
        config, other = drawn(3), drawn(3)
        expected = yaml.safe_load(yaml.safe_dump(config))
        update_config(expected, other)
        assert laptop.merged(config, other) == expected


def test_only_checkpoints_that_are_here_and_not_made_there_are_pushed(repository, tmp_path):
    (tmp_path / "outside.pt").touch()
    for name in ("runs/model-0.pt", "runs/model-1.pt", "runs/model-7.pt", "results/networks/a.pt"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).touch()
    models = {
        "mine": {
            "checkpoint": "./runs/model-{seed}.pt",
            "permuted": "runs/none-{seed}.pt",
            "seeds": [0, 1, 2],
        },
        "made": {"checkpoint": "results/networks/a.pt"},
        "outside": {"checkpoint": "../outside.pt"},
        "absolute": {"checkpoint": str(tmp_path / "outside.pt")},
    }
    (repository / "config/mine.yaml").write_text(yaml.safe_dump({"models": models}))
    pushed = list(laptop.untracked(repository, "config/mine.yaml"))
    assert pushed == ["config/mine.yaml", "runs/model-0.pt", "runs/model-1.pt"]


@pytest.mark.parametrize("text", ["a: [", "models: 3", "models: {mine: 3}", "- list"])
def test_a_configuration_that_cannot_be_read_is_named(repository, text):
    (repository / "config/mine.yaml").write_text(text)
    with pytest.raises(ClusterError, match=r"^config/mine.yaml: "):
        list(laptop.untracked(repository, "config/mine.yaml"))
    with pytest.raises(ClusterError, match=r"^config/none.yaml: .*No such file"):
        list(laptop.untracked(repository, "config/none.yaml"))


@pytest.mark.parametrize("folder", ["/a b", "/a'b", "/$(touch pwned)", "/a;b", "/a\nb", "/~", "/*"])
def test_folders_that_the_shell_of_a_job_would_not_leave_as_they_are_are_refused(folder):
    login.check_words("/work/a-b_c.d/1", [])
    with pytest.raises(ClusterError, match="use a folder with nothing but"):
        login.check_words(folder, [])


@pytest.mark.parametrize("word", ["$(touch pwned)", "`touch pwned`", "a\\'b", "a\nb", "'a\"b'"])
def test_options_that_the_shell_of_a_job_would_run_are_refused(word):
    login.check_words("/work", ["--config", "select=['a b', c]", 'models={"a": 1}', "é;&|"])
    with pytest.raises(ClusterError, match="the shell of a job would run or change this"):
        login.check_words("/work", ["exp001", word])


def test_only_jobs_of_this_folder_and_of_our_name_are_ours(scheduler):
    here, link = os.getcwd(), scheduler / "link"
    link.symlink_to(here)
    (scheduler / "queue").write_text(
        f"1|RUNNING|iredinterp_a|{here}\n2|PENDING|iredinterp_b|{link}\n3|RUNNING|iredinterp_a|{here}2\n"
        f"4|RUNNING|iredinterp_a|{Path(here).parent}\n5|RUNNING|notebook|{here}\n"
    )
    assert login.jobs() == [login.Job("1", "RUNNING"), login.Job("2", "PENDING")]
    assert login.described(login.jobs()) == "2 jobs (1 running, 1 pending)"
    login.settle("cancel", pause=0.01)
    assert (scheduler / "cancelled").read_text().split() == ["1", "2"]


def test_waiting_cancels_nothing_and_ends_when_nothing_is_left(scheduler, capsys):
    (scheduler / "queue").write_text(f"1|RUNNING|iredinterp_a|{os.getcwd()}\n")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(login.settle, "wait", pause=0.01)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        (scheduler / "queue").write_text("")
        waiting.result(10)
    assert not (scheduler / "cancelled").exists()
    assert capsys.readouterr().out == "waiting for 1 job (1 running) of an earlier run\n"


def test_a_scheduler_that_does_not_answer_is_not_one_without_jobs(scheduler):
    (scheduler / "bin/squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: down' >&2\nexit 1\n")
    with pytest.raises(ClusterError, match=r"squeue: slurm_load_jobs error: down"):
        login.settle("wait")


def test_without_a_scheduler_the_error_asks_for_a_login_node(scheduler, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match="squeue: not found; is this a login node"):
        login.jobs()


def test_a_run_is_alive_as_long_as_one_of_its_processes_and_not_a_later_one_of_the_same_number(scheduler):
    ended = subprocess.Popen(["true"])
    start = login.started_at(ended.pid)
    ended.wait()
    pid, own = login.identity(os.getpid())
    assert of_this_process(processes=[[ended.pid, start], [pid, own]]).alive
    for processes in ([[ended.pid, start]], [login.identity(ended.pid)], [[pid, own - 1]], []):
        run = of_this_process(processes=processes)
        assert not run.alive
        assert run.killed


def test_what_a_run_says_of_its_end(scheduler):
    both = [[1, -5], [1, -5]]
    assert "stopped before Snakemake began" in str(of_this_process(processes=both[:1]))
    assert "was killed" in str(of_this_process(processes=both))
    assert "was killed" in str(of_this_process(processes=both, status=-9))
    assert "ended with status 1" in str(of_this_process(processes=both, status=1))
    assert not of_this_process(processes=both, status=1).killed


def test_a_run_of_another_login_node_is_neither_called_dead_nor_started_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    of_this_process(by="me@login2").save()
    with pytest.raises(ClusterError, match=r"started by me@login2, and .* ask there"):
        login.start(["exp001"], [], "wait")
    assert of_this_process(by="me@login2", status=0).save() == login.refuse_if_alive()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"by": 1}'])
def test_a_damaged_record_is_named_with_what_to_do(scheduler, text):
    login.RECORD.parent.mkdir()
    login.RECORD.write_text(text)
    with pytest.raises(ClusterError, match=r"logs/cluster.json: damaged .* delete it"):
        login.Run.last()


def test_of_many_that_start_at_once_one_does(scheduler, monkeypatch):
    folder = scheduler / "study"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (scheduler / "queue").write_text(f"1|RUNNING|iredinterp_a|{folder}\n")
    command = [sys.executable, "-m", "iredinterp", "cluster", "start", "exp001"]
    starts = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    errors = sorted(start.communicate(timeout=60)[1] for start in starts)
    run = login.Run.last()
    try:
        assert errors[0] == ""
        assert all("run of exp001: alive, not yet submitting" in error for error in errors[1:])
        assert run.alive
    finally:
        os.kill(run.processes[0][0], 9)


def test_what_nobody_put_on_record_does_not_run(scheduler):
    command = [sys.executable, "-m", "iredinterp", "cluster", "run", "exp001"]
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == "error: whoever started this was gone before it was on record; submit again\n"


def test_unfinished_files_are_found_where_snakemake_notes_them(tmp_path, monkeypatch, seed):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(seed)
    snakemake = FilePersistence(nolock=True, path=tmp_path / ".snakemake")
    for size in (1, 50, *rng.integers(1, 900, size=50)):
        name = "".join(rng.choice(list("abcé/_-~ "), size=size))
        assert Path(login.mark(name)) == Path(snakemake._record_path(".snakemake/incomplete", name))


def test_only_whole_files_are_finished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "done.parquet",
        "half.parquet",
        "folder/a.json",
        "whole/a.json",
        "whole/.a.json.12345678.tmp",
        ".gitkeep",
    ):
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "results" / name).touch()
    snakemake = FilePersistence(nolock=True, path=tmp_path / ".snakemake")
    for name in ("results/half.parquet", "results/folder", "results/not-yet.parquet"):
        snakemake._mark_incomplete(name, None)
    assert login.finished() == ["done.parquet", "whole/a.json"]


def test_a_dry_run_that_fails_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    (tmp_path / "Snakefile").touch()
    assert re.search("dry run failed: MissingRuleException: .* nothing.txt", login.to_do(["nothing.txt"], []))


def test_the_experiments_are_those_of_the_readme(monkeypatch):
    monkeypatch.chdir(ROOT)
    named = set(re.findall(r"`snakemake (exp\d+)`", (ROOT / "README.md").read_text()))
    assert set(login.experiments()) == named


def test_failures_are_told_with_the_line_that_explains_them():
    text = (
        "Error in rule points:\n    message: SLURM-job '5' failed\n    log: logs/a.log (check log file(s) for error details)\n"
        "Trying to restart job 1.\niredinterp.errors.CheckpointError: a.pt: damaged\nWorkflowError:\nAt least one job failed.\n"
    )
    assert login.failures(text) == [
        "Error in rule points: message: SLURM-job '5' failed",
        "log: logs/a.log (check log file(s) for error details)",
        "iredinterp.errors.CheckpointError: a.pt: damaged",
        "WorkflowError: At least one job failed.",
    ]


def test_targets_may_stand_anywhere_and_unknown_options_are_refused(monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr(laptop, "submit", lambda *arguments: seen.update(arguments=arguments))
    main(["cluster", "submit", "c:x", "a", "--orphans", "cancel", "b", "--", "--config", "x=1", "--", "y"])
    _, targets, configfile, orphans, options = seen["arguments"]
    assert (targets, configfile, orphans) == (["a", "b"], None, "cancel")
    assert options == ["--config", "x=1", "--", "y"]
    with pytest.raises(SystemExit):
        main(["cluster", "submit", "c:x", "--config", "x=1"])
    assert "unrecognized arguments: --config" in capsys.readouterr().err
