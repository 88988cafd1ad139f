"""From checkpoints to verdicts: a small null ladder run for real, and what stops it."""

import pytest
from project import built_once

from iredinterp.config import CONDITIONS
from iredinterp.tables import read_provenance, read_table

FAMILY = "inverse-n5"
SEEDS = (0, 1)
CHECKPOINT = "resources/checkpoints/inverse-n5{}-seed{{seed}}.safetensors"
TINY = {
    "select": [FAMILY],
    "sampling": {"count": 4, "block": 4, "seed": 0},
    "points": {"kinds": ["q_sample"], "draws": 1, "seed": 0},
    "scorecard": {"replicates": 20, "seed": None},
    "sae": {"nulls": [], "probes": [], "fidelity": 0, "seeds": [0], "k": [4], "permutations": 5},
}
MODELS = {
    FAMILY: {
        "checkpoint": CHECKPOINT.format(""),
        "permuted": CHECKPOINT.format("-permuted"),
        "seeds": list(SEEDS),
        "problems": FAMILY,
    }
}
JOBS = len(SEEDS) * len(CONDITIONS)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    return built_once(tmp_path_factory, "judged", judge)


@pytest.fixture
def project(judged, tmp_path):
    return judged.copied(tmp_path / "project")


def judge(project):
    project.configure(TINY | {"models": MODELS})
    project.snakemake("verdicts", "scorecard")


def verdicts(project):
    return read_table(project.folder / "results/verdicts.parquet").to_pandas().set_index("hypothesis")


def test_two_seeds_are_told_that_they_cannot_decide_whatever_the_effect(judged):
    rows = verdicts(judged).query("family == @FAMILY")
    assert sorted(rows.index) == [
        "circuits",
        "coarse_to_fine",
        "manifold_curvature",
        "monosemantic_gradients",
        "relative_coarse_to_fine",
        "spectrum_progression",
    ]
    for row in rows.drop("monosemantic_gradients").itertuples():
        assert row.verdict == "INCONCLUSIVE"
        assert row.reason == "2 seeds: the smallest two-sided p is 0.5, above 0.05; train at least 6"
        assert row.gate_passed
        assert row.n_seeds == 2
        assert row.reproduce == "snakemake verdicts --config 'select=[inverse-n5]'"


def test_an_analysis_that_cannot_find_what_is_planted_invalidates_its_hypothesis(judged):
    """Twenty training steps do not find a dictionary."""
    (row,) = (
        verdicts(judged).query("family == @FAMILY and hypothesis == 'monosemantic_gradients'").itertuples()
    )
    assert row.verdict == "INVALID"
    assert not row.gate_passed
    assert row.reason.startswith("sae failed its calibration: dictionary_recovery_error = 0.")


def test_hypotheses_whose_analysis_does_not_exist_say_not_run(judged):
    rows = verdicts(judged).query("family == ''")
    assert set(rows.index) == {
        "spectrum_progression",
        "grassmann_energy",
        "monosemantic_gradients",
        "manifold_curvature",
        "coarse_to_fine",
        "relative_coarse_to_fine",
        "circuits",
    }
    assert (rows["verdict"] == "INCONCLUSIVE").all()
    assert rows["reason"].str.startswith("not run: no samples of").all()


def test_every_condition_was_measured_with_the_same_points(judged):
    samples = read_table(judged.folder / "results/samples.parquet").to_pandas()
    # The last four leave conditions out, and circuits are judged on half of the problems; the one on Grassmannian distances is not about this task.
    counts = samples.groupby("hypothesis").size().to_dict()
    assert counts == {
        "spectrum_progression": JOBS * 4,
        "monosemantic_gradients": JOBS * 40,
        "manifold_curvature": (JOBS - len(SEEDS)) * 4,
        "coarse_to_fine": 4 * len(SEEDS) * 4,
        "relative_coarse_to_fine": 6 * len(SEEDS) * 4,
        "circuits": 5 * len(SEEDS) * 2,
    }
    assert set(samples["condition"]) == set(CONDITIONS)
    results = judged.folder / "results/points/inverse-n5-seed0"
    points = [
        read_table(results / f"{condition}/block-0.parquet", ["problem_id", "t", "y"])
        for condition in CONDITIONS
    ]
    assert all(table.equals(points[0]) for table in points)


