"""Between two networks of one family: are they one solution up to the symmetries of the architecture?

E(x, y, t) = ‖fc4(h₃)‖² is unchanged when the units of a layer are renumbered, FiLM rows with them, when those
of the level's embedding are, and when fc4 is turned by any orthogonal matrix. Straight lines between networks
mean nothing before these are matched. The loss is that of denoising, the first term of the training loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from iredinterp.adam import Adam
from iredinterp.errors import ConfigError
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.schedule import Schedule
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.ired.training import losses
from iredinterp.ranges import require_least

Parameters = Mapping[str, Tensor]

# Axis 0 of a tensor by the layer whose units it numbers, and axis 1 likewise; "both" halves of a FiLM map are
# gains and biases of the same units. Order: each layer after those it reads from.
UNITS = {
    "time1": {"out": ("time_mlp.1",), "in": ("time_mlp.3",)},
    "time3": {"out": ("time_mlp.3",), "in": ("t_map_fc2", "t_map_fc3")},
    "fc1": {"out": ("fc1",), "in": ("fc2",)},
    "fc2": {"out": ("fc2", "t_map_fc2"), "in": ("fc3",)},
    "fc3": {"out": ("fc3", "t_map_fc3"), "in": ("fc4",)},
}


@dataclass(frozen=True)
class Batch:
    """What a loss is evaluated on, the same for all networks.

    Attributes:
        x: (B, d_x).
        y_star: (B, d).
        t: (B,).
        noise: (B, d).
    """

    x: Tensor
    y_star: Tensor
    t: Tensor
    noise: Tensor

    @classmethod
    def draw(
        cls,
        spec: ProblemSpec,
        count: int,
        levels: int,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> Batch:
        """Fresh problems, levels in turn, and noise, in float64."""
        problems = draw_problems(spec, count, generator)
        noise = torch.randn(problems.y_star.shape, generator=generator, dtype=torch.float64)
        parts = problems.x.double(), problems.y_star.double(), torch.arange(count) % levels, noise
        return cls(*(part.to(device) for part in parts))


@dataclass(frozen=True)
class Connection:
    """Denoising losses on paths from one network to another, on the same problems and noise.

    Attributes:
        losses: at evenly spaced times, (T,), by path: "straight"; "matched", straight after matching;
            "bezier", a quadratic Bézier curve after matching, trained to keep the loss low.
        zero: the loss of predicting no noise at all, mean ε².
    """

    losses: Mapping[str, Tensor]
    zero: Tensor

    @property
    def ends(self) -> Tensor:
        """Losses of both networks, (2,)."""
        return self.losses["straight"][[0, -1]]

    @property
    def barriers(self) -> dict[str, Tensor]:
        """How far the loss rises above the higher end, by path."""
        return {name: loss_barrier(path) for name, path in self.losses.items()}


def denoising_loss(parameters: Parameters, schedule: Schedule, batch: Batch) -> Tensor:
    """Mean of (∇_yE(x, √ᾱ_t y* + σ_t ε, t) − ε)², (S,), of S networks stacked along a leading axis."""
    count = len(parameters["fc1.weight"])
    x, y, noise = (part.expand(count, -1, -1) for part in (batch.x, batch.y_star, batch.noise))
    network = EnergyMLP(parameters, schedule)
    return losses(network, x, y, batch.t.expand(count, -1), noise, noise, contrastive=False)[0]


def permuted(parameters: Parameters, orders: Mapping[str, Tensor], turn: Tensor | None = None) -> Parameters:
    """The same energy with the units of layers renumbered and fc4 turned.

    Args:
        parameters: of one network.
        orders: by layer, a key of `UNITS`, which unit comes where, (h,).
        turn: orthogonal (d, d) in front of fc4; none if not given.
    """
    moved = dict(parameters)
    for layer, order in orders.items():
        for name in UNITS[layer]["out"]:
            for kind in ("weight", "bias"):
                key = f"{name}.{kind}"
                halves = moved[key].unflatten(0, (-1, len(order)))
                moved[key] = halves[:, order].flatten(0, 1)
        for name in UNITS[layer]["in"]:
            moved[f"{name}.weight"] = moved[f"{name}.weight"][:, order]
    if turn is not None:
        for key in ("fc4.weight", "fc4.bias"):
            moved[key] = turn @ moved[key]
    return moved


def matched(reference: Parameters, other: Parameters, sweeps: int = 50) -> Parameters:
    """The other network, its units renumbered and fc4 turned so that weights resemble the reference's most.

    One assignment problem per layer, those of a first sweep by the weights that a layer reads alone (inputs
    are numbered alike in all networks), then by all weights until nothing changes.

    Args:
        reference: parameters of a network.
        other: of one of the same shapes.
        sweeps: over all layers at most.

    Raises:
        ConfigError: the networks differ in shape.

    Source:
        Ainsworth, Hayase & Srinivasa 2023 (arXiv:2209.04836), weight matching; Schönemann 1966 for fc4.
    """
    for name, value in reference.items():
        if name not in other or other[name].shape != value.shape:
            found = tuple(other[name].shape) if name in other else "nothing"
            raise ConfigError(
                f"connectivity: {name}: expected {tuple(value.shape)} in both networks, found {found}; "
                "compare networks of one family"
            )
    for sweep in range(sweeps):
        changed = False
        for layer in UNITS:
            order = _assignment(reference, other, layer, outgoing=sweep > 0)
            changed |= bool((order != torch.arange(len(order))).any())
            other = permuted(other, {layer: order.to(other["fc1.weight"].device)})
        other = permuted(other, {}, _turn(reference, other))
        if sweep and not changed:
            break
    return other


def _assignment(reference: Parameters, other: Parameters, layer: str, outgoing: bool) -> Tensor:
    """Which of the other's units comes where, by inner products of the weights into and out of it."""
    names = UNITS[layer]
    width = len(reference[f"{names['out'][0]}.bias"])
    score = 0
    for name in names["out"]:
        a, b = (_rows(part, name).unflatten(0, (-1, width)) for part in (reference, other))
        score = score + (a @ b.mT).sum(0)
    for name in names["in"] if outgoing else ():
        score = score + reference[f"{name}.weight"].mT @ other[f"{name}.weight"]
    return torch.from_numpy(linear_sum_assignment(score.double().cpu().numpy(), maximize=True)[1])


