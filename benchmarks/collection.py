"""Collecting gradient vectors: vectors per second, from problems to a Parquet file, beside the GEMM rate.

Collection and GEMM alternate in one process. Times are CPU seconds of one thread. The share counts only the
products of the forward and backward passes that the sampler itself needs, so noise, activation functions,
problems, the oracle and Parquet all lower it.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from iredinterp.analyses.sae.collection import fresh_problems, gradient_batches
from iredinterp.energy import MLPEnergy
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.tables import write_stream
from iredinterp.truth.oracle import BayesOracle

HIDDEN = 512
INNER_STEPS = 5


def main() -> None:
    """Print one line for each choice of sources."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--n", type=int, default=20)
    arguments.add_argument("--problems", type=int, default=512)
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for sources in (("q_sample",), ("q_sample", "jump", "inner")):
        for with_oracle in (False, True):
            print(measure(options.n, options.problems, options.rounds, sources, with_oracle))


def measure(n: int, problems: int, rounds: int, sources: Sequence[str], with_oracle: bool) -> str:
    """Medians over rounds, for an untrained network of the official width on n×n inversion."""
    spec = ProblemSpec("inverse", n)
    generator = torch.Generator().manual_seed(n)
    energy = MLPEnergy(EnergyMLP.random(spec.dim_x, spec.dim_y, HIDDEN, generator).to(torch.float64))
    oracle = BayesOracle(spec, schedule=energy.schedule) if with_oracle else None
    levels = energy.schedule.levels
    vectors = problems * levels * (1 if len(sources) == 1 else 2 + INNER_STEPS)
    flops = problems * levels * flops_per_level(spec.dim_x, spec.dim_y, sources)
    left = torch.randn(2560, HIDDEN, generator=generator, dtype=torch.float64)
    right = torch.randn(HIDDEN, HIDDEN, generator=generator, dtype=torch.float64)
    repeats = 20
    collecting, multiplying = [], []
    for round_index in range(-1, rounds):
        start = time.process_time()
        for _ in range(repeats):
            left @ right
        middle = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            fresh = fresh_problems(spec, problems, torch.Generator().manual_seed(round_index + 1))
            batches = gradient_batches(energy, fresh, {}, round_index + 1, sources=sources, oracle=oracle)
            write_stream(batches, Path(folder) / "vectors.parquet", {})
        if round_index >= 0:
            multiplying.append(2 * left.numel() * HIDDEN * repeats / (middle - start))
            collecting.append(time.process_time() - middle)
    shares = [flops / used / rate for used, rate in zip(collecting, multiplying, strict=True)]
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"d = {spec.dim_y}, {' + '.join(sources)}, {'with' if with_oracle else 'without'} oracle: "
        f"{vectors / statistics.median(collecting):,.0f} vectors per CPU second, "
        f"{100 * statistics.median(shares):.0f} % of {statistics.median(multiplying) / 1e9:.0f} GFLOP/s; "
        f"peak memory so far {gigabytes:.2f} GiB"
    )


def flops_per_level(dim_x: int, dim_y: int, sources: Sequence[str]) -> float:
    """Multiplications and additions of all products at one level of one problem."""
    forward = 2 * HIDDEN * (dim_x + dim_y + 2 * HIDDEN + dim_y)
    backward = 2 * HIDDEN * (dim_y + 2 * HIDDEN + dim_y)
    q_samples = forward + backward if "q_sample" in sources else 0
    if set(sources) <= {"q_sample"}:
        return q_samples
    # Each inner step also asks for the energy of its proposal.
    return q_samples + (1 + INNER_STEPS) * (forward + backward) + INNER_STEPS * forward


if __name__ == "__main__":
    main()
