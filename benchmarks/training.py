"""Training: many seeds in one run against one run per seed, and this trainer against the official code.

Both sides alternate within one process, in an order drawn anew per round, and ratios are taken within a
round before their median. The result goes to benchmarks/RESULTS.md. The comparison with the official release
needs a clone of it: `python benchmarks/training.py --official path/to/ired_code_release`.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import MagicMock

import torch
from measure import device_name, ratio, write_results

from iredinterp.cards import score_model
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.ired.training import Phase, Recipe, TrainingState, initial_state, train

SEEDS = 8
THREADS = 2
# Each stretch ends with an evaluation, which many steps make negligible.
STEPS = 200
TASKS = {
    "addition": ProblemSpec("addition", 20),
    "inverse": ProblemSpec("inverse", 20),
    "lowrank": ProblemSpec("completion", 20),
}
# The recipe of the bundled 20×20 networks.
PHASES = (Phase(2000, 1e-3, False), Phase(600, 2e-4, True))
TEST_PROBLEMS = 2048


def main() -> None:
    """Run everything and write the results page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--official", type=Path, help="clone of yilundu/ired_code_release")
    arguments.add_argument("--task", choices=TASKS, default="inverse", help="of the comparison at n = 20")
    options = arguments.parse_args()
    torch.set_num_threads(THREADS)
    version = torch.__version__.split("+")[0]
    sections = [
        f"Written by `python benchmarks/training.py` (torch {version}, {THREADS} threads on two cores, "
        f"{options.rounds} rounds, wall time). Medians over rounds; in brackets the range.",
        seeds_section(options.rounds, options.device),
    ]
    if options.official:
        sections.append(official_section(options.official, options.task, options.rounds))
    write_results("Training", device_name(options.device, f"{THREADS} threads"), sections)


