"""The chain from points to verdicts under changes whose effect theory gives exactly."""

from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from iredinterp.analyses.hessian import spectrum_tables
from iredinterp.energy import CallableEnergy, MLPEnergy
from iredinterp.evidence.hypotheses import read_hypotheses
from iredinterp.evidence.samples import samples_of
from iredinterp.evidence.verdicts import judge
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.sampler import sample
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import make_problems
from iredinterp.points import points_table, problems_table
from iredinterp.tables import tensor_array, tensor_column
from iredinterp.truth.analytic import haar_orthogonal
from iredinterp.truth.oracle import BayesOracle
from iredinterp.truth.planted import EVERY_DECOY, planted
from iredinterp.truth.planted.truth import planted_schedule

N = 3
D = N * N
HIDDEN = 32
KEYS = {"model": "m", "family": "inverse-n3", "condition": "trained", "task": "inverse", "n": N, "seed": 0}
REGISTRATION = replace(read_hypotheses(Path(__file__).parents[1] / "config/hypotheses.yaml"), draws=1000)
HYPOTHESIS = REGISTRATION["spectrum_progression"]
LABELS = ["point_kind", "problem_id", "draw", "t", "t2", "metric", "component"]
# How each metric follows E → sE: times s, not at all, or as another function of the spectrum.
PROPORTIONAL = {"scaled_min", "scaled_max", "scaled_median", "scaled_mean", "stability", "zero_tolerance"}
RELATIVE = {
    *("inertia_positive", "inertia_zero", "inertia_negative", "negative_index"),
    *("condition_number", "quantile_ratio", "gauss_newton_share", "symmetry_defect", "end_gap"),
    *("alignment", "alignment_excess", "alignment_mismatched", "alignment_chance", "alignment_chance_sd"),
    *("curvature_share", "curvature_share_chance"),
}
SHAPES = {"participation_ratio", "effective_rank", "stable_rank", "log_gap", "gap_position"}
AGAINST_THE_OPTIMUM = {
    *("isotropy_defect", "response_share", "response_square_share"),
    *("oracle_distance", "oracle_gradient_distance"),
}

Results = namedtuple("Results", "spectra metrics tracking")


def analysed(energy, points, problems, **options):
    return Results(*spectrum_tables(energy, points, problems, **{"vectors": 2} | options))


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def inverse_problems(seed, count=5):
    return problems_table(make_problems("inverse", N, count, seed))


def random_model(generator):
    """Weights three times those of an untrained network, so that all three layers curve the energy."""
    model = EnergyMLP.random(D, D, HIDDEN, generator).to(torch.float64)
    layers = {f"fc{k}.weight": 3 * model.parameters[f"fc{k}.weight"] for k in (1, 2, 3, 4)}
    return EnergyMLP({**model.parameters, **layers}, model.schedule)


def planted_model(seed, generator):
    """A planted network whose eigenvalues are apart from each other and from 1/σ_t."""
    scaled = 0.3 + 0.6 * (torch.arange(D) + 0.5 * torch.rand(10, D, generator=generator).double()) / D
    spectrum = scaled / planted_schedule().sigma[:, None]
    return planted(D, D, seed, spectrum, decoys=EVERY_DECOY).model


def with_column(table, name, values):
    return table.set_column(table.column_names.index(name), name, values)


def turned(table, name, Q):
    """A table with Q applied to the matrices of a column, flattened row by row."""
    matrices = tensor_column(table, name)
    return with_column(table, name, tensor_array((matrices.flatten(1) @ Q.mT).view_as(matrices)))


def frame_of(table):
    frame = table.to_pandas()
    frame = frame.set_index([name for name in LABELS if name in frame])[["value", "reason"]].sort_index()
    assert frame.index.is_unique
    return frame


def only(frame, keep):
    """The rows whose (metric, component) `keep` takes."""
    return frame[[keep(*row) for row in zip(*map(frame.index.get_level_values, LABELS[-2:]), strict=True)]]


