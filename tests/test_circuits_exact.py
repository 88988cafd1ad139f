"""Exact effects against one masked pass per part, gradients against finite differences and their sum rules."""

import pytest
import torch

from iredinterp.analyses.circuits import exact
from iredinterp.analyses.circuits.ablation import ABLATIONS, Parts, ablated, fills, whole
from iredinterp.analyses.circuits.attribution import attribution_patching, integrated_gradients
from iredinterp.analyses.circuits.exact import (
    GATES,
    UNITS,
    distances,
    effect_products,
    necessity,
    sufficiency,
    toggled,
)
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP
from iredinterp.truth.planted import EVERY_DECOY, planted

TIGHT = {"rtol": 1e-10, "atol": 1e-13}


def points_of(model, generator, count=7, level=None):
    level = int(torch.randint(10, (1,), generator=generator)) if level is None else level
    x, y = (
        torch.randn(count, size, generator=generator, dtype=torch.float64)
        for size in (model.dim_x, model.dim_y)
    )
    return x, y, torch.full((count,), level)


def networks(generator, seed):
    wide = EnergyMLP.random(3, 16, 13, generator).to(torch.float64)
    yield from (
        EnergyMLP.random(5, 4, 13, generator).to(torch.float64),
        wide,
        planted(4, 3, seed, decoys=EVERY_DECOY).model,
    )


def one_mask_per_part(model, points, kept, fill, part):
    mask = getattr(kept, part)
    turned = (mask - torch.eye(len(mask), dtype=mask.dtype)).abs()
    energy, gradient = ablated(model, *points, kept._replace(**{part: turned.unsqueeze(1)}), fill)
    intact, slope = model.energy_and_gradient(*points)
    return energy - intact, gradient - slope


def slope_size(model, points):
    return model.energy_and_gradient(*points)[1].square().sum(-1).max()


def close(found, expected, scale):
    """To 1e-10 of the largest, and to rounding of the numbers of which `expected` is a difference."""
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=float(1e-10 * expected.abs().max() + scale))


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_toggling_every_part_at_once_equals_one_mask_per_part_in_any_circuit(
    generator, seed, ablation, monkeypatch
):
    # So small that points and units are cut into chunks, the last one shorter.
    monkeypatch.setattr(exact, "TANGENT_BYTES", 6_000)
    monkeypatch.setattr(exact, "CHUNK_BYTES", 20_000)
    for model in networks(generator, seed):
        points = points_of(model, generator)
        fill = fills(model, *points, ablation, generator)
        some = Parts(*((torch.rand(p.shape, generator=generator) < 0.7).to(p) for p in whole(model)))
        for kept in (whole(model), some):
            for part in UNITS + GATES:
                found = toggled(model, *points, kept, fill, part)
                energy, missed = one_mask_per_part(model, points, kept, fill, part)
                rounding = 1e-13 * (model.energy(*points) + energy.abs()).max()
                close(found.energy, energy, rounding)
                close(found.gradient, missed.square().sum(-1), 1e-25 * slope_size(model, points))
                close(toggled(model, *points, kept, fill, part, gradient=False).energy, energy, rounding)


def test_scores_are_means_over_points_of_masked_passes(generator):
    model = EnergyMLP.random(5, 4, 13, generator).to(torch.float64)
    points = points_of(model, generator)
    fill = fills(model, *points, "resample", generator)
    scale = model.energy_and_gradient(*points)[1].square().sum(-1).mean()
    needed, alone = necessity(model, *points, fill), sufficiency(model, *points, fill)
    for layer, part in enumerate(UNITS):
        energy, missed = one_mask_per_part(model, points, whole(model), fill, part)
        torch.testing.assert_close(needed.gradient[layer], missed.square().sum(-1).mean(-1) / scale, **TIGHT)
        torch.testing.assert_close(needed.energy[layer], energy.square().mean(-1), **TIGHT)
        without = whole(model)._replace(**{part: torch.zeros(13, dtype=torch.float64)})
        energy, missed = one_mask_per_part(model, points, without, fill, part)
        empty = ablated(model, *points, without, fill)[0] - model.energy(*points)
        # Without a layer there is no gradient, M1 = 1.
        torch.testing.assert_close(
            alone.gradient[layer], 1 - missed.square().sum(-1).mean(-1) / scale, **TIGHT
        )
        torch.testing.assert_close(
            alone.energy[layer], empty.square().mean() - energy.square().mean(-1), **TIGHT
        )


def test_products_of_effects_are_those_of_masked_gradients(generator, seed):
    for model in networks(generator, seed):
        points = points_of(model, generator)
        fill = fills(model, *points, "resample", generator)
        for part in UNITS:
            _, missed = one_mask_per_part(model, points, whole(model), fill, part)
            expected = torch.einsum("ibd,jbd->ij", missed, missed) / len(points[0])
            close(effect_products(model, *points, fill, part), expected, 1e-25 * slope_size(model, points))


def test_units_that_nobody_reads_have_no_effect_at_all(generator, seed):
    found = planted(4, 3, seed, decoys={"dead_end": 4})
    points = points_of(found.model, generator)
    for ablation in ABLATIONS:
        scores = necessity(found.model, *points, fills(found.model, *points, ablation, generator))
        for layer in (1, 2, 3):
            assert scores.gradient[layer - 1, found.truth.units(layer, "dead_end")].max() < 1e-25
            assert scores.gradient[layer - 1, found.truth.circuit(layer, int(points[2][0]))].min() > 1e-12


