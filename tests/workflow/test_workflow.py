"""The workflow run for real, on a copy of the project: what it makes, and what an edit makes it make again."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import yaml
from planned_jobs import (
    ANNEALING,
    AT_POINTS,
    CONNECTIVITY,
    COURSES,
    DIFFERENCE,
    EVERYTHING,
    EXP001,
    EXP002,
    EXP003,
    EXP004,
    EXP005,
    EXP006,
    EXP007,
    EXP008,
    EXP009,
    EXP010,
    FIGURES,
    GRASSMANN,
    HESSIAN,
    IN_THE_SAMPLER,
    INFERENCE,
    KERNELS,
    LANDSCAPE,
    LEADERBOARD,
    PLANTED,
    SAE,
    SAE_FIGURES,
    SCORE,
    TANGENT,
)
from project import MODEL, OTHER_RECIPE, PROBLEMS, ROOT, Project, built_once

from iredinterp.tables import read_provenance, read_table


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return built_once(tmp_path_factory, "built", Project.snakemake)


@pytest.fixture
def project(built, tmp_path):
    """A copy of the built project that a test may edit."""
    return built.copied(tmp_path / "project")


def test_every_named_artifact_is_made(built):
    names = set(built.artifacts())
    figures = {
        f"{f}.{s}" for f in ("spectra", "summary", "alignment", "tracking") for s in ("pdf", "svg", "png")
    }
    assert {f"hessian/{MODEL}/trained/figures/{name}" for name in figures} <= names
    assert {
        f"hessian/{MODEL}/trained/{table}.parquet" for table in ("spectra", "metrics", "tracking")
    } <= names
    assert {
        f"competence/{MODEL}.parquet",
        f"competence/{MODEL}.html",
        f"problems/{PROBLEMS}.parquet",
    } <= names
    assert {f"{kind}/{MODEL}/trained/block-0.parquet" for kind in ("points", "gradients")} <= names
    for analysis, shown, tables in (
        ("grassmann", ("arms", "effect", "correlation", "paths"), ("metrics", "displacements", "paths")),
        (
            "landscape",
            ("slices", "minima", "barriers", "connectivity"),
            ("metrics", "minima", "paths", "grid", "tracks"),
        ),
        ("implicit_bias", ("spectrum", "solution"), ("metrics",)),
        ("ntk", ("spectrum", "coupling", "alignment"), ("metrics",)),
        (
            "circuits",
            ("curves", "levels", "circuit", "interchange"),
            ("metrics", "nodes", "edges", "circuits"),
        ),
        ("score", ("overlap", "eigenmatrices", "shares"), ("metrics", "agreement")),
        ("annealing", ("card", "ledger", "modes", "arms", "calibration"), ("metrics",)),
        ("tangent", ("ratios", "shares", "conditions"), ("metrics",)),
        ("sae", SAE_FIGURES, ()),
    ):
        figures = {f"figures/{figure}.{form}" for figure in shown for form in ("pdf", "svg", "png")}
        assert {f"{analysis}/{MODEL}/{name}" for name in figures} <= names
        assert {f"{analysis}/{MODEL}/trained/{table}.parquet" for table in tables} <= names
    assert not [name for name in names if name.endswith((".tmp", ".partial"))]


def test_every_table_reads_back_with_its_provenance(built):
    for path in (built.folder / "results").rglob("*.parquet"):
        if read_table(path).num_rows == 0:
            metrics = read_table(path.with_name("metrics.parquet"))
            if path.name == "paths.parquet":
                # There is no path between minima where each problem has one.
                counts = metrics.filter(pc.equal(metrics["metric"], "minima_count"))["value"]
                assert pc.max(counts).as_py() == 1
            else:
                assert path.name in ("nodes.parquet", "edges.parquet", "circuits.parquet")
                assert set(metrics["reason"].to_pylist()) == {"the optimal energy has no units"}
        record = read_provenance(path)
        assert record["code"], path
        assert str(built.folder) not in str(record)


def test_spectra_cover_every_problem_level_and_kind(built):
    spectra = read_table(built.folder / f"results/hessian/{MODEL}/trained/spectra.parquet")
    assert spectra.num_rows == 4 * 10 * 2
    keys = spectra.select(["problem_id", "t", "point_kind"]).to_pandas().drop_duplicates()
    assert len(keys) == 4 * 10 * 2


def test_a_second_run_has_nothing_to_do(project):
    assert "Nothing to be done" in project.snakemake()


def test_touching_every_file_reruns_nothing(project):
    for path in project.folder.rglob("*"):
        if path.is_file() and not {".snakemake", "results"} & set(path.relative_to(project.folder).parts):
            path.touch()
    assert project.planned() == {}


def test_comments_docstrings_and_layout_rerun_nothing(project):
    for path in (project.folder / "src").rglob("*.py"):
        path.write_text(path.read_text() + "\n\n# A remark.\n")
    for path in (project.folder / "scripts").glob("*.py"):
        path.write_text(path.read_text().replace('"""', '"""Reworded: ', 1))
    assert project.planned() == {}


def test_unused_code_reruns_nothing(project):
    path = project.folder / "src/iredinterp/linalg.py"
    path.write_text(path.read_text() + "\n\ndef unused():\n    return 1\n")
    project.edit("src/iredinterp/geometry/geomstats_bridge.py", "MAX_ITER = 200", "MAX_ITER = 300")
    assert project.planned() == {}


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        (
            "src/iredinterp/figures.py",
            "def save_figure(",
            "@staticmethod\ndef save_figure(",
            FIGURES | {"implicit_bias_course_figures": 1, "ntk_course_figures": 1},
        ),
        (
            "src/iredinterp/linalg.py",
            "def participation_ratio(",
            "@staticmethod\ndef participation_ratio(",
            HESSIAN,
        ),
        ("src/iredinterp/templates/card.html", "<h1>", "<h1 >", {"competence": 1, **FIGURES}),
        (
            "src/iredinterp/ired/sampler.py",
            "ANSWER_LIMIT = 2.0",
            "ANSWER_LIMIT = 2.5",
            {
                "competence": 1,
                **AT_POINTS,
                **IN_THE_SAMPLER,
                **CONNECTIVITY,
                **COURSES,
                **FIGURES,
                "gather": 20,
            },
        ),
        (
            "src/iredinterp/geometry/perturb.py",
            "SWAP_TOLERANCE = 1e-6",
            "SWAP_TOLERANCE = 1e-5",
            GRASSMANN,
        ),
        (
            "src/iredinterp/geometry/symmetric.py",
            "def _cholesky(",
            "@staticmethod\ndef _cholesky(",
            TANGENT,
        ),
    ],
    ids=["figures", "linalg", "template", "sampler", "perturbations", "symmetric"],
)
def test_an_edit_of_the_library_reruns_exactly_what_depends_on_it(project, path, old, new, expected):
    project.edit(path, old, new)
    assert project.planned() == {rule: count for rule, count in expected.items() if count}


@pytest.mark.parametrize(
    ("section", "values", "expected"),
    [
        ("hessian", {"vectors": 4}, HESSIAN),
        ("sae", {"steps": 30}, {**SAE, "planted_dictionary": 1, "calibration": 1}),
        ("tangent", {"chunk": 32}, {**TANGENT, "expected": 1}),
        ("grassmann", {"draws": 2}, {**GRASSMANN, "expected": 1}),
        ("landscape", {"starts": 3}, LANDSCAPE),
        ("score", {"vectors": 4}, SCORE),
        ("annealing", {"runs": 5}, ANNEALING),
        ("implicit_bias", {"inference": {"draws": 5, "starts": 2}}, INFERENCE),
        ("ntk", {"kernels": {"permutations": 11}}, KERNELS),
        ("circuits", {"drawn": 0}, {"circuits_figures": 1}),
        ("circuits", {"planted": {"methods": [], "levels": [2], "count": 4}}, LEADERBOARD),
        ("points", {"seed": 9}, AT_POINTS),
        ("competence", {"seed": 9}, {"competence": 1, **FIGURES}),
        (
            "sampling",
            {"seed": 9},
            EVERYTHING
            | dict.fromkeys(
                (
                    "competence",
                    "planted_network",
                    "planted_dictionary",
                    "circuits_planted",
                    "leaderboard",
                    *SAE,
                    *COURSES,
                ),
                0,
            ),
        ),
        ("planted", {"seed": 9}, PLANTED | {"leaderboard": 1}),
        ("training", {"other": OTHER_RECIPE}, {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_edit_of_the_configuration_reruns_exactly_what_depends_on_it(project, section, values, expected):
    project.configure({section: values})
    assert project.planned() == {rule: count for rule, count in expected.items() if count}


def test_another_checkpoint_reruns_everything_of_its_model(project):
    checkpoints = project.folder / "resources/checkpoints"
    other = (checkpoints / "addition-n5-seed0.safetensors").read_bytes()
    (checkpoints / f"{MODEL}.safetensors").write_bytes(other)
    # Neither the planted network nor the checkpoint of permuted targets.
    assert project.planned() == {
        "competence": 1,
        "points": 6,
        "gradients": 1,
        "hessian_block": 2,
        "tangent_block": 6,
        "grassmann_block": 6,
        "landscape_block": 6,
        "score_block": 6,
        "score_pair": 1,
        "annealing_block": 6,
        "implicit_bias_block": 6,
        "ntk_block": 6,
        "circuits_search": 6,
        "landscape_connectivity": 1,
        "gather": 19,
        **SAE,
        **FIGURES,
    }


def test_a_network_trained_here_is_a_model_like_any_other(project):
    networks = {"checkpoint": "results/networks/tiny-seed{seed}.safetensors", "seeds": [0, 3]}
    project.configure(
        {
            "training": {"tiny": OTHER_RECIPE | {"seeds": [0, 3]}},
            "models": {"mine": networks | {"problems": PROBLEMS}},
            "select": ["mine"],
        }
    )
    targets = [f"results/points/mine-seed{seed}/trained/block-0.parquet" for seed in (0, 3)]
    project.snakemake(*targets)
    results = project.folder / "results"
    for seed in (0, 3):
        network = (results / f"networks/tiny-seed{seed}.safetensors").read_bytes()
        assert network == (results / f"training/tiny/checkpoints/tiny-seed{seed}.safetensors").read_bytes()
        footer = read_provenance(results / f"points/mine-seed{seed}/trained/block-0.parquet")
        assert hashlib.sha256(network).hexdigest() in json.dumps(footer)
    assert project.planned(*targets) == {}


def test_the_plan_counts_the_jobs_of_the_whole_study(project):
    page = project.snakemake("plan")
    rows = re.findall(r"^\| (\w+) \| ([\d,]+) \|", page, re.MULTILINE)
    planned = project.planned("--forceall", "all", "verdicts", "scorecard")
    assert {rule: int(jobs.replace(",", "")) for rule, jobs in rows} == planned
    assert f"{sum(planned.values()):,} jobs." in page


def test_an_edit_undone_reruns_nothing(project):
    project.configure({"hessian": {"vectors": 4}})
    project.configure({"hessian": {"vectors": 5}})
    project.edit(
        "src/iredinterp/linalg.py", "def participation_ratio(", "@staticmethod\ndef participation_ratio("
    )
    project.edit(
        "src/iredinterp/linalg.py", "@staticmethod\ndef participation_ratio(", "def participation_ratio("
    )
    assert project.planned() == {}


def test_targets_by_name_and_by_path(project):
    shutil.rmtree(project.folder / "results")
    assert project.planned() == EVERYTHING
    assert project.planned("exp001") == EXP001
    assert project.planned("hessian") == EXP001
    assert project.planned("exp002") == project.planned("landscape") == EXP002
    assert project.planned("exp003") == project.planned("sae") == EXP003
    assert project.planned("exp004") == project.planned("grassmann") == EXP004
    assert project.planned("exp005") == project.planned("tangent") == EXP005
    assert project.planned("exp006") == project.planned("score") == EXP006
    assert project.planned("exp007") == project.planned("implicit_bias") == EXP007
    assert project.planned("exp008") == project.planned("ntk") == EXP008
    assert project.planned("exp009") == project.planned("circuits") == EXP009
    assert project.planned("exp010") == project.planned("annealing") == EXP010
    assert project.planned("difference") == DIFFERENCE
    assert project.planned("planted") == PLANTED | {"problems": 1}
    assert project.planned("cards") == {"competence": 1}
    more = project.planned("hessian", "--config", "sampling={count: 8}")
    assert more["hessian_block"] == 2 * EXP001["hessian_block"]
    assert project.planned(f"results/points/{MODEL}/trained/block-1.parquet") == {"problems": 1, "points": 1}
    assert project.planned("trained") == {"train": 8, "trained": 1}


def test_the_same_inputs_give_the_same_bytes_on_one_core_and_on_two(built, tmp_path):
    again = Project(tmp_path / "again")
    again.snakemake("--cores", "1", "hessian", "sae")
    before, after = built.artifacts(), again.artifacts()
    different = [name for name, content in after.items() if before[name] != content]
    assert different == []


def test_the_way_of_splitting_the_problems_changes_no_spectrum(built, project):
    project.configure({"sampling": {"block": 2}})
    target = f"results/hessian/{MODEL}/trained/spectra.parquet"
    project.snakemake(target)
    keys = ["problem_id", "t", "point_kind", "scaled"]
    before, after = (read_table(p.folder / target).select(keys).to_pandas() for p in (built, project))
    assert (before.drop(columns="scaled") == after.drop(columns="scaled")).all().all()
    noised = before.point_kind == "q_sample"
    for one, other in zip(before.scaled[noised], after.scaled[noised], strict=True):
        assert abs(one - other).max() < 1e-9


@pytest.mark.parametrize("analysis", ["grassmann", "tangent"])
def test_the_way_of_splitting_the_problems_changes_no_geometry(built, project, analysis):
    project.configure({"sampling": {"block": 2}})
    target = f"results/{analysis}/{MODEL}/trained/metrics.parquet"
    project.snakemake(target)
    before, after = (read_table(p.folder / target).to_pandas() for p in (built, project))
    noised = before.point_kind.isin(["q_sample", "perturbed"])
    assert noised.any()
    keys = ["point_kind", "problem_id", "t", "metric", "component", "index"]
    assert (before[keys] == after[keys]).all().all()
    np.testing.assert_allclose(before.value[noised], after.value[noised], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("engine", ["lanczos", "pyhessian"])
def test_engines_that_give_only_some_eigenvalues_run_through_to_the_figures(project, engine):
    project.configure(
        {"hessian": {"engine": engine, "count": 3, "vectors": 2}, "points": {"kinds": ["q_sample"]}}
    )
    project.configure({"sampling": {"count": 2}})
    project.snakemake(f"results/hessian/{MODEL}/trained/figures/summary.png")


def test_the_report_is_one_offline_page_with_every_figure(project):
    project.snakemake("--report", "report.html")
    page = (project.folder / "report.html").read_text()
    for name in (
        "1 spectra per level",
        "4 overlap between levels",
        "1 energy by arm",
        "4 how often",
        "8 effects of single latents",
        "2 which levels learn together",
        "3 the circuit drawn",
        "leaderboard of methods",
        "Competence cards",
    ):
        assert name in page
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', page)


def test_the_report_of_ours_shows_every_figure_and_links_to_files_that_are_there(project):
    assert project.planned("report") == {"preview": 1, "report": 1}
    project.snakemake("report")
    page = (project.folder / "results/report.html").read_text()
    figures = set((project.folder / "results").rglob("*.svg"))
    assert page.count('src="data:image/svg+xml,') == len(figures) > 30
    linked = set(re.findall(r'href="([^"#]+)"', page))
    figures |= {path.with_suffix(".png") for path in figures}
    assert {str(path.relative_to(project.folder / "results")) for path in figures} <= linked
    assert all((project.folder / "results" / path).is_file() for path in linked)
    assert project.planned("report") == {}
    contrasts = read_table(project.folder / "results/preview/contrasts.parquet").to_pandas()
    left = contrasts[contrasts.reason == "left to `snakemake verdicts`"]
    measured = [contrasts.hypothesis, contrasts.condition]
    assert set(zip(left.hypothesis, left.condition, strict=True)) == {
        (hypothesis, condition)
        for hypothesis, condition in zip(*measured, strict=True)
        if hypothesis == "monosemantic_gradients"
        or (hypothesis == "spectrum_progression" and condition != "oracle")
    }


def test_the_bundled_checkpoints_were_trained_by_the_committed_recipes():
    from iredinterp.ired.checkpoint import load_checkpoint
    from iredinterp.ired.training import Recipe

    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    for name, entry in config["training"].items():
        settings = {**entry, "problems": config["problems"][entry["problems"]]}
        seeds, precision = settings.pop("seeds", [0]), settings.pop("precision")
        assert precision == "float16"
        for seed in seeds:
            record = load_checkpoint(ROOT / f"resources/checkpoints/{name}-seed{seed}.safetensors").record
            assert record == {"recipe": Recipe.from_dict(settings).to_dict(), "seed": seed}


def test_the_bundled_checkpoints_are_small_and_each_belongs_to_a_model():
    sizes = {
        path.name: path.stat().st_size for path in (ROOT / "resources/checkpoints").glob("*.safetensors")
    }
    demo = {name: size for name, size in sizes.items() if "-n5-" in name}
    assert len(demo) == 3 * 2 * 8
    assert sum(demo.values()) <= 20e6
    assert all(size <= 6e6 for name, size in sizes.items() if name not in demo)
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    named = set()
    for entry in config["models"].values():
        for path in (entry["checkpoint"], entry.get("permuted", "")):
            named |= {Path(path.replace("{seed}", str(seed))).name for seed in entry.get("seeds", [0])}
    assert named - {""} == set(sizes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hesian": {"vectors": 3}}, "hesian"),
        ({"hessian": {"engine": "magic"}}, "magic"),
        (
            {"models": {"mine": {"checkpoint": "none.pt", "problems": "inverse-n5"}}, "select": ["mine"]},
            "no file 'none.pt'",
        ),
        (
            {"models": {"mine": {"checkpoint": "none.pt", "problems": "other"}}},
            "'other' is not defined under problems",
        ),
        ({"select": ["mine"]}, "select: 'mine' is not defined under models"),
        ({"sampling": {"count": 0}}, "0 is less than the minimum"),
    ],
    ids=["unknown key", "unknown engine", "no file", "unknown problems", "unknown model", "out of range"],
)
def test_a_bad_configuration_is_refused_with_its_key(project, values, message):
    for section in set(values) - {"models", "select", "hessian", "sampling"}:
        values = {**values}
        path = project.folder / "config/config.yaml"
        path.write_text(path.read_text() + f"\n{section}: {values.pop(section)}\n")
    project.configure(values)
    assert message in project.snakemake("--dry-run", fails=True)


def test_a_broken_checkpoint_fails_its_job_with_our_message_and_leaves_no_output(project):
    shutil.rmtree(project.folder / "results")
    (project.folder / f"resources/checkpoints/{MODEL}.safetensors").write_bytes(b"not a checkpoint")
    output = project.snakemake(f"results/points/{MODEL}/trained/block-0.parquet", fails=True)
    assert "damaged or not a safetensors file" in output
    assert "Traceback" not in (project.folder / f"logs/points/{MODEL}/trained/block-0.log").read_text()
    assert not list((project.folder / "results/points").rglob("*.parquet"))


def test_a_checkpoint_of_another_size_is_told_from_its_problems(project):
    project.configure(
        {
            "models": {
                "mine": {
                    "checkpoint": f"resources/checkpoints/{MODEL}.safetensors",
                    "problems": "inverse-n20",
                }
            },
            "select": ["mine"],
        }
    )
    targets = ["results/points/mine/trained/block-0.parquet", "results/competence/mine.parquet"]
    output = project.snakemake("--keep-going", *targets, fails=True)
    message = "models.mine: the checkpoint takes (d_x, d) = (25, 25), but its problems (inverse, n=20) have"
    for rule in ("points/mine/trained/block-0", "competence/mine"):
        assert message in (project.folder / f"logs/{rule}.log").read_text()
    assert message in output
