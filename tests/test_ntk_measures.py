"""EXP-008: alignments without bias, level coupling, and the table of a block."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from iredinterp.analyses.ntk import ntk_table
from iredinterp.analyses.ntk.alignment import debiased_alignment, permuted_alignment, u_centred
from iredinterp.analyses.ntk.block import spectral_shape
from iredinterp.analyses.ntk.coupling import level_coupling
from iredinterp.analyses.ntk.factors import Points
from iredinterp.analyses.ntk.generic import gradient_field, kernel_blocks, mlp_energy
from iredinterp.analyses.ntk.kernels import gradient_kernel_trace
from iredinterp.analyses.ntk.measures import NO_PARAMETERS
from iredinterp.analyses.ntk.names import KERNELS, LAYERS, OTHER, SAME, TARGETS
from iredinterp.energy import CallableEnergy, MLPEnergy
from iredinterp.errors import ConfigError, TableError
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import MODEL_KEYS, point_tensors, points_table, problems_table, q_sample
from iredinterp.tables import tensor_column
from iredinterp.truth.oracle import BayesOracle
from iredinterp.truth.planted import planted

SPEC = ProblemSpec("inverse", 2)
SMALL = {"permutations": 20, "top": 3}
KEYS = dict.fromkeys(MODEL_KEYS) | {
    "model": "m",
    "family": "m",
    "condition": "trained",
    "task": "inverse",
    "n": 2,
}


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def gram(features):
    return features @ features.mT


def network(generator, hidden=12):
    return MLPEnergy(EnergyMLP.random(SPEC.dim_x, SPEC.dim_y, hidden, generator).to(torch.float64))


def tables(energy, seed, count=6, kinds=("q_sample",), draws=1):
    problems = problems_table(draw_problems(SPEC, count, torch.Generator().manual_seed(seed)))
    return points_table(energy, problems, KEYS, kinds, seed, draws), problems


def rows_of(table, metric, component):
    frame = table.to_pandas()
    return frame[(frame["metric"] == metric) & (frame["component"] == component)]


def values_of(table, metric, component):
    """By level, the noisiest first."""
    return rows_of(table, metric, component).sort_values("t", ascending=False)["value"].to_numpy()


def test_u_centring_is_the_unbiased_estimate_of_independence_of_song_et_al(generator):
    n = 9
    K, L = gram(normal(generator, n, 4)), gram(normal(generator, n, 7))
    K0, L0 = K - K.diag().diag(), L - L.diag().diag()
    one = torch.ones(n, dtype=torch.float64)
    expected = (
        (K0 @ L0).trace()
        + (one @ K0 @ one) * (one @ L0 @ one) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (one @ K0 @ L0 @ one)
    ) / (n * (n - 3))
    found = (u_centred(K) * u_centred(L)).sum() / (n * (n - 3))
    assert float(found) == pytest.approx(float(expected), rel=1e-10)


def test_independent_features_have_no_debiased_alignment_though_the_plain_one_is_large(generator):
    one, two = (gram(normal(generator, 400, 8, 40)) for _ in range(2))
    found = debiased_alignment(one, two)
    assert found.mean().abs() < 5 * found.std() / 20
    centre = torch.eye(8, dtype=torch.float64) - 1 / 8
    plain = [centre @ part @ centre for part in (one, two)]
    sizes = [part.norm(dim=(1, 2)) for part in plain]
    assert ((plain[0] * plain[1]).sum((1, 2)) / (sizes[0] * sizes[1])).mean() > 0.7


def test_equal_kernels_are_aligned_whatever_their_size_offset_and_diagonal(generator):
    kernel = gram(normal(generator, 7, 3))
    shift = normal(generator, 7)
    other = 3 * kernel + shift[:, None] + shift + normal(generator, 7).diag()
    assert float(debiased_alignment(kernel, other)) == pytest.approx(1, abs=1e-10)
    assert float(debiased_alignment(kernel, -kernel)) == pytest.approx(-1, abs=1e-10)


def test_permuted_labels_have_no_alignment_on_average_and_a_band_that_independent_ones_fall_into(generator):
    kernel, label = gram(normal(generator, 200, 12, 3)), gram(normal(generator, 200, 12, 3))
    shuffled = permuted_alignment(kernel, label, 200, generator)
    assert shuffled.mean().abs() < 0.02
    low, high = shuffled.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    found = debiased_alignment(kernel, label)
    inside = ((low <= found) & (found <= high)).double().mean()
    # 95 % of 200, within five standard errors of a binomial, and the ends of a band of 200 draws.
    assert 0.85 < inside <= 1
    itself = permuted_alignment(kernel[:1], kernel[:1], 5, generator)
    assert (itself < 0.9).any()


def test_constant_kernels_have_no_alignment_and_three_points_are_too_few(generator):
    kernel = gram(normal(generator, 6, 3))
    assert debiased_alignment(kernel, torch.ones(6, 6, dtype=torch.float64)).isnan()
    with pytest.raises(ConfigError, match=r"ntk.kernels.count: found 3, allowed ≥ 4"):
        u_centred(kernel[:3, :3])


def test_spectral_shape_of_known_spectra(generator):
    Q = torch.linalg.qr(normal(generator, 5, 5)).Q
    values = torch.tensor([4.0, 2.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    kernels = torch.stack([Q @ values.diag() @ Q.mT, torch.eye(5).double(), torch.zeros(5, 5).double()])
    found = spectral_shape(kernels, 2)
    assert found["frobenius"].tolist() == pytest.approx([22**0.5, 5**0.5, 0])
    assert found["effective_rank"][:2].tolist() == pytest.approx([64 / 22, 5])
    assert found["eigenvalue_share"][0].tolist() == pytest.approx([0.5, 0.25])
    assert found["effective_rank"][2].isnan()
    assert found["eigenvalue_share"][2].isnan().all()


def feature_traces(features):
    """Traces of a kernel with known parameter gradients, (L, P, F) features."""
    return torch.einsum("apf,bqf->apbq", features, features)


def test_coupling_is_one_on_the_diagonal_symmetric_and_bounded_by_one(generator):
    found = level_coupling(feature_traces(normal(generator, 4, 6, 3)))
    for part in found.values():
        assert torch.allclose(part.value, part.value.mT)
        assert (part.value.abs() <= 1 + 1e-12).all()
    assert torch.allclose(found[SAME].value.diag(), torch.ones(4).double())
    assert torch.allclose(found[SAME].stderr.diag(), torch.zeros(4).double(), atol=1e-12)


def test_levels_without_shared_parameters_do_not_couple_and_opposite_ones_interfere(generator):
    base = normal(generator, 6, 3)
    nothing = torch.zeros(6, 3).double()
    features = torch.stack(
        [torch.cat([base, nothing], 1), torch.cat([nothing, base], 1), torch.cat([-2 * base, nothing], 1)]
    )
    found = level_coupling(feature_traces(features))
    assert found[SAME].value[0].tolist() == pytest.approx([1, 0, -1])
    assert found[OTHER].value[0, 1] == 0
    assert float(found[OTHER].value[0, 2]) == pytest.approx(-float(found[OTHER].value[0, 0]))
    assert found[SAME].high[0, 2] < 0


def test_the_jackknife_is_that_of_leaving_out_each_problem(generator):
    traces = feature_traces(normal(generator, 2, 7, 3))
    found = level_coupling(traces)
    for component in (SAME, OTHER):
        left = []
        for out in range(7):
            kept = [index for index in range(7) if index != out]
            left.append(level_coupling(traces[:, kept][..., kept])[component].value)
        left = torch.stack(left)
        expected = (6 / 7 * (left - left.mean(0)).square().sum(0)).sqrt()
        assert torch.allclose(found[component].stderr, expected, rtol=1e-8, atol=1e-12)


def test_intervals_of_coupling_cover_the_truth(generator):
    """Problems scatter around one direction per level; the truth is the ratio of expectations."""
    covered = {SAME: 0, OTHER: 0}
    for _ in range(150):
        noise = normal(generator, 1, 20, 4) + normal(generator, 2, 20, 4)
        features = noise + torch.tensor([1.0, -1.0]).view(2, 1, 1)
        found = level_coupling(feature_traces(features))
        truth = {SAME: (1 - 1) / 3, OTHER: -1 / 3}
        for component, value in truth.items():
            part = found[component]
            covered[component] += int(part.low[0, 1] <= value <= part.high[0, 1])
    # 95 % of 150 is 142; five standard errors and the small-sample error of a jackknife below.
    assert all(count > 125 for count in covered.values()), covered


def test_the_table_holds_what_the_kernels_of_torch_func_say(generator, seed):
    energy = network(generator)
    points, problems = tables(energy, seed)
    table = ntk_table(energy, points, problems, **SMALL)
    x, y, t = point_tensors(energy, points, problems)
    field = gradient_field(mlp_energy(energy.schedule))
    blocks = kernel_blocks(field, energy.model.parameters, (x, y, t))
    traces = {name: block.diagonal(dim1=2, dim2=3).sum(-1) for name, block in blocks.items()}
    whole = sum(traces.values())
    for level in (9, 4, 0):
        here = t == level
        kernel = whole[here][:, here]
        rows = rows_of(table, "trace", "g").query(f"t == {level}").sort_values("problem_id")
        assert np.allclose(rows["value"], kernel.diag(), rtol=1e-10)
        assert (rows["stderr"] == 0).all()
        found = rows_of(table, "effective_rank", "g").query(f"t == {level}")["value"].item()
        assert found == pytest.approx(float(kernel.trace() ** 2 / kernel.square().sum()), rel=1e-9)
        for layer in LAYERS:
            own = sum(traces[f"{layer}.{part}"][here][:, here].trace() for part in ("weight", "bias"))
            share = rows_of(table, "layer_share", f"g {layer}").query(f"t == {level}")["value"].item()
            assert share == pytest.approx(float(own / kernel.trace()), rel=1e-8)
    first, second = whole[t == 7][:, t == 2], [whole[t == level][:, t == level].trace() for level in (7, 2)]
    expected = float(first.trace() / (second[0] * second[1]).sqrt())
    row = rows_of(table, "level_coupling", SAME).query("t == 7 and t2 == 2")
    assert row["value"].item() == pytest.approx(expected, rel=1e-9)
    assert row["problem_id"].isna().all()


def test_targets_are_the_residual_the_noise_and_the_answer(generator, seed):
    energy = network(generator)
    points, problems = tables(energy, seed, count=8)
    table = ntk_table(energy, points, problems, **SMALL)
    x, y, t = point_tensors(energy, points, problems)
    answers = tensor_column(problems, "y_star").flatten(1).double()
    schedule = energy.schedule
    for level in (8, 1):
        here = t == level
        noise = (y[here] - schedule.sqrt_alphas_cumprod[level] * answers) / schedule.sigma[level]
        assert torch.allclose(q_sample(answers, level, noise, schedule), y[here])
        residual = noise - energy.gradient(x[here], y[here], level)
        kernel = gradient_kernel_trace(energy.model, Points(x[here], y[here], level)).value
        for name, target in zip(TARGETS, (residual, noise, answers), strict=True):
            expected = float(debiased_alignment(kernel, gram(target)))
            found = rows_of(table, "alignment", f"g {name}").query(f"t == {level}")["value"].item()
            assert found == pytest.approx(expected, rel=1e-8, abs=1e-10)


def same_film_everywhere(generator):
    """A network whose level path reads no level: all levels share one energy."""
    energy = network(generator)
    parameters = dict(energy.model.parameters)
    parameters["time_mlp.1.weight"] = torch.zeros_like(parameters["time_mlp.1.weight"])
    return MLPEnergy(EnergyMLP(parameters, energy.schedule))


def test_levels_with_one_film_are_one_energy_and_couple_fully_at_one_point(generator):
    energy = same_film_everywhere(generator)
    P, levels = 5, (9, 5, 0)
    x, y = normal(generator, P, SPEC.dim_x), normal(generator, P, SPEC.dim_y)
    t = torch.tensor(levels).repeat_interleave(P)
    points = Points(x.repeat(3, 1), y.repeat(3, 1), t)
    value = gradient_kernel_trace(energy.model, points, by_layer=True).value
    # The weight of the first level layer still sees which level it is.
    rest = [name for name in LAYERS if name != "time_mlp.1"]
    value = sum(value[LAYERS.index(name)] for name in rest).unflatten(0, (3, P)).unflatten(2, (3, P))
    found = level_coupling(value)
    assert torch.allclose(found[SAME].value, torch.ones(3, 3).double())
    assert torch.allclose(found[OTHER].value, found[OTHER].value[0, 0].expand(3, 3))


def test_the_kernels_of_a_planted_network_do_not_depend_on_where_its_units_sit(seed, generator):
    made = planted(SPEC.dim_x, SPEC.dim_y, seed % 10_000)
    model, order = made.model, torch.randperm(made.model.hidden, generator=generator)
    moved = dict(model.parameters)
    moved["fc1.weight"], moved["fc1.bias"] = moved["fc1.weight"][order], moved["fc1.bias"][order]
    moved["fc2.weight"] = moved["fc2.weight"][:, order]
    energy, other = MLPEnergy(model), MLPEnergy(EnergyMLP(moved, model.schedule))
    points, problems = tables(energy, seed)
    one, two = (ntk_table(each, points, problems, **SMALL).to_pandas() for each in (energy, other))
    assert one["value"].notna().any()
    assert np.allclose(one["value"], two["value"], rtol=1e-6, atol=1e-7, equal_nan=True)
    diagonal = one[(one["metric"] == "level_coupling") & (one["t"] == one["t2"])]
    assert np.allclose(diagonal[diagonal["component"] == SAME]["value"], 1)
    assert np.isfinite(one[one["metric"] == "trace"]["value"]).all()


def test_probes_come_with_an_error_that_holds_and_the_kernel_of_all_directions_with_none(generator, seed):
    energy = network(generator)
    points, problems = tables(energy, seed)
    exact = ntk_table(energy, points, problems, **SMALL)
    probed = ntk_table(
        energy, points, problems, exact_below=2, probes=64, deflated=1, seed=seed % 1000, **SMALL
    )
    scores = (values_of(probed, "trace", "g") - values_of(exact, "trace", "g")) / rows_of(
        probed, "trace", "g"
    ).sort_values("t", ascending=False)["stderr"]
    assert 0 < scores.abs().mean() < 4
    for component in ("E", "r"):
        assert np.array_equal(values_of(probed, "trace", component), values_of(exact, "trace", component))
    whole = ntk_table(energy, points, problems, exact_below=2, deflated=SPEC.dim_y, **SMALL)
    assert whole.equals(exact)


@pytest.mark.parametrize("kind", ["oracle", "callable"])
def test_energies_without_parameters_have_no_kernel_and_say_why(kind, seed, generator):
    oracle = BayesOracle(SPEC)
    energy = (
        oracle
        if kind == "oracle"
        else CallableEnergy(lambda x, y, t: y.square().sum(1), SPEC.dim_x, SPEC.dim_y)
    )
    points, problems = tables(oracle, seed)
    table = ntk_table(energy, points, problems, **SMALL)
    assert pc.all(pc.is_null(table["value"])).as_py()
    assert set(table["reason"].to_pylist()) == {NO_PARAMETERS}
    other = ntk_table(network(generator), points, problems, **SMALL)
    keys = ["metric", "component", "index", "t", "t2", "problem_id"]
    assert table.select(keys).equals(other.select(keys))


def test_only_q_samples_of_the_first_draw_and_the_first_problems_are_looked_at(generator, seed):
    energy = network(generator)
    points, problems = tables(energy, seed, count=7, kinds=("q_sample", "trajectory"), draws=2)
    chosen = pc.and_(pc.equal(points["point_kind"], "q_sample"), pc.equal(points["draw"], 0))
    chosen = pc.and_(chosen, pc.less(points["problem_id"], 5))
    few = ntk_table(energy, points, problems, count=5, block=3, **SMALL)
    assert few.equals(ntk_table(energy, points.filter(chosen), problems, block=3, **SMALL))
    assert set(few["block"].to_pylist()) == {3}
    assert len(rows_of(few, "trace", "E")) == 5 * 10
    assert len(rows_of(few, "level_coupling", OTHER)) == 55
    assert set(few["component"].to_pylist()) >= set(KERNELS)


def test_points_that_make_no_kernel_are_refused(generator, seed):
    energy = network(generator)
    points, problems = tables(energy, seed, count=4)
    with pytest.raises(TableError, match="no points of kind 'q_sample' and draw 0"):
        ntk_table(energy, points.slice(0, 0), problems)
    with pytest.raises(TableError, match="39 points for 4 problems and 10 levels"):
        ntk_table(energy, points.slice(1), problems)
    with pytest.raises(TableError, match="give each problem once at each level, of one model"):
        ntk_table(energy, pa.concat_tables([points, points]), problems)
    with pytest.raises(ConfigError, match=r"ntk.kernels.count: found 3 problems in block 2, allowed ≥ 4"):
        ntk_table(energy, points, problems, count=3, block=2)
    with pytest.raises(ConfigError, match=r"ntk.kernels.probes: found 1"):
        ntk_table(energy, points, problems, exact_below=1, deflated=0, probes=1)


def test_a_level_that_a_network_lacks_is_refused(generator, seed):
    energy = network(generator)
    points, problems = tables(energy, seed, count=4)
    few = EnergyMLP(energy.model.parameters, cosine_schedule(5))
    with pytest.raises(ValueError, match="t must lie in 0 … 4"):
        ntk_table(MLPEnergy(few), points, problems)
