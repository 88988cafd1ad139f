"""Sparse sums of known atoms, and the scores of what was found of them."""

import math

import pytest
import torch

from iredinterp.errors import TaskError
from iredinterp.truth.dictionary import SparseDictionary, mmcs, recovered


def test_atoms_fire_as_often_as_zipf_says_with_folded_normal_amplitudes(generator):
    law = SparseDictionary.random(4, 6, 2.0, generator)
    _, codes = law.sample(40_000, generator)
    rate = (codes != 0).double().mean(0)
    standard_error = (law.firing * (1 - law.firing) / 40_000).sqrt()
    assert ((rate - law.firing).abs() < 6 * standard_error).all()
    torch.testing.assert_close(law.firing / law.firing[0], torch.arange(1, 7).double() ** -0.5)
    assert law.firing.sum() == pytest.approx(2.0)
    amplitudes = codes[codes != 0]
    # |N(1, 0.3)|: a folded normal, of which a share of Φ(−1/0.3) ≈ 0.0004 is folded.
    assert amplitudes.min() >= 0
    assert float(amplitudes.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(amplitudes.std()) == pytest.approx(0.3, abs=0.01)


def test_x_is_the_code_times_the_atoms_plus_white_noise(generator):
    law = SparseDictionary.random(8, 12, 3.0, generator, noise=0.05)
    torch.testing.assert_close(law.atoms.norm(dim=1), torch.ones(12, dtype=torch.float64))
    x, codes = law.sample(20_000, generator)
    noise = x - codes @ law.atoms
    assert float(noise.std()) == pytest.approx(0.05, rel=0.02)
    torch.testing.assert_close(noise.T.cov(), 0.0025 * torch.eye(8).double(), atol=2e-4, rtol=0)
    variance = float(x.var(0, correction=0).sum())
    assert law.true_fvu(x, codes) == pytest.approx(8 * 0.0025 / variance, rel=0.05)


def test_scores_of_the_dictionary_itself_of_half_of_it_and_of_nothing(generator):
    true = torch.linalg.qr(torch.randn(10, 10, generator=generator, dtype=torch.float64)).Q
    shuffled = 3 * true[torch.randperm(10, generator=generator)]
    assert mmcs(true, shuffled) == pytest.approx(1.0)
    assert recovered(true, shuffled) == 1.0
    assert mmcs(true, true[:5]) == pytest.approx(0.5)
    assert recovered(true, true[:5]) == 0.5
    assert mmcs(true, true[:0]) == recovered(true, true[:0]) == 0.0


@pytest.mark.parametrize(("angle", "found"), [(0.4, 1.0), (0.5, 0.0)])
def test_an_atom_counts_as_recovered_above_the_cosine_of_the_threshold(angle, found):
    true = torch.tensor([[1.0, 0.0]])
    near = torch.tensor([[math.cos(angle), math.sin(angle)], [-1.0, 0.0]])
    assert mmcs(true, near) == pytest.approx(math.cos(angle))
    assert recovered(true, near) == found


def test_equal_generators_give_equal_draws(seed):
    def draw():
        generator = torch.Generator().manual_seed(seed)
        return SparseDictionary.random(3, 5, 1.0, generator).sample(7, generator)

    for one, other in zip(draw(), draw(), strict=True):
        assert torch.equal(one, other)


def test_more_activity_than_the_most_frequent_atom_can_give_is_refused(generator):
    with pytest.raises(TaskError, match="lower active or zipf, or raise count"):
        SparseDictionary.random(4, 4, 3.9, generator)