def test_every_table_says_under_which_condition_it_was_made(judged):
    for kind in ("points", "hessian", "tangent", "grassmann", "annealing", "circuits", "sae"):
        for condition in CONDITIONS:
            tables = list(
                (judged.folder / f"results/{kind}").glob(f"inverse-n5-seed*/{condition}/**/*.parquet")
            )
            assert tables
            for path in tables:
                parameters = read_provenance(path)["parameters"]
                assert (parameters["condition"], parameters["conditions"]["calibration"]) == (condition, 256)


def test_the_oracle_is_at_no_distance_from_itself_and_the_trained_model_at_some(judged):
    for condition, optimal in (("oracle", True), ("trained", False)):
        path = f"results/hessian/inverse-n5-seed0/{condition}/blocks/0/metrics.parquet"
        frame = read_table(judged.folder / path).to_pandas()
        distance = frame.loc[frame["metric"] == "oracle_distance", "value"]
        assert len(distance) == 40
        assert (distance < 1e-9).all() == optimal


def test_the_planted_spectrum_is_found_at_every_level(judged):
    table = read_table(judged.folder / f"results/planted/{FAMILY}/calibration.parquet").to_pandas()
    errors = table.loc[table["metric"] == "spectrum_error"]
    assert sorted(errors["t"]) == list(range(10))
    assert (errors["value"] < 1e-10).all()


def test_what_is_planted_is_found_by_every_analysis_that_has_a_gate(judged):
    table = read_table(judged.folder / f"results/planted/{FAMILY}/calibration.parquet").to_pandas()
    errors = table.set_index("metric")["value"]
    assert (errors[["log_slope_error", "log_ratio_error"]] < 1e-9).all()
    # Whether the sampler accepts a step of 1e-8 is rounding, for energies of states that near are equal; from
    # the noisiest level its answers are divided by √ᾱ = 0.005.
    assert (errors[["exponent_error", "relative_exponent_error"]] < 1e-5).all()


def test_the_verdict_carries_the_hash_of_what_was_registered(judged):
    record = read_provenance(judged.folder / "results/verdicts.parquet")
    table = read_table(judged.folder / "results/verdicts.parquet")
    assert record["inputs"]["hypotheses"] == table["hypotheses_sha256"][0].as_py()


def test_the_scorecard_names_its_seed_and_another_one_differs(project):
    path = project.folder / "results/scorecard.parquet"
    first = read_provenance(path)["seed"]
    assert str(first) in (project.folder / "results/scorecard.html").read_text()
    project.snakemake("scorecard", "--forcerun", "scorecard")
    assert read_provenance(path)["seed"] != first


def test_a_second_run_has_nothing_to_do(project):
    assert "Nothing to be done" in project.snakemake("verdicts", "scorecard")


def test_another_registration_is_judged_anew_from_the_same_measurements(project):
    project.edit("config/hypotheses.yaml", "sesoi: 0.1", "sesoi: 0.2")
    assert project.planned("verdicts") == {"calibration": 1, "verdicts": 1}


def test_an_edit_of_the_ladder_reruns_every_rung_and_not_the_planted_network(project):
    project.configure({"conditions": {"seed": 5}})
    planned = project.planned("verdicts")
    assert "planted_network" not in planned
    assert planned["points"] >= JOBS


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("statistic: log_slope", "statistic: log_slop", "log_slop"),
        ("naive: [random_init, permuted_weights]", "naive: [random_initt]", "random_initt"),
        ("tasks: [addition, inverse, completion]", "tasks: [addition, sudoku]", "sudoku"),
    ],
)
def test_unknown_names_fail_at_start_with_the_line_of_the_file(project, old, new, message):
    path = project.folder / "config/hypotheses.yaml"
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if old in text)
    project.edit("config/hypotheses.yaml", old, new)
    output = project.snakemake("--dry-run", "verdicts", fails=True)
    assert f"config/hypotheses.yaml:{line}: " in output
    assert message in output


def test_a_condition_without_its_checkpoint_says_why_in_the_verdict(project):
    project.configure({"models": {FAMILY: MODELS[FAMILY] | {"permuted": None}}})
    project.snakemake("verdicts")
    contrasts = read_table(project.folder / "results/contrasts.parquet").to_pandas()
    rows = contrasts.query("condition == 'permuted_targets'")
    asked = ["circuits", "monosemantic_gradients", "relative_coarse_to_fine", "spectrum_progression"]
    assert sorted(rows["hypothesis"]) == asked
    assert rows["reason"].str.contains("models.inverse-n5.permuted is not set", regex=False).all()
    reason = verdicts(project).query("family == @FAMILY").loc["spectrum_progression", "reason"]
    assert "required null permuted_targets is missing" in reason