def test_a_level_neutral_gate_has_no_effect_and_others_change_the_network(generator, seed):
    found = planted(4, 3, seed)
    points = points_of(found.model, generator, level=4)
    scores = necessity(found.model, *points, fills(found.model, *points, "zero"), GATES).gradient
    for row, layer in enumerate((2, 3)):
        neutral = found.truth.gains[layer][4] == 1
        assert scores[row, neutral].max() < 1e-25
        assert (scores[row, found.truth.circuit(layer, 4) & ~neutral] > 1e-12).all()


def test_inputs_count_by_group_and_per_point_masks_agree_with_shared_ones(generator):
    model = EnergyMLP.random(4, 3, 13, generator).to(torch.float64)
    points = points_of(model, generator)
    fill = fills(model, *points, "resample", generator)
    groups = torch.zeros(3, 7, dtype=torch.bool)
    groups[0, :2], groups[1, 2:5] = True, True
    for function in (exact.input_necessity, exact.input_sufficiency):
        shared = function(model, *points, fill, groups)
        each = function(model, *points, fill, groups.unsqueeze(1).expand(-1, 7, -1))
        torch.testing.assert_close(shared, each)
        # The last group is empty.
        assert max(shared.gradient[2], shared.energy[2]) < 1e-15
    lost = ablated(model, *points, whole(model)._replace(inputs=1.0 - groups[0].double()), fill)[1]
    gradient = model.energy_and_gradient(*points)[1]
    expected = (lost - gradient).square().sum() / gradient.square().sum()
    torch.testing.assert_close(exact.input_necessity(model, *points, fill, groups).gradient[0], expected)
    assert exact.input_sufficiency(model, *points, fill, ~groups[2:]).gradient == pytest.approx(1, abs=1e-12)


def test_distances_of_one_circuit_and_of_many_are_the_same(generator):
    model = EnergyMLP.random(4, 3, 13, generator).to(torch.float64)
    points = points_of(model, generator)
    fill = fills(model, *points, "mean")
    masks = torch.rand(5, 13, generator=generator).round().double()
    many = distances(model, *points, whole(model)._replace(h2=masks.unsqueeze(1)), fill)
    for row, mask in enumerate(masks):
        one = distances(model, *points, whole(model)._replace(h2=mask), fill)
        torch.testing.assert_close(one.gradient[0], many.gradient[row])
        torch.testing.assert_close(one.energy[0], many.energy[row])


def test_an_unknown_part_is_named(generator):
    model = EnergyMLP.random(4, 3, 13, generator).to(torch.float64)
    points = points_of(model, generator)
    with pytest.raises(ConfigError, match="'h4' is unknown; use one of h1, h2, h3, gate2, gate3"):
        toggled(model, *points, whole(model), fills(model, *points, "zero"), "h4")


def test_attribution_patching_is_the_slope_of_the_energy_as_a_mask_opens(generator):
    model = EnergyMLP.random(4, 3, 9, generator).to(torch.float64)
    points = points_of(model, generator)
    fill = fills(model, *points, "resample", generator)
    found, step = attribution_patching(model, *points, fill), 1e-5
    for layer, part in enumerate(UNITS):
        unit = torch.eye(9, dtype=torch.float64).unsqueeze(1)
        up, down = (
            ablated(model, *points, whole(model)._replace(**{part: 1 + s * unit}), fill)[0]
            for s in (step, -step)
        )
        torch.testing.assert_close(found[layer], (down - up) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_integrated_gradients_of_a_layer_sum_to_what_its_loss_costs(generator, ablation):
    model = EnergyMLP.random(4, 3, 9, generator).to(torch.float64)
    points = points_of(model, generator)
    fill = fills(model, *points, ablation, generator)
    energy = integrated_gradients(model, *points, fill, "energy", 40)
    error = integrated_gradients(model, *points, fill, "gradient", 40)
    for layer, part in enumerate(UNITS):
        empty = whole(model)._replace(**{part: torch.zeros(9, dtype=torch.float64)})
        cost = ablated(model, *points, empty, fill)[0] - model.energy(*points)
        torch.testing.assert_close(energy[layer].sum(0), cost, rtol=1e-3, atol=1e-4 * float(cost.abs().max()))
        assert float(error[layer].sum(0).mean()) == pytest.approx(1, abs=1e-3)


def test_the_gradient_of_m1_vanishes_at_the_whole_network(generator):
    model = EnergyMLP.random(4, 3, 9, generator).to(torch.float64)
    points = points_of(model, generator)
    fill, gradient = fills(model, *points, "resample", generator), model.energy_and_gradient(*points)[1]
    mask = torch.ones(9, dtype=torch.float64, requires_grad=True)
    error = (ablated(model, *points, whole(model)._replace(h2=mask), fill)[1] - gradient).square().sum()
    assert torch.autograd.grad(error, mask)[0].abs().max() < 1e-12


def test_an_unknown_metric_and_no_steps_are_named(generator):
    model = EnergyMLP.random(4, 3, 9, generator).to(torch.float64)
    points = points_of(model, generator)
    fill = fills(model, *points, "zero")
    with pytest.raises(ConfigError, match="'loss' is unknown; use one of energy, gradient"):
        integrated_gradients(model, *points, fill, "loss")
    with pytest.raises(ConfigError, match="steps: found 0, expected at least 1"):
        integrated_gradients(model, *points, fill, steps=0)
