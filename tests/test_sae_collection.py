"""Collection: the vectors are those of the landscape at the sampler's own states, and stream past."""

import itertools
import weakref

import pyarrow as pa
import pytest
import torch

from iredinterp.analyses.sae import collection
from iredinterp.analyses.sae.collection import (
    SOURCES,
    fresh_problems,
    gradient_batches,
    read_vectors,
    vector_groups,
)
from iredinterp.energy import MLPEnergy
from iredinterp.errors import ConfigError, TableError
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.sampler import sample
from iredinterp.ired.tasks import ProblemSpec, make_problems
from iredinterp.points import MODEL_KEYS, normal_draws, point_tensors, points_table, problems_table
from iredinterp.tables import read_provenance, read_table, tensor_array, tensor_column, write_stream
from iredinterp.truth.oracle import BayesOracle

SPEC = ProblemSpec("addition", 3)
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture
def energy(generator):
    """Untrained, and so steep that the sampler's steps overshoot."""
    model = EnergyMLP.random(18, 9, 12, generator).to(torch.float64)
    steep = {name: 4 * value for name, value in model.parameters.items() if name.startswith("fc")}
    return MLPEnergy(EnergyMLP(model.parameters | steep, model.schedule))


@pytest.fixture
def problems(seed):
    return problems_table(make_problems("addition", 3, 5, seed))


def collected(energy, problems, seed, **options):
    options = {"dtype": torch.float64, "chunk": 2} | options
    return pa.concat_tables(gradient_batches(energy, problems, {"model": "a"}, seed, **options))


def of(table, source, **labels):
    for name, value in {"source": source, **labels}.items():
        table = table.filter(pa.compute.equal(table[name], value))
    return table


def test_jump_and_inner_rows_are_the_landscape_at_the_samplers_own_states(energy, problems, seed):
    table = collected(energy, problems, seed, draws=2, chunk=5)
    x = tensor_column(problems, "x").flatten(1).repeat_interleave(2, 0)
    init = normal_draws(seed, "first_state", range(5), 2, 9).flatten(0, 1)
    run = sample(energy, x, init=init)
    assert not run.accepted.all()
    for k, t in enumerate(run.levels.tolist()):
        states = {None: run.entered[k]} | dict(enumerate(run.states[k]))
        for step, y in states.items():
            rows = of(table, "jump", t=t) if step is None else of(table, "inner", t=t, inner_step=step)
            value, gradient = energy.energy_and_gradient(x, y, t)
            torch.testing.assert_close(tensor_column(rows, "energy"), value, **CLOSE)
            torch.testing.assert_close(tensor_column(rows, "gradient"), gradient, **CLOSE)
            torch.testing.assert_close(tensor_column(rows, "gradient_norm"), gradient.norm(dim=1), **CLOSE)
            assert rows["problem_id"].to_pylist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
            assert rows["draw"].to_pylist() == [0, 1] * 5
            if step is None:
                assert rows["accepted"].null_count == rows["inner_step"].null_count == 10
            else:
                assert rows["accepted"].to_pylist() == run.accepted[k, step].tolist()


def test_q_sample_rows_are_the_landscape_at_answers_noised_anew_at_every_level(energy, problems, seed):
    table = collected(energy, problems, seed, sources=["q_sample"])
    noise = normal_draws(seed, "q_sample", range(5), 1, 90).reshape(5, 10, 9)
    s = energy.schedule
    x, y_star = (tensor_column(problems, name).flatten(1) for name in ("x", "y_star"))
    for t in range(10):
        y = s.sqrt_alphas_cumprod[t] * y_star + s.sigma[t] * noise[:, t]
        rows = of(table, "q_sample", t=t)
        torch.testing.assert_close(tensor_column(rows, "gradient"), energy.gradient(x, y, t), **CLOSE)