def _rows(parameters: Parameters, name: str) -> Tensor:
    """Weights and bias of each unit, (units, inputs + 1)."""
    return torch.cat([parameters[f"{name}.weight"], parameters[f"{name}.bias"].unsqueeze(1)], dim=1)


def _turn(reference: Parameters, other: Parameters) -> Tensor:
    """Orthogonal Q that brings Q·fc4 of the other closest to that of the reference."""
    U, _, Vh = torch.linalg.svd(_rows(reference, "fc4") @ _rows(other, "fc4").mT)
    return U @ Vh


def straight(start: Parameters, end: Parameters, times: Tensor) -> Parameters:
    """Networks on the straight line between two, stacked along a leading axis, (T, …)."""
    return {name: _at(times, value, None, end[name]) for name, value in start.items()}


def bezier(start: Parameters, bend: Parameters, end: Parameters, times: Tensor) -> Parameters:
    """(1 − s)²A + 2s(1 − s)C + s²B, stacked along a leading axis, (T, …)."""
    return {name: _at(times, value, bend[name], end[name]) for name, value in start.items()}


def loss_barrier(path: Tensor) -> Tensor:
    """How far the loss rises above the higher end, for losses (..., T): (...,), at least 0."""
    return path.amax(-1) - torch.maximum(path[..., 0], path[..., -1])


def fit_bend(
    start: Parameters,
    end: Parameters,
    schedule: Schedule,
    train: Batch,
    check: Batch,
    steps: int,
    learning_rate: float,
    times: Tensor,
    generator: torch.Generator,
) -> Parameters:
    """The middle of a quadratic Bézier curve along which the denoising loss stays low.

    Args:
        start: parameters of a network.
        end: of another, matched.
        schedule: their levels.
        train: what the bend is trained on.
        check: what decides whether it was worth it: else the straight line's middle is returned.
        steps: of Adam; the loss is taken at one time of the curve per step.
        learning_rate: of Adam.
        times: where the curve is checked, (T,), both ends included.
        generator: draws the times of the steps.

    Source:
        Garipov et al. 2018 (arXiv:1802.10026).
    """
    middle = {name: (value + end[name]) / 2 for name, value in start.items()}
    bend = {name: value.clone().requires_grad_() for name, value in middle.items()}
    optimiser = Adam(bend.values(), learning_rate)
    for _ in range(steps):
        time = torch.rand(1, generator=generator, dtype=torch.float64).to(times)
        loss = denoising_loss(bezier(start, bend, end, time), schedule, train).sum()
        loss.backward()
        optimiser.step()
    bend = {name: value.detach() for name, value in bend.items()}
    with torch.no_grad():
        rises = [
            loss_barrier(denoising_loss(bezier(start, c, end, times), schedule, check))
            for c in (middle, bend)
        ]
    return bend if rises[1] < rises[0] else middle


def connection(
    start: EnergyMLP,
    end: EnergyMLP,
    spec: ProblemSpec,
    seed: int = 0,
    problems: int = 500,
    steps: int = 100,
    learning_rate: float = 3e-3,
    points: int = 11,
) -> Connection:
    """Denoising loss between two networks: straight, matched, and along a curve.

    Compare with two untrained networks: a low barrier between those says how much of it needs no training.

    Args:
        start: a network.
        end: another of the same shapes and levels.
        spec: the distribution that the loss is taken on.
        seed: of problems, noise and the steps of the curve.
        problems: for the loss, and as many others to train the curve on.
        steps: of Adam for the bend.
        learning_rate: of Adam.
        points: on a path, both ends included.

    Raises:
        ConfigError: the networks differ in shape, or there are too few points or problems.
    """
    levels = start.schedule.levels
    found = {"points": points, "problems": problems, "steps": steps}
    require_least("connectivity", {"points": 3, "problems": levels, "steps": 0}, found)
    generator, schedule = torch.Generator().manual_seed(seed), start.schedule.to(torch.float64)
    check, train = (Batch.draw(spec, problems, levels, generator, start.device) for _ in range(2))
    first, second = (
        {name: value.to(start.device, torch.float64) for name, value in model.parameters.items()}
        for model in (start, end)
    )
    near = matched(first, second)
    times = torch.linspace(0, 1, points, dtype=torch.float64, device=start.device)
    bend = fit_bend(first, near, schedule, train, check, steps, learning_rate, times, generator)
    paths = {
        "straight": straight(first, second, times),
        "matched": straight(first, near, times),
        "bezier": bezier(first, bend, near, times),
    }
    with torch.no_grad():
        losses_on = {name: denoising_loss(path, schedule, check) for name, path in paths.items()}
    return Connection(losses_on, check.noise.square().mean())


def _at(times: Tensor, start: Tensor, bend: Tensor | None, end: Tensor) -> Tensor:
    s = times.reshape(-1, *[1] * start.ndim)
    if bend is None:
        return torch.lerp(start, end, s)
    return torch.lerp(torch.lerp(start, bend, s), torch.lerp(bend, end, s), s)
