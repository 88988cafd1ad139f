"""Each rung of the null ladder destroys what it says and keeps the rest."""

import pytest
import torch

from iredinterp.conditions import setting
from iredinterp.config import CONDITIONS
from iredinterp.energy import MLPEnergy, load_energy
from iredinterp.errors import ConfigError, TaskError
from iredinterp.ired.checkpoint import save_checkpoint
from iredinterp.ired.model import EnergyMLP, random_parameters
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import problems_table, q_sample
from iredinterp.tables import tensor_column
from iredinterp.truth.planted import planted, save_planted

SPEC = ProblemSpec("inverse", 3)
TENSORS = ("x", "y_star")


@pytest.fixture
def problems(generator):
    return problems_table(draw_problems(SPEC, 20, generator))


@pytest.fixture
def network(tmp_path, generator):
    """A checkpoint whose every tensor is far from what untrained networks have."""
    drawn = random_parameters(SPEC.dim_x, SPEC.dim_y, 16, generator)
    parameters = {name: 3 + value for name, value in drawn.items()}
    save_checkpoint(tmp_path / "a.safetensors", {"ema": parameters}, cosine_schedule(), 7, {"seed": 1})
    return load_energy(tmp_path / "a.safetensors")


def under(condition, network, problems, **options):
    return setting(condition, network, SPEC, problems, **options)


def same_column(one, other, name):
    return torch.equal(tensor_column(one, name), tensor_column(other, name))


@pytest.mark.parametrize("condition", CONDITIONS)
def test_only_shuffled_x_changes_the_problems_and_no_condition_the_answers(condition, network, problems):
    here = under(condition, network, problems)
    assert same_column(here.problems, problems, "y_star")
    assert same_column(here.problems, problems, "x") == (condition != "shuffled_x")


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_is_the_same_each_time_and_another_for_another_seed(condition, network, problems):
    def energies(seed):
        here = under(condition, network, problems, seed=seed)
        x = tensor_column(here.problems, "x").flatten(1)
        y = tensor_column(here.problems, "y_star").flatten(1)
        return here.energy.energy(x, y + 0.1, 3)

    assert torch.equal(energies(0), energies(0))
    drawn = condition in ("random_init", "permuted_weights", "shuffled_x", "oracle_noise")
    assert torch.equal(energies(0), energies(1)) != drawn


def test_two_checkpoints_get_different_nulls(tmp_path, network, problems, generator):
    other = random_parameters(SPEC.dim_x, SPEC.dim_y, 16, generator)
    save_checkpoint(tmp_path / "b.safetensors", {"ema": other}, cosine_schedule(), 7, {"seed": 2})
    other = load_energy(tmp_path / "b.safetensors")
    one, two = (under("random_init", energy, problems).energy for energy in (network, other))
    assert not torch.equal(one.model.parameters["fc1.weight"], two.model.parameters["fc1.weight"])


def test_permuted_weights_keep_the_values_of_every_tensor_and_move_them(network, problems):
    permuted = under("permuted_weights", network, problems).energy.model.parameters
    for name, value in network.model.parameters.items():
        assert permuted[name].shape == value.shape
        assert torch.equal(permuted[name].flatten().sort().values, value.flatten().sort().values)
        assert not torch.equal(permuted[name], value)


def test_random_init_has_the_shapes_and_nothing_of_the_weights(network, problems):
    untrained = under("random_init", network, problems).energy.model.parameters
    for name, value in network.model.parameters.items():
        assert untrained[name].shape == value.shape
        assert untrained[name].abs().max() <= 1 < value.abs().min()


def test_shuffled_x_gives_every_problem_the_x_of_another_and_uses_each_once(network, problems):
    before = tensor_column(problems, "x").flatten(1)
    after = tensor_column(under("shuffled_x", network, problems).problems, "x").flatten(1)
    source = torch.cdist(after, before).argmin(1)
    assert torch.equal(after, before[source])
    assert sorted(source.tolist()) == list(range(20))
    assert (source != torch.arange(20)).all()


def test_the_oracle_has_the_noise_as_its_gradient(network, problems, generator):
    here = under("oracle", network, problems)
    x, y_star = (tensor_column(problems, name).flatten(1) for name in TENSORS)
    noise = torch.randn(y_star.shape, generator=generator, dtype=torch.float64)
    for t in range(10):
        y = q_sample(y_star, t, noise, here.energy.schedule)
        torch.testing.assert_close(here.energy.gradient(x, y, t), noise, rtol=0, atol=1e-9)


def test_oracle_noise_errs_as_much_as_the_network_in_gradient_and_hessian_at_every_level(network, generator):
    # At 1/100 of its weights' size the network errs by numbers of order 1.
    small = {name: value / 3 for name, value in network.model.parameters.items()}
    network = MLPEnergy(EnergyMLP(small, network.schedule), network.checkpoint)
    fresh = draw_problems(SPEC, 300, generator)
    here = under("oracle_noise", network, problems_table(fresh), calibration=300)
    noise = torch.randn(fresh.y_star.shape, generator=generator, dtype=torch.float64)
    for t in range(10):
        y = q_sample(fresh.y_star, t, noise, here.energy.schedule)
        for derivative in ("gradient", "hessian"):
            optimal = getattr(here.oracle, derivative)(fresh.x, y, t)
            rms = [
                (getattr(energy, derivative)(fresh.x, y, t) - optimal).square().mean().sqrt()
                for energy in (here.energy, network)
            ]
            assert 0.7 < float(rms[0] / rms[1]) < 1.4, (t, derivative)


def test_a_planted_network_is_not_compared_with_the_optimum_of_a_task(tmp_path, problems):
    save_planted(planted(SPEC.dim_x, SPEC.dim_y, 0), tmp_path / "p.safetensors")
    energy = load_energy(tmp_path / "p.safetensors")
    assert under("trained", energy, problems).oracle is None
    with pytest.raises(TaskError, match="it has no oracle but its truth"):
        under("oracle", energy, problems)


def test_a_task_without_a_reference_has_no_oracle_and_says_why(network):
    hard = ProblemSpec("completion", 3, rank=2)
    problems = problems_table(draw_problems(hard, 4, torch.Generator().manual_seed(0)))
    assert setting("trained", network, hard, problems).oracle is None
    with pytest.raises(TaskError, match="no Bayes-optimal reference"):
        setting("oracle", network, hard, problems)


def test_bad_requests_say_what_to_do(network, problems):
    with pytest.raises(ConfigError, match="'shuffled' is unknown; use one of trained, random_init"):
        under("shuffled", network, problems)
    with pytest.raises(ConfigError, match=r"found 1 problem, needs 2: raise sampling\.count"):
        under("shuffled_x", network, problems.slice(0, 1))


def test_a_network_of_other_dimensions_is_refused_under_every_condition(network, problems):
    other = ProblemSpec(SPEC.task, SPEC.n + 1)
    for condition in CONDITIONS:
        with pytest.raises(
            ConfigError, match=r"the checkpoint takes \(d_x, d\) = .* set models\.NAME\.problems"
        ):
            setting(condition, network, other, problems)
