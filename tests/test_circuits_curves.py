"""Faithfulness curves against planted circuits, and areas against integrals done by hand."""

import pytest
import torch

from iredinterp.analyses.circuits.ablation import fills
from iredinterp.analyses.circuits.curves import (
    SHARES,
    best_units,
    cmd,
    cpr,
    faithfulness_gain,
    faithfulness_of,
    random_units,
    sizes_of,
    smallest_faithful,
)
from iredinterp.analyses.circuits.search import exact, joint
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP
from iredinterp.truth.planted import EVERY_DECOY, planted


def points_of(model, generator, level, count=24):
    x, y = (
        torch.randn(count, size, generator=generator, dtype=torch.float64)
        for size in (model.dim_x, model.dim_y)
    )
    return x, y, torch.full((count,), level)


def test_the_planted_circuit_alone_is_the_whole_network_and_random_ones_are_not(seed, generator):
    found = planted(5, 4, seed, decoys=EVERY_DECOY)
    level = int(torch.randint(10, (1,), generator=generator))
    truth = torch.stack([found.truth.circuit(layer, level) for layer in (1, 2, 3)])
    size, everything = int(truth.sum()), truth.numel()
    scores = joint(found.model, *points_of(found.model, generator, level), "zero", generator)
    members = best_units(scores, [0, size, everything])
    assert torch.equal(members[1], truth)
    fresh = points_of(found.model, generator, level)
    for ablation in ("resample", "mean", "zero"):
        fill = fills(found.model, *fresh, ablation, generator)
        f = faithfulness_of(found.model, *fresh, members, fill)
        torch.testing.assert_close(
            f.mean(-1), torch.tensor([0, 1, 1.0], dtype=torch.float64), atol=1e-12, rtol=0
        )
        assert (f[1] - 1).abs().max() < 1e-12
        others = faithfulness_of(found.model, *fresh, random_units(members, 3, generator), fill)
        assert others.shape == (3, 3, 24)
        assert others[:, 1].mean() < 0.5
        assert faithfulness_gain(f, others).mean() > 0.5
    assert smallest_faithful([0, size, everything], f.mean(-1)) == size


def test_an_untrained_network_has_no_small_faithful_circuit(generator):
    model = EnergyMLP.random(6, 5, 48, generator).to(torch.float64)
    sizes = sizes_of(SHARES, 48)
    scores = exact(model, *points_of(model, generator, 5), "resample", generator)
    fresh = points_of(model, generator, 5)
    f = faithfulness_of(model, *fresh, best_units(scores, sizes), fills(model, *fresh, "resample", generator))
    assert smallest_faithful(sizes, f.mean(-1)) > 0.35 * 3 * 48


def test_circuits_hold_the_best_units_and_ties_go_to_the_first(generator):
    scores = torch.tensor([[3.0, 1.0, 2.0], [2.0, 0.0, 5.0], [2.0, 0.0, 0.0]])
    members = best_units(scores, [0, 1, 3, 5, 9])
    assert members.sum((1, 2)).tolist() == [0, 1, 3, 5, 9]
    assert members[2].tolist() == [[True, False, True], [False, False, True], [False] * 3]
    assert members[3].tolist() == [[True, False, True], [True, False, True], [True, False, False]]


def test_random_circuits_have_as_many_units_in_each_layer_and_are_nested(generator):
    members = best_units(torch.rand(3, 20, generator=generator), [0, 5, 17, 40, 60])
    drawn = random_units(members, 50, generator)
    assert torch.equal(drawn.sum(-1), members.sum(-1).expand(50, -1, -1))
    assert (drawn[:, :-1] <= drawn[:, 1:]).all()
    share = drawn[:, 2].double().mean(0)
    expected = members[2].double().mean(-1, keepdim=True)
    assert ((share - expected).abs() < 5 * (expected * (1 - expected) / 50).sqrt() + 1e-9).all()


def test_sizes_include_both_ends_without_repeats():
    assert sizes_of([0.1, 0.1001, 0.5], 10) == [0, 3, 15, 30]
    with pytest.raises(ConfigError, match=r"shares: found 1\.5, expected 0 … 1"):
        sizes_of([0.5, 1.5], 10)


def test_areas_of_a_line_a_perfect_circuit_and_one_that_overshoots():
    sizes = [0, 10, 40, 100]
    assert cpr(sizes, [0, 0.1, 0.4, 1.0]) == pytest.approx(0.5)
    assert cmd(sizes, [0, 0.1, 0.4, 1.0]) == pytest.approx(0.5)
    assert cpr(sizes, [1.0] * 4) == pytest.approx(1)
    assert cmd(sizes, [[1.0] * 4, [0.0] * 4]).tolist() == pytest.approx([0, 1])
    # Two trapezia of f = −2 … −2 … 1 and the one before: areas by hand, negative f included.
    assert cpr(sizes, [0, -2, -2, 1]) == pytest.approx(-0.1 - 0.6 - 0.3)
    assert cmd(sizes, [0, 3, 1, 1]) == pytest.approx(0.1 * 1.5 + 0.3 * 1)


def test_the_gain_averages_inner_sizes_and_may_count_circuits_worse_than_none_as_none():
    found = torch.tensor([[9.0, 9.0], [0.5, -4.0], [1.0, 0.2], [9.0, 9.0]])
    random = torch.tensor(
        [[[0.0, 0.0], [-3.0, 0.1], [0.0, -1.0], [1.0, 1.0]], [[0.0, 0.0], [0.1, 0.1], [0.5, 0.4], [1.0, 1.0]]]
    )
    # (0.5 − 0.05 + 1 − 0.25)/2 and (0 − 0.1 + 0.2 − 0.2)/2.
    torch.testing.assert_close(faithfulness_gain(found, random, floor=0), torch.tensor([0.6, -0.05]))
    unclipped = (found - random.mean(0))[1:3].mean(0)
    torch.testing.assert_close(faithfulness_gain(found, random), unclipped)
    with pytest.raises(ConfigError, match="found 2, expected at least one between none and all"):
        faithfulness_gain(found[:2], random[:, :2])


def test_the_smallest_faithful_size_is_the_first_and_its_absence_is_an_error():
    assert smallest_faithful([0, 3, 7, 9], [0, 0.96, 0.2, 1]) == 3
    with pytest.raises(ConfigError, match=r"f stays below 0\.95; include the size of the whole network"):
        smallest_faithful([0, 3], [0, 0.9])
