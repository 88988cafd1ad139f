"""What two circuits share, against enumeration, Monte Carlo and a planted network's gated branches."""

import itertools

import numpy as np
import pytest
import torch

from iredinterp.analyses.circuits.overlap import expected_jaccard, jaccard, overlap, shared_units
from iredinterp.errors import ConfigError
from iredinterp.truth.planted import planted

SCIPY = {"rtol": 1e-10, "atol": 1e-14}


def random_circuits(sizes, hidden, draws, generator):
    """(draws, L, h) with the given number of units in each layer."""
    ranks = torch.rand(draws, len(sizes), hidden, generator=generator).argsort(-1).argsort(-1)
    return ranks < torch.tensor(sizes)[:, None]


def every_circuit(sizes, hidden):
    layers = [list(itertools.combinations(range(hidden), size)) for size in sizes]
    for chosen in itertools.product(*layers):
        circuit = torch.zeros(len(sizes), hidden, dtype=torch.bool)
        for layer, units in enumerate(chosen):
            circuit[layer, list(units)] = True
        yield circuit


def test_the_law_of_shared_units_is_that_of_all_circuits_counted_out():
    first, second, hidden = (2, 0, 1), (3, 2, 1), 4
    fixed = next(every_circuit(first, hidden))
    counts = [int((fixed & other).sum()) for other in every_circuit(second, hidden)]
    expected = np.bincount(counts, minlength=4)[:4] / len(counts)
    np.testing.assert_allclose(shared_units(first, second, hidden), expected, **SCIPY)
    indices = [jaccard(fixed, other).item() for other in every_circuit(second, hidden)]
    assert expected_jaccard(first, second, hidden) == pytest.approx(np.mean(indices), abs=1e-12)


def test_the_band_and_p_value_hold_for_random_circuits(generator):
    """Pairs drawn at random leave the band in at most 5 %, and p ≤ 5 % as rarely; 1000 pairs, 6 sigma."""
    hidden, sizes = 40, [(12, 20, 5), (8, 20, 15)]
    draws = 1000
    first, second = (random_circuits(size, hidden, draws, generator) for size in sizes)
    found = jaccard(first, second)
    one = overlap(torch.stack([first[0], second[0]]))
    allowed = 0.05 + 6 * (0.05 * 0.95 / draws) ** 0.5
    low, high = one.low[0, 1], one.high[0, 1]
    assert ((found < low) | (found > high)).double().mean() < allowed
    assert one.expected[0, 1] == pytest.approx(found.mean().item(), abs=6 * found.std().item() / draws**0.5)
    both = [overlap(torch.stack(pair)) for pair in zip(first[:50], second[:50], strict=True)]
    p, outside = (
        torch.stack([o.p[0, 1] for o in both]),
        torch.stack([(o.jaccard[0, 1] < low) | (o.jaccard[0, 1] > high) for o in both]),
    )
    assert torch.equal(outside, p <= 0.05)


def test_open_branches_are_what_two_levels_of_a_planted_network_do_not_share(seed):
    truth = planted(3, 4, seed, decoys={"gated": 2, "dead_end": 3}).truth
    levels = range(truth.schedule.levels)
    circuits = torch.stack([torch.stack([truth.circuit(layer, t) for layer in (1, 2, 3)]) for t in levels])
    found = overlap(circuits)
    for t, other in itertools.product(levels, levels):
        opened, shut = (
            {branch.units for branch in truth.branches if level in branch.levels} for level in (t, other)
        )
        apart = 2 * len(opened ^ shut)
        union = int(circuits[t].sum()) + 2 * len(shut - opened)
        assert found.jaccard[t, other] == pytest.approx(1 - apart / union, abs=1e-12)
        assert apart or found.p[t, other] < 1e-6
    assert torch.equal(overlap(circuits[:, :1]).jaccard, torch.ones(10, 10, dtype=torch.float64))


def test_circuits_without_units_have_no_index_and_full_ones_share_all():
    nothing = torch.zeros(3, 5, dtype=torch.bool)
    found = overlap(torch.stack([nothing, ~nothing]))
    assert found.jaccard.nan_to_num(-1).tolist() == [[-1, 0], [0, 1]]
    assert found.expected.nan_to_num(-1).tolist() == [[-1, 0], [0, 1]]
    assert found.p.tolist() == [[1, 1], [1, 1]]


def test_a_single_mask_is_refused():
    with pytest.raises(ConfigError, match=r"expected bool \(K, L, h\), found torch.bool \(3, 4\)"):
        overlap(torch.zeros(3, 4, dtype=torch.bool))
