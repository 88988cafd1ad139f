"""`iredinterp status`, by dry runs of the workflow and by a workflow of two rules that fail and go stale."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from project import SMALL, Project

from iredinterp.cli.program import program
from iredinterp.cli.status import File, described, resources

SNAKEFILE = """
rule first:
    output: "results/a/first.txt"
    log: "logs/first.log"
    params: number=1, settings={"deep": {"level": 3}, "kept": 1}, code={"module": "0" * 12, "same": "1" * 12}
    shell: "echo {params.number} > {output}"

rule second:
    input: rules.first.output
    output: "results/a/second.txt"
    log: "logs/second.log"
    benchmark: "logs/benchmarks/second.jsonl"
    shell: "test -e good && cp {input} {output} 2> {log}"

rule exp901:
    input: rules.second.output
"""


def told(*words, status=0):
    answer = CliRunner().invoke(program, ["status", *words])
    assert answer.exit_code == status, answer.output
    return answer.output


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder with the workflow of two rules, and Snakemake in it."""
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow/Snakefile").write_text(SNAKEFILE)
    monkeypatch.chdir(tmp_path)

    def snakemake(status=0):
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "exp901"]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == status, run.stderr

    return tmp_path, snakemake


def test_files_are_failed_then_done_then_stale_with_the_reason(small):
    folder, snakemake = small
    snakemake(status=1)
    output = told("exp901")
    assert "exp901: failed, 1 of 2 files done\n" in output
    assert "failed     second, 1 file: logs/second.log\n" in output
    assert "waits for  second\n" in output
    (folder / "good").touch()
    snakemake()
    output = told("exp901")
    assert output.startswith("exp901: done\n")
    assert "files      results/a (2)" in output
    assert "measured   1 jobs of these rules, " in output
    assert "waits for" not in output
    path = folder / "workflow/Snakefile"
    path.write_text(path.read_text().replace("number=1", "number=2"))
    output = told("exp901")
    assert output.endswith("params that changed:\n    1 → 2\n")
    assert "exp901: stale, 0 of 2 files done\n" in output
    assert "stale      first, 1 file: params changed\n" in output
    assert "stale      second, 1 file: something that it is made from will be made anew\n" in output
    assert "waits for  first, second\n" in output


def test_params_that_changed_are_named_down_to_the_key_and_the_module(small):
    folder, snakemake = small
    (folder / "good").touch()
    snakemake()
    assert "params that changed" not in told("exp901")
    path = folder / "workflow/Snakefile"
    edited = path.read_text().replace('"level": 3}, "kept": 1}', '"level": 4}, "new": "a; b"}')
    path.write_text(edited.replace('"module": "0" * 12', '"module": "2" * 12, "added": "3" * 12'))
    expected = [
        "code of added",
        "code of module",
        "deep.level: 3 → 4",
        "kept: 1 → nothing",
        "new: nothing → 'a; b'",
    ]
    assert told("exp901").endswith("\n    ".join(["params that changed:", *expected]) + "\n")
    assert json.loads(told("exp901", "--json"))["changed"] == expected


def test_of_the_project_everything_is_missing_upstream_first_and_nothing_is_run(tmp_path, monkeypatch):
    project = Project(tmp_path / "project")
    project.configure(SMALL)
    monkeypatch.chdir(project.folder)
    output = told("exp001")
    assert "exp001: missing, 0 of " in output
    assert "results/hessian (" in output
    (waiting,) = [line.split("  ")[-1].strip() for line in output.splitlines() if "waits for" in line]
    rules = waiting.split(", ")
    needed = {"problems", "competence", "points", "gradients", "hessian_block", "gather", "hessian_figures"}
    assert set(rules) == needed
    order = [
        rules.index(name) for name in ("problems", "points", "hessian_block", "gather", "hessian_figures")
    ]
    assert order == sorted(order)
    assert not [path for path in (project.folder / "results").rglob("*") if path.name != ".gitkeep"]


def test_a_locked_folder_and_what_snakemake_cannot_answer_are_said_beside_the_rest(small):
    folder, _ = small
    (folder / ".snakemake/locks").mkdir(parents=True)
    (folder / ".snakemake/locks/0.output.lock").touch()
    output = told("exp901", "nothing")
    assert output.startswith("this folder is locked")
    assert "exp901: missing, 0 of 2 files done\n" in output
    assert "nothing: unknown, for Snakemake says: MissingRuleException" in output


def test_as_json_every_file_has_its_state_and_every_target_its_reason(small):
    folder, snakemake = small
    snakemake(status=1)
    answer = json.loads(told("exp901", "nothing", "--json"))
    assert answer["locked"] is False
    assert answer["targets"]["exp901"] == {
        "state": "failed",
        "files": [
            {
                "path": "results/a/second.txt",
                "rule": "second",
                "state": "failed",
                "reason": "logs/second.log",
            },
            {"path": "results/a/first.txt", "rule": "first", "state": "done", "reason": ""},
        ],
    }
    assert answer["targets"]["nothing"]["state"] == "unknown"
    assert "MissingRuleException" in answer["targets"]["nothing"]["reason"]
    (folder / ".snakemake/locks").mkdir(exist_ok=True)
    (folder / ".snakemake/locks/0.output.lock").touch()
    assert json.loads(told("exp901", "--json"))["locked"] is True


def test_without_a_workflow_the_project_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told(status=1) == "error: no workflow/Snakefile here; run this in the project's folder\n"


def test_the_worst_state_is_that_of_the_target():
    states = ["done", "missing", "stale", "failed"]
    for count in range(1, 5):
        files = [File(f"results/x/{state}", "rule", state) for state in states[:count]]
        first = next(described("exp901", files))
        assert first.startswith(f"exp901: {states[count - 1]}")


def test_the_time_is_that_of_last_runs_and_the_memory_the_largest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, records in {
        "a/one.jsonl": [{"s": 999, "max_rss": 1.0}, {"s": 60, "max_rss": 100.0}],
        "a/deep/two.jsonl": [{"s": 30, "max_rss": 300.0}],
        "b.jsonl": [{"s": 30, "max_rss": None}],
        "c.jsonl": [{"s": 600, "max_rss": 900.0}],
    }.items():
        path = tmp_path / "logs/benchmarks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    assert resources({"a", "b"}) == "3 jobs of these rules, 2.0 minutes in all, at most 300 MB"
    assert resources({"none"}) == ""
