"""Snakemake submitting through profiles/slurm from a folder, and what the scheduler recorded of its jobs."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lab import client

# Tests look at jobs at once where production spares the scheduler and waits for slow file systems.
FAST = (
    "--workflow-profile=profiles/slurm",
    "--slurm-init-seconds-before-status-checks=1",
    "--max-status-checks-per-second=1",
    "--latency-wait=2",
    "--jobs=8",
    "--slurm-keep-successful-logs",
)


@dataclass(frozen=True)
class Job:
    """The scheduler's record of one job: what was asked for, where it went, how it ended."""

    id: int
    name: str
    rule: str
    wildcards: str
    state: str
    partition: str
    gpus: str
    cpus: int
    mem_mb: int
    minutes: int
    account: str

    @classmethod
    def from_record(cls, record: str) -> "Job":
        fields = dict(re.findall(r"(\w+)=(\S*)", record))
        rule, _, wildcards = fields["Comment"].removeprefix("rule_").partition("_wildcards_")
        days, _, clock = fields["TimeLimit"].rpartition("-")
        hours, minutes, _ = clock.split(":")
        return cls(
            id=int(fields["JobId"]),
            name=fields["JobName"],
            rule=rule,
            wildcards=wildcards,
            state=fields["JobState"],
            partition=fields["Partition"],
            gpus=fields.get("TresPerJob", ""),
            cpus=int(fields["NumCPUs"]),
            mem_mb=int(fields["MinMemoryNode"].removesuffix("M")),
            minutes=(int(days or 0) * 24 + int(hours)) * 60 + int(minutes),
            account=fields["Account"],
        )


class Submitter:
    """A folder with a copy of profiles/, from which Snakemake submits."""

    def __init__(self, folder: Path, *options: str, **environment: str):
        self.folder = folder
        self.said = folder / "said.txt"
        self.options = options
        self.environment = os.environ | {
            "PYTHONPATH": str(folder / "src"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            **environment,
        }

    def start(self, *arguments: str) -> subprocess.Popen:
        with self.said.open("w") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "snakemake", *FAST, *self.options, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, run: subprocess.Popen, fails: bool = False, timeout: float = 600) -> str:
        """What a started Snakemake has said at its end; after the time-out it is killed with its children."""
        try:
            run.wait(timeout)
        except subprocess.TimeoutExpired:
            kill(run)
            raise TimeoutError(f"Snakemake ran for more than {timeout} s:\n{self.said.read_text()}") from None
        assert (run.returncode != 0) == fails, self.said.read_text()
        return self.said.read_text()

    def submit(self, *arguments: str, fails: bool = False) -> str:
        """What Snakemake said."""
        return self.finish(self.start(*arguments), fails)

    def jobs(self) -> list[Job]:
        """All jobs ever submitted from this folder, oldest first."""
        records = client("scontrol", "--oneliner", "show", "jobs").splitlines()
        return [Job.from_record(record) for record in records if f" WorkDir={self.folder} " in record]


def kill(run: subprocess.Popen) -> None:
    """As kill -9 does, with no chance to cancel what was submitted."""
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
