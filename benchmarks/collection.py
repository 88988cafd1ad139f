"""Collecting gradient vectors, from problems to a Parquet file, beside the GEMM rate; reading a large file.

A GEMM is timed at every few batches of a collection. Times are CPU seconds of one thread. The share counts
only the products of the forward and backward passes that the sampler itself needs, so noise, activation
functions, problems, the oracle and Parquet all lower it. The result is written to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import pyarrow as pa
import torch
from measure import device_name, write_results

from iredinterp.analyses.sae.collection import (
    fresh_problems,
    gradient_batches,
    read_vectors,
    vector_groups,
)
from iredinterp.energy import MLPEnergy
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.tables import write_stream
from iredinterp.truth.oracle import BayesOracle

HIDDEN = 512
LEVELS = 10
INNER_STEPS = 5
ALL_SOURCES = ("q_sample", "jump", "inner")
BATCHES_PER_GEMM = 5
GEMM_ROWS = 2560


def main() -> None:
    """Run everything and write the results page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--n", type=int, default=20)
    arguments.add_argument("--problems", type=int, default=512)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--vectors", type=int, default=1_000_000, help="of the large file; 0 for none")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    # First, while this process is small: a process inherits its parent's memory peak.
    scale = [scale_section(options.n, options.vectors)] if options.vectors else []
    sections = [introduction(options), rate_section(options.n, options.problems, options.rounds), *scale]
    write_results("Collecting gradients", device_name("cpu"), sections)


def introduction(options) -> str:
    """How the numbers were made."""
    return (
        f"Written by `python benchmarks/collection.py` (torch {torch.__version__.split('+')[0]}, "
        f"{options.rounds} rounds, inversion, untrained weights, hidden {HIDDEN}, computed in float64, "
        "stored in float32). From drawing the problems to the closed Parquet file, in CPU seconds. Share: "
        "the products of the forward and backward passes, at the GEMM rate measured between batches of the "
        "same collection; medians over rounds, in brackets the range."
    )


def rate_section(n: int, problems: int, rounds: int) -> str:
    """Vectors per second and share of the GEMM rate, medians over rounds, all choices in turn."""
    choices = list(product((("q_sample",), ALL_SOURCES), (False, True)))
    found: dict[tuple, list[tuple[float, float, float]]] = {choice: [] for choice in choices}
    for round_index, choice in product(range(-1, rounds), choices):
        with tempfile.TemporaryDirectory() as folder:
            measured = collect(n, problems, *choice, Path(folder) / "vectors.parquet")
        if round_index >= 0:
            found[choice].append(measured)
    lines = [
        f"### Rate, d = {n * n}, {problems} problems",
        "",
        "| sources | oracle | vectors per second | % of the GEMM rate | GEMM, GFLOP/s |",
        "|---|---|---|---|---|",
    ]
    for (sources, with_oracle), rows in found.items():
        seconds, shares, rates = zip(*rows, strict=True)
        speed = vectors_per_problem(sources) * problems / statistics.median(seconds)
        span = f"{100 * min(shares):.0f} to {100 * max(shares):.0f}"
        lines.append(
            f"| {', '.join(sources)} | {'yes' if with_oracle else 'no'} | {speed:,.0f} | "
            f"{100 * statistics.median(shares):.0f} ({span}) | {statistics.median(rates) / 1e9:.0f} |"
        )
    return "\n".join(lines)


def scale_section(n: int, vectors: int) -> str:
    """One large file: written, one source of it read whole, and all of it passed in shuffled row groups."""
    problems = -(-vectors // vectors_per_problem(ALL_SOURCES))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.parquet"
        (seconds, share, _), writing = in_fresh_process(collect, n, problems, ALL_SOURCES, True, path)
        size = path.stat().st_size / 1e9
        (inner, whole), whole_peak = in_fresh_process(read_source, path)
        (passed, shuffled), shuffled_peak = in_fresh_process(pass_shuffled, path)
    raw = 2 * 4 * passed * n * n / 1e9
    return "\n".join(
        [
            f"### {passed:,} vectors of d = {n * n}, {problems:,} problems",
            "",
            f"All three sources, gradients and errors ({raw:.2f} GB uncompressed), zstd, byte stream split. "
            "Each row ran in a process of its own, whose peak includes torch itself.",
            "",
            "| step | CPU seconds | peak memory, GB |",
            "|---|---|---|",
            f"| collect and write {size:.2f} GB, {100 * share:.0f} % of the GEMM rate | {seconds:.0f} | "
            f"{writing:.2f} |",
            f"| read the {inner:,} gradients of inner steps whole | {whole:.1f} | {whole_peak:.2f} |",
            f"| pass all gradients in shuffled row groups | {shuffled:.1f} | {shuffled_peak:.2f} |",
        ]
    )


def collect(
    n: int, problems: int, sources: Sequence[str], with_oracle: bool, path: Path
) -> tuple[float, float, float]:
    """CPU seconds without the GEMMs, share of the GEMM rate, and that rate in FLOP/s."""
    spec = ProblemSpec("inverse", n)
    generator = torch.Generator().manual_seed(n)
    energy = MLPEnergy(EnergyMLP.random(spec.dim_x, spec.dim_y, HIDDEN, generator).to(torch.float64))
    oracle = BayesOracle(spec, schedule=energy.schedule) if with_oracle else None
    gemms: list[float] = []
    start = time.process_time()
    fresh = fresh_problems(spec, problems, generator)
    batches = gradient_batches(energy, fresh, {}, n, sources=sources, oracle=oracle)
    write_stream(with_gemms(batches, gemms), path, {})
    seconds = time.process_time() - start - sum(gemms)
    rate = 2 * GEMM_ROWS * HIDDEN**2 / statistics.median(gemms)
    flops = problems * LEVELS * flops_per_level(spec.dim_x, spec.dim_y, sources)
    return seconds, flops / seconds / rate, rate


def with_gemms(batches: Iterable[pa.Table], seconds: list[float]) -> Iterator[pa.Table]:
    """The same batches; the times of the GEMMs between them are appended to `seconds`."""
    left = torch.ones(GEMM_ROWS, HIDDEN, dtype=torch.float64)
    right = torch.ones(HIDDEN, HIDDEN, dtype=torch.float64)
    out = torch.empty_like(left)
    for index, batch in enumerate(batches):
        if index % BATCHES_PER_GEMM == 0:
            start = time.process_time()
            torch.mm(left, right, out=out)
            seconds.append(time.process_time() - start)
        yield batch


def read_source(path: Path) -> tuple[int, float]:
    """Number of vectors of inner steps, and CPU seconds to hold them all."""
    start = time.process_time()
    count = len(read_vectors(path, sources=["inner"]).values)
    return count, time.process_time() - start


def pass_shuffled(path: Path) -> tuple[int, float]:
    """Number of vectors, and CPU seconds to see each once in row groups of random order."""
    start = time.process_time()
    groups = vector_groups(path, generator=torch.Generator().manual_seed(0))
    return sum(len(group.values) for group in groups), time.process_time() - start


def in_fresh_process(function: Callable, *arguments) -> tuple[object, float]:
    """What the function returns, and the peak memory in GB of the process it had for itself."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        result = pool.submit(function, *arguments).result()
        return result, pool.submit(peak_memory).result()


def peak_memory() -> float:
    """Largest resident set of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def vectors_per_problem(sources: Sequence[str]) -> int:
    """Rows that one problem gives."""
    return LEVELS * sum(INNER_STEPS if source == "inner" else 1 for source in sources)


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