def test_sampler_runs_are_those_of_the_points_table(energy, problems, seed):
    points = points_table(energy, problems, {}, ["trajectory"], seed)
    x, y, t = point_tensors(energy, points, problems)
    s = energy.schedule
    entered = s.sqrt_alphas_cumprod[t - 1] / s.sqrt_alphas_cumprod[t]
    table = collected(energy, problems, seed, sources=["jump"], chunk=5)
    for level in range(1, 10):
        rows = t == level
        expected = energy.gradient(x[rows], (entered[:, None] * y)[rows], level - 1)
        found = tensor_column(of(table, "jump", t=level - 1), "gradient")
        assert (found - expected).norm() <= 1e-4 * expected.norm()


def test_minimum_rows_have_no_gradient(problems, seed):
    table = collected(BayesOracle(SPEC), problems, seed, sources=["minimum"])
    assert len(table) == 50
    assert table["converged"].to_pylist() == [True] * 50
    assert (tensor_column(table, "gradient").norm(dim=1) <= 1e-8).all()


def test_the_oracle_has_no_error_and_the_error_of_a_network_is_its_distance_from_the_formula(
    energy, problems, seed
):
    oracle = BayesOracle(SPEC)
    own = collected(oracle, problems, seed, oracle=oracle)
    assert (tensor_column(own, "error") == 0).all()

    table = of(collected(energy, problems, seed, oracle=oracle), "q_sample", t=4)
    noise = normal_draws(seed, "q_sample", range(5), 1, 90).reshape(5, 10, 9)[:, 4]
    # Of a point posterior g* at a q_sample is the noise itself.
    expected = tensor_column(table, "gradient") - noise
    torch.testing.assert_close(tensor_column(table, "error"), expected, rtol=1e-6, atol=1e-6)


def test_hidden_activations_are_the_networks_own(energy, problems, seed):
    table = collected(energy, problems, seed, sources=["jump"], hidden=True)
    x = tensor_column(problems, "x").flatten(1)
    y = normal_draws(seed, "first_state", range(5), 1, 9).flatten(0, 1)
    rows, found = of(table, "jump", t=9), energy.model.activations(x, y, 9)
    for name in ("h1", "h2", "h3"):
        torch.testing.assert_close(tensor_column(rows, name), getattr(found, name), **CLOSE)


def test_vectors_do_not_depend_on_the_chunk(energy, problems, seed):
    order = [("problem_id", "ascending"), ("t", "ascending"), ("source", "ascending")]
    order += [("inner_step", "ascending")]
    tables = [collected(energy, problems, seed, chunk=chunk).sort_by(order) for chunk in (1, 5)]
    labels = ["problem_id", "t", "source", "inner_step", "draw"]
    assert tables[0].select(labels).equals(tables[1].select(labels))
    # Rounding decides steps that tie in the accept rule, so runs may part.
    first, second = (tensor_column(of(table, "q_sample"), "gradient") for table in tables)
    torch.testing.assert_close(first, second, **CLOSE)


def test_vectors_of_a_source_do_not_depend_on_the_other_sources_asked_for(energy, problems, seed):
    together = collected(energy, problems, seed, draws=2)
    for source in ("q_sample", "jump", "inner"):
        assert collected(energy, problems, seed, draws=2, sources=[source]).equals(of(together, source))


def test_float32_is_rounding_of_what_float64_computed(energy, problems, seed):
    wide, narrow = (collected(energy, problems, seed, dtype=kind) for kind in (torch.float64, torch.float32))
    assert tensor_column(narrow, "gradient").dtype == torch.float32
    assert torch.equal(tensor_column(narrow, "gradient"), tensor_column(wide, "gradient").float())
    assert torch.equal(tensor_column(narrow, "energy"), tensor_column(wide, "energy"))


