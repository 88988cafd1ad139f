"""Minima, slices and paths of many problems at once, against one problem and against one point at a time.

"One problem at a time" calls the same functions in a loop over problems. "One point at a time" is a script as
one writes it for a single landscape: autograd, SciPy's L-BFGS-B from every start with the Hessian checked at
its end, a loop over grid points, a loop over images. All three search the same bundled network from the same
starts. Searches are also run one at a time by the same function, and set beside the least time that the
products inside their Hessians take, that of as large a GEMM in the same round. Times are CPU seconds of one
thread, ratios are taken within a round before their median. The result is written to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field

import numpy as np
import scipy.optimize
import torch
from measure import device_name, interleaved, ratio, synchronised_clock, write_results
from torch import Tensor

from iredinterp.analyses.landscape.slices import plane, slice_energies, slice_grid
from iredinterp.barriers import string_path
from iredinterp.energy import CallableEnergy, MLPEnergy, load_energy
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.minima import search
from iredinterp.points import q_sample

CHECKPOINT = "resources/checkpoints/addition-n5-seed0.safetensors"
SPEC = ProblemSpec("addition", 5)
LEVEL, STARTS, SIZE, IMAGES, STEPS, TOLERANCE = 3, 4, 11, 10, 20, 1e-6
# Problems on which the slow sides are timed.
FEW = 8
# Rows of one product, when the rate of a GEMM is taken.
GEMM_ROWS = 8192


def main() -> None:
    """Run everything and write the results page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--problems", type=int, default=128)
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    clock = time.process_time if options.device == "cpu" else synchronised_clock
    energy = load_energy(CHECKPOINT, device=options.device)
    generator = torch.Generator().manual_seed(0)
    problems = draw_problems(SPEC, options.problems, generator)
    noise = torch.randn(options.problems, STARTS, SPEC.dim_y, generator=generator, dtype=torch.float64)
    x, y_star, noise = (part.double().to(options.device) for part in (problems.x, problems.y_star, noise))
    lines = [
        f"Written by `python benchmarks/landscape.py` (torch {torch.__version__.split('+')[0]}, "
        f"{options.rounds} rounds, {options.problems} problems of addition, 5×5, level {LEVEL}; the slow "
        f"sides take {FEW} of them). Medians over rounds; in brackets the range.",
        "",
        "| | one point at a time, ms per problem | one problem at a time | together | first ÷ last | "
        "second ÷ last |",
        "|---|---|---|---|---|---|",
    ]
    measured = []
    for title, methods in operations(energy, x, y_star, noise).items():
        seconds = interleaved(methods, options.rounds, clock)
        each = {
            side: [1e3 * value / (len(x) if side in ("together", "GEMM") else FEW) for value in values]
            for side, values in seconds.items()
        }
        cells = [f"{statistics.median(each[side]):.3g}" for side in ("points", "loop", "together")]
        cells += [ratio(each[side], each["together"]) for side in ("points", "loop")]
        lines.append(f"| {title} | {' | '.join(cells)} |")
        measured.append(each)
    sections = ["\n".join(lines), search_section(measured[0])]
    write_results("Landscapes", device_name(options.device), sections)


def search_section(each: dict[str, list[float]]) -> str:
    """Searches by the same function in ever larger batches, and the least time their products can take.

    Args:
        each: ms per problem in every round, by side; GEMM: as many operations as the Hessians take.
    """
    titles = {
        "points": "SciPy's L-BFGS-B, one search at a time",
        "single": "the same function, one search at a time",
        "loop": f"the same function, one problem at a time, {STARTS} searches",
        "together": "all problems together",
    }
    rows = [
        f"| {title} | {statistics.median(each[side]):.3g} | {ratio(each[side], each['together'])} |"
        for side, title in titles.items()
    ]
    shares = sorted(100 * least / spent for least, spent in zip(each["GEMM"], each["together"], strict=True))
    return "\n".join(
        [
            "### Searches for minima",
            "",
            "| side | ms per problem | time ÷ together |",
            "|---|---|---|",
            *rows,
            "",
            "The matrix products of a problem's Hessians alone take "
            f"{statistics.median(each['GEMM']):.3g} ms at the GEMM rate of the same rounds, "
            f"{statistics.median(shares):.0f} % ({shares[0]:.0f} to {shares[-1]:.0f}) of the time together. "
            "One search at a time takes "
            f"{ratio(each['single'], each['GEMM'])} times as long as these products, one problem at a time "
            f"{ratio(each['loop'], each['GEMM'])} times: no batch of the same steps can be faster by more.",
        ]
    )


