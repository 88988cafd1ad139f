"""Problems follow the official laws, and the controlled ones have exactly the rank and κ they claim."""

import numpy as np
import pytest
import torch
from scipy.stats import binom, ks_2samp

from iredinterp.errors import TaskError
from iredinterp.ired.tasks import Problems, ProblemSpec, draw_problems, make_problems

# Each law test compares a handful of statistics; at this level all of them together raise a false alarm less
# often than once in 10^6 runs.
SIGNIFICANCE = 1e-8


def official_addition(rng, n, ood):
    width = 1 if n == 2 else n
    bound = 2.5 if ood else 1.0
    one, two = (rng.uniform(-bound, bound, (n, width)).flatten() for _ in range(2))
    return np.concatenate([one, two]), one + two


def official_inverse(rng, n, ood):
    A = rng.uniform(-1, 1, (n, n))
    S = A.dot(A.T)
    S = S + S.T + (0.1 if ood else 0.5) * np.eye(n)
    return S.flatten(), np.linalg.inv(S).flatten()


def official_lowrank(rng, n, ood):
    U, V = rng.standard_normal((n, 10)), rng.standard_normal((n, 10))
    R = 0.1 * rng.standard_normal((n, n)) + np.dot(U, V.T) / (5 if ood else 20)
    mask = np.round(rng.random((n, n)))
    return (R * mask).flatten(), R.flatten()


def numpy_problems(draw, n, ood, count, seed):
    rng = np.random.default_rng(seed)
    x, y = zip(*(draw(rng, n, ood) for _ in range(count)), strict=True)
    return np.stack(x), np.stack(y)


def statistics(x, y):
    """One number per problem each: two entries and the size of x and y*, and how x and y* go together."""
    return {
        "first of x": x[:, 0],
        "second of x": x[:, 1],
        "norm of x": np.linalg.norm(x, axis=1),
        "first of y": y[:, 0],
        "second of y": y[:, 1],
        "norm of y": np.linalg.norm(y, axis=1),
        "inner product": (x[:, : y.shape[1]] * y).sum(1),
        "last of x minus last of y": x[:, -1] - y[:, -1],
    }


def assert_same_law(sample, reference):
    for name, values in sample.items():
        p_value = ks_2samp(values, reference[name], method="asymp").pvalue
        assert p_value > SIGNIFICANCE, f"{name}: p = {p_value:.1e}"


@pytest.mark.parametrize("ood", [False, True])
@pytest.mark.parametrize(
    ("task", "n", "draw"),
    [
        ("addition", 2, official_addition),
        ("addition", 4, official_addition),
        ("inverse", 5, official_inverse),
        ("completion", 6, official_lowrank),
    ],
)
def test_official_problems_follow_the_law_of_the_official_code(task, n, draw, ood, seed):
    problems = make_problems(task, n, 15_000, seed, ood=ood)
    x, y = numpy_problems(draw, n, ood, 15_000, seed + 1)
    assert problems.x.shape == x.shape
    assert problems.y_star.shape == y.shape
    assert problems.x.dtype == problems.y_star.dtype == torch.float64
    assert_same_law(statistics(problems.x.numpy(), problems.y_star.numpy()), statistics(x, y))


def test_official_completion_has_the_singular_values_of_a_rank_ten_product_plus_noise(seed):
    problems = make_problems("completion", 12, 2_000, seed)
    _, y = numpy_problems(official_lowrank, 12, False, 2_000, seed + 1)
    ours = np.linalg.svd(problems.y_star.numpy().reshape(-1, 12, 12), compute_uv=False)
    theirs = np.linalg.svd(y.reshape(-1, 12, 12), compute_uv=False)
    for index in (0, 9, 10, 11):
        assert ks_2samp(ours[:, index], theirs[:, index]).pvalue > SIGNIFICANCE
    signal = torch.linalg.svdvals(problems.meta["signal"])
    assert (signal[:, 10] / signal[:, 0]).max() < 1e-13
    noise = problems.y_star - problems.meta["signal"].flatten(1)
    assert noise.std().item() == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("ood", [False, True])
def test_answers_of_official_inverse_problems_are_inverses(ood, seed):
    problems = make_problems("inverse", 7, 200, seed, ood=ood)
    S, Y = (z.view(-1, 7, 7) for z in (problems.x, problems.y_star))
    assert torch.allclose(S @ Y, torch.eye(7, dtype=torch.float64).expand_as(S), atol=1e-10)
    realised = torch.tensor(np.linalg.cond(S.numpy(), p=2))
    assert torch.allclose(problems.meta["kappa"], realised, rtol=1e-9)


