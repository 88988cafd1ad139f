"""A course: one recipe trained anew, looked at on the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch

from iredinterp.errors import ConfigError
from iredinterp.ired.training import Recipe, TrainingState, initial_state, train


def shortened(recipe: Recipe, steps: int | None, hidden: int | None, batch: int | None) -> Recipe:
    """A smaller recipe for the same task; None leaves what the recipe says.

    Args:
        recipe: the recipe.
        steps: of its first phase, which then is the only one.
        hidden: width.
        batch: problems per step.
    """
    phases = recipe.phases if steps is None else (replace(recipe.phases[0], steps=steps),)
    return replace(recipe, phases=phases, hidden=hidden or recipe.hidden, batch=batch or recipe.batch)


def snapshot_steps(total: int, count: int, key: str = "snapshots") -> np.ndarray:
    """Step 0 and at most `count` − 1 others from 1 to the last, equally far apart on a logarithmic scale.

    Args:
        total: the last step.
        count: snapshots at most.
        key: of the configuration, as an error names it.

    Returns:
        (count,), ascending; fewer where two would coincide.

    Raises:
        ConfigError: fewer than 3 snapshots, which order nothing.
    """
    if count < 3:
        raise ConfigError(f"{key}: found {count}, allowed ≥ 3; some 40 resolve times")
    return np.unique(np.append(0, np.geomspace(1, total, count - 1).round().astype(int)))


def trained_states(
    recipe: Recipe, seeds: Sequence[int], steps: np.ndarray, device: torch.device | str = "cpu"
) -> Iterator[TrainingState]:
    """Train, handing out the state at chosen steps; the training is the same as without them.

    Args:
        recipe: what to train.
        seeds: training seeds, all in one run.
        steps: (count,), ascending.
        device: where to train.

    Yields:
        The state at each of the steps.
    """
    start = initial_state(recipe, seeds, device)
    # What `train` evaluates by itself is not used here.
    reached = train(start, held_out=1, at=set(steps.tolist()))
    return (state for state in chain([start], reached) if state.step in steps)
