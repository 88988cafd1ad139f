"""EXP-002 between two training seeds as a table: how far the loss rises on paths through weight space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import torch

from iredinterp.analyses.landscape.connectivity import Connection, connection
from iredinterp.energy import MLPEnergy
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.points import point_keys
from iredinterp.tables import Metric, tidy

# Of the loss of predicting no noise. A network that gained less has nothing to lose on a path.
LEAST_GAIN = 0.1
NOTHING_GAINED = f"an end of the path gains less than {LEAST_GAIN:.0%} over predicting no noise"


def connectivity_table(
    start: MLPEnergy, end: MLPEnergy, spec: ProblemSpec, keys: Mapping[str, object], **settings
) -> pa.Table:
    """Denoising loss on paths between two networks, over q_samples of all levels.

    A loss that stays low means little by itself: between two untrained networks it hardly moves, because
    neither has anything to lose.

    Args:
        start: a network.
        end: another of the same shapes and levels.
        spec: the distribution that the loss is taken on.
        keys: values of `iredinterp.points.MODEL_KEYS` of the first.
        settings: as for `iredinterp.analyses.landscape.connectivity.connection`.

    Returns:
        Metrics, long and tidy, null with a reason where undefined; problem_id, t, sigma, draw and converged
        are null, since a loss is a mean over all of them. Paths, as components: "straight"; "matched", after
        units are renumbered; "bezier", a trained curve after that.

        * denoising_loss, by index: mean (∇_yE − ε)² per entry at evenly spaced points of each path.
        * end_loss, components "own" and "partner"; zero_loss: that of predicting no noise, mean ε².
        * barrier: how far the loss rises above the higher end of each path.
        * barrier_share: that over zero_loss − the higher end, the share of what training gained that is lost
          on the way.

    Raises:
        ConfigError: the networks differ in shape, or a setting is out of range.
    """
    found = connection(start.model, end.model, spec, **settings)
    where = point_keys(keys, [None], None, None, "q_sample", [None])
    return tidy(where, list(_metrics(found)))


def _metrics(found: Connection) -> Iterator[Metric]:
    for path, losses in found.losses.items():
        yield Metric("denoising_loss", losses.unsqueeze(0), path)
    for name, loss in zip(("own", "partner"), found.ends, strict=True):
        yield Metric("end_loss", loss.unsqueeze(0), name)
    yield Metric("zero_loss", found.zero.unsqueeze(0))
    gain = found.zero - found.ends.amax()
    gain = gain.where(gain >= LEAST_GAIN * found.zero, torch.nan)
    for path, barrier in found.barriers.items():
        yield Metric("barrier", barrier.unsqueeze(0), path)
        yield Metric("barrier_share", (barrier / gain).unsqueeze(0), path, NOTHING_GAINED)
