"""What a reconstruction of ∇_yE is worth to the sampler that follows it.

A reconstruction ĝ takes the gradient's place in the sampler's jump, in its inner steps, or in both. Energies,
and with them the accept rule, stay those of the landscape. The rule hides a bad ĝ, since a rejected step
leaves y where it is: read errors beside the accept rates, and beside a run that rejects nothing.

Functional fidelity is F = (M_zero − M_ĝ)/(M_zero − M_original): 1 where ĝ serves as well as the gradient, 0
where it serves as well as none. Without any gradient the sampler's rescaling blows the first state up to the
clamp, an error so large that F in both places hardly tells good reconstructions apart, and that random
directions under the accept rule can halve. ĝ is no gradient of anything, so no energy goes with it.

Source:
    Loss recovered of the language-model literature (Gao et al. 2024, arXiv:2406.04093), with the sampler's
    error in place of the model's loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.analyses.sae.names import PLACES
from iredinterp.energy import Energy
from iredinterp.errors import ConfigError
from iredinterp.ired.sampler import Trajectory, sample, unchanged
from iredinterp.tables import Metric, tidy

# (g (B, d), t) → ĝ (B, d), in the precision of g; autoencoders and dictionaries are such.
Reconstruction = Callable[[Tensor, int], Tensor]

MEASURES = ("mse", "energy_excess", "displacement", "accept_rate")
NO_GRADIENT = "the gradient is zero"
UNRESOLVED = "the interval of M_zero − M_original contains zero: the sampler does not need this gradient"


def original(g: Tensor, t: int) -> Tensor:
    """The gradient itself.

    Args:
        g: (B, d).
        t: level.

    Returns:
        (B, d).
    """
    return g


def zero(g: Tensor, t: int) -> Tensor:
    """No gradient.

    Args:
        g: (B, d).
        t: level.

    Returns:
        (B, d).
    """
    return torch.zeros_like(g)


def level_means(g: Tensor, t: Tensor) -> Reconstruction:
    """The mean of each level whatever the vector; g is (N, d), t (N,)."""
    means = {int(level): g[t == level].mean(0) for level in torch.unique(t)}
    return lambda g, t: means[t].expand_as(g)


def random_directions(generator: torch.Generator) -> Reconstruction:
    """A uniformly random direction with the norm of g, drawn anew for each vector."""

    def reconstruct(g: Tensor, t: int) -> Tensor:
        drawn = torch.randn(g.shape, generator=generator, dtype=torch.float64).to(g)
        return g.norm(dim=-1, keepdim=True) * F.normalize(drawn, dim=-1)

    return reconstruct


def substituted(
    energy: Energy, x: Tensor, init: Tensor, reconstruction: Reconstruction, place: str
) -> Trajectory:
    """A run of the sampler with a reconstruction in place of the gradient.

    Args:
        energy: the landscape.
        x: (B, d_x).
        init: (B, d), first states.
        reconstruction: ĝ of a gradient and its level.
        place: one of `PLACES`.

    Raises:
        ConfigError: an unknown place, or a reconstruction of another shape or with entries not finite.
    """
    if place not in PLACES:
        raise ConfigError(f"place {place!r} is unknown; use one of {', '.join(PLACES)}")

    def replaced(x: Tensor, y: Tensor, t: int, gradient: Tensor) -> Tensor:
        found = reconstruction(gradient, t)
        if found.shape != gradient.shape or not found.isfinite().all():
            raise ConfigError(
                f"a reconstruction at level {t} has shape {tuple(found.shape)} and "
                f"{int((~found.isfinite()).sum())} entries not finite; "
                f"it must have the gradient's shape, {tuple(gradient.shape)}, and be finite"
            )
        return found

    jump, inner, reject = PLACES[place]
    return sample(
        energy,
        x,
        init=init,
        jump_gradient=replaced if jump else unchanged,
        step_gradient=replaced if inner else unchanged,
        reject=reject,
    )


def substitution_table(
    energy: Energy,
    x: Tensor,
    y_star: Tensor,
    init: Tensor,
    reconstructions: Mapping[str, Reconstruction],
    keys: pa.Table,
    places: Sequence[str] = tuple(PLACES),
) -> pa.Table:
    """How each problem ends where a reconstruction stands in; `original` and `zero` are always among them.

    Args:
        energy: the landscape.
        x: (B, d_x).
        y_star: (B, d), right answers.
        init: (B, d), first states.
        reconstructions: by name.
        keys: B rows that name the problems, `problem_id` among their columns.
        places: of `PLACES`.

    Returns:
        A metric table keyed by `keys`, `place` and `reconstruction`: `mse` per entry of what the sampler
        returns; `energy_excess` E(answer) − E(y*) at level 0; `displacement` ‖answer − that of `original`‖
        in the same place; `accept_rate`, the share of inner steps that did not raise E.

    Raises:
        ConfigError: a reconstruction called original or zero, or as `substituted`.
    """
    if taken := {"original", "zero"} & set(reconstructions):
        raise ConfigError(f"reconstruction {min(taken)!r} is there already; give it another name")
    everything = {"original": original, "zero": zero} | dict(reconstructions)
    tables = []
    for place in places:
        answers = None
        for name, reconstruction in everything.items():
            run = substituted(energy, x, init, reconstruction, place)
            answers = run.final if answers is None else answers
            metrics = [
                Metric("mse", squared_error(run, y_star)),
                Metric("energy_excess", _energy_excess(energy, x, y_star, run)),
                Metric("displacement", (run.final - answers).norm(dim=-1)),
                Metric("accept_rate", accept_rate(run)),
            ]
            tables.append(tidy(labelled(keys, place=place, reconstruction=name), metrics))
    return pa.concat_tables(tables)


def fidelity_table(
    table: pa.Table, measure: str = "mse", level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> pa.Table:
    """Functional fidelity F with its interval, over the problems of one model.

    F is a ratio of means over problems. Its interval is a percentile bootstrap that draws problems, each with
    its three runs, so that what makes a problem hard for all three cancels.

    Args:
        table: what `substitution_table` gives for one model; blocks of problems may be joined.
        measure: M, one of `MEASURES` but accept_rate.
        level: coverage.
        resamples: bootstrap draws.
        seed: of the draws.

    Returns:
        A metric table keyed by `place` and `reconstruction`: `fidelity_<measure>` with the components
        estimate, low and high. Null where the interval of M_zero − M_original contains zero.

    Raises:
        ConfigError: an unknown measure, several rows or none for a problem and run, or fewer than two
            problems.

    Source:
        Efron & Tibshirani 1993, section 13.3.
    """
    if measure not in MEASURES[:3]:
        raise ConfigError(f"measure {measure!r} is unknown; use one of {', '.join(MEASURES[:3])}")
    rows = table.filter(pc.equal(table["metric"], measure)).to_pandas()
    if rows.duplicated(["place", "reconstruction", "problem_id"]).any():
        raise ConfigError("a problem has several rows for one run; give the table of one model at a time")
    keys, values = [], []
    for place, runs in rows.groupby("place"):
        means = runs.pivot(index="problem_id", columns="reconstruction", values="value")
        if means.isna().any(axis=None):
            lacking = means.index[means.isna().any(axis=1)][0]
            raise ConfigError(f"problem {lacking} lacks a run at {place!r}; give every problem the same runs")
        if len(means) < 2:
            raise ConfigError(f"{len(means)} problem cannot be resampled; fidelity needs at least two")
        names = list(means.columns)
        samples = resampled_means(means.to_numpy(), resamples, seed)
        for name in names:
            picked = [names.index(each) for each in ("zero", name, "original")]
            keys.append({"place": place, "reconstruction": name})
            values.append(_fidelity(means.to_numpy().mean(0)[picked], samples[:, picked], level))
    columns = torch.tensor(values, dtype=torch.float64).unbind(1)
    parts = zip(("estimate", "low", "high"), columns, strict=True)
    metrics = [Metric(f"fidelity_{measure}", column, part, UNRESOLVED) for part, column in parts]
    return tidy(pa.Table.from_pylist(keys), metrics)


def descent_table(
    g: Tensor, t: Tensor, problem: Tensor, reconstructions: Mapping[str, Reconstruction]
) -> pa.Table:
    """To first order, how much of the descent along g is kept by following ĝ.

    Args:
        g: (N, d), gradients.
        t: (N,), levels.
        problem: (N,), problem ids.
        reconstructions: by name.

    Returns:
        A metric table keyed by `problem_id`, `t` and `reconstruction`; sums run over the vectors of a problem
        and level: `descent_kept` Σ⟨g, ĝ⟩/Σ‖g‖², the share of the drop of E that small steps keep, and
        `descent_positive`, the share of vectors where a small step along −ĝ lowers E, of those where g ≠ 0.
    """
    tables = []
    for name, reconstruction in reconstructions.items():
        for level in torch.unique(t).tolist():
            rows = t == level
            drop = (g[rows] * reconstruction(g[rows], level)).sum(-1)
            whole = g[rows].square().sum(-1)
            ids, which = torch.unique(problem[rows], return_inverse=True)
            keys = pa.table({"problem_id": pa.array(ids.cpu().numpy()).cast(pa.int32())})
            keys = labelled(keys, t=pa.scalar(level, pa.int32()), reconstruction=name)
            shares = {"descent_kept": (drop, whole), "descent_positive": (drop > 0, whole > 0)}
            metrics = [
                Metric(share, _group_ratios(*pair, which, len(ids)), reason=NO_GRADIENT)
                for share, pair in shares.items()
            ]
            tables.append(tidy(keys, metrics))
    return pa.concat_tables(tables)


def squared_error(run: Trajectory, y_star: Tensor) -> Tensor:
    """Of what the sampler returns, mean over entries, (B,)."""
    return (run.final - y_star).square().mean(-1)


def accept_rate(run: Trajectory) -> Tensor:
    """Share of inner steps that did not raise E, (B,)."""
    return run.accepted.double().mean((0, 1))


def labelled(keys: pa.Table, **labels: str | pa.Scalar) -> pa.Table:
    """Keys with constant columns added."""
    for name, value in labels.items():
        keys = keys.append_column(name, pa.repeat(value, len(keys)))
    return keys


def resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Bootstrap means over problems; every column sees the same draws, so contrasts of columns are paired.

    Args:
        values: (P, k).
        resamples: R, how often P problems are drawn with replacement.
        seed: of the draws.

    Returns:
        (R, k).
    """
    count = len(values)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return times @ values / count


