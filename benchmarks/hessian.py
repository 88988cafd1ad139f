"""Input-Hessian spectra: the closed form against autograd, PyHessian and ARPACK, in one process, interleaved.

Every method answers the same points in every round, in an order drawn anew per round. Times are CPU seconds
of one thread (wall seconds on a GPU), and ratios are taken within a round before their median. The result is
written to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time

import numpy as np
import torch
from measure import device_name, interleaved, ratio, synchronised_clock, write_results
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from iredinterp.energy import MLPEnergy, autograd_hessian
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.ired.training import Phase, Recipe, initial_state, train
from iredinterp.points import q_sample
from iredinterp.spectrum import spectra

HIDDEN = 512
SIZES = {5: 64, 10: 32, 20: 16}
TRAINING_STEPS = {5: 1500, 10: 800, 20: 400}
COUNT = 10


def main() -> None:
    """Run everything and write the results page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    options = arguments.parse_args()
    torch.set_num_threads(1)
    clock = time.process_time if options.device == "cpu" else synchronised_clock
    sections = [introduction(options)]
    for n in options.sizes:
        for weights in ("random", "trained"):
            energy, points = landscape(n, weights, options.device)
            for dtype in (torch.float32, torch.float64):
                sections.append(build_section(n, weights, dtype, energy, points, options.rounds, clock))
            if options.device == "cpu":
                sections.append(spectrum_section(n, weights, energy, points, options.rounds, clock))
    if options.device != "cpu":
        sections.append(throughput_section(options.device))
    write_results("Input-Hessian spectra", device_name(options.device), sections)


def landscape(n: int, weights: str, device: str) -> tuple[MLPEnergy, tuple[Tensor, Tensor, Tensor]]:
    """A network of the official width on n×n inversion, and q_samples at all levels."""
    spec = ProblemSpec("inverse", n)
    generator = torch.Generator().manual_seed(n)
    if weights == "random":
        model = EnergyMLP.random(spec.dim_x, spec.dim_y, HIDDEN, generator)
    else:
        recipe = Recipe(spec, HIDDEN, (Phase(TRAINING_STEPS[n], 1e-3, False),))
        *_, state = train(initial_state(recipe, [n]), every=recipe.steps)
        model = EnergyMLP(
            {name: value[0] for name, value in state.raw.items()},
            EnergyMLP.random(1, 1, 1, generator).schedule,
        )
    problems = draw_problems(spec, SIZES[n], generator)
    t = torch.arange(SIZES[n]) % 10
    noise = torch.randn(problems.y_star.shape, generator=generator, dtype=torch.float64)
    energy = MLPEnergy(model.to(torch.float64, device))
    y = q_sample(problems.y_star, t, noise, energy.schedule.to(device="cpu"))
    return energy, tuple(value.to(device) for value in (problems.x, y, t))


def build_section(n, weights, dtype, energy, points, rounds, clock) -> str:
    """Dense Hessians: the closed form, three autograd builds, and the GEMM rate, for one batch."""
    model = energy.model.to(dtype)
    x, y, t = points[0].to(dtype), points[1].to(dtype), points[2]
    count, d = y.shape
    closed = MLPEnergy(model)
    left = torch.randn(count * d, HIDDEN, dtype=dtype, device=y.device)
    right = torch.randn(HIDDEN, HIDDEN, dtype=dtype, device=y.device)

    def single(one_y, one_x, one_t):
        return model.energy(one_x[None], one_y[None], one_t[None])[0]

    methods = {
        "closed form": lambda: closed.hessian(x, y, t),
        "vmap(jacrev(grad))": lambda: autograd_hessian(model.energy, x, y, t),
        "vmap(hessian)": lambda: torch.func.vmap(torch.func.hessian(single))(y, x, t),
        "is_grads_batched": lambda: batched_rows(model, x, y, t),
        "GEMM": lambda: left @ right,
    }
    reference = closed.hessian(x, y, t)
    for name in ("vmap(jacrev(grad))", "vmap(hessian)", "is_grads_batched"):
        error = (methods[name]() - reference).norm() / reference.norm()
        assert error < (1e-4 if dtype == torch.float32 else 1e-11), (name, float(error))
    seconds = interleaved(methods, rounds, clock)
    best = [min(seconds[name][k] for name in list(methods)[1:4]) for k in range(rounds)]
    flops, gemm_flops = closed_form_flops(d), 2 * count * d * HIDDEN**2
    shares = [
        (count * flops / gemm_flops) * seconds["GEMM"][k] / seconds["closed form"][k] for k in range(rounds)
    ]
    rows = [
        f"| {name} | {milliseconds(seconds[name], count)} | {ratio(seconds[name], seconds['closed form'])} |"
        for name in methods
        if name != "GEMM"
    ]
    rate = statistics.median(gemm_flops / s / 1e9 for s in seconds["GEMM"])
    return "\n".join(
        [
            f"### Build, d = {d}, {weights} weights, {str(dtype).removeprefix('torch.')}, batch {count}",
            "",
            "| method | ms per Hessian | time ÷ closed form |",
            "|---|---|---|",
            *rows,
            "",
            f"Best autograd build of each round ÷ closed form: {ratio(best, seconds['closed form'])}. "
            f"The closed form's {flops / 1e9:.3g} GFLOP per Hessian run at "
            f"{100 * statistics.median(shares):.0f} % of the GEMM rate of the same rounds "
            f"({rate:.0f} GFLOP/s).",
        ]
    )


