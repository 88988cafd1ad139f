"""A copy of the project that tests run Snakemake in."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

ROOT = Path(__file__).parents[1]
MODEL = "inverse-n5-seed0"
PROBLEMS = "inverse-n5"
SMALL = {
    "select": [MODEL],
    "sampling": {"count": 4, "block": 4, "seed": 0},
    "points": {"kinds": ["q_sample", "minimum"], "draws": 1, "seed": 0},
    "figures": {"conditions": None, "pdf": True},
    "competence": {"count": 100, "seed": 1},
    "landscape": {
        "every": 2,
        "levels": [9, 0],
        "starts": 2,
        "runs": 1,
        "images": 5,
        "path_steps": 10,
        "connectivity": {"problems": 50, "steps": 5, "points": 5},
    },
    "annealing": {"runs": 4},
    "implicit_bias": {
        "inference": {"draws": 4, "starts": 2},
        "course": {
            "recipes": [PROBLEMS],
            "seeds": [0],
            "steps": 9,
            "hidden": 8,
            "batch": 8,
            "snapshots": 4,
            "problems": 8,
            "hessian_problems": 2,
        },
    },
    "ntk": {
        "kernels": {"permutations": 10},
        "course": {
            "recipes": [PROBLEMS],
            "seeds": [0],
            "steps": 9,
            "hidden": 8,
            "batch": 8,
            "snapshots": 4,
            "problems": 6,
        },
    },
    "difference": {
        "pairs": [[MODEL, "inverse-n5-seed1"]],
        "landscapes": {"count": 2, "levels": [9, 0], "starts": 1, "images": 5, "path_steps": 5},
        "course": {
            "recipes": [PROBLEMS],
            "seeds": [0],
            "steps": 9,
            "hidden": 8,
            "batch": 8,
            "snapshots": 4,
            "problems": 2,
            "levels": [9, 0],
        },
    },
    "circuits": {
        "search": {
            "shares": [0.3],
            "draws": 2,
            "levels": [1],
            "compared": ["eap"],
            "restarts": 2,
            "permutations": 19,
            "variables": {"layers": [3], "dimensions": [4], "sources": 1, "steps": 2},
        },
        "drawn": 1,
        "planted": {"methods": [], "levels": [1], "count": 4},
    },
    "sae": {
        "problems": 40,
        "widths": [30],
        "k": [2, 4],
        "steps": 20,
        "batch": 128,
        "nulls": ["gaussian", "pca"],
        "permutations": 5,
        "effects": 1,
    },
}
OTHER_RECIPE = {
    "problems": PROBLEMS,
    "hidden": 8,
    "phases": [{"steps": 9, "learning_rate": 0.1, "contrastive": True}],
}
TARGETS = {"all", "cards", "planted"}
TARGETS |= {"exp001", "hessian", "exp002", "landscape", "exp003", "sae", "exp004", "grassmann"}
TARGETS |= {"exp005", "tangent", "exp006", "score", "exp007", "implicit_bias"}
TARGETS |= {"exp008", "ntk", "exp009", "circuits", "exp010", "annealing", "difference"}


class Project:
    """A copy of the project in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("workflow", "scripts", "src", "config", "profiles", "resources"):
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
        self.configure(SMALL)

    @classmethod
    def at(cls, folder: Path) -> "Project":
        """The copy that is in a folder already."""
        project = cls.__new__(cls)
        project.folder = folder
        return project

    def copied(self, folder: Path) -> "Project":
        """The same with its results, in another folder."""
        # Dates matter: a newer input is looked at again.
        shutil.copytree(self.folder, folder, copy_function=shutil.copy2)
        return Project.at(folder)

    def configure(self, values: dict) -> None:
        path = self.folder / "config/config.yaml"
        config = yaml.safe_load(path.read_text())
        for section, entry in values.items():
            config[section] = {**config[section], **entry} if isinstance(entry, dict) else entry
        path.write_text(yaml.safe_dump(config))

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.folder / path).read_text()
        assert text.count(old) >= 1, f"{old!r} is not in {path}"
        (self.folder / path).write_text(text.replace(old, new, 1))

    def process(self, *arguments: str) -> dict:
        """Snakemake in this folder, as arguments of `subprocess`."""
        return {
            "args": [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
            "cwd": self.folder,
            "env": os.environ | {"PYTHONPATH": str(self.folder / "src"), "OMP_NUM_THREADS": "1"},
        }

    def snakemake(self, *arguments: str, fails: bool = False) -> str:
        run = subprocess.run(**self.process(*arguments), capture_output=True, text=True)
        output = run.stdout + run.stderr
        assert (run.returncode != 0) == fails, output
        return output

    def planned(self, *arguments: str) -> dict[str, int]:
        """Jobs a dry run lists, but for the targets that only collect."""
        counts = re.findall(r"^(\w+) +(\d+)$", self.snakemake("--dry-run", *arguments), re.MULTILINE)
        return {rule: int(count) for rule, count in counts if rule not in TARGETS | {"total"}}

    def artifacts(self) -> dict[str, bytes]:
        results = self.folder / "results"
        return {
            str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*") if path.is_file()
        }


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Project], None]) -> Project:
    """A project that all workers of a test run read and none may write; the first to need it builds it."""
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    folder = (factory.getbasetemp().parent if parallel else factory.getbasetemp()) / name
    finished = folder.with_suffix(".finished")
    with FileLock(folder.with_suffix(".lock")):
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            build(Project(folder))
            finished.touch()
    return Project.at(folder)
