"""The sparse autoencoder: closed forms, folding, and the sparse path against the dense one."""

from dataclasses import replace

import pytest
import torch

from iredinterp.analyses.sae.model import (
    ACTIVATIONS,
    SparseAutoencoder,
    Standardisation,
    checked_vectors,
    fvu,
    keep_largest,
    l0,
)
from iredinterp.analyses.sae.sparse import (
    batch_top_k,
    decoded,
    exceeds,
    gradients,
    pre_activations,
    top_k,
)
from iredinterp.errors import ConfigError


def identity(d, activation, k=None, threshold=None):
    eye = torch.eye(d, dtype=torch.float64)
    zero = torch.zeros(d, dtype=torch.float64)
    threshold = None if threshold is None else torch.full((d,), threshold, dtype=torch.float64)
    return SparseAutoencoder(activation, eye, zero, eye, zero, k, threshold)


def random_autoencoder(activation, generator, d=6, width=11, standardisation=None):
    k = None if activation == "relu_l1" else 3
    sae = SparseAutoencoder.random(
        d, width, generator, activation, k, standardisation=standardisation, dtype=torch.float64
    )
    draws = {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in sae.parameters.items()
    }
    if sae.threshold is not None:
        draws["threshold"] = torch.rand(width, generator=generator, dtype=torch.float64)
    return replace(sae, **draws)


