"""Tangent kernels from factors, against torch.func.

The energy's kernel at many points against per-sample gradients, contracted parameter by parameter so that no
more is held than they need. Those of all points do not fit, so they are taken of fewer; beside the ratio at
equal numbers of points stands one for all points, scaled as the gradients grow (linearly) and their products
(quadratically). Peak memory is that of a process of its own, above what it takes before.

The trace of the kernel of the gradient field, each point with itself, to 5 % against all d directions, each
by jvp after vjp: what has to be done without probes and without factors. How many probes give 5 % is measured
against the exact value, as a root mean square over points and draws. Times are CPU seconds of one thread,
ratios are taken within a round before their median. The result is written to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from pathlib import Path

import torch
from measure import device_name, interleaved, ratio, synchronised_clock, write_results

from iredinterp.analyses.ntk.factors import Points
from iredinterp.analyses.ntk.generic import gradient_field, kernel_products, mlp_energy
from iredinterp.analyses.ntk.kernels import (
    energy_kernel,
    every_direction,
    gradient_kernel_trace,
    pilot_basis,
    probe_directions,
)
from iredinterp.energy import MLPEnergy, load_energy
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import q_sample

CHECKPOINT = "resources/checkpoints/inverse-n20-seed0.safetensors"
SPEC = ProblemSpec("inverse", 20)
# Per-sample gradients differentiated at a time.
CHUNK = 16
# Points whose traces are estimated, one at each of some levels, and draws of the probes.
LEVELS = (9, 5, 0)
DRAWS = 40
DEFLATED, PILOTS = 8, (9, 0)
WANTED = 0.05


def main() -> None:
    """Run everything and write the results page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--points", type=int, default=2000)
    arguments.add_argument("--few", type=int, default=64, help="points of the per-sample gradients")
    arguments.add_argument("--device", default="cpu")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    clock = time.process_time if options.device == "cpu" else synchronised_clock
    header = (
        f"Written by `python benchmarks/ntk.py` (torch {torch.__version__.split('+')[0]}, {options.rounds} "
        f"rounds): a bundled network for inversion, 20×20, width 512, 1,437,840 parameters, float64. Medians "
        "over rounds; in brackets the range."
    )
    sections = [header, energy_section(options, clock), trace_section(options, clock)]
    write_results("Tangent kernels", device_name(options.device), sections)


def energy_section(options: argparse.Namespace, clock) -> str:
    """Θ_E: seconds and memory of both ways."""
    few, many = options.few, options.points
    energy, points = case(many, options.device)
    part = Points(*(value[:few] for value in points))
    gradients = per_sample_gradients(energy, part)
    seconds = interleaved(
        {
            "gradients": lambda: per_sample_gradients(energy, part),
            "products": lambda: products(gradients),
            "few": lambda: energy_kernel(energy.model, part),
            "many": lambda: energy_kernel(energy.model, points),
        },
        options.rounds,
        clock,
    )
    wrong = (products(gradients) - energy_kernel(energy.model, part)).norm() / products(gradients).norm()
    direct = [a + b for a, b in zip(seconds["gradients"], seconds["products"], strict=True)]
    times = many / few
    scaled = [
        a * times + b * times**2 for a, b in zip(seconds["gradients"], seconds["products"], strict=True)
    ]
    lines = [
        "### The kernel of the energy",
        "",
        "| points | per-sample gradients, s | factors, s | ratio |",
        "|---|---|---|---|",
        row(f"{few:,}", direct, seconds["few"]),
        row(f"{many:,} (gradients scaled from {few})", scaled, seconds["many"]),
        "",
        f"Relative difference of the two kernels of {few} points: {float(wrong):.1g}.",
    ]
    if options.device == "cpu":
        peaks = {name: peak_memory(name, count) for name, count in (("gradients", few), ("factors", many))}
        lines += [
            "",
            f"Peak memory: {peaks['gradients']:.0f} MB for the gradients of {few} points, "
            f"{peaks['factors']:.0f} MB for the factors and the kernel of {many:,}.",
        ]
    return "\n".join(lines)