def _energy_excess(energy: Energy, x: Tensor, y_star: Tensor, run: Trajectory) -> Tensor:
    right = energy.schedule.sqrt_alphas_cumprod[0] * y_star
    return energy.energy(x, run.final, 0) - energy.energy(x, right, 0)


def _fidelity(means: np.ndarray, samples: np.ndarray, level: float) -> tuple[float, float, float]:
    """F and its interval, from M_zero, M_ĝ and M_original (3,) and their resamples (R, 3)."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    needed = samples[:, 0] - samples[:, 2]
    low, high = np.quantile(needed, tails)
    if low <= 0 <= high:
        return (np.nan,) * 3
    # A draw or two beyond the interval may still come to zero.
    safe = np.where(needed == 0, np.nan, needed)
    bounds = np.nanquantile((samples[:, 0] - samples[:, 1]) / safe, tails)
    return float((means[0] - means[1]) / (means[0] - means[2])), float(bounds[0]), float(bounds[1])


def _group_ratios(part: Tensor, whole: Tensor, which: Tensor, count: int) -> Tensor:
    """Σ part/Σ whole over the entries of each of `count` groups."""
    sums = part.new_zeros(2, count, dtype=torch.float64)
    top, bottom = sums.index_add(1, which, torch.stack([part, whole]).double())
    return top / bottom
