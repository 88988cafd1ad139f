"""Ablated networks against networks rewritten by hand, and groups of inputs against the shape of a matrix."""

import pytest
import torch

from iredinterp.analyses.circuits.ablation import ABLATIONS, Parts, ablated, faithfulness, fills, whole
from iredinterp.analyses.circuits.nodes import input_groups, observed_groups
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.tasks import ProblemSpec


def case(generator, dim_x=4, dim_y=3, hidden=11, count=6, level=3):
    model = EnergyMLP.random(dim_x, dim_y, hidden, generator).to(torch.float64)
    x, y = (torch.randn(count, size, generator=generator, dtype=torch.float64) for size in (dim_x, dim_y))
    return model, x, y, torch.full((count,), level)


def random_masks(model, generator):
    return Parts(*(torch.rand(p.shape, generator=generator).round().to(p) for p in whole(model)))


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_whole_network_is_itself_and_the_empty_circuit_has_no_gradient(generator, ablation):
    model, *points = case(generator)
    fill = fills(model, *points, ablation, generator)
    energy, gradient = model.energy_and_gradient(*points)
    found = ablated(model, *points, whole(model), fill)
    torch.testing.assert_close(found[0], energy)
    torch.testing.assert_close(found[1], gradient)
    nothing = Parts(*map(torch.zeros_like, whole(model)))
    assert not ablated(model, *points, nothing, fill)[1].any()
    f = faithfulness(torch.stack([gradient, torch.zeros_like(gradient)]), gradient)
    torch.testing.assert_close(f.mean(-1), torch.tensor([1.0, 0.0], dtype=torch.float64))


def test_units_set_to_zero_are_units_whose_outgoing_weights_are_zero(generator):
    model, *points = case(generator)
    kept = random_masks(model, generator)._replace(
        **{p: getattr(whole(model), p) for p in ("inputs", "gate2", "gate3")}
    )
    cut = dict(model.parameters)
    for layer in (1, 2, 3):
        cut[f"fc{layer + 1}.weight"] = cut[f"fc{layer + 1}.weight"] * getattr(kept, f"h{layer}")
    found = ablated(model, *points, kept, fills(model, *points, "zero"))
    for one, other in zip(found, EnergyMLP(cut, model.schedule).energy_and_gradient(*points), strict=True):
        torch.testing.assert_close(one, other)


def test_the_gradient_is_that_of_the_energy_with_fills_held_fixed(generator):
    model, x, y, t = case(generator)
    kept, fill = random_masks(model, generator), fills(model, x, y, t, "resample", generator)
    point = y.clone().requires_grad_()
    energy, gradient = ablated(model, x, point, t, kept, fill)
    torch.testing.assert_close(gradient, torch.autograd.grad(energy.sum(), point)[0])


def test_resampling_uses_every_other_point_of_the_level_once_and_another_levels_gate(generator):
    model, x, y, _ = case(generator, count=7)
    t = torch.tensor([2, 2, 2, 5, 5, 5, 5])
    fill, a = fills(model, x, y, t, "resample", generator), model.activations(x, y, t)
    donor = (fill.h2[:, None] == a.h2).all(-1)
    assert (donor.sum(0) == 1).all()
    assert (donor.sum(1) == 1).all()
    assert not donor.diagonal().any()
    assert (t[donor.int().argmax(1)] == t).all()
    assert torch.equal(fill.inputs, torch.cat([x, y], 1)[donor.int().argmax(1)])
    gates = torch.stack(model.modulations[:2], 1)
    levels = (fill.gate2[:, None] == gates).flatten(2).all(-1)
    assert (levels.sum(1) == 1).all()
    assert (levels.int().argmax(1) != t).all()


def test_means_are_over_the_points_of_each_level(generator):
    model, x, y, _ = case(generator, count=5)
    t = torch.tensor([1, 4, 1, 4, 4])
    fill = fills(model, x, y, t, "mean")
    for level in (1, 4):
        h3 = model.activations(x[t == level], y[t == level], level).h3
        torch.testing.assert_close(fill.h3[t == level], h3.mean(0).expand(len(h3), -1))


def test_an_unknown_ablation_and_a_lonely_point_are_named(generator):
    model, *points = case(generator, count=1)
    with pytest.raises(ConfigError, match="'noise' is unknown; use one of resample, mean, zero"):
        fills(model, *points, "noise")
    with pytest.raises(ConfigError, match=r"1 point at level 3, resampling needs 2: raise sampling\.count"):
        fills(model, *points, "resample", generator)


@pytest.mark.parametrize(("task", "matrices"), [("addition", 3), ("inverse", 2), ("completion", 2)])
def test_lines_of_matrices_hold_every_input_once_and_cross_in_one_entry(task, matrices):
    spec = ProblemSpec(task, 3)
    size = spec.dim_x + spec.dim_y
    for by, each in (("rows", 3), ("columns", 3), ("entries", 9)):
        groups = input_groups(spec, by)
        assert len(groups) == matrices * each
        assert torch.equal(torch.stack(list(groups.values())).sum(0), torch.ones(size, dtype=torch.long))
    crossing = input_groups(spec, "rows")["y:row1"] & input_groups(spec, "columns")["y:column2"]
    assert torch.equal(crossing, input_groups(spec, "entries")["y:entry1,2"])
    assert crossing.nonzero().flatten().tolist() == [spec.dim_x + 1 * 3 + 2]


def test_observed_groups_follow_each_points_mask(generator):
    mask = torch.rand(4, 3, 3, generator=generator).round()
    groups = observed_groups(mask)
    assert torch.equal(torch.stack(list(groups.values())).sum(0), torch.ones(4, 18, dtype=torch.long))
    assert torch.equal(groups["x:observed"][:, :9].double(), mask.flatten(1).double())
    assert torch.equal(groups["y:missing"][:, 9:].double(), 1 - mask.flatten(1).double())


def test_an_unknown_grouping_is_named():
    with pytest.raises(ConfigError, match="'blocks' are unknown; use one of rows, columns, entries"):
        input_groups(ProblemSpec("inverse", 2), "blocks")
