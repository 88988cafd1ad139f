"""Data without features, permuted labels, and dictionaries coded by orthogonal matching pursuit."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp

from iredinterp.analyses.sae.dictionaries import (
    METHODS,
    Dictionary,
    first_layer_atoms,
    fit_dictionary,
    refitted_codes,
    sparse_codes,
)
from iredinterp.analyses.sae.model import Standardisation, fvu, l0
from iredinterp.analyses.sae.nulls import gaussian_like, problem_permutation, shuffled_coordinates
from iredinterp.energy import MLPEnergy
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP
from iredinterp.truth.dictionary import SparseDictionary, mmcs, recovered


def normal(*shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def heavy_tailed(count, generator):
    """Correlated coordinates with excess kurtosis: products of normals, mixed."""
    independent = normal(count, 3, generator=generator) * normal(count, 3, generator=generator)
    mixing = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -0.8], [0.0, 0.0, 0.3]], dtype=torch.float64)
    return independent @ mixing + torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def kurtosis(x):
    centred = x - x.mean(0)
    return centred.pow(4).mean(0) / centred.square().mean(0).square()


def test_gaussian_null_has_each_levels_mean_and_covariance_and_no_other_moment(generator):
    t = torch.arange(40_000) % 2
    x = heavy_tailed(40_000, generator) * (1 + 9 * t[:, None])
    null = gaussian_like(x, t, generator)
    for level, scale in ((0, 1.0), (1, 10.0)):
        real, drawn = x[t == level], null[t == level]
        assert torch.allclose(drawn.mean(0), real.mean(0), atol=0.06 * scale)
        assert torch.allclose(drawn.T.cov(), real.T.cov(), atol=0.08 * scale**2)
        assert (kurtosis(real) > 5).all()
        assert torch.allclose(kurtosis(drawn), torch.full((3,), 3.0, dtype=torch.float64), atol=0.35)


def test_gaussian_null_of_flat_data_stays_in_their_plane_and_keeps_the_dtype(generator):
    plane = normal(2, 6, generator=generator)
    x = (normal(50, 2, generator=generator) @ plane).float()
    null = gaussian_like(x, torch.zeros(50, dtype=torch.long), generator)
    assert null.dtype == torch.float32
    outside = null.double() - null.double() @ torch.linalg.pinv(plane) @ plane
    assert outside.abs().max() < 1e-5 * x.abs().max()


def test_shuffled_coordinates_keep_marginals_of_each_level_and_lose_correlation(generator):
    t = torch.arange(20_000) % 2
    x = heavy_tailed(20_000, generator) + 5 * t[:, None]
    null = shuffled_coordinates(x, t, generator)
    for level in (0, 1):
        assert torch.equal(null[t == level].sort(0).values, x[t == level].sort(0).values)
        assert x[t == level].T.corrcoef()[0, 1].abs() > 0.3
        off_diagonal = null[t == level].T.corrcoef() - torch.eye(3)
        assert off_diagonal.abs().max() < 0.06


def test_permuted_problems_exchange_whole_blocks_of_equal_size_in_order(generator):
    problem = torch.tensor([7, 3, 7, 5, 3, 9, 9, 9, 5])
    seen = set()
    for _ in range(60):
        rows = problem_permutation(problem, generator)
        assert sorted(rows.tolist()) == list(range(9))
        assert rows[5:8].tolist() == [5, 6, 7]
        blocks = tuple(tuple(rows[problem == one].tolist()) for one in (3, 5, 7))
        assert set(blocks) == {(1, 4), (3, 8), (0, 2)}
        seen.add(blocks)
    assert len(seen) == 6


def test_labels_of_problems_of_different_sizes_cannot_be_exchanged(generator):
    with pytest.raises(ConfigError, match="keep the same number of vectors of every problem"):
        problem_permutation(torch.tensor([0, 1, 1]), generator)


@pytest.mark.parametrize("null", [gaussian_like, shuffled_coordinates])
def test_nulls_refuse_nan_and_levels_of_another_length(null, generator):
    x = normal(5, 2, generator=generator)
    with pytest.raises(ConfigError, match=r"one level per vector; found \(4,\) for 5 vectors"):
        null(x, torch.zeros(4, dtype=torch.long), generator)
    x[3, 1] = torch.nan
    with pytest.raises(ConfigError, match="vector 3"):
        null(x, torch.zeros(5, dtype=torch.long), generator)


def planted_codes(count, width, k, generator):
    support = torch.rand(count, width, generator=generator).topk(k, dim=1).indices
    sizes = (1 + torch.rand(count, k, generator=generator).double()) * (
        2 * torch.randint(2, (count, k), generator=generator) - 1
    )
    return torch.zeros(count, width, dtype=torch.float64).scatter(1, support, sizes)


def test_pursuit_recovers_any_sparse_code_of_an_orthonormal_dictionary(generator):
    atoms = torch.linalg.qr(normal(12, 12, generator=generator)).Q
    truth = planted_codes(40, 12, 5, generator)
    assert torch.allclose(sparse_codes(atoms, truth @ atoms, 5), truth, atol=1e-12)
    # Asked for more atoms than there are, it stops at the true ones.
    assert torch.allclose(sparse_codes(atoms, truth @ atoms, 9), truth, atol=1e-12)


def test_pursuit_recovers_codes_of_an_incoherent_dictionary_within_the_coherence_bound(generator):
    # Spikes and Hadamard waves in 64 dimensions: coherence 1/8, so exact for k < (1 + 8)/2 (Tropp 2004).
    waves = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(6):
        waves = torch.cat([torch.cat([waves, waves], 1), torch.cat([waves, -waves], 1)])
    atoms = torch.cat([torch.eye(64, dtype=torch.float64), waves / 8])
    truth = planted_codes(50, 128, 4, generator)
    found = sparse_codes(atoms, (truth @ atoms).float(), 4)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), truth, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_pursuit_agrees_with_scikit_learn_on_noise(k, generator):
    atoms = torch.nn.functional.normalize(normal(30, 10, generator=generator), dim=1)
    x = normal(25, 10, generator=generator)
    reference = torch.from_numpy(orthogonal_mp(atoms.T.numpy(), x.T.numpy(), n_nonzero_coefs=k)).T
    assert torch.allclose(sparse_codes(atoms, x, k), reference, atol=1e-9)


def test_pursuit_of_zero_and_with_repeated_atoms_stays_finite(generator):
    atom = torch.nn.functional.normalize(normal(1, 5, generator=generator), dim=1)
    x = torch.cat([3 * atom, 0 * atom])
    codes = sparse_codes(atom.repeat(4, 1), x, 3)
    assert l0(codes).tolist() == [1, 0]
    assert torch.allclose(codes @ atom.repeat(4, 1), x)


def test_refitted_codes_are_the_least_squares_on_each_support(generator):
    # Atoms of any length, some of them repeated or sums of others, and more vectors than are solved at once.
    atoms = normal(14, 12, generator=generator)
    atoms[1], atoms[3] = -2 * atoms[0], atoms[2] + atoms[4]
    x = normal(150, 12, generator=generator)
    codes = normal(150, 14, generator=generator) * (torch.rand(150, 14, generator=generator) < 0.3)
    codes[70] = 0
    expected = np.zeros((150, 14))
    for row, used in enumerate((codes != 0).numpy()):
        expected[row, used] = np.linalg.lstsq(atoms.numpy()[used].T, x[row].numpy())[0]
    np.testing.assert_allclose(refitted_codes(atoms, x, codes), expected, rtol=1e-7, atol=1e-9)


def test_a_refit_undoes_shrinkage_of_planted_codes(generator):
    atoms = torch.nn.functional.normalize(normal(30, 20, generator=generator), dim=1).float()
    truth = planted_codes(40, 30, 4, generator)
    shrunk = truth.sign() * (truth.abs() - 0.9)
    found = refitted_codes(atoms, (truth @ atoms.double()).float(), shrunk.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), truth, rtol=0, atol=1e-4)


def test_a_refit_of_no_atoms_is_no_code():
    assert torch.equal(refitted_codes(torch.eye(3), torch.ones(2, 3), torch.zeros(2, 3)), torch.zeros(2, 3))


def sparse_data(generator, d=10, count=14, vectors=1500):
    law = SparseDictionary.random(d, count, 2.0, generator, noise=0.0)
    x, _ = law.sample(vectors, generator)
    return law, x, torch.zeros(vectors, dtype=torch.long)


@pytest.mark.parametrize("method", METHODS)
def test_every_dictionary_has_unit_atoms_k_codes_and_explains_more_than_the_mean(method, generator):
    _, x, t = sparse_data(generator)
    t = torch.arange(len(x)) % 2
    x = (x * (1 + t[:, None])).float()
    dictionary = fit_dictionary(method, x, t, 8, 3, generator, most=600)
    assert dictionary.name == method
    assert dictionary.W_dec.dtype == torch.float32
    assert torch.allclose(dictionary.W_dec.norm(dim=1), torch.ones(dictionary.width))
    codes = dictionary.encode(x, t)
    assert codes.shape == (len(x), dictionary.width)
    assert l0(codes).max() <= 3
    assert torch.equal(dictionary(x, t), dictionary.decode(codes, t))
    assert fvu(x, dictionary(x, t)) < 1


def test_pca_codes_leave_the_trailing_variances_unexplained(generator):
    # k = width keeps every leading coordinate, so FVU is the trailing share of the eigenvalues.
    x = normal(400, 6, generator=generator) @ normal(6, 6, generator=generator)
    t = torch.zeros(400, dtype=torch.long)
    dictionary = fit_dictionary("pca", x, t, 2, 2, generator)
    eigenvalues = torch.linalg.eigvalsh(x.T.cov())
    assert fvu(x, dictionary(x, t)) == pytest.approx(float(eigenvalues[:4].sum() / eigenvalues.sum()))


def test_sample_atoms_are_standardised_vectors_of_the_data(generator):
    x, t = normal(60, 10, generator=generator), torch.zeros(60, dtype=torch.long)
    dictionary = fit_dictionary("samples", x, t, 20, 1, generator)
    units = torch.nn.functional.normalize(Standardisation.fit(x, t).apply(x, t), dim=1)
    assert (dictionary.W_dec @ units.T).amax(1).tolist() == pytest.approx([1.0] * 20)
    assert len(dictionary.W_dec.unique(dim=0)) == 20


def test_independent_components_find_independent_sources_up_to_sign(generator):
    sources = torch.rand(4000, 4, generator=generator, dtype=torch.float64)
    atoms = torch.nn.functional.normalize(normal(4, 4, generator=generator), dim=1)
    dictionary = fit_dictionary("ica", sources @ atoms, torch.zeros(4000, dtype=torch.long), 4, 4, generator)
    assert mmcs(atoms, torch.cat([dictionary.W_dec, -dictionary.W_dec])) > 0.98


def test_learned_atoms_are_the_planted_ones_and_random_ones_are_not(generator):
    law, x, t = sparse_data(generator, d=16, count=16, vectors=1500)
    found, random = (fit_dictionary(method, x, t, 16, 2, generator) for method in ("learned", "random"))
    both_signs = [torch.cat([one.W_dec, -one.W_dec]) for one in (found, random)]
    assert mmcs(law.atoms, both_signs[0]) > mmcs(law.atoms, both_signs[1]) + 0.2
    assert recovered(law.atoms, both_signs[1]) < 0.5


def test_first_layer_atoms_span_the_gradient(generator):
    # Two hidden units: the gradient in five dimensions lies in the plane of two atoms.
    energy = MLPEnergy(EnergyMLP.random(3, 5, 2, generator).to(torch.float64))
    atoms = first_layer_atoms(energy)
    assert atoms.shape == (2, 5)
    gradient = energy.gradient(normal(6, 3, generator=generator), normal(6, 5, generator=generator), 2)
    dictionary = Dictionary.of_atoms("first layer", atoms, 2)
    # Pursuit stops once what is left is 1e-6 of the vector.
    assert torch.allclose(dictionary(gradient), gradient, atol=2e-6 * float(gradient.abs().max()), rtol=0)
    assert fvu(gradient, torch.linalg.lstsq(atoms.T, gradient.T).solution.T @ atoms) < 1e-20


def test_atoms_that_are_zero_are_left_out():
    dictionary = Dictionary.of_atoms("mine", torch.tensor([[0.0, 0.0], [3.0, 4.0]]), 1)
    assert torch.allclose(dictionary.W_dec, torch.tensor([[0.6, 0.8]]))
    with pytest.raises(ConfigError, match="k = 2, 1 atoms"):
        Dictionary.of_atoms("mine", torch.tensor([[0.0, 0.0], [3.0, 4.0]]), 2)


def test_equal_generators_give_equal_dictionaries(seed):
    def draw(method):
        generator = torch.Generator().manual_seed(seed)
        _, x, t = sparse_data(generator, vectors=200)
        return fit_dictionary(method, x, t, 6, 2, generator).W_dec

    for method in ("samples", "random", "nmf"):
        assert torch.equal(draw(method), draw(method))


def test_dictionaries_refuse_what_they_cannot_do(generator):
    x, t = normal(10, 3, generator=generator), torch.zeros(10, dtype=torch.long)
    with pytest.raises(ConfigError, match="'sae' is unknown; choose one of pca"):
        fit_dictionary("sae", x, t, 2, 1, generator)
    with pytest.raises(ConfigError, match="10 vectors for 11 atoms; collect more vectors or lower width"):
        fit_dictionary("samples", x, t, 11, 1, generator)
    with pytest.raises(ConfigError, match="k = 4, 3 atoms"):
        fit_dictionary("pca", x, t, 8, 4, generator)
    with pytest.raises(ConfigError, match="zero variance"):
        fit_dictionary("pca", torch.ones(10, 3), t, 2, 1, generator)
    with pytest.raises(ConfigError, match=r"one level per vector; found \(9,\)"):
        fit_dictionary("pca", x, t[1:], 2, 1, generator)
    with pytest.raises(ConfigError, match=r"vectors \(B, 3\); found \(4, 2\)"):
        sparse_codes(torch.eye(3), torch.ones(4, 2), 1)
