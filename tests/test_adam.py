"""Adam takes the steps of torch's own, without loading what that loads."""

import subprocess
import sys

import pytest
import torch

from iredinterp.adam import Adam


def quartic(parameters):
    return sum((parameter - 1).pow(4).sum() for parameter in parameters)


@pytest.mark.parametrize("fused", [False, True])
def test_parameters_go_where_those_of_torch_go_to_the_bit(generator, fused):
    start = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (5,))]
    ours, theirs = ([value.clone().requires_grad_() for value in start] for _ in range(2))
    mine, other = Adam(ours, 0.1, fused), torch.optim.Adam(theirs, 0.1, fused=fused)
    for step in range(50):
        mine.rate = other.param_groups[0]["lr"] = 0.1 / (1 + step)
        for parameters, optimiser in ((ours, mine), (theirs, other)):
            quartic(parameters).backward()
            optimiser.step()
        other.zero_grad()
    for first, second, at_first in zip(ours, theirs, start, strict=True):
        assert torch.equal(first, second)
        assert not torch.equal(first, at_first)
        for name, value in mine.state[first].items():
            assert torch.equal(value, other.state[second][name])


def test_the_first_step_is_the_rate_times_the_gradient_over_its_size_and_epsilon(generator):
    start = torch.randn(7, generator=generator, dtype=torch.float64)
    moved = start.clone().requires_grad_()
    optimiser = Adam([moved], 0.01)
    quartic([moved]).backward()
    optimiser.step()
    gradient = 4 * (start - 1) ** 3
    assert torch.allclose(moved.detach(), start - 0.01 * gradient / (gradient.abs() + 1e-8), atol=1e-12)
    assert moved.grad is None


def test_a_step_loads_no_compiler():
    code = (
        "import sys, torch; from iredinterp.adam import Adam; w = torch.ones(2, requires_grad=True);"
        "a = Adam([w]); w.sum().backward(); a.step(); print('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