def seeds_section(rounds: int, device: str) -> str:
    """Eight seeds at n = 5, hidden 128, batch 256: one run against eight."""
    lines = [
        f"### {SEEDS} seeds, inverse, n = 5, hidden 128, batch 256",
        "",
        f"| loss | ms per step, one seed | ms per step, {SEEDS} seeds | one run ÷ {SEEDS} single runs |",
        "|---|---|---|---|",
    ]
    for loss, contrastive in (("denoising", False), ("denoising + contrastive", True)):
        recipe = Recipe(ProblemSpec("inverse", 5), 128, (Phase(10**6, 1e-3, contrastive),))
        runs = {count: stretches(recipe, count, device) for count in (1, SEEDS)}
        seconds = interleaved({count: lambda run=run: next(run) for count, run in runs.items()}, rounds)
        singles = [SEEDS * value for value in seconds[1]]
        one, many = (1e3 * sorted(seconds[count])[rounds // 2] / STEPS for count in (1, SEEDS))
        lines.append(f"| {loss} | {one:.3g} | {many:.3g} | {ratio(seconds[SEEDS], singles)} |")
    return "\n".join(lines)


def stretches(recipe: Recipe, seeds: int, device: str = "cpu") -> Iterator[TrainingState]:
    """A run handed out every `STEPS` steps, after one stretch of warming up."""
    run = train(initial_state(recipe, range(seeds), device), every=STEPS, held_out=8)
    next(run)
    return run


def official_section(folder: Path, task: str, rounds: int) -> str:
    """Steps per second at the same batch, and the error after the same time, at the official size."""
    spec, batch = TASKS[task], 256
    official = OfficialTrainer(folder, spec, batch)
    official.run(2)
    lines = [
        f"### {task}, n = 20, hidden 512, one seed, batch {batch}, against the official classes",
        "",
        "| loss | steps per second, official | here | speed here ÷ official |",
        "|---|---|---|---|",
    ]
    for loss, contrastive in (("denoising", False), ("denoising + contrastive", True)):
        official.supervise(contrastive)
        run = stretches(Recipe(spec, 512, (Phase(10**6, 1e-3, contrastive),)), 1)
        methods = {"official": lambda: official.run(STEPS), "here": lambda run=run: next(run)}
        seconds = interleaved(methods, rounds)
        speeds = [STEPS / sorted(seconds[name])[rounds // 2] for name in methods]
        lines.append(
            f"| {loss} | {speeds[0]:.3g} | {speeds[1]:.3g} | {ratio(seconds['official'], seconds['here'])} |"
        )
    return "\n".join(lines) + "\n\n" + same_budget(folder, task)


def same_budget(folder: Path, task: str) -> str:
    """The bundled recipe, and the official settings for as long as it took."""
    spec = TASKS[task]
    recipe = Recipe(spec, 512, PHASES)
    start = time.perf_counter()
    *_, state = train(initial_state(recipe, [0]), every=recipe.steps, held_out=8)
    budget = time.perf_counter() - start
    model = EnergyMLP(
        {name: value[0] for name, value in state.ema.items()}, cosine_schedule().to(torch.float32)
    )
    official = OfficialTrainer(folder, spec, 2048)
    start = time.perf_counter()
    while time.perf_counter() - start < budget:
        official.run(1)
    scores = [
        score_model(candidate, spec, TEST_PROBLEMS, 2).score("model", "all")
        for candidate in (model, official.network())
    ]
    return (
        f"In the {budget:.0f} s of this recipe ({recipe.steps} steps of {recipe.batch}): MSE "
        f"{scores[0].mse:.3g} here; {scores[1].mse:.3g} by the official settings (batch 2048, Adam 1e-4, "
        f"both losses, raw weights after {official.steps} steps), on {TEST_PROBLEMS:,} problems."
    )


class OfficialTrainer:
    """The official model and loss, as the official loop drives them, on problems drawn here."""

    def __init__(self, folder: Path, spec: ProblemSpec, batch: int):
        sys.path.insert(0, str(folder))
        # Imported at the top of the official files and not used by the parts measured here.
        for name in ("accelerate", "ema_pytorch", "einops", "einops.layers", "einops.layers.torch", "ipdb"):
            sys.modules.setdefault(name, MagicMock())
        from diffusion_lib.denoising_diffusion_pytorch_1d import GaussianDiffusion1D
        from models import EBM, DiffusionWrapper

        self.spec, self.batch, self.steps = spec, batch, 0
        self.generator = torch.Generator().manual_seed(0)
        self.diffusion = GaussianDiffusion1D(
            DiffusionWrapper(EBM(inp_dim=spec.dim_x, out_dim=spec.dim_y)),
            seq_length=32,
            objective="pred_noise",
            timesteps=10,
            sampling_timesteps=10,
            supervise_energy_landscape=True,
            use_innerloop_opt=True,
            show_inference_tqdm=False,
            continuous=True,
        )
        self.optimiser = torch.optim.Adam(self.diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))

    def supervise(self, contrastive: bool) -> None:
        """Switch the energy term."""
        self.diffusion.supervise_energy_landscape = contrastive

    def run(self, steps: int) -> None:
        """That many optimiser steps."""
        for _ in range(steps):
            problems = draw_problems(self.spec, self.batch, self.generator)
            loss, _ = self.diffusion(problems.x.float(), problems.y_star.float(), None)
            self.optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.diffusion.parameters(), 1.0)
            self.optimiser.step()
            self.steps += 1

    def network(self) -> EnergyMLP:
        """Its present weights."""
        return network(self.diffusion.model.ebm.state_dict())


def network(parameters: dict[str, torch.Tensor]) -> EnergyMLP:
    """A copy of float32 weights as a network."""
    copies = {name: value.detach().clone() for name, value in parameters.items()}
    return EnergyMLP(copies, cosine_schedule().to(torch.float32))


def interleaved(methods: dict[object, Callable[[], object]], rounds: int) -> dict[object, list[float]]:
    """Wall seconds of every method in every round."""
    seconds = {name: [] for name in methods}
    order = list(methods)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            start = time.perf_counter()
            methods[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
