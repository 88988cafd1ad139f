"""What single latents do to the sampler's answers: take one away, or add to it, and see what changes.

An effect means something only beside that of other vectors of the same size. So every latent has controls:
latents used as often and as strongly, and random directions.

Source:
    Ablation and steering along sparse-autoencoder latents: Bricken et al. 2023; Templeton et al. 2024.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.analyses.sae.fidelity import (
    Reconstruction,
    accept_rate,
    labelled,
    original,
    resampled_means,
    squared_error,
    substituted,
)
from iredinterp.analyses.sae.model import SparseAutoencoder
from iredinterp.energy import Energy
from iredinterp.errors import ConfigError
from iredinterp.tables import Metric, tidy

# Vectors encoded at a time.
CHUNK = 4096
# Of ln frequency and ln size, where latents do not differ in one of them.
LEAST_SPREAD = 1e-9
METRICS = ("mse_change", "accept_change")
CONTROLS = ("matched", "random")
# What tells interventions apart.
ARM = ("latent", "intervention", "dose")
SUMMARY_KEYS = pa.schema(
    {"latent": pa.int32(), "intervention": pa.string(), "dose": pa.float64(), "role": pa.string()}
)


def ablated(autoencoder: SparseAutoencoder, latent: int, direction: Tensor | None = None) -> Reconstruction:
    """The gradient without the part that a latent writes, g − zᵢ·atomᵢ; what the autoencoder misses is kept.

    Args:
        autoencoder: whose latent.
        latent: i.
        direction: (d,), a unit vector; take as much away along it instead of along the atom.
    """
    atom = _atom(autoencoder, latent, direction)
    return lambda g, t: g - autoencoder.encode(g, t)[:, [latent]] * atom(t)


def steered(
    autoencoder: SparseAutoencoder, latent: int, amount: float, direction: Tensor | None = None
) -> Reconstruction:
    """The gradient with a latent's code raised by `amount` everywhere, g + amount·atomᵢ.

    Other arguments as in `ablated`.
    """
    atom = _atom(autoencoder, latent, direction)
    return lambda g, t: g + amount * atom(t)


def latent_statistics(autoencoder: SparseAutoencoder, g: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """How often each latent is in use, and the mean |zᵢ| when it is, NaN where it never is; both (m,).

    Args:
        autoencoder: whose latents.
        g: (N, d).
        t: (N,), levels.
    """
    used, total = (torch.zeros(autoencoder.width, dtype=torch.float64, device=g.device) for _ in range(2))
    for level in torch.unique(t).tolist():
        for rows in g[t == level].split(CHUNK):
            codes = autoencoder.encode(rows, level)
            used += (codes != 0).sum(0)
            total += codes.abs().double().sum(0)
    return used / len(g), total / used


def written_variance(autoencoder: SparseAutoencoder, g: Tensor, t: Tensor) -> Tensor:
    """How much of the vectors each latent writes, Σ zᵢ²‖atomᵢ‖²/Σ‖x‖²; x, z and atoms are standardised.

    By it one chooses the latents to intervene on. Atoms are not orthogonal, so the shares of all latents do
    not add up to the variance explained.

    Args:
        autoencoder: whose latents.
        g: (N, d), raw.
        t: (N,), levels.

    Returns:
        (m,), NaN where every x is zero.
    """
    written = torch.zeros(autoencoder.width, dtype=torch.float64, device=g.device)
    whole = torch.zeros((), dtype=torch.float64, device=g.device)
    for rows, levels in zip(g.split(CHUNK), t.split(CHUNK), strict=True):
        written += autoencoder.encode(rows, levels).double().square().sum(0)
        scale = autoencoder.standardisation
        whole += (rows if scale is None else scale.apply(rows, levels)).double().square().sum()
    return written * autoencoder.W_dec.double().square().sum(1) / whole


def matched_latents(frequency: Tensor, size: Tensor, latent: int, count: int) -> Tensor:
    """The latents most like one in how often and how strongly they are in use, nearest first, (count,).

    Nearness is measured in ln frequency and ln size, each in standard deviations over the latents in use.

    Args:
        frequency: (m,), as from `latent_statistics`.
        size: (m,), likewise.
        latent: which one; not among the results.
        count: how many.

    Raises:
        ConfigError: the latent is never in use, or too few others are.
    """
    alive = (frequency > 0).nonzero().flatten()
    if latent not in alive:
        raise ConfigError(f"latent {latent} is never in use on these vectors; choose another one")
    if len(alive) <= count:
        raise ConfigError(f"{count} matched latents asked for, but only {len(alive) - 1} others are in use")
    traits = torch.stack([frequency, size], 1).log()
    distance = ((traits - traits[latent]) / traits[alive].std(0).clamp(min=LEAST_SPREAD)).norm(dim=1)
    others = alive[alive != latent]
    return others[distance[others].argsort(stable=True)[:count]]


def feature_effects(
    energy: Energy,
    x: Tensor,
    y_star: Tensor,
    init: Tensor,
    autoencoder: SparseAutoencoder,
    latents: Sequence[int],
    statistics: tuple[Tensor, Tensor],
    keys: pa.Table,
    generator: torch.Generator,
    *,
    doses: Sequence[float] = (-1.0, 1.0),
    controls: int = 3,
    place: str = "both",
) -> pa.Table:
    """What taking single latents away, or adding to them, does to each problem, and what controls do.

    Controls of a latent are those nearest to it in frequency and size, and random directions. Ablating a
    matched latent takes its own part away, ablating a random direction as much as the latent's atom carries;
    steering adds a vector of the same length along the atom and along every control.

    Args:
        energy: the landscape.
        x: (B, d_x).
        y_star: (B, d).
        init: (B, d), first states.
        autoencoder: in the precision of the energy.
        latents: which to study.
        statistics: of the latents, from `latent_statistics`.
        keys: B rows that name the problems.
        generator: of the random directions.
        doses: amounts to steer by, in units of the latent's mean |z| when in use.
        controls: of either kind, per latent.
        place: one of `PLACES`.

    Returns:
        A metric table keyed by `keys`, `latent`, `role` (latent, matched, random), `control` (its number, 0
        for the latent), `intervention` (ablate, steer) and `dose` (null for ablate): `mse_change` and
        `accept_change` against the run with the true gradient.

    Raises:
        ConfigError: as `matched_latents` and `substituted`.
    """
    frequency, size = statistics
    baseline = substituted(energy, x, init, original, place)
    tables = []
    for latent in latents:
        matched = matched_latents(frequency, size, latent, controls).tolist()
        drawn = torch.randn(controls, autoencoder.d_in, generator=generator, dtype=torch.float64).to(x)
        arms = [("latent", 0, ablated(autoencoder, latent), None)]
        arms += [("matched", number, ablated(autoencoder, i), None) for number, i in enumerate(matched)]
        directions = [("matched", n, F.normalize(autoencoder.W_dec[i], dim=0)) for n, i in enumerate(matched)]
        random = [("random", n, direction) for n, direction in enumerate(F.normalize(drawn, dim=1))]
        arms += [(role, n, ablated(autoencoder, latent, u), None) for role, n, u in random]
        arms += [
            (role, number, steered(autoencoder, latent, dose * float(size[latent]), u), dose)
            for dose in doses
            for role, number, u in [("latent", 0, None), *directions, *random]
        ]
        for role, number, changed, dose in arms:
            run = substituted(energy, x, init, changed, place)
            metrics = [
                Metric("mse_change", squared_error(run, y_star) - squared_error(baseline, y_star)),
                Metric("accept_change", accept_rate(run) - accept_rate(baseline)),
            ]
            arm = labelled(
                keys,
                latent=pa.scalar(latent, pa.int32()),
                role=role,
                control=pa.scalar(number, pa.int32()),
                intervention="ablate" if dose is None else "steer",
                dose=pa.scalar(dose, pa.float64()),
            )
            tables.append(tidy(arm, metrics))
    return pa.concat_tables(tables)


def effect_summary(table: pa.Table, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> pa.Table:
    """Mean effects of single latents and of their controls, and what a latent does beyond these.

    Controls of a kind are averaged within each problem. Intervals are percentile bootstraps that draw
    problems, the same ones for every row, so that what all interventions share in a problem cancels in the
    contrasts.

    Args:
        table: what `feature_effects` gives for one model; blocks of problems or latents may be joined.
        level: coverage.
        resamples: bootstrap draws.
        seed: of the draws.

    Returns:
        A metric table keyed by `latent`, `intervention`, `dose` (null for ablate) and `role` (latent,
        matched, random, "latent − matched", "latent − random"): `mse_change` and `accept_change`, means over
        problems, with the components estimate, low and high.

    Raises:
        ConfigError: several rows or none for a problem and run, or fewer than two problems.

    Source:
        Efron & Tibshirani 1993, section 13.3.
    """
    rows = table.to_pandas()
    if rows.duplicated(["metric", *ARM, "problem_id", "role", "control"]).any():
        raise ConfigError("a problem has several rows for one run; give the table of one model at a time")
    # The dose of an ablation is null, and pandas would drop it.
    means = rows.groupby(["metric", *ARM, "problem_id", "role"], dropna=False)["value"].mean()
    means = means.unstack("role").reindex(columns=["latent", *CONTROLS])
    for control in CONTROLS:
        means[f"latent − {control}"] = means["latent"] - means[control]
    means = means.stack().unstack("problem_id")
    _check_problems(means)
    samples = resampled_means(means.to_numpy().T, resamples, seed)
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    found = pd.DataFrame({"estimate": means.mean(axis=1), "low": low, "high": high}, means.index)
    metrics = [
        Metric(name, torch.tensor(found.loc[name, part].to_numpy()), part)
        for name in METRICS
        for part in found.columns
    ]
    keys = found.loc[METRICS[0]].index.to_frame(index=False)
    return tidy(pa.Table.from_pandas(keys, SUMMARY_KEYS, preserve_index=False), metrics)


def _check_problems(means: pd.DataFrame) -> None:
    """Rows are runs, columns problems."""
    if means.shape[1] < 2:
        raise ConfigError(f"{means.shape[1]} problem cannot be resampled; intervals need at least two")
    gaps = np.argwhere(means.isna().to_numpy())
    if len(gaps):
        run, problem = gaps[0]
        _, latent, intervention, _, role = means.index[run]
        raise ConfigError(
            f"latent {latent}: problem {means.columns[problem]} lacks a run ({intervention}, role {role}); "
            "give every problem the same runs"
        )


def _atom(autoencoder: SparseAutoencoder, latent: int, direction: Tensor | None) -> Callable[[int], Tensor]:
    """What a unit of a latent's code adds to raw vectors of a level, or that length along a direction."""

    @functools.cache
    def at(t: int) -> Tensor:
        atom = autoencoder.folded(t).W_dec[latent]
        return atom if direction is None else atom.norm() * direction.to(atom)

    return at