def conditioned(frame):
    # Rounding of a small |λ| is large in κ and ln|λ|, but not in the ratio of that |λ| to a larger one.
    metric, value = frame.index.get_level_values("metric"), frame["value"].to_numpy(copy=True)
    ratio, logarithm = metric.isin(["condition_number", "quantile_ratio"]), metric == "log_gap"
    value[ratio] = 1 / value[ratio]
    value[logarithm] = np.exp(-value[logarithm])
    return value


def assert_same(found, expected, keep=lambda *_: True, rtol=1e-9, atol=1e-11):
    """Two metric tables, or frames of theirs, agree row by row; also in what is undefined, and why."""
    found, expected = (
        only(frame_of(table) if isinstance(table, pa.Table) else table, keep) for table in (found, expected)
    )
    assert len(expected)
    assert found.index.equals(expected.index)
    pd.testing.assert_series_equal(found["reason"], expected["reason"])
    first, second = conditioned(found), conditioned(expected)
    apart = ~np.isclose(first, second, rtol, atol, equal_nan=True)
    assert not apart.any(), found[apart].assign(expected=expected[apart]["value"])


def assert_same_results(found, expected, keep=lambda *_: True):
    eigenvalues = (tensor_column(results.spectra, "eigenvalues") for results in (found, expected))
    torch.testing.assert_close(*eigenvalues, rtol=1e-9, atol=1e-11)
    assert_same(found.metrics, expected.metrics, keep)
    assert_same(found.tracking, expected.tracking)


def rotated(model, Q):
    """The network of E(x, Qᵀy, t)."""
    first = model.parameters["fc1.weight"]
    first = torch.cat([first[:, : model.dim_x], first[:, model.dim_x :] @ Q.mT], 1)
    return EnergyMLP({**model.parameters, "fc1.weight": first}, model.schedule)


def before_and_after(Q, seed, generator):
    """Results of a random network, and of the rotated one at rotated points of rotated problems."""
    model = random_model(generator)
    # Inverses are symmetric; turned at random, their rows differ from their columns.
    problems = turned(inverse_problems(seed), "y_star", haar_orthogonal(D, generator))
    points = points_table(MLPEnergy(model), problems, KEYS, ["q_sample"], seed)
    before = analysed(MLPEnergy(model), points, problems)
    points, problems = turned(points, "y", Q), turned(problems, "y_star", Q)
    return before, analysed(MLPEnergy(rotated(model, Q)), points, problems)


def test_any_rotation_of_the_answers_turns_the_eigenvectors_and_leaves_the_spectrum(seed, generator):
    Q = haar_orthogonal(D, generator)
    before, after = before_and_after(Q, seed, generator)
    of_bases = ("alignment", "curvature_share", "response")
    assert_same_results(after, before, lambda metric, _: not metric.startswith(of_bases))
    for end in ("low", "high"):
        first, second = (tensor_column(results.spectra, end) for results in (before, after))
        overlaps = torch.linalg.svdvals((Q @ first).mT @ second)
        torch.testing.assert_close(overlaps, torch.ones_like(overlaps), rtol=0, atol=1e-9)
    # A rotation that mixes rows with columns does not turn the bases with it.
    first, second = (
        only(frame_of(results.metrics), lambda *row: row == ("alignment", "column/high"))
        for results in (before, after)
    )
    assert not np.isclose(first["value"], second["value"], rtol=1e-3).all()


def test_turning_rows_and_columns_leaves_every_alignment_with_the_answer(seed, generator):
    Q = torch.kron(haar_orthogonal(N, generator), haar_orthogonal(N, generator))
    before, after = before_and_after(Q, seed, generator)
    assert_same_results(after, before, lambda _, component: not component.startswith("symmetric"))


def test_conjugating_the_answers_leaves_the_symmetric_matrices_too(seed, generator):
    U = haar_orthogonal(N, generator)
    before, after = before_and_after(torch.kron(U, U), seed, generator)
    assert_same_results(after, before)


