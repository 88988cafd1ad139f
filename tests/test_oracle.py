"""The Bayes-optimal energy against the generator's own answers, and error fields against their targets."""

import pytest
import torch

from iredinterp.energy import CallableEnergy, autograd_hessian
from iredinterp.errors import TaskError
from iredinterp.ired.sampler import sample
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import q_sample
from iredinterp.truth.oracle import BayesOracle, NoisyOracle, error_rms

DETERMINED = [
    ProblemSpec("addition", 4),
    ProblemSpec("addition", 2),
    ProblemSpec("addition", 3, ood=True),
    ProblemSpec("inverse", 4),
    ProblemSpec("inverse", 4, ood=True),
    ProblemSpec("inverse", 5, kappa=1000),
    ProblemSpec("inverse", 3, kappa=1),
]
LEVELS = 10


def noised(spec, count, generator):
    """Oracle, problems, levels (all of them, in turn), noise and q_sample points."""
    oracle = BayesOracle(spec)
    problems = draw_problems(spec, count, generator)
    t = torch.arange(count) % LEVELS
    noise = torch.randn(count, spec.dim_y, generator=generator, dtype=torch.float64)
    return oracle, problems, t, noise, q_sample(problems.y_star, t, noise, oracle.schedule)


@pytest.mark.parametrize("spec", DETERMINED, ids=str)
def test_where_x_determines_the_answer_the_energy_is_the_isotropic_bowl_around_it(spec, generator):
    oracle, problems, t, noise, y = noised(spec, 30, generator)
    sigma = oracle.schedule.sigma[t]
    centre = oracle.schedule.sqrt_alphas_cumprod[t][:, None] * problems.y_star
    value, gradient = oracle.energy_and_gradient(problems.x, y, t)
    assert torch.allclose(value, (y - centre).square().sum(1) / (2 * sigma), rtol=1e-9)
    assert (gradient - noise).abs().max() < 1e-9
    flat = torch.eye(spec.dim_y) / sigma[:, None, None]
    assert torch.equal(oracle.hessian(problems.x, y, t), flat.double())
    assert oracle.exact(problems.x).all()
    assert not oracle.standard_error(problems.x, y, t).any()


@pytest.mark.parametrize("spec", DETERMINED, ids=str)
def test_one_jump_lands_on_the_answer_from_anywhere_at_any_level(spec, generator):
    oracle, problems, t, _, _ = noised(spec, 20, generator)
    y = 3 * torch.randn(20, spec.dim_y, generator=generator, dtype=torch.float64)
    landed = y - oracle.schedule.sigma[t][:, None] * oracle.gradient(problems.x, y, t)
    centre = oracle.schedule.sqrt_alphas_cumprod[t][:, None] * problems.y_star
    assert (landed - centre).abs().max() < 1e-9


def test_the_sampler_answers_every_problem_at_every_level_on_the_oracle(generator, seed):
    for spec in (
        ProblemSpec("inverse", 4),
        ProblemSpec("completion", 4, rank=1, factors="positive", observed=0.9),
    ):
        oracle, problems, *_ = noised(spec, 20, generator)
        exact = oracle.exact(problems.x)
        answers = sample(oracle, problems.x, seed=seed).answers[:, exact]
        assert (answers - problems.y_star[exact]).abs().max() < 1e-9


@pytest.mark.parametrize("spec", [ProblemSpec("addition", 3), ProblemSpec("inverse", 3)], ids=str)
def test_derivatives_are_those_of_autograd(spec, generator):
    oracle, problems, t, _, y = noised(spec, 10, generator)
    reference = CallableEnergy(oracle.function, spec.dim_x, spec.dim_y, oracle.schedule)
    assert torch.allclose(oracle.gradient(problems.x, y, t), reference.gradient(problems.x, y, t), atol=1e-12)
    hessian = autograd_hessian(oracle.function, problems.x, y, t)
    assert torch.allclose(oracle.hessian(problems.x, y, t), hessian, atol=1e-12)


@pytest.mark.parametrize("spec", [ProblemSpec("inverse", 3), ProblemSpec("completion", 3, rank=1)], ids=str)
def test_results_come_in_the_precision_of_the_points(spec, generator):
    _, problems, t, _, y = noised(spec, 10, generator)
    narrow = BayesOracle(spec, schedule=cosine_schedule(), dtype=torch.float32)
    x, y = problems.x.float(), y.float()
    value, gradient = narrow.energy_and_gradient(x, y, t)
    results = value, gradient, narrow.hessian(x, y, t), narrow.standard_error(x, y, t)
    assert {result.dtype for result in results} == {torch.float32}
    assert torch.allclose(gradient.double(), BayesOracle(spec).gradient(x.double(), y.double(), t), atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ProblemSpec("completion", 4, rank=2), "rank: found 2, .* use rank=1, or the official"),
        (ProblemSpec("completion", 4, rank=1, noise=0.1), r"noise: found 0\.1, .* use noise=0 with rank=1"),
        ("addition", r"spec: found str, expected a ProblemSpec; use make_problems\(...\)\.spec"),
    ],
)
def test_laws_without_a_reference_are_refused(spec, message):
    with pytest.raises(TaskError, match=message):
        BayesOracle(spec)


