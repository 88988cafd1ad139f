"""The annealing levels against published constants and an official checkpoint's buffers."""

import torch

from iredinterp.ired.checkpoint import load_checkpoint
from iredinterp.ired.schedule import cosine_schedule


def test_levels_have_the_constants_of_the_official_release():
    schedule = cosine_schedule()
    # Read off the official code, five digits.
    abar = [0.97209, 0.89871, 0.78691, 0.64748, 0.49384, 0.34081, 0.20312, 0.09405, 0.02409, 2.41e-5]
    step = [0.16706, 0.23720, 0.26948, 0.29843, 0.33352, 0.38167, 0.45257, 0.56418, 0.75296, 0.99901]
    torch.testing.assert_close(schedule.abar, torch.tensor(abar, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        schedule.opt_step_size, torch.tensor(step, dtype=torch.float64), rtol=0, atol=1e-5
    )


def test_rounded_to_float32_it_equals_the_buffers_of_an_official_checkpoint(official):
    found = load_checkpoint(official.path).model.schedule.buffers()
    for name, expected in cosine_schedule().to(torch.float32).buffers().items():
        assert torch.equal(found[name], expected), name


def test_step_size_is_beta_over_sigma_and_signal_and_noise_add_to_one():
    schedule = cosine_schedule(7)
    assert schedule.levels == 7
    torch.testing.assert_close(schedule.opt_step_size * schedule.sigma, schedule.betas)
    torch.testing.assert_close(schedule.sigma.square() + schedule.abar, torch.ones(7, dtype=torch.float64))