def trace_section(options: argparse.Namespace, clock) -> str:
    """Traces of Θ_g: probes to 5 % against all directions."""
    energy, points = case(len(LEVELS), options.device, LEVELS)
    exact = gradient_kernel_trace(energy.model, points).value.diagonal()
    pilots = [LEVELS.index(t) for t in PILOTS]
    chosen = Points(*(value[pilots] for value in points))
    basis = pilot_basis(energy.model, chosen, DEFLATED)
    plain, plain_error = needed(energy, points, exact, None)
    deflated, deflated_error = needed(energy, points, exact, basis)
    every, generator = every_direction(points.y), torch.Generator().manual_seed(1)
    seconds = interleaved(
        {
            "products": lambda: traces_by_products(energy, points),
            "exact": lambda: gradient_kernel_trace(energy.model, points, directions=every),
            "plain": lambda: estimate(energy, points, plain, generator, None),
            "deflated": lambda: estimate(energy, points, deflated, generator, basis),
            "pilots": lambda: pilot_basis(energy.model, chosen, DEFLATED),
        },
        options.rounds,
        clock,
    )
    one = Points(*(value[:1] for value in points))
    wrong = (traces_by_products(energy, one) / exact[:1] - 1).abs()
    titles = {
        "products": f"all {SPEC.dim_y} directions, jvp after vjp",
        "exact": f"all {SPEC.dim_y} directions, factors",
        "plain": f"{plain} probes, factors (error {100 * plain_error:.1f} %)",
        "deflated": f"{deflated} probes beside {DEFLATED} directions (error {100 * deflated_error:.1f} %)",
        "pilots": f"once beforehand, these {DEFLATED} directions from {len(PILOTS)} points",
    }
    rows = [
        f"| {title} | {statistics.median(seconds[name]):.3g} | {ratio(seconds['products'], seconds[name])} |"
        for name, title in titles.items()
    ]
    return "\n".join(
        [
            f"### Traces of the kernel of the gradient field to {100 * WANTED:.0f} %, {len(LEVELS)} points",
            "",
            "| way | s | jvp after vjp ÷ this |",
            "|---|---|---|",
            *rows,
            "",
            f"Relative difference of the exact ones at the first point: {float(wrong):.1g}. Errors are root "
            f"mean squares over points and {DRAWS} draws of the probes. Factors give all pairs of points at "
            "once, the other way each point with itself.",
        ]
    )


def case(count: int, device: str, levels: tuple[int, ...] = tuple(range(10))) -> tuple[MLPEnergy, Points]:
    """The network and q_samples at these levels in turn."""
    energy = load_energy(CHECKPOINT, device=device)
    generator = torch.Generator().manual_seed(0)
    problems = draw_problems(SPEC, count, generator)
    noise = torch.randn(problems.y_star.shape, generator=generator, dtype=torch.float64).to(device)
    t = torch.tensor([levels[index % len(levels)] for index in range(count)], device=device)
    y = q_sample(problems.y_star.double().to(device), t, noise, energy.schedule)
    return energy, Points(problems.x.double().to(device), y, t)


def per_sample_gradients(energy: MLPEnergy, points: Points) -> dict[str, torch.Tensor]:
    """∂_θE of each point by vmap(grad), a chunk at a time, by parameter, (B, numbers)."""
    gradient = torch.func.vmap(torch.func.grad(mlp_energy(energy.schedule)), in_dims=(None, 0, 0, 0))
    parameters = dict(energy.model.parameters)
    found = {name: value.new_empty(len(points.y), value.numel()) for name, value in parameters.items()}
    for start in range(0, len(points.y), CHUNK):
        rows = slice(start, start + CHUNK)
        for name, value in gradient(parameters, *(part[rows] for part in points)).items():
            found[name][rows] = value.flatten(1)
    return found


def products(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    """Θ_E, (B, B)."""
    return sum(part @ part.mT for part in gradients.values())


def traces_by_products(energy: MLPEnergy, points: Points) -> torch.Tensor:
    """Traces of Θ_g(p, p), (B,), from all directions, a point and a chunk of directions at a time."""
    field = gradient_field(mlp_energy(energy.schedule))
    found = []
    for index in range(len(points.y)):
        here = Points(*(part[index : index + 1] for part in points))
        total = 0
        for part in torch.eye(SPEC.dim_y).to(points.y).split(CHUNK):
            total += (kernel_products(field, energy.model.parameters, here, here, part)[0] * part).sum()
        found.append(total)
    return torch.stack(found)


def estimate(energy, points, count, generator, basis) -> torch.Tensor:
    """Traces of Θ_g(p, p) from probes, (B,)."""
    directions = probe_directions(points.y, count, generator, basis)
    return gradient_kernel_trace(energy.model, points, directions=directions).value.diagonal()


def needed(energy, points, exact, basis) -> tuple[int, float]:
    """The fewest probes whose error is at most the wanted one, and that error."""
    generator = torch.Generator().manual_seed(2)
    for count in range(2, SPEC.dim_y):
        draws = [estimate(energy, points, count, generator, basis) / exact - 1 for _ in range(DRAWS)]
        error = float(torch.stack(draws).square().mean().sqrt())
        if error <= WANTED:
            return count, error
    raise AssertionError("no number of probes suffices")


def peak_memory(method: str, count: int) -> float:
    """MB that a fresh process needs beyond what it has before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (method, count))


def _peak(method: str, count: int) -> float:
    torch.set_num_threads(1)
    energy, points = case(count, "cpu")
    energy_kernel(energy.model, Points(*(part[:2] for part in points)))
    before = _high_water()
    if method == "factors":
        energy_kernel(energy.model, points)
    else:
        products(per_sample_gradients(energy, points))
    return _high_water() - before


def _high_water() -> float:
    """Largest resident size of this process so far, in MB; unlike ru_maxrss not inherited from its parent."""
    (line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in each]
    return int(line.split()[1]) / 1024


def row(title: str, slow: list[float], fast: list[float]) -> str:
    """A line of the table."""
    cells = (f"{statistics.median(part):.3g}" for part in (slow, fast))
    return f"| {title} | {' | '.join(cells)} | {ratio(slow, fast)} |"


if __name__ == "__main__":
    main()
