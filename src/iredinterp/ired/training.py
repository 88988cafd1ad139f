"""The official training loss, for many seeds at once.

All networks of a run are stacked along a seed axis and share every matrix product; each seed draws its
initial weights, problems, levels and noise from a generator of its own, so adding seeds to a run does
not change what the others see.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.errors import CheckpointError, TrainingError
from iredinterp.files import atomic_file
from iredinterp.ired.checkpoint import load_plain, save_checkpoint
from iredinterp.ired.competence import baseline_predictions
from iredinterp.ired.model import EnergyMLP, parameter_shapes, random_parameters
from iredinterp.ired.sampler import ANSWER_LIMIT, descend, sample
from iredinterp.ired.schedule import Schedule, cosine_schedule
from iredinterp.ired.tasks import Problems, ProblemSpec, draw_problems

CONTRASTIVE_WEIGHT = 0.5
NEGATIVE_NOISE = 3.0
NEGATIVE_STEPS = 2
HELD_OUT_SEED = 2**31 - 1


@dataclass(frozen=True)
class Phase:
    """A stretch of training under one loss and one learning-rate cycle.

    Attributes:
        steps: optimiser steps.
        learning_rate: peak; reached by linear warm-up, then cosine decay to 0 at the end of the phase.
        contrastive: add the energy term (`--supervise-energy-landscape` of the official script).
    """

    steps: int
    learning_rate: float
    contrastive: bool


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run but its seeds.

    Attributes:
        problems: the distribution trained on.
        hidden: width h; at least d, or the gradient cannot reach every direction of y.
        phases: run in order; Adam's moments carry over.
        batch: problems per step and seed.
        warmup: steps of linear warm-up at the start of each phase.
        ema_decay: per-step decay of the averaged weights.
        clip: largest gradient norm, per seed.
        permuted: give every x the answer of another problem, so that only the law of y* can be learnt.
    """

    problems: ProblemSpec
    hidden: int
    phases: tuple[Phase, ...]
    batch: int = 256
    warmup: int = 100
    ema_decay: float = 0.995
    clip: float = 1.0
    permuted: bool = False

    @classmethod
    def from_dict(cls, values: Mapping) -> Recipe:
        """A recipe from JSON-like values with nested `problems` and `phases`."""
        phases = tuple(Phase(**phase) for phase in values["phases"])
        return cls(**{**values, "problems": ProblemSpec.from_dict(values["problems"]), "phases": phases})

    def to_dict(self) -> dict:
        """The inverse of `from_dict`; JSON-ready."""
        phases = [asdict(phase) for phase in self.phases]
        return {**asdict(self), "problems": self.problems.to_dict(), "phases": phases}

    @property
    def steps(self) -> int:
        """Steps over all phases."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> tuple[Phase, float]:
        """The phase that step `step` (from 0) belongs to, and the learning rate there."""
        for phase in self.phases:
            if step < phase.steps:
                warm = min(1.0, (step + 1) / self.warmup)
                cosine = (1 + math.cos(math.pi * step / phase.steps)) / 2
                return phase, phase.learning_rate * warm * cosine
            step -= phase.steps
        raise ValueError(f"step lies {step} steps past the end of the recipe")


@dataclass(frozen=True)
class TrainingState:
    """A run between two steps; all that is needed to go on as if it had not stopped.

    Attributes:
        recipe: what is being trained.
        seeds: S training seeds.
        step: steps done.
        raw, ema: parameters and their running average, official names, each (S, …), float32.
        optimiser: Adam's state dict.
        generators: one generator per seed.
        history: one row per seed and evaluation: step, seed, losses, held-out MSE and baselines.
    """

    recipe: Recipe
    seeds: tuple[int, ...]
    step: int
    raw: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    optimiser: Mapping
    generators: Sequence[torch.Generator]
    history: list[dict] = field(default_factory=list)

    def save(self, path: str | Path) -> None:
        """Write the state atomically, as plain tensors and numbers."""
        content = {
            "recipe": self.recipe.to_dict(),
            "seeds": list(self.seeds),
            "step": self.step,
            "raw": dict(self.raw),
            "ema": dict(self.ema),
            "optimiser": self.optimiser,
            "generators": [generator.get_state() for generator in self.generators],
            "history": self.history,
        }
        with atomic_file(path) as file:
            torch.save(content, file)

    @classmethod
    def load(cls, path: str | Path, recipe: Recipe, seeds: Sequence[int], device="cpu") -> TrainingState:
        """Read a state written by `save`.

        Raises:
            TrainingError: it belongs to another recipe or other seeds, or is damaged.
        """
        try:
            content = load_plain(path, device)
            identity = content["recipe"], content["seeds"]
            if identity == (recipe.to_dict(), list(seeds)):
                generators = [_generator_at(state) for state in content["generators"]]
                found = {**content, "recipe": recipe, "seeds": tuple(seeds), "generators": generators}
                return _checked(cls(**found))
        except (CheckpointError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise TrainingError(
                f"{path}: not a whole training state; delete it to start anew ({error})"
            ) from error
        raise TrainingError(f"{path}: saved by another recipe or for other seeds; delete it to start anew")


def initial_state(recipe: Recipe, seeds: Sequence[int], device: torch.device | str = "cpu") -> TrainingState:
    """Untrained networks, one per seed."""
    spec = recipe.problems
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    networks = [
        random_parameters(spec.dim_x, spec.dim_y, recipe.hidden, generator) for generator in generators
    ]
    raw = {name: torch.stack([network[name] for network in networks]).to(device) for name in networks[0]}
    ema = {name: value.clone() for name, value in raw.items()}
    return TrainingState(recipe, tuple(seeds), 0, raw, ema, {}, generators)


def train(
    state: TrainingState, every: int = 500, held_out: int = 512, at: Collection[int] | None = None
) -> Iterator[TrainingState]:
    """Run a recipe to its end, handing out the state every `every` steps and at the end.

    Args:
        state: from `initial_state` or `TrainingState.load`.
        every: steps between evaluations; a state is safe to save when it is handed out.
        held_out: problems in the fixed held-out set.
        at: steps to hand out the state at instead of every so many, beside the end.

    Yields:
        The state at each such step, with its history so far.

    Raises:
        TrainingError: a loss is not finite; names seed and step.

    Source:
        Loss and optimiser of the official release (commit 3d74b85): Adam, β = (0.9, 0.99), gradient norm
        clipped per network; the learning-rate cycle and the per-step average are ours.
    """
    recipe = state.recipe
    raw = {name: value.clone().requires_grad_() for name, value in state.raw.items()}
    ema = {name: value.clone() for name, value in state.ema.items()}
    device = raw["fc1.weight"].device
    schedule = cosine_schedule().to(torch.float32, device)
    optimiser = torch.optim.Adam(list(raw.values()), betas=(0.9, 0.99), fused=True)
    if state.optimiser:
        optimiser.load_state_dict(state.optimiser)
    evaluation = _HeldOut.draw(recipe.problems, held_out, device)
    history = list(state.history)
    for step in range(state.step, recipe.steps):
        phase, learning_rate = recipe.phase_at(step)
        optimiser.param_groups[0]["lr"] = learning_rate
        batch = _draw_batch(recipe, schedule, state.generators, device)
        denoising, contrastive = losses(EnergyMLP(raw, schedule), *batch, contrastive=phase.contrastive)
        optimiser.zero_grad()
        (denoising + CONTRASTIVE_WEIGHT * contrastive).sum().backward()
        _clip_per_seed(raw.values(), recipe.clip)
        optimiser.step()
        decay = min(recipe.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.values()), list(raw.values()), 1 - decay)
        done = step + 1
        due = done % every == 0 if at is None else done in at
        if due or done == recipe.steps:
            _refuse_divergence(denoising + contrastive, state.seeds, done)
            mse = evaluation.mse(EnergyMLP(ema, schedule))
            history += [
                {
                    "step": done,
                    "seed": seed,
                    "denoising_loss": float(denoising[index].detach()),
                    "contrastive_loss": float(contrastive[index].detach()) if phase.contrastive else None,
                    "held_out_mse": float(mse[index]),
                    **{f"{name}_mse": value for name, value in evaluation.baselines.items()},
                }
                for index, seed in enumerate(state.seeds)
            ]
            yield replace(
                state,
                step=done,
                raw={name: value.detach().clone() for name, value in raw.items()},
                ema={name: value.clone() for name, value in ema.items()},
                optimiser=optimiser.state_dict(),
                history=list(history),
            )


def run_recipe(
    recipe: Recipe,
    seeds: Sequence[int],
    saved: str | Path,
    device: torch.device | str = "cpu",
    progress: Callable[..., Iterable] = lambda states, description, total: states,
    every: int = 500,
) -> TrainingState:
    """Train to the end, saving the state on the way; goes on from `saved` if that file exists.

    Args:
        recipe: what to train.
        seeds: one network each.
        saved: file of the running state; the caller deletes it once the result is safe.
        device: where to train.
        progress: wraps the iterator of states to show how far it is.
        every: steps between evaluations and saves.

    Raises:
        TrainingError: the run diverged, or `saved` belongs to another run.
    """
    if Path(saved).is_file():
        state = TrainingState.load(saved, recipe, seeds, device)
    else:
        state = initial_state(recipe, seeds, device)
    evaluations = math.ceil(recipe.steps / every) - state.step // every
    for reached in progress(train(state, every), "training", evaluations):
        reached.save(saved)
        state = reached
    return state


def save_networks(
    state: TrainingState, name: str, folder: str | Path, precision: str = "float32"
) -> list[Path]:
    """Write the averaged weights of every seed as `folder/NAME-seedS.safetensors`; returns the paths.

    Args:
        state: a run.
        name: of the recipe.
        folder: where to write.
        precision: "float32", or "float16" for files of half the size, whose weights are rounded to 11 bits.
    """
    paths = []
    for index, seed in enumerate(state.seeds):
        ema = {key: value[index].to(getattr(torch, precision)) for key, value in state.ema.items()}
        record = {"recipe": state.recipe.to_dict(), "seed": seed}
        paths.append(Path(folder) / f"{name}-seed{seed}.safetensors")
        save_checkpoint(paths[-1], {"ema": ema}, cosine_schedule(), state.step, record)
    return paths


def history_table(state: TrainingState) -> pa.Table:
    """One row per seed and evaluation: step, seed, both losses, held-out MSE and that of the baselines."""
    return pa.Table.from_pylist(state.history)


def losses(
    network: EnergyMLP,
    x: Tensor,
    y: Tensor,
    t: Tensor,
    noise: Tensor,
    second_noise: Tensor,
    contrastive: bool,
) -> tuple[Tensor, Tensor]:
    """Denoising and contrastive loss of each network of a stack.

    Args:
        network: S stacked networks.
        x: (S, B, d_x).
        y: (S, B, d), right answers.
        t: (S, B), levels.
        noise: (S, B, d), ε of the denoising term.
        second_noise: (S, B, d), ε′ of the contrastive term.
        contrastive: compute the contrastive term (else it is 0).

    Returns:
        mean (∇_yE(x, √ᾱ_t y + σ_t ε, t) − ε)² and mean softplus(E(positive) − E(negative)), each (S,).

    Source:
        `p_losses` of the official release (commit 3d74b85), continuous tasks.
    """
    schedule = network.schedule
    scale, sigma = schedule.sqrt_alphas_cumprod[t, None], schedule.sigma[t, None]
    _, gradient = network.energy_and_gradient(x, scale * y + sigma * noise, t)
    denoising = (gradient - noise).square().mean((-2, -1))
    if not contrastive:
        return denoising, torch.zeros_like(denoising)
    positive = scale * y + sigma * second_noise
    with torch.no_grad():
        start = scale * y + NEGATIVE_NOISE * sigma * second_noise
        wrong, _ = descend(network, x, start, t, NEGATIVE_STEPS)
        wrong = (schedule.sqrt_recip_alphas_cumprod[t, None] * wrong).clamp(-ANSWER_LIMIT, ANSWER_LIMIT)
        negative = scale * wrong + sigma * second_noise
    both = network.energy(torch.cat([x, x], -2), torch.cat([positive, negative], -2), torch.cat([t, t], -1))
    right_energy, wrong_energy = both.chunk(2, -1)
    return denoising, F.softplus(right_energy - wrong_energy).mean(-1)


def _generator_at(state: Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state.cpu())
    return generator


def _checked(state: TrainingState) -> TrainingState:
    """The state, if training can go on from it; else ValueError says what is wrong."""
    spec, count = state.recipe.problems, len(state.seeds)
    shapes = parameter_shapes(spec.dim_x, spec.dim_y, state.recipe.hidden)
    groups = {"raw": state.raw, "ema": state.ema}
    if state.optimiser:
        moments = state.optimiser["state"]
        for name in ("exp_avg", "exp_avg_sq"):
            groups[name] = {key: moments[index][name] for index, key in enumerate(state.raw)}
    for group, tensors in groups.items():
        if {name: value.shape for name, value in tensors.items()} != {
            name: (count, *shape) for name, shape in shapes.items()
        }:
            raise ValueError(f"key {group!r}: expected the tensors of {count} networks of the recipe")
        for name, value in tensors.items():
            if value.dtype != torch.float32 or not torch.isfinite(value).all():
                raise ValueError(f"key {group!r}: {name!r}: expected finite float32 numbers")
    if type(state.step) is not int or not 0 <= state.step <= state.recipe.steps:
        raise ValueError(f"key 'step': expected 0 … {state.recipe.steps}, found {state.step!r}")
    if bool(state.optimiser) != (state.step > 0) or len(state.generators) != count:
        raise ValueError("keys 'optimiser' and 'generators': expected those of every network")
    if not isinstance(state.history, list) or not all(isinstance(row, dict) for row in state.history):
        raise ValueError("key 'history': expected a list of rows")
    return state


def _draw_batch(
    recipe: Recipe, schedule: Schedule, generators: Sequence[torch.Generator], device: torch.device
) -> tuple[Tensor, ...]:
    shape = (recipe.batch, recipe.problems.dim_y)
    draws = []
    for generator in generators:
        problems = draw_problems(recipe.problems, recipe.batch, generator)
        t = torch.randint(schedule.levels, shape[:1], generator=generator)
        noise = torch.randn(2, *shape, generator=generator)
        y_star = problems.y_star.roll(1, 0) if recipe.permuted else problems.y_star
        draws.append((problems.x.float(), y_star.float(), t, noise[0], noise[1]))
    return tuple(torch.stack(column).to(device) for column in zip(*draws, strict=True))


def _clip_per_seed(parameters, limit: float) -> None:
    gradients = [parameter.grad for parameter in parameters]
    squares = [gradient.flatten(1).square().sum(1) for gradient in gradients]
    factor = limit / torch.stack(squares).sum(0).sqrt().clamp_min(limit)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))


def _refuse_divergence(loss: Tensor, seeds: Sequence[int], step: int) -> None:
    bad = [seed for seed, finite in zip(seeds, torch.isfinite(loss).tolist(), strict=True) if not finite]
    if bad:
        raise TrainingError(f"training diverged at step {step} for seed {bad[0]}: lower learning_rate")


@dataclass(frozen=True)
class _HeldOut:
    """A fixed set of fresh problems, its baselines, and one first state of the sampler per problem."""

    problems: Problems
    init: Tensor
    baselines: Mapping[str, float]
    device: torch.device

    @classmethod
    def draw(cls, spec: ProblemSpec, count: int, device: torch.device) -> _HeldOut:
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        problems = draw_problems(spec, count, generator)
        predictions = baseline_predictions(spec, problems, seed=HELD_OUT_SEED - 1)
        baselines = {
            name: float((predictions[name] - problems.y_star).square().mean())
            for name in ("zero", "mean", "linear")
        }
        init = torch.randn(count, spec.dim_y, generator=generator)
        return cls(problems, init, baselines, device)

    @torch.no_grad()
    def mse(self, network: EnergyMLP) -> Tensor:
        """Official error, mean over entries of (sampled − y*)², of each network of a stack, (S,)."""
        seeds = len(network.parameters["fc1.weight"])
        x = self.problems.x.float().to(self.device).expand(seeds, -1, -1)
        init = self.init.to(self.device).expand(seeds, -1, -1)
        answers = sample(network, x, init=init).final
        return (answers - self.problems.y_star.float().to(self.device)).square().mean((-2, -1))
