"""The training loss against torch's own double backward, and a run that can be stopped."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from iredinterp.errors import TrainingError
from iredinterp.ired import training
from iredinterp.ired.checkpoint import load_checkpoint
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.ired.training import (
    Phase,
    Recipe,
    TrainingState,
    history_table,
    initial_state,
    losses,
    run_recipe,
    save_networks,
    train,
)

TINY = Recipe(
    ProblemSpec("inverse", 2),
    hidden=6,
    phases=(Phase(6, 1e-2, False), Phase(6, 1e-3, True)),
    batch=8,
    warmup=2,
)

SCHEDULE = cosine_schedule().to(torch.float32)


def stacked(networks):
    names = networks[0].parameters
    return {name: torch.stack([network.parameters[name] for network in networks]) for name in names}


def test_the_loss_and_its_weight_gradient_equal_a_double_backward_of_the_official_loss(generator):
    networks = [EnergyMLP.random(5, 4, 7, generator).to(torch.float64) for _ in range(3)]
    parameters = {name: value.requires_grad_() for name, value in stacked(networks).items()}
    shape = (3, 6, 4)
    x = torch.randn(3, 6, 5, generator=generator, dtype=torch.float64)
    y, noise, second = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    t = torch.randint(10, shape[:2], generator=generator)
    schedule = networks[0].schedule
    denoising, contrastive = losses(EnergyMLP(parameters, schedule), x, y, t, noise, second, contrastive=True)
    (denoising + 0.5 * contrastive).sum().backward()
    for index, network in enumerate(networks):
        single = {name: value.clone().requires_grad_() for name, value in network.parameters.items()}
        expected = official_loss(EnergyMLP(single, schedule), *(v[index] for v in (x, y, t, noise, second)))
        torch.testing.assert_close((denoising[index], contrastive[index]), expected)
        (expected[0] + 0.5 * expected[1]).backward()
        for name, value in single.items():
            torch.testing.assert_close(parameters[name].grad[index], value.grad, rtol=1e-9, atol=1e-12)


def official_loss(network, x, y, t, noise, second):
    """`p_losses` of the official code, its gradients by autograd."""
    s = network.schedule

    def q_sample(start, noise):
        return s.sqrt_alphas_cumprod[t][:, None] * start + s.sqrt_one_minus_alphas_cumprod[t][:, None] * noise

    def gradient(point, create_graph):
        with torch.enable_grad():
            point = point.detach().requires_grad_()
            return torch.autograd.grad(network.energy(x, point, t).sum(), point, create_graph=create_graph)[0]

    denoising = F.mse_loss(gradient(q_sample(y, noise), True), noise)
    wrong, factor = q_sample(y, 3.0 * second), 1.0
    limit = 2 * s.sqrt_alphas_cumprod[t][:, None]
    for _ in range(2):
        new = wrong - s.opt_step_size[t][:, None] * gradient(wrong, False) * factor
        factor = 2.0
        new = torch.max(torch.min(new, limit), -limit)
        bad = network.energy(x, new, t) > network.energy(x, wrong, t)
        new[bad] = wrong[bad]
        wrong = new.detach()
    negative = q_sample((s.sqrt_recip_alphas_cumprod[t][:, None] * wrong).clamp(-2, 2), second)
    energies = torch.stack([network.energy(x, q_sample(y, second), t), network.energy(x, negative, t)], -1)
    return denoising, F.cross_entropy(-energies, torch.zeros(len(x), dtype=torch.long))


def final(recipe, seeds):
    *_, state = train(initial_state(recipe, seeds), every=100, held_out=16)
    return state


def test_a_seed_trained_alone_equals_the_same_seed_in_a_stack(seed):
    together, alone = final(TINY, [seed, seed + 1, seed + 2]), final(TINY, [seed + 1])
    for name, value in alone.ema.items():
        torch.testing.assert_close(together.ema[name][1:2], value, rtol=1e-4, atol=1e-5)
    assert not torch.equal(together.ema["fc1.weight"][0], together.ema["fc1.weight"][2])


def test_a_run_stopped_and_resumed_equals_one_that_was_not(tmp_path, seed):
    seeds = [seed, seed + 1]
    straight = final(TINY, seeds)
    for state in train(initial_state(TINY, seeds), every=5, held_out=16):
        state.save(tmp_path / "state.pt")
        if state.step == 5:
            break
    resumed = TrainingState.load(tmp_path / "state.pt", TINY, seeds)
    assert resumed.step == 5
    *_, resumed = train(resumed, every=100, held_out=16)
    for kind in ("raw", "ema"):
        for name, value in getattr(straight, kind).items():
            assert torch.equal(getattr(resumed, kind)[name], value), (kind, name)
    assert resumed.history[-1] == straight.history[-1]


def test_run_recipe_goes_on_from_the_saved_state(tmp_path, seed):
    seeds, saved = [seed], tmp_path / "state.pt"
    seen = []

    def interrupted(states, description, total):
        for state in states:
            yield state
            seen.append(state.step)
            if state.step == 8 and len(seen) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(TINY, seeds, saved, progress=interrupted, every=4)
    state = run_recipe(TINY, seeds, saved, progress=interrupted, every=4)
    assert seen == [4, 8, 12]
    straight = final(TINY, seeds)
    assert torch.equal(state.ema["fc4.weight"], straight.ema["fc4.weight"])


def test_a_state_of_another_recipe_is_refused(tmp_path, seed):
    initial_state(TINY, [seed]).save(tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=r"state.pt.*another recipe"):
        TrainingState.load(tmp_path / "state.pt", TINY, [seed + 1])


def test_denoising_lowers_its_loss_and_the_held_out_error(seed):
    recipe = Recipe(ProblemSpec("addition", 2), 32, (Phase(300, 3e-3, False),), batch=64)
    *_, state = train(initial_state(recipe, [seed]), every=100, held_out=128)
    first, last = state.history[0], state.history[-1]
    assert last["denoising_loss"] < first["denoising_loss"]
    assert last["held_out_mse"] < 0.3 * min(first["held_out_mse"], last["zero_mse"])
    assert last["contrastive_loss"] is None
    assert last["linear_mse"] < 1e-20


def test_the_contrastive_term_lowers_the_contrastive_loss_averaged_over_seeds(seed, generator):
    seeds, shape = range(seed, seed + 8), (8, 1024)
    found = []
    problems = draw_problems(ProblemSpec("addition", 2), 1024, generator)
    x, y = (value.float().expand(8, -1, -1) for value in (problems.x, problems.y_star))
    t = torch.randint(10, shape, generator=generator)
    noise = torch.randn(2, *shape, 2, generator=generator)
    for contrastive in (True, False):
        phases = (Phase(300, 3e-3, False), Phase(300, 3e-3, contrastive))
        recipe = Recipe(problems.spec, 32, phases, batch=64)
        *_, state = train(initial_state(recipe, seeds), every=1000, held_out=16)
        found.append(losses(EnergyMLP(state.raw, SCHEDULE), x, y, t, *noise, True)[1].mean())
    assert found[0] < found[1]


def test_divergence_stops_the_run_and_names_step_and_seed(seed):
    state = initial_state(TINY, [seed, seed + 1])
    state.raw["fc2.weight"][1] = torch.inf
    with pytest.raises(TrainingError, match=f"step 4 for seed {seed + 1}: lower learning_rate"):
        next(train(state, every=4, held_out=16))


def test_one_seed_with_a_huge_gradient_does_not_clip_the_others(seed):
    quiet, loud = initial_state(TINY, [seed, seed + 1]), initial_state(TINY, [seed, seed + 1])
    loud.raw["fc4.weight"][1] *= 100
    recipe_states = [next(train(copy.copy(state), every=4, held_out=16)) for state in (quiet, loud)]
    torch.testing.assert_close(*(state.raw["fc1.weight"][0] for state in recipe_states), rtol=1e-5, atol=1e-6)


def test_learning_rate_warms_up_and_decays_to_zero_in_each_phase():
    recipe = Recipe(TINY.problems, 4, (Phase(1000, 1.0, False), Phase(500, 0.1, True)), warmup=100)
    assert recipe.phase_at(0)[1] == pytest.approx(0.01, rel=1e-3)
    assert recipe.phase_at(500)[1] == pytest.approx(0.5)
    assert recipe.phase_at(999)[1] == pytest.approx(0, abs=1e-5)
    phase, rate = recipe.phase_at(1250)
    assert phase.contrastive
    assert rate == pytest.approx(0.05)
    with pytest.raises(ValueError, match="past the end"):
        recipe.phase_at(1500)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_permuted_targets_are_answers_of_other_problems_of_the_same_batch(seed):
    generators = [torch.Generator().manual_seed(seed) for _ in range(2)]
    paired, permuted = (
        training._draw_batch(replace(TINY, permuted=permuted), SCHEDULE, [generator], "cpu")
        for permuted, generator in zip((False, True), generators, strict=True)
    )
    assert torch.equal(paired[0], permuted[0])
    answers, others = paired[1][0], permuted[1][0]
    assert not (answers == others).all(-1).any()
    assert sorted(answers.tolist()) == sorted(others.tolist())
    X, Y = paired[0].unflatten(-1, (2, 2)), paired[1].unflatten(-1, (2, 2))
    torch.testing.assert_close(X @ Y, torch.eye(2).expand_as(X), rtol=0, atol=1e-4)


def test_a_network_trained_on_permuted_targets_learns_nothing_about_x(seed):
    # Linear answers, which a network of this size learns at once where it can.
    recipe = Recipe(ProblemSpec("addition", 2), hidden=16, phases=(Phase(400, 1e-2, False),), batch=64)
    *_, paired = train(initial_state(recipe, [seed]), every=400)
    *_, permuted = train(initial_state(replace(recipe, permuted=True), [seed]), every=400)
    baseline = paired.history[-1]["mean_mse"]
    assert paired.history[-1]["held_out_mse"] < 0.5 * baseline
    assert permuted.history[-1]["held_out_mse"] > 0.8 * baseline


def test_float16_files_are_half_as_large_and_differ_by_rounding_alone(tmp_path, seed):
    *_, state = train(initial_state(TINY, [seed]), every=12)
    (full,) = save_networks(state, "full", tmp_path)
    (half,) = save_networks(state, "half", tmp_path, "float16")
    assert half.stat().st_size < 0.6 * full.stat().st_size
    exact, rounded = (load_checkpoint(path).model.parameters for path in (full, half))
    for name, value in exact.items():
        torch.testing.assert_close(rounded[name], value, rtol=2**-11, atol=1e-7)


def test_saved_networks_load_with_their_recipe_and_seed(tmp_path, seed):
    state = final(TINY, [seed, seed + 1])
    paths = save_networks(state, "tiny", tmp_path)
    assert [path.name for path in paths] == [
        f"tiny-seed{seed}.safetensors",
        f"tiny-seed{seed + 1}.safetensors",
    ]
    loaded = load_checkpoint(paths[1])
    assert loaded.record == {"recipe": TINY.to_dict(), "seed": seed + 1}
    assert loaded.step == TINY.steps
    assert torch.equal(loaded.model.parameters["fc1.weight"], state.ema["fc1.weight"][1])
    assert history_table(state).column("seed").to_pylist() == [seed, seed + 1]
