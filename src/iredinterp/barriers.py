"""What lies between two minima: straight lines and minimum-energy paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from iredinterp.energy import Energy, map_chunks
from iredinterp.geometry.paths import barrier, path_length, straight_path

# Moves of images in one step, in spacings between them, below which a path has settled.
SETTLED = 1e-3
# Steps between two looks at the curvature along a path.
REFRESH = 25
# Of the largest step that is stable in a quadratic landscape, 2/|λ|max.
STEP_SHARE = 0.25
# Stiffness of the springs of an elastic band, over the inverse of the step.
SPRING = 0.25


@dataclass(frozen=True)
class Band:
    """B paths of I images between two minima.

    Attributes:
        images: (B, I, d), ends included.
        energies: E of the images, (B, I).
        perpendicular: ‖∇_yE‖ across the path at each image, (B, I), 0 at the ends; 0 on a minimum-energy
            path, up to the spacing of the images.
        converged: whether the images have stopped moving, (B,). Says nothing of other, lower paths.
    """

    images: Tensor
    energies: Tensor
    perpendicular: Tensor
    converged: Tensor

    @property
    def barrier(self) -> Tensor:
        """Max E − the higher end, (B,), at least 0; from the images alone."""
        return barrier(self.energies)

    @property
    def length(self) -> Tensor:
        """Length of the polygon through the images, (B,)."""
        return path_length(self.images.unsqueeze(-1))

    @property
    def length_ratio(self) -> Tensor:
        """Over the distance of the ends, (B,), at least 1."""
        return self.length / (self.images[:, -1] - self.images[:, 0]).norm(dim=1)

    @property
    def highest(self) -> Tensor:
        """Index of the highest image between the ends, (B,)."""
        return self.energies[:, 1:-1].argmax(1) + 1


def line(start: Tensor, end: Tensor, images: int) -> Tensor:
    """Images evenly spaced on straight lines, (B, images, d), for ends (B, d)."""
    times = torch.linspace(0, 1, images, dtype=torch.float64, device=start.device)
    return straight_path(start.unsqueeze(-1), end.unsqueeze(-1), times).squeeze(-1)


def string_path(
    energy: Energy,
    x: Tensor,
    start: Tensor,
    end: Tensor,
    t: Tensor,
    images: int,
    steps: int,
    tolerance: float = SETTLED,
) -> Band:
    """Minimum-energy paths by the simplified string method: descend, then space the images evenly.

    Args:
        energy: the landscape, float64.
        x: (B, d_x).
        start: minima, (B, d).
        end: other minima of the same problems and levels, (B, d).
        t: (B,).
        images: I, ends included.
        steps: at most.
        tolerance: on the largest move of an image in one step, relative to the spacing of the images.

    Source:
        E, Ren & Vanden-Eijnden 2007, J. Chem. Phys. 126, 164103; from the straight line, with steps of half
        the inverse of the largest curvature on the path.
    """

    def move(images: Tensor, energies: Tensor, gradient: Tensor, step: Tensor) -> Tensor:
        return _evenly(images[:, 1:-1] - step * gradient[:, 1:-1], images)

    return _relax(energy, x, line(start, end, images), t, steps, tolerance, move)


def elastic_band(
    energy: Energy,
    x: Tensor,
    start: Tensor,
    end: Tensor,
    t: Tensor,
    images: int,
    steps: int,
    tolerance: float = SETTLED,
) -> Band:
    """Minimum-energy paths by a nudged elastic band whose highest image climbs to the saddle.

    Args as in `string_path`, which is faster; this one is a check of it by other means.

    Source:
        Henkelman, Uberuaga & Jónsson 2000, J. Chem. Phys. 113, 9901 (climbing image); Henkelman & Jónsson
        2000, J. Chem. Phys. 113, 9978 (tangents).
    """

    def move(images: Tensor, energies: Tensor, gradient: Tensor, step: Tensor) -> Tensor:
        tangent, inner = _tangents(images, energies), gradient[:, 1:-1]
        along = (inner * tangent).sum(-1, keepdim=True)
        gaps = images.diff(dim=1).norm(dim=-1)
        spring = SPRING / step * gaps.diff(dim=1).unsqueeze(-1)
        top = torch.arange(1, images.shape[1] - 1, device=images.device)
        climbs = (top == (energies[:, 1:-1].argmax(1) + 1)[:, None]).unsqueeze(-1)
        force = -inner + torch.where(climbs, 2 * along, along + spring) * tangent
        return images[:, 1:-1] + step * force

    return _relax(energy, x, line(start, end, images), t, steps, tolerance, move)


def paths_between(
    energy: Energy, x: Tensor, start: Tensor, end: Tensor, t: Tensor, images: int, steps: int, chunk: int
) -> tuple[Band, Band]:
    """Straight lines and minimum-energy paths, for any number of pairs.

    Args as in `string_path`, and

    Args:
        chunk: images in memory at once.
    """

    def both(*pair: Tensor) -> tuple[Band, Band]:
        return _band(energy, pair[0], line(*pair[1:3], images), pair[3]), string_path(
            energy, *pair, images, steps
        )

    parts = zip(*map_chunks(both, (x, start, end, t), max(1, chunk // images)), strict=True)
    return tuple(
        Band(*(torch.cat(column) for column in zip(*(vars(part).values() for part in bands), strict=True)))
        for bands in parts
    )


def _relax(
    energy: Energy,
    x: Tensor,
    images: Tensor,
    t: Tensor,
    steps: int,
    tolerance: float,
    move: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
) -> Band:
    """Move the inner images until they settle; each path stops by itself."""
    images = images.clone()
    active = torch.arange(len(images), device=images.device)
    size = images.new_ones(len(images), 1, 1)
    for step in range(steps):
        here = images[active]
        if step % REFRESH == 0:
            size[active, 0, 0] = 2 * STEP_SHARE / _curvature(energy, x[active], here, t[active])
        inner = move(here, *_derivatives(energy, x[active], here, t[active]), size[active])
        moved = (inner - here[:, 1:-1]).norm(dim=-1).amax(1)
        spacing = here.diff(dim=1).norm(dim=-1).mean(1)
        images[active, 1:-1] = inner
        active = active[moved > tolerance * spacing]
        if not len(active):
            break
    return _band(energy, x, images, t, active)


def _band(energy: Energy, x: Tensor, images: Tensor, t: Tensor, moving: Tensor | None = None) -> Band:
    energies, gradient = _derivatives(energy, x, images, t)
    converged = torch.ones(len(images), dtype=torch.bool, device=images.device)
    if moving is not None:
        converged[moving] = False
    return Band(images, energies, _across(images, gradient), converged)


def _derivatives(energy: Energy, x: Tensor, images: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """E, (B, I), and ∇_yE, (B, I, d), of images (B, I, d)."""
    count = images.shape[1]
    found = energy.energy_and_gradient(
        x.repeat_interleave(count, 0), images.flatten(0, 1), t.repeat_interleave(count)
    )
    return tuple(part.unflatten(0, (-1, count)) for part in found)


def _curvature(energy: Energy, x: Tensor, images: Tensor, t: Tensor) -> Tensor:
    """Largest |λ| of ∇²_yE on each path, (B,)."""
    count = images.shape[1]
    hessian = energy.hessian(x.repeat_interleave(count, 0), images.flatten(0, 1), t.repeat_interleave(count))
    largest = torch.linalg.eigvalsh(hessian).abs().amax(1).unflatten(0, (-1, count)).amax(1)
    return largest.clamp(min=torch.finfo(largest.dtype).tiny)


def _tangents(images: Tensor, energies: Tensor) -> Tensor:
    """Unit tangents at the inner images, (B, I − 2, d): towards the higher neighbour, blended at extrema.

    Source:
        Henkelman & Jónsson 2000, J. Chem. Phys. 113, 9978, eqs. 8 to 11: no kinks where forces differ.
    """
    steps, rises = images.diff(dim=1), energies.diff(dim=1)
    forward, back = steps[:, 1:], steps[:, :-1]
    up, down = rises[:, 1:].abs(), rises[:, :-1].abs()
    most, least = torch.maximum(up, down), torch.minimum(up, down)
    higher_ahead = energies[:, 2:] > energies[:, :-2]
    heavy, light = torch.where(higher_ahead, most, least), torch.where(higher_ahead, least, most)
    blend = heavy.unsqueeze(-1) * forward + light.unsqueeze(-1) * back
    rising, falling = (rises[:, 1:] > 0) & (rises[:, :-1] > 0), (rises[:, 1:] < 0) & (rises[:, :-1] < 0)
    tangent = torch.where(rising.unsqueeze(-1), forward, blend)
    tangent = torch.where(falling.unsqueeze(-1), back, tangent)
    # Where all three energies are equal.
    flat = tangent.norm(dim=-1, keepdim=True) == 0
    return torch.nn.functional.normalize(torch.where(flat, forward + back, tangent), dim=-1, eps=0)


def _across(images: Tensor, gradient: Tensor) -> Tensor:
    """‖∇_yE‖ across the path at each image, (B, I)."""
    tangent = torch.nn.functional.normalize(images[:, 2:] - images[:, :-2], dim=-1)
    inner = gradient[:, 1:-1]
    across = inner - (inner * tangent).sum(-1, keepdim=True) * tangent
    return torch.nn.functional.pad(across.norm(dim=-1), (1, 1))


def _evenly(inner: Tensor, images: Tensor) -> Tensor:
    """Inner images moved along the polygon through them and the ends to equal spacing."""
    points = torch.cat([images[:, :1], inner, images[:, -1:]], dim=1)
    position = torch.nn.functional.pad(points.diff(dim=1).norm(dim=-1).cumsum(1), (1, 0))
    count = points.shape[1]
    times = torch.linspace(0, 1, count, dtype=points.dtype, device=points.device)[1:-1]
    wanted = position[:, -1:] * times
    right = torch.searchsorted(position, wanted).clamp(1, count - 1)
    low, high = position.gather(1, right - 1), position.gather(1, right)
    share = ((wanted - low) / (high - low)).nan_to_num(nan=0.0).unsqueeze(-1)
    index = right.unsqueeze(-1).expand(-1, -1, points.shape[2])
    return torch.lerp(points.gather(1, index - 1), points.gather(1, index), share)
