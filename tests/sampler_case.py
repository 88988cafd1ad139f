"""A planted landscape with problems of known answers, for tests of what reconstructions do to the sampler."""

import numpy as np
import pyarrow as pa
import torch

from iredinterp.energy import MLPEnergy

COUNT, D = 12, 9
KEYS = pa.table({"problem_id": pa.array(range(COUNT), pa.int32())})


def normal(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def problem_of(case, generator):
    """Energy, x, y* = Bx, and first states from which nothing is clamped."""
    x = normal(generator, COUNT, 6) / 4
    noise = torch.rand(COUNT, D, generator=generator, dtype=torch.float64)
    init = case.truth.schedule.sqrt_alphas_cumprod[9] * (noise - 0.5)
    return MLPEnergy(case.model), x, x @ case.truth.slope.mT, init


def values(table, metric, **labels):
    rows = [
        row
        for row in table.to_pylist()
        if row["metric"] == metric and all(row[name] == value for name, value in labels.items())
    ]
    return np.array([row["value"] for row in rows], dtype=float)