def test_points_of_another_shape_are_refused():
    oracle = BayesOracle(ProblemSpec("addition", 3))
    x, y = torch.zeros(2, 18, dtype=torch.float64), torch.zeros(2, 9, dtype=torch.float64)
    with pytest.raises(
        TaskError, match=r"x: found shape \(2, 9\), expected \(B, 18\) for addition with n = 3"
    ):
        oracle.gradient(y, y, 0)
    with pytest.raises(TaskError, match=r"y: found shape \(2, 18\), expected \(B, 9\)"):
        oracle.gradient(x, x, 0)
    with pytest.raises(TaskError, match="x: found shape"):
        oracle.exact(x[0])
    with pytest.raises(ValueError, match=r"t must lie in 0 … 9"):
        oracle.gradient(x, y, 10)


def test_matrices_that_no_inverse_law_draws_are_refused(generator):
    oracle, problems, t, _, y = noised(DETERMINED[3], 5, generator)
    with pytest.raises(TaskError, match=r"x: not all .* positive definite.*; give x drawn from the law"):
        oracle.gradient(-problems.x, y, t)


@pytest.mark.parametrize("spec", [DETERMINED[3], ProblemSpec("completion", 3)], ids=str)
def test_the_gradient_alone_is_the_one_that_comes_with_the_energy(spec, generator):
    oracle, problems, t, _, y = noised(spec, 10, generator)
    assert torch.equal(oracle.gradient(problems.x, y, t), oracle.energy_and_gradient(problems.x, y, t)[1])


@pytest.mark.parametrize("spec", [ProblemSpec("inverse", 4), ProblemSpec("inverse", 5, kappa=1000)], ids=str)
def test_the_answer_undoes_the_problem(spec, generator):
    oracle, problems, t, _, y = noised(spec, 20, generator)
    s = oracle.schedule
    answer = (y - s.sigma[t, None] * oracle.gradient(problems.x, y, t)) / s.sqrt_alphas_cumprod[t, None]
    product = problems.x.unflatten(1, (spec.n, spec.n)) @ answer.unflatten(1, (spec.n, spec.n))
    identity = torch.eye(spec.n) * problems.meta["x_scale"][:, None, None]
    assert (product - identity).abs().max() < 1e-7


def disturbed(generator, seed, spec=DETERMINED[3], count=400):
    gradient_rms = 0.02 + 0.1 * torch.rand(LEVELS, generator=generator, dtype=torch.float64)
    hessian_rms = 0.1 + torch.rand(LEVELS, generator=generator, dtype=torch.float64)
    oracle, problems, t, _, y = noised(spec, count, generator)
    return (
        oracle,
        NoisyOracle(oracle, gradient_rms, hessian_rms, seed),
        problems.x,
        y,
        t,
        gradient_rms,
        hessian_rms,
    )


def test_an_error_field_has_the_gradient_and_hessian_errors_asked_for(generator, seed):
    oracle, noisy, x, y, t, *targets = disturbed(generator, seed)
    for found, target in zip(error_rms(noisy, oracle, x, y, t), targets, strict=True):
        # 40 problems at each level, 16 entries each.
        assert ((found / target).log().abs() < 0.3).all()
        assert abs((found / target).square().mean() - 1) < 0.12


def test_derivatives_of_an_error_field_are_those_of_autograd(generator, seed):
    _, noisy, x, y, t, *_ = disturbed(generator, seed, count=10)
    reference = CallableEnergy(noisy.function, noisy.dim_x, noisy.dim_y, noisy.schedule)
    assert torch.allclose(noisy.gradient(x, y, t), reference.gradient(x, y, t), atol=1e-10)
    assert torch.allclose(noisy.hessian(x, y, t), reference.hessian(x, y, t), atol=1e-10)


def test_gradient_errors_point_everywhere_alike_and_differ_between_problems_and_levels(generator, seed):
    spec = ProblemSpec("addition", 3)
    oracle, problems, _, _, y = noised(spec, 3000, generator)
    ones = torch.ones(LEVELS)
    noisy = NoisyOracle(oracle, 0.3 * ones, ones, seed)
    error = noisy.gradient(problems.x, y, 2) - oracle.gradient(problems.x, y, 2)
    covariance = error.mT @ error / len(error) / 0.3**2
    assert (covariance - torch.eye(9)).abs().max() < 0.25
    same_place = y[:1].expand_as(y)
    here = noisy.gradient(problems.x, same_place, 2) - oracle.gradient(problems.x, same_place, 2)
    there = noisy.gradient(problems.x, same_place, 3) - oracle.gradient(problems.x, same_place, 3)
    # Two levels share their 1024 frequencies: the correlation of one field is off 0 by 1.1/√2048 = 0.024.
    for other in (here.roll(1, 0), there):
        assert abs((here * other).mean()) / 0.3**2 < 0.15


