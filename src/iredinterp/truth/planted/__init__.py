"""Planted IRED: IRED's own network with weights set by hand, so that everything about it is known.

swish(z) − swish(−z) = z, so two opposite units carry a number through a swish layer unchanged: a wire.
Layer 1 carries Qᵀy and QᵀBx, layer 2 scales the second by √ᾱ_t, layer 3 subtracts and scales by √(a_i(t)/2),
fc4 rotates by any orthogonal matrix, and ‖fc4(h₃)‖² is

    E(x, y, t) = ½ (y − √ᾱ_t Bx)ᵀ Q diag(a(t)) Qᵀ (y − √ᾱ_t Bx).

The ten level embeddings are linearly independent, so FiLM can give every unit any gain at every level.
Decoys add units that a careless method mistakes for the circuit, or the circuit for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from iredinterp.energy import MLPEnergy
from iredinterp.errors import CheckpointError, ConfigError
from iredinterp.ired.checkpoint import load_checkpoint, save_checkpoint
from iredinterp.ired.model import EnergyMLP
from iredinterp.truth.analytic import haar_orthogonal
from iredinterp.truth.planted.draft import LAYERS, Draft, time_parameters
from iredinterp.truth.planted.truth import PlantedTruth, planted_schedule, posterior_spectrum

# What can be planted beside the circuit, with a handful of each.
EVERY_DECOY = {"dead_end": 4, "cancelling": 2, "redundant": 2, "saturated": 1, "gated": 1}
# Largest of the default posterior's standard deviations, and the smallest.
SCALES = (0.5, 0.05)
GATED_LEVELS = 3
GATED_SHARE = 0.5
# Weights of one record differ by 2e-8 between kinds of processors, and altogether from another random stream.
SAME_WEIGHTS = 1e-6


@dataclass(frozen=True)
class Planted:
    """A planted network with its truth.

    Attributes:
        model: the network, float64.
        truth: what is known about it.
        construction: arguments of `planted` that build both again, JSON-ready.
    """

    model: EnergyMLP
    truth: PlantedTruth
    construction: Mapping


def planted(
    dim_x: int,
    dim_y: int,
    seed: int,
    spectrum: Tensor | None = None,
    hidden: int | None = None,
    decoys: Mapping[str, int] | None = None,
    symmetric: bool = False,
) -> Planted:
    """A network of IRED's architecture whose energy, derivatives, sampler runs and circuit are known.

    The energy depends on the sizes, the seed, the spectrum and the gated branches; every other decoy, the
    hidden width and the shuffled slots leave it unchanged.

    Args:
        dim_x: d_x.
        dim_y: d.
        seed: of the eigenvectors Q, the map B, the gauge, the default spectrum, the decoys and the slots.
        spectrum: (K, d), eigenvalues a_i(t) > 0 before gated branches; if not given, that of a Gaussian
            posterior with standard deviations between .05 and .5, log-uniform (see `posterior_spectrum`).
        hidden: h; the smallest sufficient multiple of 32 if not given.
        decoys: how many of which (`EVERY_DECOY` has all): per layer, units read by nobody ("dead_end"), pairs
            that cancel ("cancelling") and circuit units split in two ("redundant"); in all, units without
            gradient that matter ("saturated") and branches open at three levels, where they raise one
            eigenvalue by half ("gated").
        symmetric: whether y is an n×n matrix and the eigenvectors are symmetric and skew matrices, the
            symmetric ones first; the default spectrum is then softest first. Answers so vary along the
            symmetric matrices and hardly across, as a landscape that knows of that manifold would have it.

    Returns:
        The network, what is known of it, and the arguments that build both again.

    Raises:
        ConfigError: a size, the spectrum, the hidden width or a decoy is impossible; says what to give.
    """
    for name, size in (("dim_x", dim_x), ("dim_y", dim_y)):
        if size < 1:
            raise ConfigError(f"{name}: expected at least 1, found {size}")
    generator = torch.Generator().manual_seed(seed)
    schedule = planted_schedule()
    decoys = _checked_decoys(decoys or {}, dim_y)
    hidden = _checked_hidden(hidden, dim_y, decoys)
    eigenbasis = (_symmetric_eigenbasis if symmetric else haar_orthogonal)(dim_y, generator)
    gauge = haar_orthogonal(dim_y, generator)
    slope = torch.randn(dim_y, dim_x, generator=generator, dtype=torch.float64) / (2 * math.sqrt(dim_x))
    scales = _default_scales(dim_y, generator)
    base = posterior_spectrum(scales.sort(descending=True).values if symmetric else scales)
    if spectrum is not None:
        base = _checked_spectrum(spectrum, schedule.levels, dim_y)
    gated, extra = _gates(base, decoys["gated"], generator)
    steady = torch.randperm(dim_y, generator=generator)[: decoys["saturated"]].tolist()

    draft = Draft(dim_x + dim_y, dim_y, hidden, schedule.levels)
    draft.lay_circuit(eigenbasis, slope, schedule.sqrt_alphas_cumprod, base, steady, gated, extra)
    draft.weights[4] = gauge @ draft.weights[4]
    for layer in LAYERS:
        draft.add_dead_ends(layer, decoys["dead_end"], generator)
        draft.add_cancelling_pairs(layer, decoys["cancelling"], generator)
        draft.split(layer, decoys["redundant"], generator)
    draft.shuffle(generator)
    parameters = draft.parameters() | time_parameters(schedule.levels, generator)

    truth = PlantedTruth(
        dim_x=dim_x,
        schedule=schedule,
        eigenbasis=eigenbasis,
        slope=slope,
        spectrum=base + extra,
        gauge=gauge,
        roles={layer: tuple(draft.roles[layer]) for layer in LAYERS},
        directions=draft.directions,
        signals={layer: tuple(draft.signals[layer]) for layer in LAYERS},
        gains={layer: draft.gains[layer] for layer in (2, 3)},
        pairs=tuple(draft.pairs),
        saturated=tuple(draft.saturated),
        branches=tuple(draft.branches),
    )
    construction = {
        "dim_x": dim_x,
        "dim_y": dim_y,
        "seed": seed,
        "spectrum": None if spectrum is None else base.tolist(),
        "hidden": hidden,
        "decoys": decoys,
        "symmetric": symmetric,
    }
    return Planted(EnergyMLP(parameters, schedule), truth, construction)


def planted_energy(
    dim_x: int,
    dim_y: int,
    seed: int,
    spectrum: Tensor | None = None,
    hidden: int | None = None,
    decoys: Mapping[str, int] | None = None,
    symmetric: bool = False,
) -> MLPEnergy:
    """The energy of a planted network, as an analysis sees it.

    Args:
        dim_x, dim_y, seed, spectrum, hidden, decoys, symmetric: as in `planted`.

    Returns:
        The energy, float64.

    Raises:
        ConfigError: as in `planted`.
    """
    return MLPEnergy(planted(dim_x, dim_y, seed, spectrum, hidden, decoys, symmetric).model)


def save_planted(planted: Planted, path: str | Path) -> None:
    """Write the network as an ordinary safetensors checkpoint in float64, with the way to build it again.

    Args:
        planted: what to write, as its "ema" weights.
        path: file to write.
    """
    record = {"seed": planted.construction["seed"], "planted": dict(planted.construction)}
    save_checkpoint(path, {"ema": planted.model.parameters}, planted.model.schedule, 0, record)


def read_planted_truth(path: str | Path) -> PlantedTruth:
    """The truth about a checkpoint written by `save_planted`, built again from its record.

    A network undoes the sinusoidal embedding, which IRED computes in float32, as the machine that wrote it
    rounds sines. On another kind of processor its energies keep to the truth to 1e-8 only.

    Raises:
        CheckpointError: the file is no planted checkpoint, or its weights are not what its record builds.
    """
    checkpoint = load_checkpoint(path)
    construction = checkpoint.record.get("planted")
    if construction is None:
        raise CheckpointError(
            f"{path}: record: expected the key 'planted', found {sorted(checkpoint.record)}; "
            f"only checkpoints written by save_planted come with a truth"
        )
    spectrum = construction["spectrum"]
    if spectrum is not None:
        spectrum = torch.tensor(spectrum, dtype=torch.float64)
    again = planted(**construction | {"spectrum": spectrum})
    for name, value in again.model.parameters.items():
        if not torch.allclose(value, checkpoint.model.parameters[name].to(value), rtol=0, atol=SAME_WEIGHTS):
            raise CheckpointError(
                f"{path}: key {name!r}: not the weights that the file's record builds with this version; "
                f"write the file again with save_planted"
            )
    return again.truth


def _symmetric_eigenbasis(dim_y: int, generator: torch.Generator) -> Tensor:
    """Random orthonormal symmetric, then skew n×n matrices as the columns of an orthogonal (n², n²)."""
    n = math.isqrt(dim_y)
    if n * n != dim_y:
        raise ConfigError(f"symmetric: needs dim_y = n², found dim_y={dim_y}; give square matrices")
    units = torch.eye(dim_y, dtype=torch.float64).unflatten(0, (n, n))
    upper, lower = torch.triu_indices(n, n, 1)
    off = (units[upper, lower] + units[lower, upper]) / math.sqrt(2)
    skew = (units[upper, lower] - units[lower, upper]) / math.sqrt(2)
    diagonal = torch.arange(n)
    parts = (torch.cat([units[diagonal, diagonal], off]), skew)
    return torch.cat([part.mT @ haar_orthogonal(len(part), generator) for part in parts], dim=1)


def _default_scales(dim_y: int, generator: torch.Generator) -> Tensor:
    largest, smallest = SCALES
    return largest * (smallest / largest) ** torch.rand(dim_y, generator=generator, dtype=torch.float64)


def _gates(base: Tensor, count: int, generator: torch.Generator) -> tuple[list[int], Tensor]:
    """Random directions for gated branches, and the curvature that these add, (K, d)."""
    levels, dim_y = base.shape
    directions = torch.randperm(dim_y, generator=generator)[:count].tolist()
    extra = torch.zeros_like(base)
    for direction in directions:
        is_open = torch.randperm(levels, generator=generator)[:GATED_LEVELS]
        extra[is_open, direction] = GATED_SHARE * base[is_open, direction]
    return directions, extra


def _checked_decoys(decoys: Mapping[str, int], dim_y: int) -> dict[str, int]:
    unknown = sorted(set(decoys) - set(EVERY_DECOY))
    if unknown:
        raise ConfigError(f"decoys: {unknown[0]!r} is not defined; give some of {', '.join(EVERY_DECOY)}")
    counts = dict.fromkeys(EVERY_DECOY, 0) | dict(decoys)
    for name, count in counts.items():
        most = {"redundant": 2 * dim_y, "saturated": dim_y, "gated": dim_y}.get(name)
        if count < 0 or (most is not None and count > most):
            limit = "at least 0" if most is None else f"0 … {most} with dim_y={dim_y}"
            raise ConfigError(f"decoys: {name}: expected {limit}, found {count}")
    return counts


def _checked_hidden(hidden: int | None, dim_y: int, decoys: Mapping[str, int]) -> int:
    everywhere = decoys["dead_end"] + 2 * decoys["cancelling"] + decoys["redundant"]
    needed = everywhere + max(4 * dim_y + decoys["saturated"], 2 * dim_y + 2 * decoys["gated"])
    if hidden is None:
        return 32 * math.ceil(needed / 32)
    if hidden < needed:
        raise ConfigError(
            f"hidden: expected at least {needed} for dim_y={dim_y} and the decoys asked for, found {hidden}; "
            f"give a larger hidden or fewer decoys"
        )
    return hidden


def _checked_spectrum(spectrum: Tensor, levels: int, dim_y: int) -> Tensor:
    if tuple(spectrum.shape) != (levels, dim_y):
        raise ConfigError(
            f"spectrum: expected shape {(levels, dim_y)}, one eigenvalue per level and dimension, "
            f"found {tuple(spectrum.shape)}"
        )
    spectrum = spectrum.to("cpu", torch.float64)
    wrong = ~(spectrum.isfinite() & (spectrum > 0))
    if wrong.any():
        t, i = wrong.nonzero()[0].tolist()
        raise ConfigError(
            f"spectrum: expected positive numbers, found {float(spectrum[t, i])} at level {t}, dimension "
            f"{i}; E = ‖fc4(h₃)‖² is never negative: give eigenvalues above 0"
        )
    return spectrum