def test_transposing_the_answers_exchanges_rows_and_columns(seed, generator):
    swap = torch.eye(D, dtype=torch.float64).view(N, N, D).transpose(0, 1).reshape(D, D)
    before, after = before_and_after(swap, seed, generator)
    other = {"column": "row", "row": "column"}
    names = {side + end: other[side] + end for side in other for end in ("", "/low", "/high")}
    exchanged = frame_of(before.metrics).rename(index=names, level="component").sort_index()
    assert_same(after.metrics, exchanged)
    assert_same(after.tracking, before.tracking)


@pytest.mark.parametrize("faithful", [True, False])
def test_the_sampler_follows_a_signed_permutation_of_the_entries(faithful, seed, generator):
    """The symmetries of the box ±2√ᾱ_t to which the sampler clamps."""
    signs = torch.where(torch.rand(D, generator=generator) < 0.5, -1.0, 1.0).double()
    Q = (torch.eye(D, dtype=torch.float64) * signs)[torch.randperm(D, generator=generator)]
    model, x = random_model(generator), make_problems("inverse", N, 6, seed).x
    init = normal(generator, 6, D)
    before = sample(MLPEnergy(model), x, init=init, faithful=faithful)
    after = sample(MLPEnergy(rotated(model, Q)), x, init=init @ Q.mT, faithful=faithful)
    torch.testing.assert_close(after.answers, before.answers @ Q.mT, rtol=0, atol=1e-6)


def renamed_units(model, generator):
    """The same function with the units of every hidden layer in another order."""
    h, weights = model.hidden, dict(model.parameters)
    orders = {layer: torch.randperm(h, generator=generator) for layer in (1, 2, 3)}
    for layer, order in orders.items():
        weights[f"fc{layer}.weight"] = weights[f"fc{layer}.weight"][order]
        weights[f"fc{layer}.bias"] = weights[f"fc{layer}.bias"][order]
        weights[f"fc{layer + 1}.weight"] = weights[f"fc{layer + 1}.weight"][:, order]
    for layer in (2, 3):
        both = torch.cat([orders[layer], h + orders[layer]])
        for part in ("weight", "bias"):
            weights[f"t_map_fc{layer}.{part}"] = weights[f"t_map_fc{layer}.{part}"][both]
    return EnergyMLP(weights, model.schedule)


def test_names_of_units_of_a_random_network_change_nothing(seed, generator):
    model, problems = random_model(generator), inverse_problems(seed)
    first, second = MLPEnergy(model), MLPEnergy(renamed_units(model, generator))
    points = points_table(first, problems, KEYS, ["q_sample"], seed)
    assert_same_results(analysed(second, points, problems), analysed(first, points, problems))
    runs = (sample(energy, tensor_column(problems, "x").flatten(1), seed=seed) for energy in (first, second))
    torch.testing.assert_close(*(run.answers for run in runs), rtol=0, atol=1e-6)


def test_names_of_units_of_a_planted_network_change_nothing_at_any_kind_of_point(seed, generator):
    model, problems = planted_model(seed, generator), inverse_problems(seed, 4)
    results = []
    for energy in (MLPEnergy(model), MLPEnergy(renamed_units(model, generator))):
        points = points_table(energy, problems, KEYS, ["q_sample", "trajectory", "minimum"], seed)
        results.append(analysed(energy, points, problems))
    assert_same_results(*results)


