"""The null of the normal-to-tangent ratio against closed forms, and what keeps bad matrices out of a batch."""

import math

import pytest
import scipy.stats
import torch

from iredinterp.geometry.nulls import f_band, f_p_value
from iredinterp.linalg import finite_rows, relative_rounding, unit_matrices


def test_band_in_two_and_two_dimensions_is_that_of_the_closed_form():
    # F(2, 2) has the distribution function x/(1 + x), F(1, 1) has 2 arctan(√x)/π.
    assert f_band(2, 2, level=0.9) == pytest.approx((1 / 19, 19))
    assert f_band(2, 2) == pytest.approx((1 / 39, 39))
    assert f_band(1, 1, level=0.5) == pytest.approx(
        (math.tan(math.pi / 8) ** 2, math.tan(3 * math.pi / 8) ** 2)
    )


@pytest.mark.parametrize(("dim_normal", "dim_tangent"), [(361, 39), (1, 399), (100, 300), (190, 210)])
def test_band_is_the_quantiles_of_scipy_and_its_ends_have_its_p_value(dim_normal, dim_tangent):
    band = f_band(dim_normal, dim_tangent, level=0.99)
    assert band == pytest.approx(scipy.stats.f(dim_normal, dim_tangent).interval(0.99), rel=1e-8)
    p_values = f_p_value(torch.tensor(band, dtype=torch.float64), dim_normal, dim_tangent)
    assert p_values.tolist() == pytest.approx([0.01, 0.01], rel=1e-8)


def test_p_value_counts_both_tails_and_keeps_what_is_undefined(generator):
    ratio = torch.randn(20, generator=generator, dtype=torch.float64).exp()
    expected = 2 * torch.minimum(ratio, torch.ones(())) / (1 + ratio)
    assert torch.allclose(f_p_value(ratio, 2, 2), expected, rtol=1e-12)
    assert torch.allclose(f_p_value(ratio, 9, 4), f_p_value(1 / ratio, 4, 9), rtol=1e-10)
    ends = f_p_value(torch.tensor([[0.0, math.inf, math.nan]]), 9, 4)
    assert ends.shape == (1, 3)
    assert ends[0, :2].tolist() == [0, 0]
    assert ends[0, 2].isnan()


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_unit_matrices_have_norm_one_at_any_size_and_zero_has_none(scale, generator):
    Z = scale * torch.randn(4, 5, 3, generator=generator, dtype=torch.float64)
    Z[1], Z[2, 0, 0] = 0, math.inf
    units = unit_matrices(Z)
    norms = units.norm(dim=(1, 2))
    assert norms[[0, 3]].tolist() == pytest.approx([1, 1], rel=1e-14)
    assert units[[1, 2]].isnan().all()
    assert torch.allclose(units[0] / units[0, 0, 0], Z[0] / Z[0, 0, 0], rtol=1e-13)


def test_only_matrices_that_are_not_finite_are_replaced(generator):
    Z = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    bad = Z.clone()
    bad[0, 2, 1], bad[2, 0, 0] = math.nan, -math.inf
    clean, finite = finite_rows(bad)
    assert finite.tolist() == [False, True, False, True]
    assert torch.equal(clean[finite], Z[finite])
    assert (clean[~finite] == 0).all()


def test_rounding_is_that_of_the_precision_and_the_longer_side():
    assert relative_rounding(torch.zeros(2, 3, 20, dtype=torch.float64)) == 200 * 2.0**-52
    assert relative_rounding(torch.zeros(2, 20, 3)) == 200 * 2.0**-23
