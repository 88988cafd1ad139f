"""What panels of different analyses share."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from iredinterp.panels import logarithmic

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.mark.parametrize("spread", [0, 1e-16, 1e-14, 1e-11])
def test_what_is_constant_but_for_rounding_is_drawn_as_a_constant(ax, spread, seed):
    rng = np.random.default_rng(seed)
    value = 10 ** rng.uniform(-8, 3)
    ax.plot(value * (1 + spread * rng.random(10)))
    logarithmic(ax)
    ax.figure.canvas.draw()
    np.testing.assert_allclose(ax.get_ylim(), (value / 2, value * 2), rtol=1e-9)


@pytest.mark.parametrize("values", [[], [1, 1.001], [1e-5, 1], [0, 1], [-1, 1]])
@pytest.mark.parametrize("nonpositive", ["clip", "mask"])
def test_other_values_have_the_limits_of_a_logarithmic_axis(ax, values, nonpositive):
    ax.plot(values)
    logarithmic(ax, nonpositive)
    found = ax.get_ylim()
    ax.clear()
    ax.plot(values)
    ax.set_yscale("log", nonpositive=nonpositive)
    assert found == ax.get_ylim()
