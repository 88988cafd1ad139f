"""Effects of single latents: exact on closed forms, set beside controls, with intervals that cover."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from sampler_case import COUNT, KEYS, D, normal, problem_of, values

from iredinterp.analyses.sae import effects
from iredinterp.analyses.sae.effects import (
    ablated,
    effect_summary,
    feature_effects,
    latent_statistics,
    matched_latents,
    steered,
    written_variance,
)
from iredinterp.analyses.sae.fidelity import original, substituted
from iredinterp.analyses.sae.model import SparseAutoencoder, Standardisation
from iredinterp.errors import ConfigError
from iredinterp.tables import Metric, read_table, tidy, write_table
from iredinterp.truth.planted import planted


@pytest.fixture
def case(seed):
    return planted(6, D, seed)


@pytest.fixture
def problem(case, generator):
    return problem_of(case, generator)


@pytest.fixture
def autoencoder(generator):
    """Untrained, per level, with unit atoms and b_dec and μ_t that are not zero."""
    scale = torch.rand(10, generator=generator, dtype=torch.float64) + 0.5
    standardisation = Standardisation(tuple(range(10)), normal(generator, 10, D), scale)
    return SparseAutoencoder.random(
        D, 20, generator, "abstopk", 4, normal(generator, D), standardisation, torch.float64
    )


def test_ablation_takes_away_exactly_what_the_latent_writes(autoencoder, generator):
    g = normal(generator, 50, D)
    for t in (0, 7):
        codes = autoencoder.encode(g, t)
        latent = int((codes != 0).sum(0).argmax())
        expected = g - autoencoder.standardisation.scale[t] * torch.outer(
            codes[:, latent], autoencoder.W_dec[latent]
        )
        torch.testing.assert_close(ablated(autoencoder, latent)(g, t), expected, rtol=1e-12, atol=1e-12)
        # The same through the decoder, with the error of the reconstruction added back.
        without = codes.clone()
        without[:, latent] = 0
        written = autoencoder.decode(without, t) - autoencoder.decode(codes, t)
        torch.testing.assert_close(ablated(autoencoder, latent)(g, t), g + written, rtol=1e-10, atol=1e-10)


def test_steering_adds_the_atom_and_controls_add_as_much(autoencoder, generator):
    g = normal(generator, 20, D)
    unit = torch.nn.functional.normalize(normal(generator, D), dim=0)
    added = steered(autoencoder, 3, -1.5)(g, 4) - g
    expected = -1.5 * autoencoder.standardisation.scale[4] * autoencoder.W_dec[3]
    torch.testing.assert_close(added, expected.expand(20, -1), rtol=1e-10, atol=1e-12)
    control = steered(autoencoder, 3, -1.5, unit)(g, 4) - g
    torch.testing.assert_close(control, (-expected.norm() * unit).expand(20, -1), rtol=1e-10, atol=1e-12)
    taken, control = (g - ablated(autoencoder, 3, u)(g, 4) for u in (None, unit))
    torch.testing.assert_close(taken.norm(dim=1), control.norm(dim=1), rtol=1e-10, atol=1e-12)


def silenced(autoencoder, latent):
    """The same, but for a latent that nothing turns on."""
    W_enc = autoencoder.W_enc.clone()
    W_enc[latent] = 0
    return SparseAutoencoder(
        "abstopk",
        W_enc,
        autoencoder.b_enc,
        autoencoder.W_dec,
        autoencoder.b_dec,
        autoencoder.k,
        standardisation=autoencoder.standardisation,
    )


def test_ablating_a_latent_that_never_fires_changes_nothing(problem, autoencoder):
    energy, x, _, init = problem
    plain = substituted(energy, x, init, original, "both")
    run = substituted(energy, x, init, ablated(silenced(autoencoder, 5), 5), "both")
    for name, value in vars(plain).items():
        assert torch.equal(getattr(run, name), value), name


def test_latent_statistics_count_uses_and_average_their_size(autoencoder, generator):
    g, t = normal(generator, 60, D), torch.arange(60) % 10
    quiet = silenced(autoencoder, 5)
    frequency, size = latent_statistics(quiet, g, t)
    codes = torch.cat([quiet.encode(g[i : i + 1], int(t[i])) for i in range(60)])
    for latent in range(20):
        used = codes[:, latent][codes[:, latent] != 0].abs()
        assert math.isclose(float(frequency[latent]), len(used) / 60)
        assert (len(used) == 0 and size[latent].isnan()) or math.isclose(
            float(size[latent]), float(used.mean()), rel_tol=1e-12
        )
    assert frequency[5] == 0


def test_matched_latents_are_the_nearest_in_frequency_and_size():
    frequency = torch.tensor([0.1, 0.11, 0.5, 0.1, 0.0, 0.09], dtype=torch.float64)
    size = torch.tensor([1.0, 1.1, 1.0, 5.0, torch.nan, 1.0], dtype=torch.float64)
    assert matched_latents(frequency, size, 0, 2).tolist() == [5, 1]
    equal = torch.full((4,), 0.1, dtype=torch.float64)
    assert matched_latents(equal, equal, 2, 3).tolist() == [0, 1, 3]
    with pytest.raises(ConfigError, match="latent 4 is never in use"):
        matched_latents(frequency, size, 4, 2)
    with pytest.raises(ConfigError, match="5 matched latents asked for, but only 4 others are in use"):
        matched_latents(frequency, size, 0, 5)


def test_effects_are_those_of_the_single_runs_beside_their_controls(problem, autoencoder, generator):
    energy, x, answer, init = problem
    g, t = normal(generator, 400, D), torch.arange(400) % 10
    statistics = latent_statistics(autoencoder, g, t)
    table = feature_effects(
        energy, x, answer, init, autoencoder, [2], statistics, KEYS, generator, doses=[2.0], controls=2
    )
    assert len(table) == 2 * COUNT * 2 * (1 + 2 + 2)
    (plain, out), (up,) = (
        [substituted(energy, x, init, each, "both") for each in several]
        for several in (
            (original, ablated(autoencoder, 2)),
            (steered(autoencoder, 2, 2 * float(statistics[1][2])),),
        )
    )
    for run, intervention in ((out, "ablate"), (up, "steer")):
        labels = {"role": "latent", "intervention": intervention, "latent": 2}
        change = (run.final - answer).square().mean(1) - (plain.final - answer).square().mean(1)
        np.testing.assert_allclose(values(table, "mse_change", **labels), change.numpy(), rtol=1e-12)
        rates = run.accepted.double().mean((0, 1)) - plain.accepted.double().mean((0, 1))
        np.testing.assert_allclose(values(table, "accept_change", **labels), rates.numpy(), atol=1e-12)
    (nearest,) = matched_latents(*statistics, 2, 1).tolist()
    run = substituted(energy, x, init, ablated(autoencoder, nearest), "both")
    change = (run.final - answer).square().mean(1) - (plain.final - answer).square().mean(1)
    found = values(table, "mse_change", role="matched", control=0, intervention="ablate")
    np.testing.assert_allclose(found, change.numpy(), rtol=1e-12)
    assert set(table["dose"].to_pylist()) == {None, 2.0}


def test_a_latent_writes_the_share_of_the_variance_that_it_was_planted_with(generator, monkeypatch):
    monkeypatch.setattr(effects, "CHUNK", 7)
    scale = torch.tensor([0.5, 3.0], dtype=torch.float64)
    standardisation = Standardisation((2, 6), normal(generator, 2, 4), scale)
    basis = torch.linalg.qr(normal(generator, 4, 4)).Q
    autoencoder = SparseAutoencoder(
        "abstopk", basis, torch.zeros(4).double(), basis, torch.zeros(4).double(), 4, None, standardisation
    )
    codes = normal(generator, 50, 4) * torch.tensor([5.0, 1.0, 0.0, 2.0])
    t = torch.where(torch.arange(50) % 3 == 0, 2, 6)
    g = standardisation.undo(codes @ basis, t)
    expected = codes.square().sum(0) / codes.square().sum()
    torch.testing.assert_close(written_variance(autoencoder, g, t), expected, rtol=1e-12, atol=1e-12)
    # Longer atoms with shorter codes write the same; half of the code's size writes a quarter.
    longer = SparseAutoencoder("abstopk", basis / 2, autoencoder.b_enc, 2 * basis, autoencoder.b_dec, 4)
    torch.testing.assert_close(written_variance(longer, codes @ basis, t), expected, rtol=1e-12, atol=1e-12)
    halved = SparseAutoencoder("abstopk", basis / 2, autoencoder.b_enc, basis, autoencoder.b_dec, 4)
    torch.testing.assert_close(
        written_variance(halved, codes @ basis, t), expected / 4, rtol=1e-12, atol=1e-12
    )


def test_only_the_latent_along_the_one_direction_that_is_needed_matters(case, problem, generator):
    energy, x, answer, _ = problem
    basis = case.truth.eigenbasis.mT
    nothing = torch.zeros(D, dtype=torch.float64)
    autoencoder = SparseAutoencoder("abstopk", basis, nothing, basis, nothing, D)
    away = 0.2 + 0.3 * torch.rand(COUNT, 1, generator=generator, dtype=torch.float64)
    init = energy.schedule.sqrt_alphas_cumprod[9] * (answer + away * basis[4])
    alike = torch.ones(D, dtype=torch.float64)
    table = feature_effects(
        energy, x, answer, init, autoencoder, [4], (alike, alike), KEYS, generator, doses=[]
    )
    found = effect_summary(table)

    def effect(role):
        return values(found, "mse_change", role=role)

    # Without it y stays away from y*; both ends are left at the scale of level 0.
    scale = float(energy.schedule.sqrt_alphas_cumprod[0])
    stuck = scale * (answer + away * basis[4]) - answer
    expected = (stuck.square() - ((scale - 1) * answer).square()).mean()
    np.testing.assert_allclose(effect("latent")[0], float(expected), rtol=1e-5)
    # The others write nothing.
    np.testing.assert_allclose(effect("matched"), 0, atol=1e-8)
    for control in ("matched", "random"):
        estimate, low, high = effect(f"latent − {control}")
        assert 0 < low <= estimate <= high


def changes(latent, matched, random, number=0):
    """A table as `feature_effects` writes it for one latent, from arrays (controls, problems)."""
    parts = []
    for role, arms in {"latent": latent, "matched": matched, "random": random}.items():
        for control, column in enumerate(np.atleast_2d(arms)):
            count = len(column)
            labels = pa.table(
                {
                    "problem_id": pa.array(range(count), pa.int32()),
                    "latent": pa.array([number] * count, pa.int32()),
                    "role": [role] * count,
                    "control": pa.array([control] * count, pa.int32()),
                    "intervention": ["ablate"] * count,
                    "dose": pa.nulls(count, pa.float64()),
                }
            )
            column = torch.from_numpy(column)
            parts.append(tidy(labels, [Metric("mse_change", column), Metric("accept_change", -column)]))
    return pa.concat_tables(parts)


def test_controls_are_averaged_and_identical_roles_differ_by_nothing(seed):
    rng = np.random.default_rng(seed)
    a, b, c = rng.standard_normal((3, 30))
    found = effect_summary(changes(a, [b, c], [a, a]))
    expected = {"latent": a, "matched": (b + c) / 2, "latent − matched": a - (b + c) / 2, "random": a}
    for role, column in expected.items():
        for metric, sign in (("mse_change", 1), ("accept_change", -1)):
            estimate, low, high = values(found, metric, role=role)
            np.testing.assert_allclose(estimate, sign * column.mean(), rtol=1e-12, atol=1e-15)
            # The bootstrap's interval of a mean is nearly the normal one, up to skew.
            reach = 1.96 * column.std() / math.sqrt(30)
            np.testing.assert_allclose([low, high], [estimate - reach, estimate + reach], atol=0.25 * reach)
    assert values(found, "mse_change", role="latent − random").tolist() == [0, 0, 0]
    assert len(found) == 5 * 2 * 3


def test_pairing_cancels_what_makes_a_problem_sensitive_to_all_interventions(seed):
    shared = np.random.default_rng(seed).exponential(100.0, 40)
    found = effect_summary(changes(shared + 3, [shared + 1], [shared + 2, shared - 2]))
    np.testing.assert_allclose(values(found, "mse_change", role="latent − matched"), 2, rtol=1e-9)
    np.testing.assert_allclose(values(found, "accept_change", role="latent − random"), -3, rtol=1e-9)
    _, low, high = values(found, "mse_change", role="latent")
    assert high - low > 10


def test_of_two_problems_a_bootstrap_finds_both_and_their_mean():
    table = changes([1.0, 5.0], [0.0, 0.0], [0.0, 0.0])
    # Means 1, 3 and 5 come up with probability ¼, ½ and ¼.
    assert values(effect_summary(table), "mse_change", role="latent").tolist() == [3, 1, 5]
    assert values(effect_summary(table, level=0.4), "mse_change", role="latent").tolist() == [3, 3, 3]


def test_intervals_cover_the_mean_as_often_as_they_say(seed):
    rng = np.random.default_rng(seed)
    tables = [
        changes(2 + rng.standard_normal(50), 1 + rng.standard_normal((2, 50)), np.zeros(50), number)
        for number in range(60)
    ]
    found = effect_summary(pa.concat_tables(tables), resamples=400)
    for role, mean in {"latent": 2, "matched": 1, "latent − matched": 1}.items():
        intervals = values(found, "mse_change", role=role).reshape(3, 60)
        covered = (intervals[1] <= mean) & (mean <= intervals[2])
        # Binomial(60, 0.93) lies outside of this once in a million.
        assert covered.sum() >= 44


def test_a_summary_keeps_interventions_and_doses_apart_and_can_be_written(
    problem, autoencoder, generator, tmp_path
):
    energy, x, answer, init = problem
    statistics = latent_statistics(autoencoder, normal(generator, 400, D), torch.arange(400) % 10)
    table = feature_effects(
        energy,
        x,
        answer,
        init,
        autoencoder,
        [7, 2],
        statistics,
        KEYS,
        generator,
        doses=[-1.0, 2.0],
        controls=1,
    )
    write_table(table, tmp_path / "effects.parquet", {})
    found = effect_summary(read_table(tmp_path / "effects.parquet"))
    assert found.equals(effect_summary(table))
    write_table(found, tmp_path / "summary.parquet", {})
    assert len(read_table(tmp_path / "summary.parquet")) == len(found) == 2 * 3 * 5 * 2 * 3
    for latent in (2, 7):
        for intervention, dose in (("ablate", None), ("steer", -1.0), ("steer", 2.0)):
            labels = {"latent": latent, "role": "random", "intervention": intervention, "dose": dose}
            expected = values(table, "accept_change", **labels).mean()
            assert values(found, "accept_change", component="estimate", **labels) == pytest.approx([expected])


def test_effects_that_cannot_be_compared_are_named():
    table = changes(np.ones(3), np.ones((2, 3)), np.zeros(3), number=5)
    with pytest.raises(ConfigError, match="several rows for one run; give the table of one model"):
        effect_summary(pa.concat_tables([table, table]))
    with pytest.raises(ConfigError, match="1 problem cannot be resampled; intervals need at least two"):
        effect_summary(changes(np.ones(1), np.ones(1), np.ones(1)))
    with pytest.raises(ConfigError, match="0 problem cannot be resampled"):
        effect_summary(table.slice(0, 0))
    matched = table.filter(pa.compute.not_equal(table["role"], "matched"))
    with pytest.raises(ConfigError, match=r"latent 5: problem 0 lacks a run \(ablate, role matched\)"):
        effect_summary(matched)
    gone = {("random", 1), ("matched", 2)}
    lacking = [row for row in table.to_pylist() if (row["role"], row["problem_id"]) not in gone]
    with pytest.raises(ConfigError, match=r"problem 2 lacks a run \(ablate, role matched\); give every"):
        effect_summary(pa.Table.from_pylist(lacking, table.schema))