def batched_rows(model: EnergyMLP, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """Double backward with all rows in one batched call, the fastest classic autograd build."""
    y = y.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model.energy(x, y, t).sum(), y, create_graph=True)
    units = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)[:, None].expand(-1, len(y), -1)
    (rows,) = torch.autograd.grad(gradient, y, units, is_grads_batched=True)
    return rows.transpose(0, 1)


def closed_form_flops(d: int) -> float:
    """Multiplications and additions of the closed form's products, per Hessian."""
    blocks = 4 if d >= 200 else 1
    triangle = (blocks + 1) / (2 * blocks)
    tangents = 2 * d * (2 * HIDDEN**2 + HIDDEN * d)
    return tangents + triangle * 2 * d**2 * (3 * HIDDEN + d)


def spectrum_section(n, weights, energy, points, rounds, clock) -> str:
    """All eigenvalues by the closed form against ten by PyHessian and by ARPACK, one point at a time."""
    x, y, t = (value[:1] for value in points)
    exact = spectra(energy, x, y, t).eigenvalues[0].numpy()
    top = exact[np.argsort(-abs(exact))[:COUNT]]
    found: dict[str, np.ndarray] = {}

    def keep(name, values):
        found[name] = np.asarray(values)

    def pyhessian(**options):
        with contextlib.redirect_stdout(io.StringIO()):
            return spectra(energy, x, y, t, engine="pyhessian", count=COUNT, **options).eigenvalues[0]

    def arpack():
        multiply = energy.hvp_operator(x, y, t)
        d = y.shape[1]
        operator = LinearOperator(
            (d, d), matvec=lambda v: multiply(torch.from_numpy(v).reshape(1, -1))[0].numpy(), dtype=float
        )
        return eigsh(operator, COUNT, which="LM", return_eigenvectors=False)

    methods = {
        f"closed form, all {len(exact)}": lambda: keep("closed", spectra(energy, x, y, t).eigenvalues[0]),
        "PyHessian, ten, defaults": lambda: keep("PyHessian, ten, defaults", pyhessian()),
        "PyHessian, ten, tol 1e-6": lambda: keep(
            "PyHessian, ten, tol 1e-6", pyhessian(tol=1e-6, max_iter=2000)
        ),
        "ARPACK eigsh, ten": lambda: keep("ARPACK eigsh, ten", arpack()),
    }
    seconds = interleaved(methods, max(2, rounds // 2), clock)
    base = seconds[next(iter(methods))]
    lines = [
        f"### Spectrum, d = {len(exact)}, {weights} weights, float64, one point at a time",
        "",
        "| method | ms | time ÷ closed form | largest error of the ten ÷ λmax |",
        "|---|---|---|---|",
    ]
    for name in methods:
        error = "0" if name.startswith("closed") else f"{worst_error(found[name], top):.0e}"
        lines.append(
            f"| {name} | {milliseconds(seconds[name], 1)} | {ratio(seconds[name], base)} | {error} |"
        )
    return "\n".join(lines)


def worst_error(found: np.ndarray, top: np.ndarray) -> float:
    """Largest |error| of sorted eigenvalues over the largest magnitude."""
    return float(abs(np.sort(found) - np.sort(top)).max() / abs(top).max())


def throughput_section(device: str, count: int = 100_000, chunk: int = 512) -> str:
    """Build and eigenvalues of 100,000 Hessians at d = 400 on a GPU."""
    energy, (x, y, t) = landscape(20, "random", device)
    repeat = -(-chunk // len(y))
    x, y, t = (value.repeat(repeat, *[1] * (value.ndim - 1))[:chunk] for value in (x, y, t))
    build = solve = 0.0
    for _ in range(-(-count // chunk)):
        start = synchronised_clock()
        hessian = energy.hessian(x, y, t)
        middle = synchronised_clock()
        torch.linalg.eigvalsh(hessian)
        build, solve = build + middle - start, solve + synchronised_clock() - middle
    return f"### {count:,} spectra at d = 400, float64\n\nBuild {build:.1f} s, eigenvalues {solve:.1f} s."


def milliseconds(seconds: list[float], count: int) -> str:
    """Median per item."""
    return f"{1e3 * statistics.median(seconds) / count:.3g}"


def introduction(options) -> str:
    """How the numbers were made."""
    version = torch.__version__.split("+")[0]
    return (
        f"Written by `make benchmark` (torch {version}, {options.rounds} rounds, hidden {HIDDEN}, inversion; "
        "trained: a short run of the denoising loss). Medians over rounds; in brackets the range. All "
        "methods of a table alternate within one process; absolute times depend on the machine and its "
        "load, the ratios much less."
    )


if __name__ == "__main__":
    main()