def test_an_offset_of_problem_and_level_changes_no_result(seed, generator):
    model, problems = random_model(generator), inverse_problems(seed, 4)
    oracle = BayesOracle(make_problems("inverse", N, 1, 0).spec, schedule=model.schedule)
    direction = normal(generator, D)

    def shifted(x, y, t):
        return model.energy(x, y, t) + (1 + t) * torch.sin(x @ direction)

    plain, moved = (CallableEnergy(f, D, D, model.schedule) for f in (model.energy, shifted))
    points = points_table(plain, problems, KEYS, ["q_sample"], seed)
    results = (analysed(energy, points, problems, oracle=oracle) for energy in (moved, plain))
    assert_same_results(*results)
    x, y = tensor_column(problems, "x").flatten(1), normal(generator, 4, D)
    for t in (0, 9):
        torch.testing.assert_close(moved.gradient(x, y, t), MLPEnergy(model).gradient(x, y, t))
        assert (moved.energy(x, y, t) - plain.energy(x, y, t)).abs().min() > 0
    # E is resolved to 1e-15 of the offset, and next to a minimum y to the root of that.
    runs = (sample(energy, x, seed=seed) for energy in (moved, plain))
    torch.testing.assert_close(*(run.answers for run in runs), rtol=0, atol=1e-6)


def scaled_by(scale, model, seed):
    """Results of a network, and of the one with `scale` times its energy at the same points."""
    problems = inverse_problems(seed)
    last = {f"fc4.{part}": scale**0.5 * model.parameters[f"fc4.{part}"] for part in ("weight", "bias")}
    larger = EnergyMLP({**model.parameters, **last}, model.schedule)
    points = points_table(MLPEnergy(model), problems, KEYS, ["q_sample"], seed)
    return [analysed(MLPEnergy(network), points, problems) for network in (model, larger)]


def test_the_scale_of_the_energy_is_that_of_its_eigenvalues_and_of_nothing_else(seed, generator):
    scale = 0.2 + 4 * torch.rand((), generator=generator).item()
    before, after = scaled_by(scale, random_model(generator), seed)
    first, second = (tensor_column(results.spectra, "eigenvalues") for results in (before, after))
    torch.testing.assert_close(second, scale * first, rtol=1e-9, atol=1e-11)
    first, second = (frame_of(results.metrics) for results in (before, after))
    assert set(first.index.unique("metric")) == PROPORTIONAL | RELATIVE | SHAPES | AGAINST_THE_OPTIMUM

    def relative(metric, component):
        return metric in RELATIVE or (metric in SHAPES and component == "H")

    assert_same(second, first, relative)
    assert_same(after.tracking, before.tracking)
    raised = only(first, lambda metric, _: metric in PROPORTIONAL)
    raised = raised.assign(value=scale * raised["value"])
    assert_same(second, raised, lambda metric, _: metric in PROPORTIONAL)
    slopes = (samples_of(HYPOTHESIS, results.metrics)["value"] for results in (before, after))
    np.testing.assert_allclose(*slopes, rtol=1e-9)


def test_the_response_to_a_scaled_energy_follows_from_its_curvature(seed, generator):
    """I − sσH from σH; with s this small every eigenvalue of either is positive."""
    scale = 0.2 + 0.4 * torch.rand((), generator=generator).item()
    before, after = scaled_by(scale, planted_model(seed, generator), seed)

    def value(results, metric, component=""):
        found = only(frame_of(results.metrics), lambda *row: row == (metric, component))
        assert len(found)
        assert found["value"].notna().all()
        return found["value"].to_numpy()

    trace = scale * D * value(before, "scaled_mean")
    for basis in ("column", "row", "core", "tangent", "outer", "symmetric"):
        k = D * value(before, "curvature_share_chance", basis)
        expected = (k - trace * value(before, "curvature_share", basis)) / (D - trace)
        np.testing.assert_allclose(value(after, "response_share", basis), expected, rtol=1e-9)
    # ‖σH‖_F² from ‖σH − I‖_F², and back for sσH.
    square = D * value(before, "isotropy_defect") ** 2 + 2 * trace / scale - D
    expected = ((scale**2 * square - 2 * trace + D) / D) ** 0.5
    np.testing.assert_allclose(value(after, "isotropy_defect"), expected, rtol=1e-9)


