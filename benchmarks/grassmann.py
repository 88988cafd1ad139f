"""Grassmannian kernels in basis form against geomstats (numpy backend), in one process, interleaved.

Every round is a fresh chunk of pairs, which both sides answer, in an order drawn anew per round. Times are
CPU seconds of one thread; on a GPU they are wall seconds, and geomstats still runs on the CPU. Ratios are
taken within a round before their median. The result is written to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from measure import device_name, interleaved, ratio, synchronised_clock, write_results
from torch import Tensor

from iredinterp.geometry.fixed_rank import tangent_normal
from iredinterp.geometry.subspace import (
    GrassmannPoints,
    grassmann_distance,
    grassmann_geodesic,
    grassmann_log,
    haar_subspaces,
    parallel_transport,
    projector,
)

# After the bridge, which makes geomstats importable.
import iredinterp.geometry.geomstats_bridge  # noqa: F401  isort: skip
import geomstats  # isort: skip
from geomstats.geometry.grassmannian import Grassmannian  # isort: skip

N = 20
RANKS = (1, 2, 5, 10)
TIMES = torch.linspace(0, 1, 11, dtype=torch.float64)
# Distances between kept bases are the common case: all pairs. The rest takes this share of them.
SHARE = 10
POINTS = 1_000_000
GRADIENT_RANK = 5
GRADIENT_CHUNK = 10_000

# The answer here, that of geomstats, and how to write the former in the form of the latter.
Sides = tuple[Callable[[], Tensor], Callable[[], np.ndarray], Callable[[Tensor], Tensor]]


def main() -> None:
    """Run everything and write the results page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=10)
    arguments.add_argument("--pairs", type=int, default=10_000, help="of kept bases; the rest takes a tenth")
    arguments.add_argument("--gradients", type=int, default=100_000, help="of the normal/tangent ratio")
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    clock = time.process_time if options.device == "cpu" else synchronised_clock
    sections = [
        introduction(options),
        section("Distance between kept bases", distance, options.pairs, options, clock),
        section(
            f"Distance from two {N}×{N} matrices, both singular value decompositions included",
            distance_of_matrices,
            options.pairs // SHARE,
            options,
            clock,
        ),
        section(f"Geodesic at {len(TIMES)} times", geodesic, options.pairs // SHARE, options, clock),
        section("Parallel transport to the second", transport, options.pairs // SHARE, options, clock),
        memory_section(),
        gradient_section(options.gradients, options.device, clock),
    ]
    write_results("Grassmannian kernels", device_name(options.device), sections)


def section(title: str, operation: Callable[..., Sides], pairs: int, options, clock) -> str:
    """Both sides of an operation for every k."""
    count = pairs // options.rounds
    lines = [
        f"### {title}",
        "",
        f"{pairs:,} pairs, {options.rounds} rounds of {count:,}.",
        "",
        "| k | geomstats, µs per pair | here, µs per pair | geomstats ÷ here | largest difference |",
        "|---|---|---|---|---|",
    ]
    for k in RANKS:
        metric = Grassmannian(N, k).metric
        generator = torch.Generator().manual_seed(k)
        chunks = [operation(metric, k, count, generator, options.device) for _ in range(options.rounds + 1)]
        here, there, in_its_form = chunks[0]
        difference = abs(in_its_form(here()).numpy(force=True) - there()).max()
        answers = {"here": iter(chunk[0] for chunk in chunks), "there": iter(chunk[1] for chunk in chunks)}
        methods = {name: lambda side=side: next(side)() for name, side in answers.items()}
        seconds = interleaved(methods, options.rounds, clock)
        lines.append(
            f"| {k} | {microseconds(seconds['there'], count)} | {microseconds(seconds['here'], count)} | "
            f"{ratio(seconds['there'], seconds['here'])} | {difference:.0e} |"
        )
    return "\n".join(lines)


def distance(metric, k: int, count: int, generator: torch.Generator, device: str) -> Sides:
    """Arc length; geomstats' is √2 times it."""
    U, V = subspaces(2, k, count, generator, device)
    P, Q = as_array(projector(U)), as_array(projector(V))
    return lambda: grassmann_distance(U, V), lambda: metric.dist(P, Q), lambda found: math.sqrt(2) * found


def distance_of_matrices(metric, k: int, count: int, generator: torch.Generator, device: str) -> Sides:
    """The same, between leading singular subspaces."""
    X, Y = torch.randn(2, count, N, N, generator=generator, dtype=torch.float64)
    moved = X.to(device), Y.to(device)

    def here():
        return grassmann_distance(*(GrassmannPoints.from_matrix(matrix, k).U for matrix in moved))

    def there():
        P, Q = (GrassmannPoints.from_matrix(matrix, k).projectors() for matrix in (X, Y))
        return metric.dist(as_array(P), as_array(Q))

    return here, there, lambda found: math.sqrt(2) * found


def geodesic(metric, k: int, count: int, generator: torch.Generator, device: str) -> Sides:
    """Points at given times, bases here and projectors there."""
    U, V = subspaces(2, k, count, generator, device)
    P, Q = as_array(projector(U)), as_array(projector(V))
    return (
        lambda: grassmann_geodesic(U, V, TIMES),
        lambda: metric.geodesic(P, Q)(TIMES.numpy()),
        projector,
    )


def transport(metric, k: int, count: int, generator: torch.Generator, device: str) -> Sides:
    """A tangent vector carried along the geodesic between two subspaces, which both sides find first."""
    U, V, W = subspaces(3, k, count, generator, device)
    vector = grassmann_log(U, W).direction
    end = grassmann_geodesic(U, V, [1.0])[:, 0]
    P, Q, X = as_array(projector(U)), as_array(projector(V)), as_array(lifted(vector, U))
    return (
        lambda: parallel_transport(U, grassmann_log(U, V).direction, vector),
        lambda: metric.parallel_transport(X, P, end_point=Q),
        lambda found: lifted(found, end),
    )


def subspaces(how_many: int, k: int, count: int, generator: torch.Generator, device: str) -> Iterator[Tensor]:
    """Uniformly random chunks."""
    return (haar_subspaces(count, N, k, generator).to(device) for _ in range(how_many))


def lifted(D: Tensor, U: Tensor) -> Tensor:
    """A tangent vector in the form of geomstats."""
    return D @ U.mT + U @ D.mT


def as_array(tensor: Tensor) -> np.ndarray:
    """For geomstats, which computes on the CPU."""
    return tensor.numpy(force=True)


def memory_section(sample: int = 1000) -> str:
    """What kept points occupy."""
    lines = [
        f"### Memory of {POINTS:,} points, float64",
        "",
        f"Bytes of {sample:,} allocated points times {POINTS // sample:,}.",
        "",
        "| k | projectors, MiB | bases, MiB |",
        "|---|---|---|",
    ]
    for k in RANKS:
        U = haar_subspaces(sample, N, k, torch.Generator().manual_seed(k))
        sizes = [points.nbytes * (POINTS // sample) / 2**20 for points in (projector(U), U)]
        lines.append(f"| {k} | {sizes[0]:.0f} | {sizes[1]:.0f} |")
    return "\n".join(lines)


def gradient_section(count: int, device: str, clock) -> str:
    """Normal/tangent ratios of gradients at truncated points, singular value decompositions included."""
    generator = torch.Generator().manual_seed(0)
    seconds = 0.0
    chunks = max(1, count // GRADIENT_CHUNK)
    for chunk in range(chunks + 1):
        G, Y = torch.randn(2, count // chunks, N, N, generator=generator, dtype=torch.float64).to(device)
        start = clock()
        tangent_normal(G, Y, GRADIENT_RANK)
        # The first chunk warms up.
        seconds += (clock() - start) * (chunk > 0)
    measured = chunks * (count // chunks)
    return (
        f"### Normal/tangent ratio of {N}×{N} gradients at rank {GRADIENT_RANK}\n\n"
        f"{measured:,} gradients, decompositions of their points included: {seconds:.3g} s, "
        f"which is {seconds * POINTS / measured:.3g} s per {POINTS:,}."
    )


def microseconds(seconds: list[float], count: int) -> str:
    """Median per pair."""
    return f"{1e6 * statistics.median(seconds) / count:.3g}"


def introduction(options) -> str:
    """How the numbers were made."""
    version = torch.__version__.split("+")[0]
    unit = "CPU time of one thread" if options.device == "cpu" else "wall time, geomstats on one CPU thread"
    return (
        f"Written by `python benchmarks/grassmann.py` (torch {version}, geomstats {geomstats.__version__} "
        f"with its numpy backend, {options.rounds} rounds, {unit}). Uniformly random subspaces of R^{N}, "
        "float64, as bases here and as projectors there. Medians over rounds; in brackets the range. Both "
        "sides alternate within one process; absolute times depend on the machine and its load, the ratios "
        "much less."
    )


if __name__ == "__main__":
    main()
