"""Where a landscape is looked at: points y at every level for every problem.

Four kinds, never mixed: `q_sample` (noised right answers, what the network was trained on),
`trajectory` (where the sampler stands at the end of each level), `minimum` (a stationary point with
positive curvature reached from there) and `perturbed` (a displacement of known length).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.energy import Energy, MLPEnergy
from iredinterp.errors import ConfigError
from iredinterp.ired.sampler import sample
from iredinterp.ired.schedule import Schedule
from iredinterp.ired.tasks import Problems, ProblemSpec
from iredinterp.names import MODEL_KEYS
from iredinterp.tables import tensor_array, tensor_column

CURVATURE_FLOOR = 1e-3
# Rank of the subspaces of problems that have none: the leading singular directions.
DEFAULT_RANK = 1
# Uses of random numbers; the order is part of every seed.
STREAMS = ("q_sample", "first_state", "arms", "isotropic", "radius")
BACKTRACKING_STEPS = 30


def q_sample(y_star: Tensor, t: Tensor | int, noise: Tensor, schedule: Schedule) -> Tensor:
    """Forward-noised answers, √ᾱ_t y* + σ_t ε.

    Args:
        y_star: (B, d), right answers.
        t: level, an integer or (B,).
        noise: (B, d), ε ~ N(0, I).
        schedule: the levels.

    Returns:
        (B, d), at the scale of level t.

    Source:
        Ho, Jain & Abbeel 2020, eq. 4; `q_sample` of the official release (commit 3d74b85).
    """
    scale, sigma = schedule.sqrt_alphas_cumprod[t], schedule.sigma[t]
    if scale.ndim:
        scale, sigma = scale.unsqueeze(-1), sigma.unsqueeze(-1)
    return scale * y_star + sigma * noise


def perturbed(y: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """Points displaced by an exact distance in a uniformly random direction.

    Args:
        y: (B, d).
        radius: Euclidean length of the displacement.
        generator: source of randomness.

    Returns:
        (B, d).
    """
    direction = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.device, y.dtype)
    return y + radius * direction / direction.norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class Minima:
    """Where a descent ended.

    Attributes:
        y: (B, d).
        energy: (B,), E there.
        gradient_norm: (B,), ‖∇_yE‖₂ there.
        smallest_eigenvalue: (B,), of ∇²_yE there.
        converged: (B,), gradient within tolerance and smallest eigenvalue positive.
    """

    y: Tensor
    energy: Tensor
    gradient_norm: Tensor
    smallest_eigenvalue: Tensor
    converged: Tensor


def minimum(
    energy: Energy, x: Tensor, y: Tensor, t: Tensor | int, tolerance: float = 1e-8, max_steps: int = 100
) -> Minima:
    """Descend from y to a minimum of E(x, ·, t) by Newton steps on |∇²_yE|, halved until E does not rise.

    Args:
        energy: the landscape, float64.
        x: (B, d_x).
        y: (B, d), starting points.
        t: level, an integer or (B,).
        tolerance: on ‖∇_yE‖₂.
        max_steps: Newton steps at most.

    Returns:
        Where each search ended, and whether it is a minimum.

    Source:
        Saddle-free Newton, Dauphin et al. 2014, with backtracking.
    """
    t = torch.as_tensor(t, device=y.device).expand(len(y))
    y = y.clone()
    value, gradient = energy.energy_and_gradient(x, y, t)
    stuck = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for _ in range(max_steps):
        active = ((gradient.norm(dim=-1) > tolerance) & ~stuck).nonzero().flatten()
        if not len(active):
            break
        here = x[active], y[active], t[active]
        step = _newton_step(energy.hessian(*here), gradient[active])
        moved, value[active], gradient[active] = _backtrack(
            energy, *here, value[active], gradient[active], step
        )
        stuck[active] = (moved == here[1]).all(-1)
        y[active] = moved
    gradient_norm = gradient.norm(dim=-1)
    smallest = torch.linalg.eigvalsh(energy.hessian(x, y, t))[:, 0]
    return Minima(y, value, gradient_norm, smallest, (gradient_norm <= tolerance) & (smallest > 0))


def model_keys(
    name: str,
    energy: MLPEnergy,
    spec: ProblemSpec,
    condition: str = "trained",
    family: str | None = None,
    seed: int | None = None,
) -> dict[str, object]:
    """Values of `MODEL_KEYS` for a model from a checkpoint file, analysed on problems of `spec`.

    Args:
        name: of the model.
        energy: of its checkpoint.
        spec: the distribution of the problems.
        condition: under which it is analysed.
        family: of networks that differ in their training seed alone; the model itself if not given.
        seed: training seed; what the checkpoint says if not given.

    Raises:
        ConfigError: the network does not fit the problems.
    """
    spec.check_sizes(energy.dim_x, energy.dim_y, name)
    return {
        "model": name,
        "family": name if family is None else family,
        "condition": condition,
        "task": spec.task,
        "n": spec.n,
        "rank": spec.rank,
        "kappa": spec.kappa,
        "seed": energy.checkpoint.record.get("seed") if seed is None else seed,
        "step": energy.checkpoint.step,
        "weights": energy.checkpoint.weights,
    }


def problems_table(problems: Problems) -> pa.Table:
    """Problems as one row each.

    Args:
        problems: of one distribution.

    Returns:
        `problem_id`, the tensors `x` and `y_star` (n×m; the x of addition 2×n×m) and what the generator
        recorded.
    """
    rows, columns = problems.spec.shape
    x_shape = (2, rows, columns) if problems.spec.task == "addition" else (rows, columns)
    table = {
        "problem_id": pa.array(range(len(problems)), pa.int32()),
        "x": tensor_array(problems.x.reshape(-1, *x_shape)),
        "y_star": tensor_array(problems.y_star.reshape(-1, rows, columns)),
    }
    for name, values in problems.meta.items():
        table[name] = pa.array(values.numpy()) if values.ndim == 1 else tensor_array(values)
    return pa.table(table)


def points_table(
    energy: Energy,
    problems: pa.Table,
    keys: Mapping[str, object],
    kinds: Sequence[str],
    seed: int,
    draws: int = 1,
) -> pa.Table:
    """Points of the chosen kinds at every level of every problem.

    Noise depends on (seed, problem, draw) alone: it is shared by all levels and all models, however the
    problems are split into blocks. Trajectories depend on the split by rounding only, some 1e-7 where two
    energies tie in the sampler's accept rule.

    Args:
        energy: the landscape, which sets the levels, the trajectories and the minima.
        problems: rows of a problems table.
        keys: values of `MODEL_KEYS`, constant over the table.
        kinds: of q_sample, trajectory, minimum.
        seed: of the noise and of the sampler's first states.
        draws: noise draws (and first states) per problem.

    Returns:
        One row per point: keys, problem_id, t, sigma (σ_t), point_kind, draw, converged (null but for minima)
        and the tensor y (n×m), at the scale of level t.

    Raises:
        ConfigError: an unknown kind.
    """
    unknown = set(kinds) - {"q_sample", "trajectory", "minimum"}
    if unknown:
        raise ConfigError(f"points: kinds: unknown kind {min(unknown)!r}; use q_sample, trajectory, minimum")
    matrix_shape = tensor_column(problems, "y_star").shape[1:]
    ids = np.repeat(problems["problem_id"].to_numpy(), draws)
    draw = np.tile(np.arange(draws), len(problems))
    x, y_star = (
        tensor_column(problems, name).flatten(1).to(energy.device, energy.dtype).repeat_interleave(draws, 0)
        for name in ("x", "y_star")
    )
    wanted = problems["problem_id"].to_pylist()
    noise = {
        use: normal_draws(seed, use, wanted, draws, y_star.shape[1]).flatten(0, 1).to(y_star)
        for use in ("q_sample", "first_state")
    }
    trajectory = None
    if {"trajectory", "minimum"} & set(kinds):
        trajectory = sample(energy, x, init=noise["first_state"])
    parts = []
    for t in range(energy.schedule.levels):
        finished = None
        if trajectory is not None:
            finished = (
                energy.schedule.sqrt_alphas_cumprod[t] * trajectory.answers[energy.schedule.levels - 1 - t]
            )
        for kind in kinds:
            converged = [None] * len(ids)
            if kind == "q_sample":
                y = q_sample(y_star, t, noise["q_sample"], energy.schedule)
            elif kind == "trajectory":
                y = finished
            else:
                found = minimum(energy, x, finished, t)
                y, converged = found.y, found.converged.tolist()
            sigma = float(energy.schedule.sigma[t])
            parts.append(_rows(keys, ids, t, sigma, kind, draw, converged, y.reshape(-1, *matrix_shape)))
    return pa.concat_tables(parts)


def gradients_table(energy: Energy, points: pa.Table, problems: pa.Table) -> pa.Table:
    """E and ∇_yE at every point: its keys, `energy`, `gradient_norm` and the tensor `gradient`.

    Energies are comparable only within one (model, problem, t).

    Args:
        energy: the landscape.
        points: rows of a points table.
        problems: the problems they belong to.
    """
    x, y, t = point_tensors(energy, points, problems)
    value, gradient = energy.energy_and_gradient(x, y, t)
    table = points.drop_columns(["y"])
    table = table.append_column("energy", pa.array(value.double().cpu().numpy()))
    table = table.append_column("gradient_norm", pa.array(gradient.norm(dim=-1).double().cpu().numpy()))
    shape = tensor_column(points, "y").shape
    return table.append_column("gradient", tensor_array(gradient.double().cpu().reshape(shape)))


def point_tensors(energy: Energy, points: pa.Table, problems: pa.Table) -> tuple[Tensor, Tensor, Tensor]:
    """What a points table says, as the energy wants it.

    Args:
        energy: gives precision and device.
        points: rows of a points table.
        problems: all problems they belong to.

    Returns:
        x (B, d_x), y (B, d) and t (B,).

    Raises:
        ConfigError: a point names a problem that the problems table lacks.
    """
    x = tensor_column(problems, "x").flatten(1)[problem_rows(points, problems)]
    y = tensor_column(points, "y").flatten(1)
    t = torch.from_numpy(points["t"].to_numpy().astype(np.int64))
    return x.to(energy.device, energy.dtype), y.to(energy.device, energy.dtype), t.to(energy.device)


def point_noise(energy: Energy, points: pa.Table, problems: pa.Table) -> Tensor:
    """The noise ε = (y − √ᾱ_t y*)/σ_t of q_samples.

    Args:
        energy: gives the schedule, precision and device.
        points: rows of a points table.
        problems: all problems they belong to.

    Returns:
        (B, d).

    Raises:
        ConfigError: a point names a problem that the problems table lacks.
    """
    _, y, t = point_tensors(energy, points, problems)
    y_star = tensor_column(problems, "y_star").flatten(1)[problem_rows(points, problems)].to(y)
    schedule = energy.schedule
    return (y - schedule.sqrt_alphas_cumprod[t, None] * y_star) / schedule.sigma[t, None]


def problem_rows(points: pa.Table, problems: pa.Table) -> Tensor:
    """The row of each point's problem.

    Args:
        points: a table with `problem_id`.
        problems: the problems table.

    Returns:
        (B,), row numbers of `problems`.

    Raises:
        ConfigError: a point names a problem that the problems table lacks.
    """
    ids = problems["problem_id"].to_numpy()
    wanted = points["problem_id"].to_numpy()
    order = np.argsort(ids)
    rows = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    if not np.array_equal(ids[rows], wanted):
        raise ConfigError(
            "points: a problem_id of the points is not in the problems table; rebuild the points"
        )
    return torch.from_numpy(rows)


def point_keys(
    keys: Mapping[str, object],
    ids: Sequence[int],
    t: int,
    sigma: float,
    point_kind: str,
    draw: Sequence[int],
    converged: Sequence[bool | None] | None = None,
) -> pa.Table:
    """The columns that say which points rows speak of, see `points_table`.

    Args:
        keys: values of `MODEL_KEYS`.
        ids: problem of each row.
        t: level of all rows.
        sigma: σ_t.
        point_kind: of all rows.
        draw: of each row.
        converged: of each row; null if not given.
    """
    count = len(ids)
    columns = {name: pa.array([keys.get(name)] * count, kind) for name, kind in MODEL_KEYS.items()}
    columns |= {
        "problem_id": pa.array(ids, pa.int32()),
        "t": pa.array([t] * count, pa.int32()),
        "sigma": pa.array([sigma] * count, pa.float64()),
        "point_kind": pa.array([point_kind] * count, pa.string()),
        "draw": pa.array(draw, pa.int32()),
        "converged": pa.array(converged or [None] * count, pa.bool_()),
    }
    return pa.table(columns)


def reference_matrices(problems: pa.Table) -> Tensor:
    """The matrices whose subspaces analyses refer to: `signal`, or else `y_star`.

    Args:
        problems: a problems table.

    Returns:
        (P, n, m) float64.
    """
    return tensor_column(problems, "signal" if "signal" in problems.column_names else "y_star").double()


def reference_rank(ranks: Iterable[int | None], rank: int | None = None) -> int:
    """The rank of those subspaces: as given, else that of the problems, or 1 where they have none.

    Args:
        ranks: those of the problems.
        rank: as given.

    Raises:
        ConfigError: none is given, and the problems have several.
    """
    if rank is not None:
        return rank
    known = set(ranks)
    if len(known) != 1:
        raise ConfigError(f"rank: found null, and points of several ranks ({known}); give a number")
    return known.pop() or DEFAULT_RANK


def normal_draws(seed: int, use: str, problem_ids: Sequence[int], draws: int, size: int) -> Tensor:
    """Standard normal numbers that depend on (seed, use, problem, draw) alone.

    Args:
        seed: of all of them.
        use: one of `STREAMS`; no two share numbers.
        problem_ids: P of them.
        draws: per problem.
        size: numbers per draw.

    Returns:
        (P, draws, size) float64.
    """
    found = [_noise(seed, use, problem, draw, size) for problem in problem_ids for draw in range(draws)]
    return torch.stack(found).reshape(len(problem_ids), draws, size)


def _newton_step(hessian: Tensor, gradient: Tensor) -> Tensor:
    """−|H|⁻¹g with no eigenvalue of |H| below the floor; eigenvectors only where some are."""
    floor = CURVATURE_FLOOR * torch.linalg.matrix_norm(hessian)
    shift = torch.diag_embed(floor.unsqueeze(-1).expand_as(gradient))
    # The Frobenius norm bounds the largest eigenvalue: where this is positive definite, |H| is H.
    convex = torch.linalg.cholesky_ex(hessian - shift).info == 0
    step = torch.empty_like(gradient)
    for rows, move in ((convex, _convex_step), (~convex, _saddle_free_step)):
        if rows.any():
            step[rows] = move(hessian[rows], gradient[rows])
    return step


def _convex_step(hessian: Tensor, gradient: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(hessian)
    return -torch.cholesky_solve(gradient.unsqueeze(-1), factor).squeeze(-1)


def _saddle_free_step(hessian: Tensor, gradient: Tensor) -> Tensor:
    eigenvalues, vectors = torch.linalg.eigh(hessian)
    size = eigenvalues.abs()
    size = size.maximum(CURVATURE_FLOOR * size.amax(-1, keepdim=True))
    return -(vectors @ ((vectors.mT @ gradient.unsqueeze(-1)) / size.unsqueeze(-1))).squeeze(-1)


def _backtrack(
    energy: Energy, x: Tensor, y: Tensor, t: Tensor, value: Tensor, gradient: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where steps lead, halved until E does not rise, with E and ∇_yE there; nowhere if it always does."""
    # Close to the minimum E is flat to rounding, and a rise within rounding is no rise.
    allowed = value + 4 * torch.finfo(value.dtype).eps * value.abs()
    pending = torch.arange(len(y), device=y.device)
    reached = y.clone(), value.clone(), gradient.clone()
    for _ in range(BACKTRACKING_STEPS):
        trial = y[pending] + step[pending]
        found = trial, *energy.energy_and_gradient(x[pending], trial, t[pending])
        accepted = found[1] <= allowed[pending]
        for kept, new in zip(reached, found, strict=True):
            kept[pending[accepted]] = new[accepted]
        pending = pending[~accepted]
        if not len(pending):
            break
        step = step / 2
    return reached


def _noise(seed: int, use: str, problem_id: int, draw: int, size: int) -> Tensor:
    words = np.random.SeedSequence([seed, STREAMS.index(use), problem_id, draw])
    generator = torch.Generator().manual_seed(int(words.generate_state(1, np.uint64)[0] >> 1))
    return torch.randn(size, generator=generator, dtype=torch.float64)


def _rows(keys, ids, t: int, sigma: float, point_kind: str, draw, converged, y: Tensor) -> pa.Table:
    table = point_keys(keys, ids, t, sigma, point_kind, draw, converged)
    return table.append_column("y", tensor_array(y.double().cpu()))