def renumbered(table, new_ids):
    """A table with problem i under the name new_ids[i]."""
    return with_column(table, "problem_id", pa.array(new_ids[table["problem_id"].to_numpy()], pa.int32()))


def taken(table, order):
    return table.take(pa.array(np.asarray(order)))


def test_names_and_order_of_problems_matter_to_the_comparison_with_the_next_one_alone(seed, generator):
    rng = np.random.default_rng(seed)
    model, problems = random_model(generator), inverse_problems(seed)
    energy, count = MLPEnergy(model), problems.num_rows
    points = points_table(energy, problems, KEYS, ["q_sample"], seed)
    before = analysed(energy, points, problems)
    names = rng.choice(1000, count, replace=False)
    back = np.full(1000, -1)
    back[names] = np.arange(count)

    def of_renamed(problems, points):
        found = analysed(energy, renumbered(points, names), renumbered(problems, names))
        return frame_of(renumbered(found.metrics, back)), frame_of(renumbered(found.tracking, back))

    metrics, tracking = of_renamed(problems, points)
    assert_same(metrics, before.metrics)
    assert_same(tracking, before.tracking)

    order = rng.permutation(count)
    metrics, tracking = of_renamed(taken(problems, order), taken(points, rng.permutation(points.num_rows)))
    assert_same(metrics, before.metrics, lambda metric, _: metric != "alignment_mismatched")
    assert_same(tracking, before.tracking)
    for one, following in zip(order, np.roll(order, -1), strict=True):
        own = points.filter(pc.equal(points["problem_id"], int(one)))
        pair = analysed(energy, own, taken(problems, [one, following]))
        assert_same(metrics.xs(one, level="problem_id", drop_level=False), pair.metrics)


LEVELS = cosine_schedule(3)
FLAT, STEEP = 0.1, 1.1
PASSED = {(HYPOTHESIS.gate.method, "inverse-n3"): 0.0}


def progressing(slope, generator):
    """An energy with ln κ = slopes(x)·(−ln σ_t) in a random basis, and these slopes, within 0.02 of `slope`."""
    Q, w = haar_orthogonal(D, generator), normal(generator, D)

    def slopes(x):
        return slope + 0.02 * torch.tanh(x @ w)

    def function(x, y, t):
        power = slopes(x).unsqueeze(-1) * torch.linspace(0, 1, D).double()
        level = (t.unsqueeze(-1) == torch.arange(LEVELS.levels)).double()
        sharpness = -(level @ LEVELS.sigma.log()).unsqueeze(-1)
        return ((power * sharpness).exp() * (y @ Q).square()).sum(-1) / 2

    return CallableEnergy(function, D, D, LEVELS), slopes


def test_planted_progressions_meet_their_verdicts_whatever_seeds_and_problems_are_called(seed, generator):
    rng = np.random.default_rng(seed)
    problems = inverse_problems(seed, 4)
    x = tensor_column(problems, "x").flatten(1)

    def measured(condition, slope):
        """Metrics of six training seeds, and the mean of their true slopes."""
        tables, true = [], []
        for training_seed in range(6):
            energy, slopes = progressing(slope, generator)
            keys = KEYS | {"condition": condition, "seed": training_seed}
            points = points_table(energy, problems, keys, [HYPOTHESIS.point_kind], seed)
            tables.append(analysed(energy, points, problems, vectors=0).metrics)
            true.append(slopes(x).mean())
        return pa.concat_tables(tables), float(torch.stack(true).mean())

    flat = {condition: measured(condition, FLAT) for condition in HYPOTHESIS.conditions}
    steep = {condition: measured(condition, STEEP) for condition in ("trained", "shuffled_x", "oracle")}
    cases = {
        "SUPPORTED": ["trained"],
        "PREDICTED": ["trained", "oracle"],
        "ARTEFACT": ["trained", "shuffled_x"],
        "ABSENT": [],
    }
    for expected, climbing in cases.items():
        chosen = flat | {condition: steep[condition] for condition in climbing}
        true = {condition: slope for condition, (_, slope) in chosen.items()}
        metrics = pa.concat_tables([table for table, _ in chosen.values()])
        renamed = taken(metrics, rng.permutation(metrics.num_rows))
        renamed = renumbered(renamed, rng.choice(1000, 4, replace=False))
        names = rng.choice(1000, 6, replace=False)
        renamed = with_column(renamed, "seed", pa.array(names[renamed["seed"].to_numpy()], pa.int64()))
        for table in (metrics, renamed):
            judged = judge(REGISTRATION, samples_of(HYPOTHESIS, table), PASSED)
            (found,) = (found for found in judged if found.family)
            assert found.verdict == expected, found.reason
            for condition, contrast in found.contrasts.items():
                assert contrast.effect == pytest.approx(true["trained"] - true[condition], abs=1e-9)