def test_an_endless_stream_of_problems_is_taken_chunk_by_chunk_and_let_go(
    energy, generator, monkeypatch, seed
):
    drawn, alive, most = [], weakref.WeakSet(), 0

    def endless():
        for start in itertools.count(step=4):
            drawn.append(start)
            (table,) = fresh_problems(SPEC, 4, generator)
            yield table

    def counted(values):
        alive.add(values)
        return tensor_array(values)

    monkeypatch.setattr(collection, "tensor_array", counted)
    for batch in itertools.islice(gradient_batches(energy, endless(), {}, seed, chunk=4), 300):
        del batch
        most = max(most, len(alive))
    # Three batches per level and chunk: q_samples, jumps and inner steps.
    assert len(drawn) == 10
    assert most <= 2


def test_fresh_problems_are_numbered_through_and_drawn_from_one_generator(seed):
    tables = list(fresh_problems(SPEC, 7, torch.Generator().manual_seed(seed), chunk=3))
    assert [len(table) for table in tables] == [3, 3, 1]
    assert pa.concat_tables(tables)["problem_id"].to_pylist() == list(range(7))
    x = tensor_column(pa.concat_tables(tables), "x").flatten(1)
    assert len(torch.unique(x, dim=0)) == 7


@pytest.fixture
def file(energy, problems, tmp_path, seed):
    path = tmp_path / "vectors.parquet"
    batches = gradient_batches(energy, problems, {"model": "a"}, seed, chunk=2)
    write_stream(batches, path, {"seed": seed}, row_group=64)
    return path


def test_what_is_read_is_what_was_collected(file, energy, problems, seed):
    table = collected(energy, problems, seed, dtype=torch.float32)
    vectors = read_vectors(file)
    assert torch.equal(vectors.values, tensor_column(table, "gradient"))
    assert torch.equal(vectors.t, tensor_column(table, "t").long())
    assert torch.equal(vectors.problem, tensor_column(table, "problem_id").long())
    assert [SOURCES[index] for index in vectors.source] == table["source"].to_pylist()
    steps = [-1 if step is None else step for step in table["inner_step"].to_pylist()]
    assert vectors.step.tolist() == steps
    assert read_provenance(file)["seed"] == seed
    assert set(MODEL_KEYS) <= set(read_table(file).column_names)


def test_sources_are_read_apart(file):
    inner = read_vectors(file, sources=["inner"])
    assert (inner.source == SOURCES.index("inner")).all()
    assert len(inner.t) == 5 * 10 * 5
    assert (inner.step >= 0).all()
    assert (read_vectors(file, sources=["q_sample", "jump"]).step == -1).all()


def test_shuffling_permutes_row_groups_and_keeps_each_vector_with_its_labels(file, seed):
    plain = read_vectors(file)
    shuffled = read_vectors(file, generator=torch.Generator().manual_seed(seed))
    again = read_vectors(file, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(shuffled.values, again.values)
    groups = list(vector_groups(file))
    assert [len(group.t) for group in groups] == [64] * 5 + [30]

    def rows(vectors):
        labels = torch.stack([vectors.t, vectors.problem, vectors.source, vectors.step], 1)
        return sorted(torch.cat([labels, vectors.values], 1).tolist())

    assert rows(shuffled) == rows(plain)
    starts = {tuple(group.values[0].tolist()) for group in groups}
    assert tuple(shuffled.values[0].tolist()) in starts


def test_what_cannot_be_collected_or_read_is_named(energy, problems, file):
    with pytest.raises(ConfigError, match="unknown source 'trajectory'; use some of q_sample, jump"):
        gradient_batches(energy, problems, {}, 0, sources=["trajectory"])
    with pytest.raises(ConfigError, match="BayesOracle has no hidden activations"):
        gradient_batches(BayesOracle(SPEC), problems, {}, 0, hidden=True)
    with pytest.raises(TableError, match="'error' has no values; collect it with an oracle"):
        read_vectors(file, "error")
    with pytest.raises(TableError, match="no column 'h1'"):
        read_vectors(file, "h1")
    with pytest.raises(TableError, match="no vector of source minimum"):
        read_vectors(file, sources=["minimum"])