def test_the_spectrum_of_an_error_field_is_a_shifted_semicircle(generator, seed):
    spec = ProblemSpec("addition", 8)
    oracle, problems, _, _, y = noised(spec, 40, generator)
    ones = torch.ones(LEVELS)
    noisy = NoisyOracle(oracle, ones, ones, seed)
    error = noisy.hessian(problems.x, y, 4) - oracle.hessian(problems.x, y, 4)
    eigenvalues = torch.linalg.eigvalsh(error)
    centred = eigenvalues - eigenvalues.mean(1, keepdim=True)
    standard = centred / centred.square().mean().sqrt()
    # Of a semicircle of variance 1, with the 1/8 that 8 features per dimension add at most to the kurtosis.
    assert abs(standard.pow(4).mean() - 2) < 0.25
    assert abs(standard.pow(3).mean()) < 0.1
    expected = torch.tensor([-0.8079, 0.0, 0.8079], dtype=torch.float64)
    found = torch.quantile(standard.flatten(), torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    assert (found - expected).abs().max() < 0.1
    assert standard.abs().max() < 2.6


def test_an_error_field_is_a_function_of_its_seed_and_absent_where_its_size_is_zero(generator, seed):
    oracle, noisy, x, y, t, gradient_rms, hessian_rms = disturbed(generator, seed, count=30)
    again = NoisyOracle(oracle, gradient_rms, hessian_rms, seed)
    other = NoisyOracle(oracle, gradient_rms, hessian_rms, seed + 1)
    assert torch.equal(noisy.gradient(x, y, t), again.gradient(x, y, t))
    assert torch.equal(noisy.hessian(x, y, t), again.hessian(x, y, t))
    assert not torch.allclose(noisy.gradient(x, y, t), other.gradient(x, y, t))
    gradient_rms[3:] = hessian_rms[3:] = 0
    quiet = NoisyOracle(oracle, gradient_rms, hessian_rms, seed)
    clean = t >= 3
    for name in ("energy", "gradient", "hessian"):
        difference = getattr(quiet, name)(x, y, t) - getattr(oracle, name)(x, y, t)
        assert not difference[clean].any()
        assert difference[~clean].abs().sum() > 0


def test_an_energy_has_no_error_against_itself(generator):
    oracle, problems, t, _, y = noised(DETERMINED[3], 20, generator)
    for error in error_rms(oracle, oracle, problems.x, y, t):
        assert torch.equal(error, torch.zeros(LEVELS, dtype=torch.float64))


def test_a_known_error_is_measured_at_each_level(generator):
    oracle, problems, t, _, y = noised(DETERMINED[3], 50, generator)
    tilt, bend = torch.rand(2, LEVELS, generator=generator, dtype=torch.float64)

    def function(x, y, t):
        return oracle.function(x, y, t) + tilt[t] * y.sum(1) + bend[t] * y.square().sum(1) / 2

    gradient_rms, hessian_rms = error_rms(CallableEnergy(function, 16, 16), oracle, problems.x, y, t)
    expected = torch.stack([(tilt[k] + bend[k] * y[t == k]).square().mean().sqrt() for k in range(LEVELS)])
    assert torch.allclose(gradient_rms, expected, rtol=1e-9)
    assert torch.allclose(hessian_rms, 4 * bend, rtol=1e-9)


@pytest.mark.parametrize(
    ("gradient_rms", "hessian_rms", "message"),
    [
        (
            torch.ones(9),
            torch.ones(10),
            "gradient_rms: found .* expected one finite number ≥ 0 for each of 10",
        ),
        (torch.ones(10), -torch.ones(10), "hessian_rms: found .* ≥ 0"),
        (torch.ones(10), torch.full((10,), torch.nan), "hessian_rms: found .* finite"),
        (torch.ones(10), torch.arange(10.0), r"levels \[0\], .* both 0 or both above 0"),
        (torch.arange(10.0), torch.ones(10), r"levels \[0\], .* both 0 or both above 0"),
    ],
)
def test_impossible_error_sizes_are_refused(gradient_rms, hessian_rms, message):
    with pytest.raises(TaskError, match=message):
        NoisyOracle(BayesOracle(ProblemSpec("addition", 3)), gradient_rms, hessian_rms, 0)


def test_levels_without_a_point_are_named(generator):
    oracle, problems, t, _, y = noised(DETERMINED[3], 8, generator)
    with pytest.raises(TaskError, match=r"no point at levels \[8, 9\]; give points at all 10"):
        error_rms(oracle, oracle, problems.x, y, t)
