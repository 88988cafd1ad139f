"""The three tangent kernels of IRED's network, from factors.

Θ_E belongs to the energy, Θ_r to the outputs of fc4, and Θ_g = ∂_θg ∂_θg′ᵀ (d×d for every two points) to the
gradient field g = ∇_yE, which is what score matching trains: a step of gradient descent of size h on a loss L
of g moves g by −hΘ_g ∂L/∂g.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from iredinterp.analyses.ntk.factors import Factors, LayerFactors, Points
from iredinterp.analyses.ntk.names import LAYERS
from iredinterp.errors import ConfigError
from iredinterp.ired.model import TIME_WIDTH, EnergyMLP

# Of factors or products held at a time; larger ones gain nothing (measured).
BYTES = 64_000_000
# Points compared with each other at a time.
TILE = 128


class Directions(NamedTuple):
    """Which directions of y a trace is taken over.

    Attributes:
        exact: orthonormal, (m, d), whose terms are summed.
        probes: random, (k, d), in the complement of these, whose terms are averaged; k is 0 or at least 2.
    """

    exact: Tensor
    probes: Tensor


class Trace(NamedTuple):
    """Traces with their standard errors, 0 where exact.

    Attributes:
        value: (B, B′), or (8, B, B′) by layer, in the order of `LAYERS`.
        stderr: (B, B′), of the sum over layers.
    """

    value: Tensor
    stderr: Tensor


def every_direction(like: Tensor) -> Directions:
    """All d directions, for the exact trace; `like` is any (…, d)."""
    d = like.shape[-1]
    return Directions(torch.eye(d).to(like), torch.empty(0, d).to(like))


def probe_directions(
    like: Tensor, count: int, generator: torch.Generator, basis: Tensor | None = None
) -> Directions:
    """Random signs in the complement of a subspace on which the trace is exact.

    For any orthonormal Q that does not depend on the probes tr Θ = tr QᵀΘQ + tr(I − QQᵀ)Θ(I − QQᵀ), and only
    the second term is estimated: without bias, and with little variance where Q spans leading eigenvectors.

    Args:
        like: any (…, d), for precision and device.
        count: probes, at least 2.
        generator: of the signs, on the CPU.
        basis: Q, (d, m); empty if not given. With m = d there is nothing left to estimate.

    Raises:
        ConfigError: fewer than 2 probes, which have no standard error.

    Source:
        Hutchinson 1990; Hutch++, Meyer et al. 2021 (arXiv:2010.09649); for tangent kernels, Hazelden 2025
        (arXiv:2511.10796).
    """
    if count < 2:
        raise ConfigError(f"ntk.kernels.probes: found {count}, allowed ≥ 2; some 10 give 5 %")
    d = like.shape[-1]
    signs = torch.randint(0, 2, (count, d), generator=generator).to(like) * 2 - 1
    if basis is None:
        return Directions(signs[:0], signs)
    if basis.shape[1] == d:
        return Directions(basis.mT, signs[:0])
    return Directions(basis.mT, signs - (signs @ basis) @ basis.mT)


def pilot_basis(model: EnergyMLP, points: Points, size: int) -> Tensor:
    """The leading eigenvectors of the mean of Θ_g(p, p) over a few points, (d, size)."""
    blocks = gradient_kernel_blocks(model, points).diagonal().mean(-1)
    return torch.linalg.eigh(blocks).eigenvectors[:, -size:]


@torch.no_grad()
def energy_kernel(
    model: EnergyMLP, points: Points, others: Points | None = None, by_layer: bool = False
) -> Tensor:
    """Θ_E = Σ_l (δ_l·δ′_l)(1 + a_l·a′_l).

    Args:
        model: one network.
        points: B points.
        others: B′ points; the same if not given.
        by_layer: keep the layers apart.

    Returns:
        (B, B′), or (8, B, B′) in the order of `LAYERS`.

    Raises:
        ValueError: no such level.
    """
    one, two = _both(model, points, others)
    return _summed(
        (
            (one.energy_cotangents[name] @ two.energy_cotangents[name].mT)
            * (1 + one.inputs[name] @ two.inputs[name].mT)
            for name in LAYERS
        ),
        by_layer,
    )


@torch.no_grad()
def output_kernel(
    model: EnergyMLP, points: Points, others: Points | None = None, by_layer: bool = False
) -> Tensor:
    """Trace of Θ_r over the d outputs r of fc4, which a rotation of them leaves unchanged.

    Args:
        model: one network.
        points: B points.
        others: B′ points; the same if not given.
        by_layer: keep the layers apart.

    Returns:
        (B, B′), or (8, B, B′) in the order of `LAYERS`.

    Raises:
        ValueError: no such level.
    """
    one, two = _both(model, points, others)
    grams = dict.fromkeys(LAYERS, 0)
    for part in torch.eye(model.dim_y).to(points.y).split(_at_once(model, points, others)):
        left = one.of_outputs(part)
        right = left if two is one else two.of_outputs(part)
        for name in LAYERS:
            grams[name] = grams[name] + torch.einsum("kbo,kco->bc", left[name], right[name])
    inner = (1 + one.inputs[name] @ two.inputs[name].mT for name in LAYERS)
    return _summed((gram * factor for gram, factor in zip(grams.values(), inner, strict=True)), by_layer)


@torch.no_grad()
def gradient_kernel_trace(
    model: EnergyMLP,
    points: Points,
    others: Points | None = None,
    directions: Directions | None = None,
    by_layer: bool = False,
) -> Trace:
    """T(p, p′) = tr Θ_g(p, p′) of all pairs, from directions shared by all of them.

    Args:
        model: one network.
        points: B points.
        others: B′ points; the same if not given, which halves the work.
        directions: those of `every_direction` if not given, and the trace is exact.
        by_layer: keep the layers apart.

    Returns:
        T, (B, B′), or (8, B, B′) in the order of `LAYERS`, and its standard error.

    Raises:
        ValueError: no such level.
    """
    one, two = _both(model, points, others)
    directions = directions or every_direction(points.y)
    shape = (len(LAYERS), len(one.inputs["fc1"]), len(two.inputs["fc1"]))
    value, spread = points.y.new_zeros(shape), points.y.new_zeros(shape[1:])
    at_once = _at_once(model, points, others)
    for part in directions.exact.split(at_once):
        for rows, columns, products in _tiles(one, two, part):
            value[:, rows, columns] += products.sum(1)
    count = len(directions.probes)
    if count:
        mean, squares = torch.zeros_like(value), torch.zeros_like(spread)
        for part in directions.probes.split(at_once):
            for rows, columns, products in _tiles(one, two, part):
                mean[:, rows, columns] += products.sum(1) / count
                squares[rows, columns] += products.sum(0).square().sum(0) / count
        value += mean
        spread = ((squares - mean.sum(0).square()).clamp(min=0) / (count - 1)).sqrt()
    if two is one:
        value, spread = _mirrored(value), _mirrored(spread)
    return Trace(value if by_layer else value.sum(0), spread)


@torch.no_grad()
def gradient_kernel_blocks(
    model: EnergyMLP, points: Points, others: Points | None = None, by_layer: bool = False
) -> Tensor:
    """Θ_g of a few points, exactly.

    Args:
        model: one network.
        points: B points.
        others: B′ points; the same if not given.
        by_layer: keep the layers apart.

    Returns:
        (B, B′, d, d), or (8, B, B′, d, d) in the order of `LAYERS`.

    Raises:
        ValueError: no such level.
    """
    one, two = _both(model, points, others)
    directions = torch.eye(model.dim_y).to(points.y)
    left = one.along(directions)
    right = left if two is one else two.along(directions)
    return _summed((_layer_blocks(left[name], right[name]) for name in LAYERS), by_layer)


def _layer_blocks(one: LayerFactors, two: LayerFactors) -> Tensor:
    inner = 1 + one.inputs @ two.inputs.mT
    bars = torch.einsum("ibo,jco->bcij", one.cotangent_tangents, two.cotangent_tangents)
    total = bars * inner[..., None, None]
    if one.input_tangents is None:
        return total
    moving, others = (part.input_tangents.expand(-1, len(part.inputs), -1) for part in (one, two))
    ahead = torch.einsum("ibo,co->bci", one.cotangent_tangents, two.cotangents)
    total += ahead[..., :, None] * torch.einsum("ba,jca->bcj", one.inputs, others)[..., None, :]
    behind = torch.einsum("bo,jco->bcj", one.cotangents, two.cotangent_tangents)
    total += behind[..., None, :] * torch.einsum("iba,ca->bci", moving, two.inputs)[..., :, None]
    still = one.cotangents @ two.cotangents.mT
    total += torch.einsum("iba,jca->bcij", moving, others) * still[..., None, None]
    return total


def _tiles(one: Factors, two: Factors, directions: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Products (8, K, rows, columns) of a tile at a time; of equal points those on and above the diagonal."""
    left = one.along(directions)
    right = left if two is one else two.along(directions)
    starts, others = (range(0, len(factors.inputs["fc1"]), TILE) for factors in (one, two))
    for row in starts:
        rows = slice(row, row + TILE)
        here = {name: left[name].at(rows) for name in LAYERS}
        for column in (start for start in others if two is not one or start >= row):
            columns = slice(column, column + TILE)
            products = (here[name].products(right[name].at(columns)) for name in LAYERS)
            yield rows, columns, torch.stack(list(products))


def _mirrored(values: Tensor) -> Tensor:
    """Symmetric, from what lies on and above the diagonal."""
    return values.triu() + values.triu(1).mT


def _summed(parts: Iterator[Tensor], by_layer: bool) -> Tensor:
    return torch.stack(list(parts)) if by_layer else sum(parts)


def _both(model: EnergyMLP, points: Points, others: Points | None) -> tuple[Factors, Factors]:
    one = Factors.of(model, points)
    return one, one if others is None else Factors.of(model, others)


def _at_once(model: EnergyMLP, points: Points, others: Points | None) -> int:
    """Directions whose factors and products fit into `BYTES`."""
    count = len(points.y) + (0 if others is None else len(others.y))
    widths = model.dim_x + 2 * model.dim_y + 10 * model.hidden + 4 * TIME_WIDTH
    return max(1, BYTES // (points.y.element_size() * max(count * widths, len(LAYERS) * TILE**2)))
