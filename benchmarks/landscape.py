"""Minima, slices and paths of many problems at once, against one problem and against one point at a time.

"One problem at a time" calls the same functions in a loop over problems. "One point at a time" is a script as
one writes it for a single landscape: autograd, SciPy's L-BFGS-B from every start with the Hessian checked at
its end, a loop over grid points, a loop over images. All three search the same bundled network from the same
starts. Times are CPU seconds of one thread, ratios are taken within a round before their median. The result
is written to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import scipy.optimize
import torch
from measure import device_name, interleaved, ratio, synchronised_clock, write_results
from torch import Tensor

from iredinterp.analyses.landscape.barriers import string_path
from iredinterp.analyses.landscape.minima import search
from iredinterp.analyses.landscape.slices import plane, slice_energies, slice_grid
from iredinterp.energy import CallableEnergy, MLPEnergy, load_energy
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import q_sample

CHECKPOINT = "resources/checkpoints/addition-n5-seed0.safetensors"
SPEC = ProblemSpec("addition", 5)
LEVEL, STARTS, SIZE, IMAGES, STEPS, TOLERANCE = 3, 4, 11, 10, 20, 1e-6
# Problems on which the slow sides are timed.
FEW = 4


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
    for title, methods in operations(energy, x, y_star, noise).items():
        seconds = interleaved(methods, options.rounds, clock)
        counts = {"points": FEW, "loop": FEW, "together": len(x)}
        each = {side: [1e3 * value / counts[side] for value in seconds[side]] for side in counts}
        cells = [f"{statistics.median(values):.3g}" for values in each.values()]
        cells += [ratio(each[side], each["together"]) for side in ("points", "loop")]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    write_results("Landscapes", device_name(options.device), ["\n".join(lines)])


def operations(energy: MLPEnergy, x: Tensor, y_star: Tensor, noise: Tensor) -> dict[str, dict]:
    """Each operation by its three methods."""
    starts = q_sample(y_star.unsqueeze(1), LEVEL, noise, energy.schedule)
    t = torch.full((len(x),), LEVEL, device=x.device)
    radius = 0.01 * energy.schedule.sigma[t]
    axis = slice_grid(3.0, SIZE)
    network = energy.model
    plain = CallableEnergy(network.energy, energy.dim_x, energy.dim_y, energy.schedule, device=x.device)

    def minima(rows: slice):
        return search(energy, x[rows], starts[rows], t[rows], radius[rows], TOLERANCE, 50, 4096)

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
    return {
        title: {
            "points": points,
            "loop": lambda function=function: [function(slice(row, row + 1)) for row in range(FEW)],
            "together": lambda function=function: function(slice(0, len(x))),
        }
        for title, (function, points) in functions.items()
    }


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
