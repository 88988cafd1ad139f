"""Networks with planted weights against the formulas they were built for, unit by unit and level by level."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from iredinterp.energy import MLPEnergy, autograd_hessian, load_energy
from iredinterp.errors import CheckpointError, ConfigError
from iredinterp.ired.checkpoint import load_checkpoint, save_checkpoint
from iredinterp.ired.model import EnergyMLP, swish_slope
from iredinterp.ired.sampler import sample
from iredinterp.truth.planted import (
    EVERY_DECOY,
    planted,
    planted_energy,
    planted_schedule,
    posterior_spectrum,
    read_planted_truth,
    save_planted,
)

SIZES = [(25, 25), (50, 25), (3, 7), (1, 1)]
SOME_DECOYS = {"dead_end": 3, "cancelling": 3, "redundant": 4, "saturated": 2, "gated": 2}
EXACT = 1e-12
LAYERS = (1, 2, 3)


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def problem(case, generator, count=4):
    truth = case.truth
    return normal(generator, count, truth.dim_x), normal(generator, count, truth.dim_y)


def without(model, layer, units):
    """The network with the activations of these units set to 0, for whoever reads them."""
    name = f"fc{layer + 1}.weight"
    weight = model.parameters[name].clone()
    weight[:, units] = 0
    return EnergyMLP({**model.parameters, name: weight}, model.schedule)


@pytest.fixture
def case(seed):
    """A network with every decoy."""
    return planted(6, 5, seed, decoys=SOME_DECOYS)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("decoys", [None, EVERY_DECOY], ids=["plain", "decoys"])
def test_energy_gradient_and_hessian_are_the_planted_quadratic_at_every_level(sizes, decoys, seed, generator):
    case = planted(*sizes, seed, decoys=decoys)
    Q, B, a = case.truth.eigenbasis, case.truth.slope, case.truth.spectrum
    energy, schedule = MLPEnergy(case.model), case.model.schedule
    x, y = problem(case, generator)
    for t in range(10):
        A = Q @ torch.diag(a[t]) @ Q.mT
        error = y - schedule.sqrt_alphas_cumprod[t] * x @ B.mT
        expected = ((error @ A) * error).sum(-1) / 2
        assert relative(energy.energy(x, y, t), expected) < EXACT
        assert relative(energy.gradient(x, y, t), error @ A) < EXACT
        assert relative(energy.hessian(x, y, t), A.expand(len(y), -1, -1)) < EXACT
        eigenvalues = torch.linalg.eigvalsh(energy.hessian(x, y, t))
        torch.testing.assert_close(eigenvalues, a[t].sort().values.expand_as(eigenvalues), rtol=EXACT, atol=0)


def test_autograd_through_the_network_finds_the_true_derivatives(case, generator):
    x, y = problem(case, generator, 10)
    t = torch.arange(10)
    gradient = torch.func.grad(lambda y: case.model.energy(x, y, t).sum())(y)
    assert relative(gradient, case.truth.gradient(x, y, t)) < EXACT
    hessian = autograd_hessian(case.model.energy, x, y, t)
    assert relative(hessian, case.truth.hessian(x, y, t)) < EXACT


def test_the_truth_differentiates_itself_right(case, generator):
    x, y = problem(case, generator, 10)
    t = torch.arange(10)
    gradient = torch.func.grad(lambda y: case.truth.function(x, y, t).sum())(y)
    assert relative(case.truth.gradient(x, y, t), gradient) < EXACT
    assert relative(case.truth.hessian(x, y, t), autograd_hessian(case.truth.function, x, y, t)) < EXACT
    assert case.truth.energy(x, case.truth.minimum(x, t), t).abs().max() == 0


def test_any_positive_spectrum_can_be_planted(seed, generator):
    spectrum = normal(generator, 10, 6).exp()
    case = planted(4, 6, seed, spectrum, decoys={"dead_end": 3, "cancelling": 2, "saturated": 1})
    assert torch.equal(case.truth.spectrum, spectrum)
    x, y = problem(case, generator, 10)
    t = torch.arange(10)
    assert relative(MLPEnergy(case.model).hessian(x, y, t), case.truth.hessian(x, y, t)) < EXACT


def test_the_default_is_the_bayes_optimal_energy_of_a_gaussian_posterior(generator):
    scales = torch.rand(5, generator=generator, dtype=torch.float64)
    s = planted_schedule()
    identity = torch.eye(10, dtype=torch.float64)
    for i, scale in enumerate(scales):
        # N(0, s²) seen through √ᾱ y + σ ε has variance ᾱs² + σ²; E = −σ log p.
        variance = s.abar * scale**2 + s.sigma**2
        y = torch.zeros(10, dtype=torch.float64)
        second = torch.func.hessian(
            lambda y, v=variance: -(s.sigma * torch.distributions.Normal(0, v.sqrt()).log_prob(y)).sum()
        )(y)
        torch.testing.assert_close(
            posterior_spectrum(scales)[:, i] * identity, second, rtol=EXACT, atol=EXACT
        )


def test_default_spectra_belong_to_posteriors_between_the_named_scales(seed):
    spectrum = planted(3, 30, seed).truth.spectrum
    narrow, wide = posterior_spectrum(torch.tensor([0.05, 0.5])).unbind(1)
    assert (spectrum <= narrow[:, None]).all()
    assert (spectrum >= wide[:, None]).all()


def test_the_outputs_are_the_residuals_turned_by_the_gauge(case, generator):
    x, y = problem(case, generator)
    truth = case.truth
    torch.testing.assert_close(truth.gauge @ truth.gauge.mT, torch.eye(5, dtype=torch.float64))
    for t in range(10):
        residual = (truth.spectrum[t] / 2).sqrt() * ((y - truth.minimum(x, t)) @ truth.eigenbasis)
        torch.testing.assert_close(
            case.model.activations(x, y, t).output, residual @ truth.gauge.mT, rtol=EXACT, atol=EXACT
        )


def test_units_carry_the_signals_the_truth_names(case, generator):
    x, y = problem(case, generator)
    truth = case.truth
    for t in range(10):
        a = case.model.activations(x, y, t)
        q_y, q_mean = y @ truth.eigenbasis, x @ truth.slope.mT @ truth.eigenbasis
        signals = {"y": q_y, "mean": q_mean, "error": (y - truth.minimum(x, t)) @ truth.eigenbasis}
        for layer, z in zip(LAYERS, (a.z1, a.z2, a.z3), strict=True):
            gains = truth.gains[layer][t] if layer > 1 else torch.ones(case.model.hidden)
            named = [u for u, signal in enumerate(truth.signals[layer]) if signal]
            assert len(named) >= (2 if layer == 3 else 4) * 5
            for u in named:
                expected = gains[u] * signals[truth.signals[layer][u]][:, truth.directions[layer][u]]
                torch.testing.assert_close(z[:, u].abs(), expected.abs(), rtol=EXACT, atol=EXACT)


def test_film_gives_every_unit_its_gain_at_every_level_and_no_bias(case):
    gain2, bias2, gain3, bias3 = case.model.modulations
    torch.testing.assert_close(gain2, case.truth.gains[2], rtol=0, atol=2e-14)
    torch.testing.assert_close(gain3, case.truth.gains[3], rtol=0, atol=2e-14)
    assert not bias2.any()
    assert not bias3.any()
    means = torch.tensor([signal == "mean" for signal in case.truth.signals[2]])
    scale = case.model.schedule.sqrt_alphas_cumprod[:, None].expand(10, int(means.sum()))
    torch.testing.assert_close(gain2[:, means], scale, rtol=0, atol=2e-14)


def test_the_circuit_alone_has_the_whole_energy(case, generator):
    x, y = problem(case, generator)
    for t in range(10):
        alone = case.model
        for layer in LAYERS:
            alone = without(alone, layer, ~case.truth.circuit(layer, t))
        assert relative(alone.energy(x, y, t), case.truth.energy(x, y, t)) < EXACT
        assert relative(alone.energy_and_gradient(x, y, t)[1], case.truth.gradient(x, y, t)) < EXACT


@pytest.mark.parametrize("layer", LAYERS)
def test_no_unit_of_the_circuit_can_be_spared_and_idle_ones_can(layer, case, generator):
    x, y = problem(case, generator)
    for t in (0, 4, 9, *case.truth.branches[0].levels):
        truth = case.truth.energy(x, y, t)
        needed = case.truth.circuit(layer, t)
        changes = [
            relative(without(case.model, layer, u).energy(x, y, t), truth) for u in range(case.model.hidden)
        ]
        changes, roles = torch.tensor(changes), case.truth.roles[layer]
        paired = torch.tensor([role == "cancelling" for role in roles])
        assert (changes[needed] > 1e-6).all()
        assert (changes[~needed & ~paired] < EXACT).all()


def test_dead_ends_read_the_circuit_and_nobody_reads_them(case):
    for layer in LAYERS:
        units = case.truth.units(layer, "dead_end")
        assert len(units) == SOME_DECOYS["dead_end"]
        assert (case.model.parameters[f"fc{layer}.weight"][units].norm(dim=1) > 0.5).all()
        assert not case.model.parameters[f"fc{layer + 1}.weight"][:, units].any()


def test_cancelling_units_outweigh_the_circuit_one_by_one_and_are_nothing_together(seed, generator):
    case = planted(25, 25, seed, decoys=SOME_DECOYS)
    x, y = problem(case, generator, 20)
    truth = case.truth.energy(x, y, 3)

    def effect(layer, units):
        return relative(without(case.model, layer, units).energy(x, y, 3), truth)

    for layer in LAYERS:
        pairs = [pair for pair in case.truth.pairs if (pair.layer, pair.role) == (layer, "cancelling")]
        assert len(pairs) == SOME_DECOYS["cancelling"]
        decoys = torch.tensor([effect(layer, [unit]) for pair in pairs for unit in pair.units])
        circuit = torch.tensor([effect(layer, [unit]) for unit in case.truth.units(layer, "circuit")])
        assert decoys.median() > circuit.median()
        assert decoys.min() > 1e-3
        assert all(effect(layer, list(pair.units)) < EXACT for pair in pairs)


def test_redundant_halves_carry_equal_shares_of_one_unit(seed, generator):
    case = planted(6, 5, seed, decoys={"redundant": 3})
    x, y = problem(case, generator)
    pairs = [pair for pair in case.truth.pairs if pair.role == "redundant"]
    assert len(pairs) == 9
    for pair in pairs:
        model, (first, second) = case.model, pair.units
        outputs = [
            without(model, pair.layer, units).activations(x, y, 2)
            for units in ([first], [second], [first, second])
        ]
        whole = model.activations(x, y, 2)
        h = {1: whole.h1, 2: whole.h2, 3: whole.h3}[pair.layer]
        torch.testing.assert_close(h[:, first], h[:, second], rtol=EXACT, atol=EXACT)
        assert relative(outputs[0].output, outputs[1].output) < EXACT
        assert relative(outputs[0].output, whole.output) > 1e-4
        if pair.layer == 3:
            lost = whole.output - outputs[0].output
            assert relative(2 * lost, whole.output - outputs[2].output) < 1e-10


def test_a_saturated_unit_has_no_gradient_and_shifts_the_minimum_when_it_goes(case, generator):
    x, y = problem(case, generator)
    assert len(case.truth.saturated) == SOME_DECOYS["saturated"]
    for t in range(10):
        a = case.model.activations(x, y, t)
        r = case.model.cotangents(a)
        for unit in case.truth.saturated:
            assert case.truth.roles[1][unit.unit] == "saturated"
            assert r.h1[:, unit.unit].abs().max() < EXACT
            assert swish_slope(a.z2[:, unit.carrier]).abs().max() < EXACT
            assert a.h2[:, unit.carrier].std() < EXACT
            moved = y + unit.shift * case.truth.eigenbasis[:, unit.direction]
            expected = case.truth.energy(x, moved, t)
            for layer, slot in ((1, unit.unit), (2, unit.carrier)):
                assert relative(without(case.model, layer, [slot]).energy(x, y, t), expected) < EXACT


def test_the_path_integral_of_the_gradient_sees_the_saturated_unit(case, generator):
    x, y = problem(case, generator)
    (unit, *_), t = case.truth.saturated, 4
    weight = case.model.parameters["fc2.weight"][unit.carrier, unit.unit]
    shares, values = torch.linspace(0, 1, 201, dtype=torch.float64), []
    for share in shares:
        W = case.model.parameters["fc2.weight"].clone()
        W[:, unit.unit] *= share
        model = EnergyMLP({**case.model.parameters, "fc2.weight": W}, case.model.schedule)
        a = model.activations(x, y, t)
        r = model.cotangents(a)
        values.append(
            r.h2[:, unit.carrier] * swish_slope(a.z2[:, unit.carrier]) * weight * a.h1[:, unit.unit]
        )
    integral = torch.trapezoid(torch.stack(values), shares, dim=0)
    effect = case.truth.energy(x, y, t) - without(case.model, 1, [unit.unit]).energy(x, y, t)
    torch.testing.assert_close(integral, effect, rtol=1e-4, atol=1e-4)


def test_gated_branches_add_their_curvature_at_their_levels_only(seed, generator):
    plain = planted(6, 5, seed)
    case = planted(6, 5, seed, decoys={"gated": 2})
    x, y = problem(case, generator)
    extra = torch.zeros(10, 5, dtype=torch.float64)
    for branch in case.truth.branches:
        assert len(branch.levels) == 3
        extra[list(branch.levels), branch.direction] = (
            plain.truth.spectrum[list(branch.levels), branch.direction] / 2
        )
        torch.testing.assert_close(branch.extra, extra[:, branch.direction])
        closed = [t for t in range(10) if t not in branch.levels]
        gains = case.model.modulations[2][:, list(branch.units)]
        assert (gains[list(branch.levels)] > 0.01).all()
        assert gains[closed].abs().max() < 1e-14
    torch.testing.assert_close(case.truth.spectrum, plain.truth.spectrum + extra)
    Q = case.truth.eigenbasis
    units = [unit for branch in case.truth.branches for unit in branch.units]
    ablated = MLPEnergy(without(case.model, 3, units))
    for t in range(10):
        added = MLPEnergy(case.model).hessian(x, y, t) - MLPEnergy(plain.model).hessian(x, y, t)
        torch.testing.assert_close(
            added, (Q @ torch.diag(extra[t]) @ Q.mT).expand_as(added), rtol=EXACT, atol=EXACT
        )
        assert relative(ablated.energy(x, y, t), plain.truth.energy(x, y, t)) < EXACT


def test_decoys_and_width_leave_the_energy_unchanged_and_move_the_slots(seed, generator):
    plain = planted(6, 5, seed)
    dressed = planted(6, 5, seed, hidden=96, decoys={**SOME_DECOYS, "gated": 0})
    assert (plain.model.hidden, dressed.model.hidden) == (32, 96)
    x, y = problem(plain, generator, 10)
    t = torch.arange(10)
    assert relative(dressed.model.energy(x, y, t), plain.model.energy(x, y, t)) < EXACT
    for layer in LAYERS:
        roles = dressed.truth.roles[layer]
        assert sorted(roles) != list(roles)
        assert len(roles) == 96


def test_renaming_the_units_of_a_layer_leaves_the_energy_unchanged(case, generator):
    x, y = problem(case, generator, 10)
    t = torch.arange(10)
    order = torch.randperm(case.model.hidden, generator=generator)
    p = dict(case.model.parameters)
    p["fc2.weight"], p["fc2.bias"] = p["fc2.weight"][order], p["fc2.bias"][order]
    both = torch.cat([order, case.model.hidden + order])
    p["t_map_fc2.weight"], p["t_map_fc2.bias"] = p["t_map_fc2.weight"][both], p["t_map_fc2.bias"][both]
    p["fc3.weight"] = p["fc3.weight"][:, order]
    renamed = EnergyMLP(p, case.model.schedule)
    assert relative(renamed.energy(x, y, t), case.truth.energy(x, y, t)) < EXACT


@pytest.mark.parametrize("faithful", [True, False])
def test_whole_sampler_runs_follow_the_closed_form(faithful, seed, generator):
    # Slow contraction and a first state at the scale √ᾱ₉ keep every answer inside ±2 and every step downhill.
    s = planted_schedule()
    rates = 0.02 + 0.3 * torch.rand(10, 9, generator=generator, dtype=torch.float64)
    case = planted(6, 9, seed, rates / s.sigma[:, None], decoys={**SOME_DECOYS, "gated": 1})
    x = normal(generator, 8, 6).clamp(-1, 1)
    x = x / (4 * (x @ case.truth.slope.mT).abs().amax())
    init = s.sqrt_alphas_cumprod[9] * torch.rand(8, 9, generator=generator, dtype=torch.float64) / 2
    run = sample(MLPEnergy(case.model), x, init=init, faithful=faithful)
    assert not run.clamped.any()
    assert not run.jump_clamped.any()
    assert run.accepted.all()
    expected = case.truth.trajectory(x, init, faithful)
    torch.testing.assert_close(run.answers, expected, rtol=0, atol=EXACT)

    # Per direction the unscaled error shrinks by the product of the factors; √ᾱ·(1/√ᾱ) = 1 only in float32.
    Q, mean = case.truth.eigenbasis, x @ case.truth.slope.mT
    error = (init / s.sqrt_alphas_cumprod[9] - mean) @ Q
    factors = case.truth.contraction(faithful).flip(0).cumprod(0)
    torch.testing.assert_close((run.answers - mean) @ Q, factors[:, None] * error, rtol=0, atol=1e-5)


def test_the_bayes_optimal_planted_network_samples_from_noise_without_a_clamp(seed, generator):
    case = planted(6, 9, seed)
    x = normal(generator, 8, 6)
    x = x / (x @ case.truth.slope.mT).abs().amax()
    init = normal(generator, 8, 9)
    run = sample(MLPEnergy(case.model), x, init=init)
    assert not run.clamped.any()
    assert not run.jump_clamped.any()
    torch.testing.assert_close(run.answers, case.truth.trajectory(x, init), rtol=0, atol=EXACT)


def test_contraction_is_the_product_of_the_steps_of_a_level(case):
    s, a = case.model.schedule, case.truth.spectrum
    t, i = 5, 2
    jump, first, later = (
        1 - step * a[t, i] for step in (s.sigma[t], s.opt_step_size[t], 2 * s.opt_step_size[t])
    )
    torch.testing.assert_close(case.truth.contraction()[t, i], jump * first * later**4)
    torch.testing.assert_close(case.truth.contraction(False, 3)[t, i], first**3)


def test_the_seed_decides_everything(seed):
    first, again, other = (planted(4, 3, s, decoys=EVERY_DECOY) for s in (seed, seed, seed + 1))
    for name, value in first.model.parameters.items():
        assert torch.equal(value, again.model.parameters[name])
    assert first.truth.roles == again.truth.roles != other.truth.roles
    assert relative(other.truth.eigenbasis, first.truth.eigenbasis) > 0.1


def test_planted_energy_is_the_energy_of_the_planted_network(seed, generator):
    energy, case = planted_energy(4, 3, seed, decoys=EVERY_DECOY), planted(4, 3, seed, decoys=EVERY_DECOY)
    x, y = problem(case, generator)
    assert torch.equal(energy.energy(x, y, 6), case.model.energy(x, y, 6))


@pytest.mark.parametrize("own_spectrum", [False, True])
def test_a_checkpoint_gives_back_network_and_truth(own_spectrum, tmp_path, seed, generator):
    spectrum = normal(generator, 10, 5).exp() if own_spectrum else None
    case = planted(6, 5, seed, spectrum, decoys=EVERY_DECOY)
    path = tmp_path / "planted.safetensors"
    save_planted(case, path)
    energy, truth = load_energy(path), read_planted_truth(path)
    x, y = problem(case, generator, 10)
    t = torch.arange(10)
    assert relative(energy.hessian(x, y, t), truth.hessian(x, y, t)) < EXACT
    assert relative(energy.energy(x, y, t), truth.energy(x, y, t)) < EXACT
    assert torch.equal(truth.spectrum, case.truth.spectrum)
    assert torch.equal(truth.schedule.abar, energy.schedule.abar)
    assert truth.roles == case.truth.roles
    assert truth.pairs == case.truth.pairs
    assert truth.saturated == case.truth.saturated
    assert energy.checkpoint.record["seed"] == seed


def test_a_checkpoint_written_on_another_kind_of_processor_has_its_truth(tmp_path, seed, generator):
    """IRED embeds levels in float32, and sines differ in the last digit."""
    path = tmp_path / "planted.safetensors"
    code = "import sys; from iredinterp.truth.planted import *; save_planted(planted(6, 5, int(sys.argv[2])), sys.argv[1])"
    for kernels in ("COMPATIBLE", "AVX2"):
        subprocess.run(
            [sys.executable, "-c", code, path, str(seed)], env=os.environ | {"MKL_CBWR": kernels}, check=True
        )
        energy, truth = load_energy(path), read_planted_truth(path)
        x, y = problem(planted(6, 5, seed), generator, 10)
        t = torch.arange(10)
        assert relative(energy.hessian(x, y, t), truth.hessian(x, y, t)) < 1e-7
        assert relative(energy.energy(x, y, t), truth.energy(x, y, t)) < 1e-7


def test_the_file_holds_float64_weights_under_the_ordinary_names(tmp_path, seed):
    path = tmp_path / "planted.safetensors"
    save_planted(planted(3, 2, seed), path)
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor("ema.fc1.weight").dtype == torch.float64
        assert {name.split(".")[0] for name in file.keys()} == {"ema", "schedule"}  # noqa: SIM118


def test_the_truth_is_refused_where_the_weights_are_not_those_of_the_record(tmp_path, seed):
    case = planted(3, 2, seed)
    path = tmp_path / "moved.safetensors"
    save_planted(replace(case, construction={**case.construction, "seed": seed + 1}), path)
    with pytest.raises(CheckpointError, match="not the weights that the file's record builds"):
        read_planted_truth(path)
    save_checkpoint(path, {"ema": case.model.parameters}, case.model.schedule, 0, {"recipe": {}})
    assert load_checkpoint(path).step == 0
    with pytest.raises(CheckpointError, match="only checkpoints written by save_planted"):
        read_planted_truth(path)


POSITIVE = torch.ones(10, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": 19}, "hidden: expected at least 20 .* found 19; give a larger hidden or fewer decoys"),
        ({"hidden": 23, "decoys": {"dead_end": 2, "cancelling": 1}}, "at least 24 "),
        ({"hidden": 21, "decoys": {"gated": 5, "saturated": 2}}, "at least 22 "),
        (
            {"decoys": {"dead_ends": 1}},
            "decoys: 'dead_ends' is not defined; give some of dead_end, cancelling",
        ),
        ({"decoys": {"dead_end": -1}}, "decoys: dead_end: expected at least 0, found -1"),
        ({"decoys": {"gated": 6}}, "decoys: gated: expected 0 … 5 with dim_y=5, found 6"),
        ({"spectrum": POSITIVE.mT}, r"spectrum: expected shape \(10, 5\), .* found \(5, 10\)"),
        ({"spectrum": POSITIVE - (torch.arange(5) == 3) * 1.0}, "found 0.0 at level 0, dimension 3"),
        ({"spectrum": POSITIVE * float("nan")}, "expected positive numbers, found nan"),
        ({"dim_x": 0}, "dim_x: expected at least 1, found 0"),
        ({"dim_y": 0}, "dim_y: expected at least 1, found 0"),
    ],
)
def test_impossible_plans_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        planted(**{"dim_x": 6, "dim_y": 5, "seed": 0, **arguments})


def test_the_smallest_sufficient_width_is_accepted(seed):
    assert planted(6, 5, seed, hidden=20).truth.units(1, "unused").numel() == 0
    assert planted(6, 5, seed, hidden=24, decoys={"dead_end": 2, "cancelling": 1}).model.hidden == 24


def test_symmetric_and_skew_eigenvectors_come_apart_and_the_symmetric_are_the_softest(seed):
    n = 4
    network = planted(5, n * n, seed, symmetric=True)
    Q = network.truth.eigenbasis
    matrices = Q.mT.unflatten(1, (n, n))
    along = n * (n + 1) // 2
    torch.testing.assert_close(matrices[:along], matrices[:along].mT, rtol=0, atol=1e-12)
    torch.testing.assert_close(matrices[along:], -matrices[along:].mT, rtol=0, atol=1e-12)
    torch.testing.assert_close(Q.mT @ Q, torch.eye(n * n, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (network.truth.spectrum.diff(dim=1) >= 0).all()
    energy = MLPEnergy(network.model)
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(3, d, generator=generator, dtype=torch.float64) for d in (5, n * n))
    for t in (0, 9):
        expected = network.truth.hessian(x, y, t)
        torch.testing.assert_close(energy.hessian(x, y, t), expected, rtol=1e-9, atol=1e-9)


def test_a_symmetric_planted_network_is_built_again_from_its_file(seed, tmp_path):
    network = planted(5, 9, seed, symmetric=True)
    save_planted(network, tmp_path / "planted.safetensors")
    again = read_planted_truth(tmp_path / "planted.safetensors")
    torch.testing.assert_close(again.eigenbasis, network.truth.eigenbasis)


def test_symmetric_needs_square_matrices(seed):
    with pytest.raises(ConfigError, match="symmetric: needs dim_y = n², found dim_y=6"):
        planted(5, 6, seed, symmetric=True)
