"""Training: what it recovers, what it must not find, its split, its history and its state."""

from dataclasses import replace

import pyarrow.compute as pc
import pytest
import torch
import torch.nn.functional as F

from iredinterp.analyses.sae.model import fvu, l0
from iredinterp.analyses.sae.recipe import SAERecipe
from iredinterp.analyses.sae.training import SAETrainer
from iredinterp.errors import ConfigError, TrainingError
from iredinterp.truth.dictionary import SparseDictionary, mmcs, recovered

TINY = SAERecipe(width=8, k=(2, 3), steps=12, batch=16, evaluated=32, dead_after=32)
PLANTED = SAERecipe(width=64, activation="topk", k=(2,), steps=400, batch=256, learning_rate=1e-2)


def vectors(seed, count=120, d=5):
    """Vectors of 30 problems at three levels of different norms."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(count) % 3
    problem = torch.arange(count) // 4
    return torch.randn(count, d, generator=generator) * (t + 1)[:, None], t, problem


def trained(recipe, seeds, x, *labels, **options):
    trainer = SAETrainer(recipe, seeds, x, *labels, **options)
    trainer.run(every=recipe.steps)
    return trainer


def alive_atoms(sae, x):
    return sae.W_dec[(sae.encode(x, 0) != 0).any(0)]


def value(trainer, metric, **keys):
    rows = trainer.history()
    for name, wanted in {"metric": metric, **keys}.items():
        rows = rows.filter(pc.equal(rows[name], wanted))
    return rows["value"].to_pylist()[-1]


def test_a_planted_dictionary_is_recovered(generator, seed):
    law = SparseDictionary.random(16, 32, 2.0, generator, dtype=torch.float32)
    x, _ = law.sample(20_000, generator)
    sae = trained(PLANTED, [seed], x).autoencoders()[seed, 2]
    fresh, _ = law.sample(4000, generator)
    found = alive_atoms(sae, fresh)
    assert mmcs(law.atoms, found) > 0.95
    assert recovered(law.atoms, found) > 0.85
    assert fvu(fresh, sae(fresh, 0)) < 0.25


def test_batchtopk_uses_k_latents_on_average_on_vectors_it_has_not_seen(generator, seed):
    law = SparseDictionary.random(16, 32, 2.0, generator, dtype=torch.float32)
    x, _ = law.sample(20_000, generator)
    sae = trained(replace(PLANTED, activation="batchtopk"), [seed], x).autoencoders()[seed, 2]
    fresh, _ = law.sample(4000, generator)
    used = l0(sae.encode(fresh, 0))
    assert float(used.float().mean()) == pytest.approx(2.0, abs=0.3)
    assert len(used.unique()) > 2
    assert fvu(fresh, sae(fresh, 0)) < 0.25


def test_white_noise_looks_partly_explained_but_two_seeds_agree_no_better_than_chance(generator, seed):
    x = torch.randn(20_000, 16, generator=generator)
    saes = trained(PLANTED, [seed, seed + 1], x).autoencoders()
    fresh = torch.randn(4000, 16, generator=generator)
    assert fvu(fresh, saes[seed, 2](fresh, 0)) < 0.9
    one, other = (alive_atoms(sae, fresh) for sae in saes.values())
    chance = F.normalize(torch.randn(len(other), 16, generator=generator), dim=1)
    assert abs(mmcs(one, other) - mmcs(one, chance)) < 0.1
    assert recovered(one, other) < 0.2


@pytest.mark.parametrize("activation", ["batchtopk", "abstopk", "jumprelu", "relu_l1"])
def test_every_activation_moves_its_atoms_towards_the_planted_ones(activation, generator, seed):
    law = SparseDictionary.random(16, 24, 2.0, generator, zipf=0.0, dtype=torch.float32)
    x, _ = law.sample(10_000, generator)
    sparsity = {"k": (), "l1": (2.0,)} if activation == "relu_l1" else {"k": (2,)}
    trainer = SAETrainer(replace(PLANTED, activation=activation, steps=200, **sparsity), [seed], x)
    (before,) = trainer.autoencoders().values()
    trainer.run()
    (after,) = trainer.autoencoders().values()
    sign = torch.tensor([[1.0], [-1.0]]) if activation == "abstopk" else torch.ones(1, 1)

    def score(sae):
        return mmcs(law.atoms, (sign[:, None] * sae.W_dec).flatten(0, 1))

    assert score(after) > score(before) + 0.1
    torch.testing.assert_close(after.W_dec.norm(dim=1), torch.ones(64))


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "abstopk"])
def test_dense_and_sparse_training_agree(activation, seed):
    x, *labels = vectors(seed)
    recipe = replace(TINY, activation=activation, dead_after=16, steps=4)
    results = [
        trained(recipe, [seed], x.double(), *labels, dense=dense).autoencoders()[seed, 2] for dense in (0, 1)
    ]
    for name, tensor in results[0].parameters.items():
        torch.testing.assert_close(tensor, getattr(results[1], name), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dead_after", [10**9, 1], ids=["alive", "dead"])
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_one_step_of_topk_is_adam_on_the_gradient_of_the_loss(dense, dead_after, seed):
    x, *_ = vectors(seed, count=40)
    recipe = SAERecipe(
        24, "topk", (1,), steps=1, batch=64, learning_rate=1e-2, warmup=0, dead_after=dead_after
    )
    trainer = SAETrainer(recipe, [seed], x.double(), dense=dense)
    before = trainer.autoencoders()[seed, 1]
    batch = before.standardisation.apply(x.double()[trainer.training], 0)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in before.parameters.items()}
    entries = ((batch - leaves["b_dec"]) @ leaves["W_enc"].mT + leaves["b_enc"]).relu()
    kept = (entries > 0) & (entries == entries.amax(1, keepdim=True))
    residual = batch - (kept * entries) @ leaves["W_dec"] - leaves["b_dec"]
    loss = residual.square().sum(1).mean()
    if dead_after == 1:
        dead = ~kept.any(0)
        assert dead.any()
        # There are fewer dead latents than the auxiliary loss takes, so it takes all.
        target = residual.detach()
        missed = (target - (dead * entries) @ leaves["W_dec"]).square().sum()
        loss = loss + 5 / 32 * missed / target.square().sum()
    loss.backward()
    gradient, atoms = leaves["W_dec"].grad, before.W_dec
    leaves["W_dec"].grad = gradient - (gradient * atoms).sum(1, keepdim=True) * atoms
    torch.optim.Adam(leaves.values(), lr=1e-2).step()
    trainer.run()
    after = trainer.autoencoders()[seed, 1]
    for name in ("W_enc", "b_enc", "b_dec"):
        torch.testing.assert_close(getattr(after, name), leaves[name].detach(), rtol=1e-6, atol=1e-7)
    expected = F.normalize(leaves["W_dec"].detach(), dim=1)
    torch.testing.assert_close(after.W_dec, expected, rtol=1e-6, atol=1e-7)


FROZEN = {
    "topk": {},
    "batchtopk": {},
    "abstopk": {},
    "jumprelu": {},
    "relu_l1": {"k": (), "l1": (0.5, 1.0)},
}


@pytest.mark.parametrize("activation", FROZEN)
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_frozen_atoms_stay_what_they_were_to_the_last_bit_and_the_rest_is_trained(activation, dense, seed):
    data = vectors(seed)
    recipe = replace(TINY, activation=activation, frozen_decoder=True, **FROZEN[activation])
    trainer = SAETrainer(recipe, [seed], *data, dense=dense)
    before = trainer.autoencoders()
    trainer.run(every=6)
    for key, after in trainer.autoencoders().items():
        assert torch.equal(after.W_dec, before[key].W_dec)
        for name in ("W_enc", "b_enc", "b_dec"):
            assert not torch.equal(getattr(after, name), getattr(before[key], name)), name
        if after.threshold is not None:
            assert not torch.equal(after.threshold, before[key].threshold)
    assert set(trainer.history()["step"].to_pylist()) == {6, 12}


def test_frozen_atoms_do_not_change_what_the_first_step_does_to_the_rest(seed):
    data = vectors(seed)
    steps = [
        trained(replace(TINY, steps=1, frozen_decoder=frozen), [seed], *data).autoencoders()[seed, 2]
        for frozen in (False, True)
    ]
    for name in ("W_enc", "b_enc", "b_dec"):
        assert torch.equal(*(getattr(sae, name) for sae in steps))
    assert not torch.equal(steps[0].W_dec, steps[1].W_dec)


def test_a_seed_trained_alone_equals_the_same_seed_beside_others(seed):
    data = vectors(seed)
    together = trained(TINY, [seed, seed + 1], *data).autoencoders()
    alone = trained(replace(TINY, k=(3,)), [seed + 1], *data).autoencoders()
    for name, tensor in alone[seed + 1, 3].parameters.items():
        assert torch.equal(together[seed + 1, 3].parameters[name], tensor)
    assert not torch.equal(together[seed, 3].W_dec, together[seed + 1, 3].W_dec)


@pytest.mark.parametrize(
    ("activation", "frozen"), [("batchtopk", False), ("jumprelu", False), ("batchtopk", True)]
)
def test_a_run_killed_and_resumed_equals_one_that_was_not(activation, frozen, tmp_path, seed):
    data, saved = vectors(seed), tmp_path / "state.safetensors"
    recipe = replace(TINY, activation=activation, frozen_decoder=frozen)
    straight = SAETrainer(recipe, [seed, seed + 1], *data)
    straight.run(every=5)

    def killed(steps, description, total):
        for step in steps:
            yield step
            if step == 8:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SAETrainer(recipe, [seed, seed + 1], *data).run(saved, every=5, progress=killed)
    resumed = SAETrainer(recipe, [seed, seed + 1], *data)
    resumed.load(saved)
    assert resumed.step == 5
    resumed.run(saved, every=5)
    for key, sae in straight.autoencoders().items():
        other = resumed.autoencoders()[key]
        assert torch.equal(sae.threshold, other.threshold)
        for name, tensor in sae.parameters.items():
            assert torch.equal(tensor, other.parameters[name]), (key, name)
    assert resumed.history().equals(straight.history())
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("change", ["recipe", "seeds", "vectors", "damage"])
def test_a_state_of_another_run_is_refused(change, tmp_path, seed):
    (x, *labels), saved = vectors(seed), tmp_path / "state"
    SAETrainer(TINY, [seed], x, *labels).run(saved)
    recipe = replace(TINY, learning_rate=0.1) if change == "recipe" else TINY
    if change == "damage":
        saved.write_bytes(saved.read_bytes()[:-9])
    other = SAETrainer(
        recipe, [seed + (change == "seeds")], x + 1e-3 * x.square() if change == "vectors" else x, *labels
    )
    with pytest.raises(TrainingError, match="delete it to start anew"):
        other.run(saved)


def test_no_problem_is_both_trained_and_validated_on(seed):
    x, t, problem = vectors(seed)
    trainer = SAETrainer(TINY, [seed], x, t, problem)
    training = set(problem[trainer.training].tolist())
    held_out = set(range(30)) - training
    assert len(held_out) == 3
    assert set(problem[trainer.validation].tolist()) == held_out
    assert torch.equal(torch.cat([trainer.training, trainer.validation]).sort().values, torch.arange(len(x)))
    assert len(trainer.training) == 4 * len(training)
    x_train = x[trainer.training]
    expected = torch.stack([x_train[t[trainer.training] == level].mean(0) for level in range(3)])
    torch.testing.assert_close(trainer.standardisation.mean, expected)


def test_the_history_says_what_the_autoencoder_does_to_held_out_vectors(seed):
    x, t, problem = vectors(seed)
    trainer = SAETrainer(TINY, [seed], x, t, problem)
    trainer.run(every=6)
    rows = trainer.history()
    assert set(rows["step"].to_pylist()) == {6, 12}
    assert set(rows["level"].to_pylist()) == {"all", "0", "1", "2"}
    assert set(rows["k"].to_pylist()) == {2, 3}
    assert rows["l1"].null_count == len(rows)
    held_out = torch.ones(len(x), dtype=torch.bool)
    held_out[trainer.training] = False
    sae = trainer.autoencoders()[seed, 2]
    for level in range(3):
        chosen = held_out & (t == level)
        keys = {"split": "validation", "level": str(level), "k": 2}
        codes = sae.encode(x[chosen], level)
        assert value(trainer, "FVU", **keys) == pytest.approx(fvu(x[chosen], sae(x[chosen], level)), rel=1e-4)
        assert value(trainer, "L0", **keys) == pytest.approx(float((codes != 0).sum()) / len(codes))
        assert value(trainer, "dead", **keys) == pytest.approx(float((codes == 0).all(0).float().mean()))


def test_every_vector_is_seen_once_per_epoch(seed):
    x, t, problem = vectors(seed)
    recipe = replace(TINY, batch=27, steps=8)
    trainer = SAETrainer(recipe, [seed], x, t, problem)
    seen = []
    original = trainer._standardised
    trainer._standardised = lambda rows: (seen.append(rows), original(rows))[1]
    trainer.run()
    epochs = [torch.cat(seen[4 * epoch : 4 * epoch + 4]) for epoch in (0, 1)]
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, trainer.training.sort().values)
    assert not torch.equal(*epochs)


def test_the_learning_rate_warms_up_stays_and_ends_near_zero():
    recipe = SAERecipe(width=4, k=(1,), steps=100, warmup=0.1, decay=0.2, learning_rate=2.0)
    rates = [recipe.learning_rate_at(step) for step in range(100)]
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.6])
    assert rates[9:81] == pytest.approx([2.0] * 72)
    assert rates[-3:] == pytest.approx([0.3, 0.2, 0.1])


def test_divergence_stops_the_run_and_names_step_and_remedy(seed):
    x, *labels = vectors(seed)
    trainer = SAETrainer(replace(TINY, learning_rate=1e38), [seed], x, *labels)
    with pytest.raises(TrainingError, match=rf"diverged at step \d+ for seed {seed}.*lower learning_rate"):
        trainer.run()


def spoilt(what):
    x, t, problem = vectors(0)
    if what == "nan":
        x[17, 2] = torch.nan
    if what == "infinite":
        x[17, 2] = torch.inf
    if what == "constant level":
        x[t == 1] = 3.0
    if what == "few":
        x, t, problem = x[:8], t[:8], problem[:8]
    if what == "one problem":
        problem = torch.zeros_like(problem)
    if what == "short t":
        t = t[:-1]
    if what == "real problem":
        problem = problem.double()
    if what == "mixed":
        x = [x, x[:, :3]]
    return x, t, problem


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan", "vector 17 has entries that are NaN"),
        ("infinite", "vector 17 has entries that are NaN or infinite"),
        ("constant level", "level 1 have zero variance"),
        ("few", "training vectors for 8 latents; collect more vectors or lower width"),
        ("one problem", "one problem cannot be split"),
        ("short t", "t holds one integer per vector"),
        ("real problem", "problem holds one integer per vector"),
        ("mixed", r"found rows of shape \[\(3,\), \(5,\)\]; train one dimension at a time"),
    ],
)
def test_bad_vectors_are_refused_before_training(what, message):
    with pytest.raises(ConfigError, match=message):
        SAETrainer(TINY, [0], *spoilt(what))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": (9,)}, "0 < k ≤ width; found k = 9, width = 8"),
        ({"k": ()}, "batchtopk takes values of k and none of l1"),
        ({"k": (2,), "activation": "relu_l1"}, "relu_l1 has no k"),
        ({"k": (), "activation": "relu_l1"}, "relu_l1 takes values of l1"),
        ({"k": (2,), "l1": (0.1,)}, "none of l1"),
        ({"k": (2,), "activation": "gated"}, "choose one of"),
        ({"k": (2,), "batch": 0}, "at least 1"),
        ({"k": (2,), "validation": 1.0}, "between 0 and 1"),
        ({"k": (2,), "warmup": 0.9}, "at most 1 together"),
    ],
)
def test_bad_recipes_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        SAERecipe(width=8, **settings)
