"""EXP-006: one gradient as a matrix, and where singular values drop."""

import pytest
import scipy.stats
import torch

from iredinterp.analyses.score.bundle import largest_gap
from iredinterp.analyses.score.gradients import SingularFrames


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_isotropic_gradients_have_a_diagonal_share_of_one_in_n_and_its_exact_law(generator):
    n, count = 5, 2000
    frames = SingularFrames.of(normal(generator, count, n, n))
    share = frames.diagonal_share(normal(generator, count, n, n), torch.arange(count))
    law = scipy.stats.beta(n / 2, (n * n - n) / 2)
    assert law.mean() == pytest.approx(1 / n)
    # Right code fails this once in 10⁸ tries.
    assert abs(share.mean() - 1 / n) < 5.7 * law.std() / count**0.5
    assert scipy.stats.kstest(share.numpy(), law.cdf).pvalue > 1e-8
    mean, low, high = frames.chance()[0].tolist()
    assert (mean, low, high) == pytest.approx((1 / n, law.ppf(0.025), law.ppf(0.975)))


def test_a_gradient_that_only_changes_singular_values_is_all_diagonal_and_one_that_turns_them_not_at_all(
    generator,
):
    Y = normal(generator, 6, 4, 4)
    U, _, Vh = torch.linalg.svd(Y)
    frames, rows = SingularFrames.of(Y), torch.arange(6)
    diagonal = normal(generator, 6, 4)
    share = frames.diagonal_share(U @ diagonal.diag_embed() @ Vh, rows)
    torch.testing.assert_close(share, torch.ones(6, dtype=torch.float64))
    crossed = normal(generator, 6, 4, 4)
    crossed -= crossed.diagonal(dim1=1, dim2=2).diag_embed()
    assert (frames.diagonal_share(U @ crossed @ Vh, rows) < 1e-25).all()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_an_answer_of_low_rank_has_as_many_diagonal_directions_even_in_single_precision(rank, generator):
    Y = (normal(generator, 5, 6, rank) @ normal(generator, 5, rank, 6)).float()
    frames = SingularFrames.of(Y)
    assert (frames.count == rank).all()
    torch.testing.assert_close(frames.chance()[:, 0], torch.full((5,), rank / 36, dtype=torch.float64))


def test_diagonal_share_is_undefined_without_a_gradient_and_without_simple_singular_values(generator):
    Y, G = normal(generator, 4, 3, 3), normal(generator, 4, 3, 3)
    Y[0], Y[1], G[2], G[3, 0, 0] = torch.eye(3), 0, 0, torch.inf
    frames = SingularFrames.of(Y)
    assert frames.diagonal_share(G, torch.arange(4)).isnan().all()
    assert frames.chance()[:, 0].isnan().tolist() == [True, True, False, False]


def test_largest_gap_counts_the_drop_to_zero_and_says_nothing_of_zeros():
    spectrum = torch.tensor([[4.0, 3.9, 1.0], [2.0, 2.0, 2.0], [5.0, 1.0, 0.5], [0, 0, 0]]).double()
    position, drop = largest_gap(spectrum)
    assert position[:3].tolist() == [2, 3, 1]
    assert drop[:3].tolist() == pytest.approx([2.9 / 4, 1, 0.8])
    assert position[3].isnan()
    assert drop[3].isnan()