def hessian_flops(energy: MLPEnergy) -> int:
    """Operations in the products of one closed-form Hessian."""
    d, h = energy.dim_y, energy.model.hidden
    return 2 * d * (2 * h**2 + h * d) + 2 * d**2 * (3 * h + d)


@dataclass(frozen=True)
class Counting(MLPEnergy):
    """The same energy, which keeps how many Hessians were asked for at each call."""

    asked: list[int] = field(default_factory=list)

    def hessian(self, x: Tensor, y: Tensor, t: Tensor | int, basis: Tensor | None = None) -> Tensor:
        """As `MLPEnergy.hessian`."""
        self.asked.append(len(y))
        return super().hessian(x, y, t, basis)


def operations(energy: MLPEnergy, x: Tensor, y_star: Tensor, noise: Tensor) -> dict[str, dict]:
    """Each operation by its methods."""
    starts = q_sample(y_star.unsqueeze(1), LEVEL, noise, energy.schedule)
    t = torch.full((len(x),), LEVEL, device=x.device)
    radius = 0.01 * energy.schedule.sigma[t]
    axis = slice_grid(3.0, SIZE)
    network = energy.model
    plain = CallableEnergy(network.energy, energy.dim_x, energy.dim_y, energy.schedule, device=x.device)

    def minima(rows: slice):
        return search(energy, x[rows], starts[rows], t[rows], radius[rows], TOLERANCE, 50, 4096)

    def single_searches():
        for row in range(FEW):
            for start in range(STARTS):
                rows, one = slice(row, row + 1), slice(start, start + 1)
                search(energy, x[rows], starts[rows, one], t[rows], radius[rows], TOLERANCE, 50, 4096)

    def slices(rows: slice):
        where = plane(noise[rows, 0], noise[rows, 1])
        return slice_energies(energy, x[rows], starts[rows, 0], LEVEL, where, axis, 4096)

    def paths(rows: slice):
        return string_path(energy, x[rows], starts[rows, 0], starts[rows, 1], t[rows], IMAGES, STEPS, 0.0)

    def minima_by_points():
        for row in range(FEW):
            for start in starts[row]:
                _scipy_minimum(plain, x[row : row + 1], start)

    def slices_by_points():
        for row in range(FEW):
            for u in axis:
                for v in axis:
                    y = starts[row : row + 1, 0] + u * noise[row, 0] + v * noise[row, 1]
                    float(plain.energy(x[row : row + 1], y, LEVEL))

    def paths_by_points():
        for row in range(FEW):
            images = torch.lerp(starts[row, 0], starts[row, 1], torch.linspace(0, 1, IMAGES)[:, None].to(x))
            for _ in range(STEPS):
                for image in images[1:-1]:
                    image -= 0.1 * plain.gradient(x[row : row + 1], image[None], LEVEL)[0]

    functions = {
        f"{STARTS} searches for minima": (minima, minima_by_points),
        f"a slice of {SIZE}×{SIZE} points": (slices, slices_by_points),
        f"{STEPS} steps of a string of {IMAGES} images": (paths, paths_by_points),
    }
    sides = {
        title: {
            "points": points,
            "loop": lambda function=function: [function(slice(row, row + 1)) for row in range(FEW)],
            "together": lambda function=function: function(slice(0, len(x))),
        }
        for title, (function, points) in functions.items()
    }
    counting = Counting(network)
    search(counting, x, starts, t, radius, TOLERANCE, 50, 4096)
    rows = sum(counting.asked) * hessian_flops(energy) / (2 * network.hidden**2)
    repeats = round(rows / GEMM_ROWS)
    left, right = x.new_ones(round(rows / repeats), network.hidden), x.new_ones(2 * [network.hidden])
    products = {"single": single_searches, "GEMM": lambda: [left @ right for _ in range(repeats)]}
    sides[next(iter(sides))] |= products
    return sides


def _scipy_minimum(energy: CallableEnergy, x: Tensor, start: Tensor) -> np.ndarray:
    def value_and_slope(y: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = energy.energy_and_gradient(x, torch.from_numpy(y)[None].to(x), LEVEL)
        return value.item(), gradient[0].cpu().numpy()

    limits = {"gtol": TOLERANCE, "ftol": 0.0, "maxiter": 1000}
    begin = start.cpu().numpy()
    found = scipy.optimize.minimize(value_and_slope, begin, jac=True, method="L-BFGS-B", options=limits)
    hessian = energy.hessian(x, torch.from_numpy(found.x)[None].to(x), LEVEL)
    return torch.linalg.eigvalsh(hessian)[0].cpu().numpy()


if __name__ == "__main__":
    main()