def test_answers_of_addition_problems_are_sums(seed):
    problems = make_problems("addition", 3, 50, seed)
    assert torch.equal(problems.x[:, :9] + problems.x[:, 9:], problems.y_star)


@pytest.mark.parametrize("kappa", [10, 100, 1000])
@pytest.mark.parametrize("n", [2, 5, 20])
def test_controlled_inverse_has_exactly_the_condition_number_it_claims(n, kappa, seed):
    problems = make_problems("inverse", n, 200, seed, kappa=kappa)
    X, Y = (z.view(-1, n, n) for z in (problems.x, problems.y_star))
    singular_values = np.linalg.svd(X.numpy(), compute_uv=False)
    np.testing.assert_allclose(singular_values[:, 0] / singular_values[:, -1], kappa, rtol=1e-9)
    np.testing.assert_allclose(singular_values[:, 0], 10, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(Y.numpy(), 2, axis=(1, 2)), 1, rtol=1e-12)
    assert (problems.meta["kappa"] == kappa).all()
    assert torch.equal(X, X.mT)
    assert torch.equal(Y, Y.mT)
    product = problems.meta["x_scale"] * problems.meta["y_scale"]
    identity = product[:, None, None] * torch.eye(n, dtype=torch.float64)
    assert torch.allclose(X @ Y, identity, rtol=0, atol=1e-12)


def test_inner_eigenvalues_of_controlled_inverse_are_log_uniform(seed):
    problems = make_problems("inverse", 3, 20_000, seed, kappa=100)
    eigenvalues = torch.linalg.eigvalsh(problems.x.view(-1, 3, 3)) / problems.meta["x_scale"][:, None]
    middle = eigenvalues[:, 1].log().numpy() / np.log(100)
    assert ks_2samp(middle, np.random.default_rng(seed).random(20_000)).pvalue > SIGNIFICANCE


def test_eigenvectors_of_controlled_inverse_are_uniform_on_the_sphere(seed):
    n = 4
    problems = make_problems("inverse", n, 20_000, seed, kappa=50)
    vectors = torch.linalg.eigh(problems.x.view(-1, n, n)).eigenvectors
    gaussian = np.random.default_rng(seed).standard_normal((20_000, n))
    coordinate = gaussian[:, 0] / np.linalg.norm(gaussian, axis=1)
    for which in (0, n - 1):
        for entry in range(n):
            squares = vectors[:, entry, which].square().numpy()
            assert ks_2samp(squares, coordinate**2).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("factors", ["normal", "positive"])
@pytest.mark.parametrize("rank", [1, 2, 5, 10])
def test_controlled_completion_has_exactly_the_rank_it_claims(rank, factors, seed):
    problems = make_problems("completion", 20, 100, seed, rank=rank, factors=factors, noise=0.1)
    singular_values = np.linalg.svd(problems.y_star.view(-1, 20, 20).numpy(), compute_uv=False)
    assert (singular_values[:, rank] / singular_values[:, 0]).max() < 1e-13
    assert (singular_values[:, rank - 1] / singular_values[:, 0]).min() > 1e-6
    assert torch.equal(problems.meta["signal"].flatten(1), problems.y_star)


@pytest.mark.parametrize("rank", [1, 2, 5, 10])
def test_entry_variance_is_that_of_the_official_signal_at_every_rank(rank, seed):
    entries = make_problems("completion", 20, 4_000, seed, rank=rank).y_star
    assert entries.square().mean().item() == pytest.approx(0.025, rel=0.05)


def test_positive_factors_are_uniform(seed):
    problems = make_problems("completion", 3, 20_000, seed, rank=2, factors="positive")
    product = (problems.y_star[:, 0] / problems.meta["scale"]).numpy()
    U, V = np.random.default_rng(seed).uniform(0.2, 1.5, (2, 20_000, 2))
    assert ks_2samp(product, (U * V).sum(1)).pvalue > SIGNIFICANCE


@pytest.mark.parametrize(
    "distribution",
    [
        {"task": "completion", "rank": 1},
        {"task": "completion", "rank": 1, "factors": "positive"},
        {"task": "completion", "rank": 5, "factors": "positive"},
        {"task": "inverse", "kappa": 1000.0},
        {"task": "inverse"},
    ],
)
def test_answers_stay_inside_the_clamp_of_the_sampler(distribution, seed):
    problems = draw_problems(ProblemSpec(n=8, **distribution), 10_000, torch.Generator().manual_seed(seed))
    assert problems.y_star.abs().max() < 2