def values(metrics, name):
    found = frame_of(metrics).xs(name, level="metric")["value"]
    assert found.notna().all()
    return found.to_numpy()


@pytest.mark.parametrize("task", ["addition", "inverse", "completion"])
def test_the_optimal_energy_is_at_no_distance_from_itself(task, seed):
    drawn = make_problems(task, N, 4, seed, rank=1 if task == "completion" else None)
    model, oracle = BayesOracle(drawn.spec), BayesOracle(drawn.spec)
    problems = problems_table(drawn)
    points = points_table(model, problems, KEYS | {"task": task}, ["q_sample"], seed)
    results = analysed(model, points, problems, oracle=oracle)
    assert values(results.metrics, "oracle_distance").max() <= 1e-12
    assert values(results.metrics, "oracle_gradient_distance").max() <= 1e-12
    if task != "completion":
        assert values(results.metrics, "isotropy_defect").max() <= 1e-12
        np.testing.assert_allclose(values(results.metrics, "condition_number"), 1, rtol=1e-12)
        slopes = samples_of(HYPOTHESIS, results.metrics)["value"]
        np.testing.assert_allclose(slopes, 0, atol=1e-12)


@pytest.mark.parametrize("task", ["addition", "inverse"])
def test_a_planted_error_of_known_norm_is_the_distance_from_the_optimum(task, seed, generator):
    drawn = make_problems(task, N, 4, seed)
    oracle, problems = BayesOracle(drawn.spec), problems_table(drawn)
    error = normal(generator, D, D)
    error = (error + error.mT) / (error + error.mT).norm()
    distance = 0.05 + torch.rand(10, generator=generator).double()
    # ‖H*‖_F = √d/σ_t.
    size = distance * D**0.5 / oracle.schedule.sigma

    def function(x, y, t):
        level = (t.unsqueeze(-1) == torch.arange(10)).double()
        return oracle.function(x, y, t) + (level @ size) * ((y @ error) * y).sum(-1) / 2

    model = CallableEnergy(function, oracle.dim_x, D, oracle.schedule)
    points = points_table(model, problems, KEYS | {"task": task}, ["q_sample"], seed)
    results = analysed(model, points, problems, oracle=oracle)
    levels = frame_of(results.metrics).xs("oracle_distance", level="metric").index.get_level_values("t")
    expected = distance.numpy()[levels]
    np.testing.assert_allclose(values(results.metrics, "oracle_distance"), expected, rtol=1e-10)
    # σ_tH − I is then the error itself, whose norm over √d is the same number.
    np.testing.assert_allclose(values(results.metrics, "isotropy_defect"), expected, rtol=1e-10)
    slope = (tensor_column(points, "y").flatten(1) @ error).norm(dim=1) / D**0.5
    t = torch.tensor(points["t"].to_numpy(), dtype=torch.int64)
    by_point = pd.Series((size[t] * slope).numpy(), [points["problem_id"].to_numpy(), t.numpy()])
    found = values(results.metrics, "oracle_gradient_distance")
    np.testing.assert_allclose(found, by_point.sort_index().to_numpy(), rtol=1e-10)
