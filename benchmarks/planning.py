"""How long Snakemake plans the study of config/paper.yaml and one of ten times its seeds, and in what memory.

Each plan is a dry run in a process of its own; the result is written to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from measure import device_name, write_results

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "config/paper.yaml"
TARGETS = ("all", "verdicts", "scorecard")


def main() -> None:
    """Plan both and write the results page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--times", type=int, default=10, help="as many training seeds")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.yaml"
        large.write_text(yaml.safe_dump(with_seeds(yaml.safe_load(STUDY.read_text()), options.times)))
        rows = [row("config/paper.yaml", STUDY), row(f"with {options.times} times its seeds", large)]
    heading = ["| study | jobs | CPU seconds | wall seconds | peak memory, GB |", "|---|---|---|---|---|"]
    introduction = f"Written by `python benchmarks/planning.py`: a dry run of `{' '.join(TARGETS)}`."
    write_results("Planning", device_name("cpu"), [introduction, "\n".join(heading + rows)])


def with_seeds(study: dict, times: int) -> dict:
    """The same study on more training seeds."""
    for section in ("models", "training"):
        for entry in study[section].values():
            entry["seeds"] = list(range(times * len(entry["seeds"])))
    return study


def row(name: str, path: Path) -> str:
    """Plan one study in a process of its own."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--configfile", str(path), "--", *TARGETS]
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        said.seek(0)
        text = said.read()
    if status:
        raise SystemExit(text)
    jobs = int(re.findall(r"^total +(\d+)$", text, re.MULTILINE)[0])
    gigabytes = used.ru_maxrss * 1024 / 1e9
    return f"| {name} | {jobs:,} | {used.ru_utime + used.ru_stime:.0f} | {wall:.0f} | {gigabytes:.2f} |"


if __name__ == "__main__":
    main()