def test_scale_is_lowered_only_for_problems_that_would_leave_the_clamp(seed):
    problems = make_problems("completion", 6, 10_000, seed, rank=1, factors="positive")
    largest, scale = problems.y_star.abs().amax(1), problems.meta["scale"]
    lowered = scale < 1
    assert lowered.any()
    assert not lowered.all()
    assert torch.allclose(largest[lowered], torch.tensor(1.98, dtype=torch.float64), rtol=1e-12)
    assert (scale[~lowered] == 1).all()
    assert (largest[~lowered] <= 1.98).all()
    # Undoing the scale gives UVᵀ back, whose largest entry max u · max v is above the clamp exactly there.
    assert ((largest / scale > 1.98) == lowered).all()
    U, V = np.random.default_rng(seed).uniform(0.2, 1.5, (2, 10_000, 6))
    assert ks_2samp((largest / scale).numpy(), U.max(1) * V.max(1)).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("observed", [0.3, 0.8])
def test_each_entry_is_observed_with_the_stated_probability(observed, seed):
    mask = make_problems("completion", 5, 8_000, seed, rank=2, observed=observed).meta["mask"]
    assert ((mask == 0) | (mask == 1)).all()
    low, high = binom.interval(1 - 1e-8, 8_000, observed)
    per_entry = mask.sum(0)
    assert ((per_entry >= low) & (per_entry <= high)).all()


def test_noise_falls_on_observed_entries_only(seed):
    problems = make_problems("completion", 10, 500, seed, rank=2, noise=0.3)
    mask = problems.meta["mask"].flatten(1)
    error = problems.x - mask * problems.y_star
    assert (problems.x[mask == 0] == 0).all()
    assert error[mask == 1].std().item() == pytest.approx(0.3, rel=0.05)


def test_without_noise_observed_entries_are_exact(seed):
    for problems in (
        make_problems("completion", 6, 50, seed, rank=2),
        make_problems("completion", 6, 50, seed),
    ):
        assert torch.equal(problems.x, problems.meta["mask"].flatten(1) * problems.y_star)


ALL_KINDS = [
    {"task": "addition"},
    {"task": "inverse"},
    {"task": "inverse", "ood": True},
    {"task": "inverse", "kappa": 30.0},
    {"task": "completion"},
    {"task": "completion", "rank": 2, "noise": 0.1},
]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_same_seed_gives_same_problems_and_another_seed_gives_others(kind, seed):
    first, again, other = (make_problems(n=4, count=20, seed=s, **kind) for s in (seed, seed, seed + 1))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.y_star, again.y_star)
    assert all(torch.equal(first.meta[key], again.meta[key]) for key in first.meta)
    assert not torch.equal(first.x, other.x)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_generator_moves_on_and_the_global_one_does_not(kind, generator):
    state = torch.get_rng_state()
    spec = ProblemSpec(n=4, **kind)
    first, second = draw_problems(spec, 5, generator), draw_problems(spec, 5, generator)
    assert not torch.equal(first.x, second.x)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_slices_and_index_tensors_select_whole_problems(kind, seed):
    problems = make_problems(n=4, count=9, seed=seed, **kind)
    index = torch.tensor([7, 2, 2])
    for key, rows in ((slice(2, 5), [2, 3, 4]), (index, [7, 2, 2]), (torch.arange(9) > 6, [7, 8])):
        part = problems[key]
        assert isinstance(part, Problems)
        assert len(part) == len(rows)
        assert part.spec == problems.spec
        assert torch.equal(part.x, problems.x[rows])
        assert torch.equal(part.y_star, problems.y_star[rows])
        assert part.meta.keys() == problems.meta.keys()
        assert all(torch.equal(part.meta[name], problems.meta[name][rows]) for name in part.meta)


@pytest.mark.parametrize("index", [3, "mask", torch.tensor(3)])
def test_selecting_a_single_problem_by_number_names_the_slice_to_use(index, seed):
    with pytest.raises(TaskError, match=r"problems\[3:4\]"):
        make_problems("addition", 3, 5, seed)[index]