X = torch.tensor([[3.0, -5.0, 1.0, 2.0], [-1.0, 0.5, -2.0, -0.25]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("sae", "codes"),
    [
        (identity(4, "relu_l1"), [[3, 0, 1, 2], [0, 0.5, 0, 0]]),
        (identity(4, "topk", k=2), [[3, 0, 0, 2], [0, 0.5, 0, 0]]),
        (identity(4, "abstopk", k=2), [[3, -5, 0, 0], [-1, 0, -2, 0]]),
        (identity(4, "batchtopk", k=2, threshold=1.5), [[3, 0, 0, 2], [0, 0, 0, 0]]),
        (identity(4, "jumprelu", k=2, threshold=0.4), [[3, 0, 1, 2], [0, 0.5, 0, 0]]),
        (identity(4, "jumprelu", k=2, threshold=-3.0), [[3, 0, 1, 2], [0, 0.5, 0, 0]]),
    ],
    ids=lambda value: value.activation if isinstance(value, SparseAutoencoder) else "",
)
def test_codes_of_the_identity_dictionary(sae, codes):
    codes = torch.tensor(codes, dtype=torch.float64)
    assert torch.equal(sae.encode(X), codes)
    assert torch.equal(sae(X), codes)


def test_encoding_and_decoding_are_the_formula_of_the_class(generator):
    sae = random_autoencoder("relu_l1", generator)
    x = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    codes = sae.encode(x)
    for row, code in zip(x, codes, strict=True):
        for latent in range(sae.width):
            entry = sum((row - sae.b_dec) * sae.W_enc[latent]) + sae.b_enc[latent]
            assert float(code[latent]) == pytest.approx(max(0.0, float(entry)), abs=1e-12)
    torch.testing.assert_close(sae.decode(codes) - sae.b_dec, torch.einsum("bm,md->bd", codes, sae.W_dec))


def test_before_training_the_encoder_is_the_decoder_with_unit_atoms_at_the_mean(generator):
    mean = torch.randn(5, generator=generator)
    sae = SparseAutoencoder.random(5, 9, generator, k=2, mean=mean)
    assert torch.equal(sae.W_enc, sae.W_dec)
    assert torch.equal(sae.b_dec, mean)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(9))
    # The mean itself has the code zero, so it is reconstructed without error.
    assert torch.equal(sae(mean[None]), mean[None])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_code_does_not_depend_on_what_else_is_in_the_batch(activation, generator):
    sae = random_autoencoder(activation, generator)
    x = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    whole = sae.encode(x)
    for sizes in ([1] * 12, [5, 7]):
        torch.testing.assert_close(torch.cat([sae.encode(part) for part in x.split(sizes)]), whole)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_folded_autoencoder_does_to_raw_vectors_what_the_scaled_one_does(activation, generator):
    t = torch.arange(60) % 3 + 4
    x = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    x = x * (10.0 ** (t - 5))[:, None] + 7 * t[:, None]
    sae = random_autoencoder(activation, generator, standardisation=Standardisation.fit(x, t))
    codes, reconstruction = sae.encode(x, t), sae(x, t)
    assert l0(codes).sum() > 0
    for level in (4, 5, 6):
        folded = sae.folded(level)
        rows = t == level
        assert folded.standardisation is None
        torch.testing.assert_close(folded.encode(x[rows]), codes[rows], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(folded(x[rows]), reconstruction[rows], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(sae.encode(x[rows], level), codes[rows])
    common = random_autoencoder(activation, generator, standardisation=Standardisation.fit(x))
    torch.testing.assert_close(common.folded().encode(x), common.encode(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(common.folded()(x), common(x), rtol=1e-9, atol=1e-9)


def test_standardised_vectors_have_mean_zero_and_mean_square_one_at_every_level(generator):
    t = torch.tensor([9, 2]).repeat(50)
    x = torch.randn(100, 3, generator=generator, dtype=torch.float64) * (t + 1.0)[:, None] + t[:, None]
    standardisation = Standardisation.fit(x, t)
    assert standardisation.levels == (2, 9)
    z = standardisation.apply(x, t)
    for level in (2, 9):
        torch.testing.assert_close(z[t == level].mean(0), torch.zeros(3).double(), atol=1e-12, rtol=0)
        assert float(z[t == level].square().mean()) == pytest.approx(1.0)
    torch.testing.assert_close(standardisation.undo(z, t), x)


def test_the_offset_is_the_distance_of_the_mean_from_zero_in_units_of_the_spread(generator):
    # Values ±s about μ in every entry: the spread is s whatever the signs, and ‖μ‖/√d for μ = (m, …, m) is |m|.
    means, spreads = (
        torch.tensor([[-3.0], [0.5], [0.0]]).double(),
        torch.tensor([[0.1], [2.0], [7.0]]).double(),
    )
    deviation = torch.tensor([1.0, -1.0]).repeat(10)[:, None] * torch.ones(4)
    x = torch.cat([mean + spread * deviation for mean, spread in zip(means, spreads, strict=True)])
    t = torch.arange(3).repeat_interleave(20)
    shuffled = torch.randperm(60, generator=generator)
    offset = Standardisation.fit(x[shuffled], t[shuffled]).offset
    torch.testing.assert_close(offset, torch.tensor([30.0, 0.25, 0.0]).double())
    # For all levels together, μ = Σμ_t/3 and s² is the mean square about it.
    mean, square = float(means.mean()), float((means.square() + spreads.square()).mean())
    (together,) = Standardisation.fit(x).offset
    assert float(together) == pytest.approx(abs(mean) / (square - mean**2) ** 0.5)


def test_signed_codes_are_odd_in_x_and_counted_by_l0(generator):
    entries = torch.randn(20, 9, generator=generator, dtype=torch.float64)
    codes = keep_largest(entries, 4, signed=True)
    assert torch.equal(keep_largest(-entries, 4, signed=True), -codes)
    assert torch.equal(l0(codes), torch.full((20,), 4))
    assert (codes < 0).any()


def test_fvu_of_x_itself_of_its_mean_and_of_half_of_its_deviation(generator):
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64) + 5
    mean = x.mean(0).expand_as(x)
    assert fvu(x, x) == 0
    assert fvu(x, mean) == pytest.approx(1)
    assert fvu(x, (x + mean) / 2) == pytest.approx(0.25)


def best_pairs(entries, count, per_row):
    """The pairs of the largest positive entries, by sorting in Python."""
    pairs = [(float(entries[r, j]), r, j) for r in range(len(entries)) for j in range(entries.shape[1])]
    pairs = sorted((pair for pair in pairs if pair[0] > 0), reverse=True)
    if per_row:
        rows = [[pair for pair in pairs if pair[1] == r][:count] for r in range(len(entries))]
        pairs = [pair for row in rows for pair in row]
    else:
        pairs = pairs[: count * len(entries)]
    return sorted((r, j) for _, r, j in pairs)


@pytest.mark.parametrize("shift", [0.0, -1.0])
def test_active_latents_are_the_largest_positive_entries(shift, generator):
    entries = torch.randn(7, 10, generator=generator, dtype=torch.float64) + shift

    def pairs(codes):
        assert torch.equal(codes.rows, codes.rows.sort().values)
        in_use = codes.values != 0
        assert torch.equal(codes.used(), torch.tensor([j in codes.latents[in_use] for j in range(10)]))
        return sorted(zip(codes.rows[in_use].tolist(), codes.latents[in_use].tolist(), strict=True))

    assert pairs(top_k(entries, 3)) == best_pairs(entries, 3, per_row=True)
    assert pairs(top_k(-entries.abs(), 3, signed=True)) == best_pairs(entries.abs(), 3, per_row=True)
    for guess in (0.0, 0.3, 0.8, 50.0):
        assert pairs(batch_top_k(entries, 2, guess)) == best_pairs(entries, 2, per_row=False)


def weights(generator, d=5, width=9):
    shapes = {"W_enc": (width, d), "b_enc": (width,), "W_dec": (width, d), "b_dec": (d,)}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()
    }


SELECTIONS = {
    "topk": lambda entries: top_k(entries, 2),
    "abstopk": lambda entries: top_k(entries, 2, signed=True),
    "batchtopk": lambda entries: batch_top_k(entries, 2),
    "nothing": lambda entries: batch_top_k(-entries.abs(), 2),
}


def of_dense_products(parameters, x, in_use, weight):
    """The product z W_dec for the latents in use (B, m), and a smooth function of it."""
    entries = (x - parameters["b_dec"]) @ parameters["W_enc"].mT + parameters["b_enc"]
    sums = (in_use * entries) @ parameters["W_dec"]
    return sums, (weight * sums).sum() + sums.square().sum()


def chosen(select, parameters, x):
    centred = x - parameters["b_dec"]
    codes = select(pre_activations(parameters, centred))
    return centred, codes, codes.dense() != 0


@pytest.mark.parametrize("name", SELECTIONS)
def test_gathered_sums_and_gradients_equal_those_of_dense_products(name, generator):
    parameters = weights(generator)
    x, weight = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)
    centred, codes, in_use = chosen(SELECTIONS[name], parameters, x)
    assert in_use.any() == (name != "nothing")
    leaves = {key: value.clone().requires_grad_() for key, value in parameters.items()}
    sums, loss = of_dense_products(leaves, x, in_use, weight)
    loss.backward()
    torch.testing.assert_close(decoded(parameters["W_dec"], codes), sums.detach())
    found = gradients(parameters, centred, codes, weight + 2 * sums.detach())
    assert found.keys() == leaves.keys()
    for key, leaf in leaves.items():
        torch.testing.assert_close(found[key], leaf.grad)


def test_gradients_are_those_of_finite_differences(generator):
    parameters = weights(generator)
    x, weight = torch.randn(2, 8, 5, generator=generator, dtype=torch.float64)
    centred, codes, in_use = chosen(SELECTIONS["topk"], parameters, x)
    slope = weight + 2 * decoded(parameters["W_dec"], codes)
    found = gradients(parameters, centred, codes, slope)
    for name, value in parameters.items():
        direction = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        ends = [
            of_dense_products({**parameters, name: value + h * direction}, x, in_use, weight)[1]
            for h in (1e-5, -1e-5)
        ]
        difference = float(ends[0] - ends[1]) / 2e-5
        assert difference == pytest.approx(float((found[name] * direction).sum()), rel=1e-5, abs=1e-5)


def test_codes_in_training_are_those_of_the_trained_model(generator):
    sae = random_autoencoder("topk", generator)
    x = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    _, codes, _ = chosen(lambda entries: top_k(entries, 3), sae.parameters, x)
    torch.testing.assert_close(codes.dense(), sae.encode(x))
    torch.testing.assert_close(decoded(sae.W_dec, codes) + sae.b_dec, sae(x))


def test_the_slope_of_a_step_in_its_threshold_is_minus_the_density_near_it(generator):
    # d/dθ P(z > θ) = −p(θ), the density: 1/4 for z uniform on (−2, 2).
    entries = 4 * torch.rand(100_000, 1, generator=generator, dtype=torch.float64) - 2
    threshold = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    share = exceeds(entries, threshold, 0.5).mean()
    assert float(share.detach()) == pytest.approx(1.7 / 4, abs=0.01)
    share.backward()
    assert float(threshold.grad) == pytest.approx(-0.25, abs=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: SparseAutoencoder.random(4, 8, g, "gated", 2), "choose one of relu_l1"),
        (lambda g: SparseAutoencoder.random(4, 8, g, "topk", 9), "0 < k ≤ width; found k = 9"),
        (lambda g: SparseAutoencoder.random(4, 8, g, "topk"), "found k = None"),
        (lambda g: SparseAutoencoder.random(4, 8, g, "relu_l1", 2), "relu_l1 has no k"),
        (lambda g: identity(4, "batchtopk", k=2), "have a threshold"),
        (lambda g: identity(4, "topk", k=2).encode(torch.zeros(3, 5)), r"encodes \(B, 4\); found \(3, 5\)"),
        (lambda g: checked_vectors([torch.zeros(2, 4), torch.zeros(2, 5)]), "one dimension at a time"),
        (lambda g: checked_vectors(torch.zeros(4)), "one d"),
        (lambda g: checked_vectors(torch.zeros(4, 2, dtype=torch.int64)), "float32 or float64"),
        (lambda g: checked_vectors(torch.tensor([[0.0], [torch.nan]])), "vector 1 has entries that are NaN"),
    ],
)
def test_what_does_not_fit_is_refused(make, message, generator):
    with pytest.raises(ConfigError, match=message):
        make(generator)


def test_levels_without_statistics_or_without_variance_are_refused(generator):
    x = torch.randn(6, 2, generator=generator)
    t = torch.tensor([0, 0, 0, 1, 1, 1])
    standardisation = Standardisation.fit(x, t)
    with pytest.raises(ConfigError, match=r"no statistics of level \[7\]; the autoencoder knows \[0, 1\]"):
        standardisation.apply(x, 7)
    with pytest.raises(ConfigError, match="give t"):
        standardisation.apply(x)
    x[3:] = torch.randn(2, generator=generator)
    with pytest.raises(ConfigError, match="level 1 have zero variance; leave that level out"):
        Standardisation.fit(x, t)
