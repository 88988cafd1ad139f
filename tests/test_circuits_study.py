"""EXP-009 as tables: found on half of the problems, judged on the others, and right about planted networks."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from iredinterp.analyses.circuits import frames
from iredinterp.analyses.circuits.level import Level, Sample
from iredinterp.analyses.circuits.study import NO_UNITS, circuits_tables
from iredinterp.errors import ConfigError, TableError
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import MODEL_KEYS, points_table, problems_table
from iredinterp.tables import tensor_column
from iredinterp.truth.oracle import BayesOracle
from iredinterp.truth.planted import EVERY_DECOY, planted, planted_energy

# One unit of a pair that cancels is worse than none: circuits larger than the planted one would be as well.
DECOYS = EVERY_DECOY | {"cancelling": 0}

SPEC = ProblemSpec.from_dict({"task": "addition", "n": 2})
SETTINGS = {
    "method": "joint",
    "ablation": "zero",
    "shares": [0.1, 0.3, 0.6],
    "draws": 3,
    "threshold": 0.9,
    "levels": [6, 1],
    "compared": ["eap"],
    "restarts": 2,
    "permutations": 19,
    "variables": {"layers": [1, 3], "dimensions": [4], "sources": 1, "steps": 2},
}
KEYS = dict.fromkeys(MODEL_KEYS) | {"model": "m", "family": "m", "condition": "trained", "task": "addition"}


def given(energy, seed, count=12):
    problems = problems_table(draw_problems(SPEC, count, torch.Generator().manual_seed(seed)))
    return points_table(energy, problems, KEYS, ["q_sample"], seed), problems


@pytest.fixture(scope="module")
def fresh():
    seed = int(np.random.default_rng().integers(2**31))
    print(f"seed = {seed}")
    return seed


@pytest.fixture(scope="module")
def study(fresh):
    energy = planted_energy(SPEC.dim_x, SPEC.dim_y, fresh, decoys=DECOYS)
    return circuits_tables(energy, *given(energy, fresh), SPEC, seed=fresh, **SETTINGS)


def values(table, metric, component=None):
    frame = table.filter(pc.equal(table["metric"], metric)).to_pandas()
    return frame if component is None else frame[frame["component"] == component]


def test_circuits_no_larger_than_the_planted_one_have_its_units_alone(study, fresh):
    truth = planted(SPEC.dim_x, SPEC.dim_y, fresh, decoys=DECOYS).truth
    circuits = study.circuits.filter(pc.equal(study.circuits["method"], "joint"))
    looked_at = 0
    for t, k, units in zip(
        circuits["t"].to_pylist(), circuits["k"].to_pylist(), tensor_column(circuits, "units"), strict=True
    ):
        needed = torch.stack([truth.circuit(layer, t) for layer in (1, 2, 3)])
        assert int(units.sum()) == k
        if k <= needed.sum():
            assert not (units.bool() & ~needed).any()
            looked_at += k > 0
        else:
            assert not (needed & ~units.bool()).any()
    assert looked_at >= 10


def test_a_circuit_with_every_planted_unit_is_faithful_on_problems_that_no_search_saw(study):
    found = values(study.metrics, "faithfulness", "joint")
    largest_but_one = sorted(found["k"].unique())[-2]
    whole, most, none = (found[found["k"] == k]["value"] for k in (found["k"].max(), largest_but_one, 0))
    assert abs(whole - 1).max() < 1e-12
    assert abs(most - 1).max() < 1e-9
    assert none.mean() == pytest.approx(0, abs=1e-12)


def test_the_gain_is_over_random_circuits_with_as_many_units_per_layer(study):
    gain = values(study.metrics, "faithfulness_gain")
    assert set(gain["problem_id"] % 2) == {1}
    assert gain["value"].mean() > 0.1
    random = values(study.metrics, "random_faithfulness").groupby("k")["value"].mean()
    assert random.iloc[-1] == pytest.approx(1, abs=1e-12)
    assert random.iloc[0] == pytest.approx(0, abs=1e-12)
    areas = values(study.metrics, "cpr").set_index(["t", "component"])["value"].unstack()
    assert (areas["joint"] > areas["random"]).all()


def test_levels_share_the_units_that_their_circuits_share(study):
    found = values(study.metrics, "jaccard").set_index(["t", "t2"])["value"]
    assert len(found) == 45
    for (t, t2), value in found.items():
        first, second = (frames.chosen_circuit(study.circuits, "joint", level) for level in (t, t2))
        assert value == pytest.approx(int((first & second).sum()) / int((first | second).sum()))


def test_every_row_is_there_once(study):
    for table, more in ((study.metrics, ["problem_id", "draw", "t2", "k"]), (study.nodes, ["layer", "unit"])):
        keys = table.select(["t", *more, "metric", "component", "index"]).to_pandas()
        assert not keys.duplicated().any()
    edges = study.edges.select(["t", "start", "end"]).to_pandas()
    assert len(edges)
    assert not edges.duplicated().any()


def test_every_unit_has_its_effects_and_its_gate_where_all_is_looked_at(study, fresh):
    network = planted(SPEC.dim_x, SPEC.dim_y, fresh, decoys=DECOYS)
    effects = values(study.nodes, "necessity", "zero")
    assert set(effects["t"]) == set(SETTINGS["levels"])
    assert len(effects) == 2 * 3 * network.model.hidden
    gains = values(study.nodes, "gain")
    for layer in (2, 3):
        here = gains[(gains["t"] == 6) & (gains["layer"] == layer)].sort_values("unit")["value"]
        assert here.to_numpy() == pytest.approx(network.truth.gains[layer][6].numpy(), abs=1e-9)
    gates = values(study.nodes, "gate_necessity", "zero")
    assert set(gates[gates["value"].isna()]["layer"]) == {1}


def test_same_seed_same_tables(study, fresh):
    energy = planted_energy(SPEC.dim_x, SPEC.dim_y, fresh, decoys=DECOYS)
    again = circuits_tables(energy, *given(energy, fresh), SPEC, seed=fresh, **SETTINGS)
    assert all(one.equals(other) for one, other in zip(study, again, strict=True))


def test_an_energy_without_units_says_so(fresh):
    oracle = BayesOracle(SPEC)
    found = circuits_tables(oracle, *given(oracle, fresh), SPEC, seed=0, **SETTINGS)
    assert set(found.metrics["reason"].to_pylist()) == {NO_UNITS}
    assert found.metrics["value"].null_count == found.metrics.num_rows == 6 * 10
    assert [table.num_rows for table in found[1:]] == [0, 0, 0]


def test_its_tables_have_the_columns_of_a_network_s(study, fresh):
    oracle = BayesOracle(SPEC)
    found = circuits_tables(oracle, *given(oracle, fresh), SPEC, seed=0, **SETTINGS)
    for one, other in zip(study, found, strict=True):
        assert one.column_names == other.column_names


def test_figures_get_what_they_draw(study):
    curves = frames.curves_frame(study.metrics, "joint")
    assert set(curves["t"]) == set(SETTINGS["levels"])
    assert curves["method"].iloc[0] == "joint"
    assert set(curves["method"]) == {"joint", "eap", "random"}
    overlaps = frames.overlaps_frame(study.metrics).pivot(index="t", columns="t2", values="value")
    assert (overlaps == overlaps.T).all(axis=None)
    assert (np.diag(overlaps) == 1).all()
    scores = frames.scores_frame(study.nodes, "joint")
    table = frames.scores_at(study.nodes, "joint", 6)
    assert len(scores) == 10 * table.numel()
    row = scores[(scores["t"] == 6) & (scores["layer"] == 2) & (scores["unit"] == 3)]
    assert float(row["score"].iloc[0]) == float(table[1, 3])
    accuracy = frames.accuracy_frame(study.metrics)
    assert set(accuracy["layer"]) == {1, 3}
    assert set(accuracy["method"]) == {"aligned", "units", "random"}


def test_what_cannot_be_searched_is_refused(study, fresh):
    energy = planted_energy(SPEC.dim_x, SPEC.dim_y, fresh)
    points, problems = given(energy, fresh, 4)
    with pytest.raises(ConfigError, match=r"circuits\.levels.*11"):
        circuits_tables(energy, points, problems, SPEC, seed=0, **SETTINGS | {"levels": [11]})
    with pytest.raises(ConfigError, match=r"'best'.*joint"):
        circuits_tables(energy, points, problems, SPEC, seed=0, **SETTINGS | {"method": "best"})
    one = points.filter(pc.equal(points["problem_id"], 0))
    with pytest.raises(ConfigError, match=r"1 problem, needs 2.*sampling\.count"):
        circuits_tables(energy, one, problems, SPEC, seed=0, **SETTINGS)
    with pytest.raises(TableError, match="q_sample"):
        circuits_tables(energy, points.slice(0, 0), problems, SPEC, seed=0, **SETTINGS)
    without = study.circuits.filter(pc.not_equal(study.circuits["t"], 3))
    with pytest.raises(TableError, match="no circuit of joint at level 3"):
        frames.chosen_circuit(without, "joint", 3)


def test_numbers_of_a_level_are_about_the_chosen_circuit(study, fresh):
    sizes = values(study.metrics, "circuit_size").set_index("t")["value"]
    for t in range(10):
        assert sizes[t] == int(frames.chosen_circuit(study.circuits, "joint", t).sum())
    for t in SETTINGS["levels"]:
        rows = study.metrics.filter(pc.equal(study.metrics["t"], t)).to_pandas()
        found = rows[rows["problem_id"].isna()].set_index("metric")["value"]
        circuit = frames.chosen_circuit(study.circuits, "joint", t)
        expected = level_of(fresh, t).tests(circuit, 19, 19)
        assert found["equivalence_agreeing"] == expected[0].agreeing
        assert found["independence_p"] == expected[1].p
        assert found["minimality_needed"] == pytest.approx(expected[2].needed.double().mean().item())
        assert 1 <= found["restarts_distinct"] <= found["restarts_faithful"] <= SETTINGS["restarts"]
        assert 0 < found["restarts_jaccard_expected"] <= found["restarts_jaccard"] <= 1


def test_shared_units_stand_beside_those_of_random_circuits(study):
    found = {
        end: values(study.metrics, f"jaccard{end}").set_index(["t", "t2"])["value"]
        for end in ("", "_expected", "_low", "_high", "_p")
    }
    assert (found["_low"] <= found["_expected"]).all()
    assert (found["_expected"] <= found["_high"]).all()
    outside = (found[""] < found["_low"]) | (found[""] > found["_high"])
    assert (found["_p"][outside] <= 0.05).all()
    assert (found["_p"][~outside] > 0.05).all()


def level_of(seed, t):
    """The level of the study, built again by hand."""
    energy = planted_energy(SPEC.dim_x, SPEC.dim_y, seed, decoys=DECOYS)
    points, problems = given(energy, seed)
    halves = []
    for parity in (0, 1):
        ids = [i for i in range(problems.num_rows) if i % 2 == parity]
        rows = points.filter(
            pc.and_(pc.equal(points["t"], t), pc.is_in(points["problem_id"], pa.array(ids, pa.int32())))
        )
        y, x = tensor_column(rows, "y").flatten(1), tensor_column(problems, "x").flatten(1)[ids]
        answers = tensor_column(problems, "y_star").flatten(1)[ids]
        schedule = energy.schedule
        noise = (y - schedule.sqrt_alphas_cumprod[t] * answers) / schedule.sigma[t]
        halves.append(Sample(x, y, torch.full((len(ids),), t), noise))
    return Level(
        energy.model, t, *halves, SETTINGS["ablation"], SETTINGS["shares"], SETTINGS["threshold"], seed
    )