@pytest.mark.parametrize(
    ("spec", "shape", "dim_x", "dim_y"),
    [
        (ProblemSpec("addition", 2), (2, 1), 4, 2),
        (ProblemSpec("addition", 5), (5, 5), 50, 25),
        (ProblemSpec("inverse", 2), (2, 2), 4, 4),
        (ProblemSpec("completion", 6), (6, 6), 36, 36),
    ],
)
def test_dimensions_are_those_of_the_official_code(spec, shape, dim_x, dim_y, seed):
    problems = draw_problems(spec, 3, torch.Generator().manual_seed(seed))
    assert (spec.shape, spec.dim_x, spec.dim_y) == (shape, dim_x, dim_y)
    assert problems.x.shape == (3, dim_x)
    assert problems.y_star.shape == (3, dim_y)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_specification_survives_the_way_through_a_dictionary(kind):
    spec = ProblemSpec(n=4, **kind)
    assert ProblemSpec.from_dict(spec.to_dict()) == spec
    assert ProblemSpec.from_dict({"n": 4, **kind}) == spec


def test_whole_numbers_and_floats_specify_the_same_problems():
    spec = ProblemSpec("inverse", 5, kappa=100)
    assert repr(spec.to_dict()) == repr(ProblemSpec("inverse", 5, kappa=100.0).to_dict())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "lowrank"}, "task: found 'lowrank'.*task='completion' with rank=None"),
        ({"task": "sudoku"}, "task: found 'sudoku', allowed one of addition, inverse, completion"),
        ({"n": 0}, "n: found 0, allowed an integer ≥ 1"),
        ({"n": 4.0}, "n: found 4.0"),
        ({"n": True}, "n: found True"),
        ({"task": "completion", "rank": 0}, "rank: found 0"),
        ({"task": "completion", "rank": 1.5}, "rank: found 1.5"),
        ({"task": "completion", "rank": 5}, "rank: found 5, allowed 1 … n = 4; lower the rank or enlarge n"),
        ({"task": "inverse", "rank": 2}, "rank: found 2, allowed None for inverse; leave rank out"),
        ({"task": "addition", "rank": 2}, "rank: found 2, allowed None for addition"),
        ({"task": "completion", "kappa": 10}, "kappa: found 10, allowed None for completion"),
        ({"task": "addition", "kappa": 10}, "kappa: found 10, allowed None for addition"),
        ({"kappa": 0.5}, "kappa: found 0.5, allowed a finite number ≥ 1"),
        ({"kappa": float("inf")}, "kappa: found inf"),
        ({"kappa": "10"}, "kappa: found '10'"),
        ({"n": 1, "kappa": 10}, "kappa: found 10, allowed 1 for n = 1.*use n ≥ 2"),
        ({"ood": 1}, "ood: found 1, allowed True or False"),
        ({"kappa": 10, "ood": True}, "ood: found True, allowed False where rank or kappa"),
        (
            {"task": "completion", "rank": 2, "ood": True},
            "ood: found True, allowed False where rank or kappa",
        ),
        (
            {"task": "completion", "rank": 2, "factors": "uniform"},
            "factors: found 'uniform', allowed one of normal",
        ),
        (
            {"task": "completion", "factors": "positive"},
            "factors: found 'positive', allowed 'normal'.*leave factors",
        ),
        ({"task": "completion", "observed": 0.8}, "observed: found 0.8, allowed 0.5 where no rank"),
        ({"task": "completion", "noise": 0.1}, "noise: found 0.1, allowed 0.0 where no rank"),
        ({"noise": 0.1}, "noise: found 0.1, allowed 0.0 where no rank"),
        ({"kappa": 10, "observed": 0.8}, "observed: found 0.8"),
        (
            {"task": "completion", "rank": 2, "observed": 0},
            "observed: found 0, allowed a probability strictly",
        ),
        ({"task": "completion", "rank": 2, "observed": 1.0}, "observed: found 1.0"),
        ({"task": "completion", "rank": 2, "noise": -0.1}, "noise: found -0.1"),
        ({"task": "completion", "rank": 2, "noise": float("nan")}, "noise: found nan"),
        ({"size": 4}, "unknown key 'size'; valid keys: task, n, rank, kappa, ood, factors, observed, noise"),
    ],
)
def test_an_undefined_distribution_is_refused_with_key_value_and_fix(values, message):
    with pytest.raises(TaskError, match=message):
        ProblemSpec.from_dict({"task": "inverse", "n": 4, **values})


def test_a_specification_without_task_or_size_is_refused():
    with pytest.raises(TaskError, match="missing key 'task', 'n'"):
        ProblemSpec.from_dict({"rank": 2})


@pytest.mark.parametrize("count", [0, -1, 2.0, True])
def test_a_count_below_one_problem_is_refused(count):
    with pytest.raises(TaskError, match="count: found"):
        make_problems("inverse", 4, count, 0)
