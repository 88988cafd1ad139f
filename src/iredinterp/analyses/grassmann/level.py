"""One level of a landscape around right answers: energies of displacements and along paths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.energy import Energy, map_chunks
from iredinterp.geometry.fixed_rank import FixedRankPoint
from iredinterp.geometry.paths import path_length, straight_path, subspace_geodesic_path
from iredinterp.geometry.perturb import arm_stack, swapped_directions
from iredinterp.geometry.subspace import grassmann_distance
from iredinterp.points import normal_draws, reference_matrices
from iredinterp.tables import tensor_column

# Further from rank r than this, relative to its norm, an answer is not a matrix of rank r.
RANK_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Answers:
    """P right answers and what displaces them.

    Attributes:
        ids: problem of each.
        x: (P, d_x), as the energy wants it.
        Y: y*, (P, n, m) float64.
        reference: matrices whose leading subspaces are meant, (P, n, m).
        point: those of rank r.
        arms: (P, arms, draws, n, m), unit directions; zero without a gap.
        isotropic: (P, perturbations, n, m), displacements in units of σ_t√d.
        other: the answer of another problem, (P, n, m).
    """

    ids: Sequence[int]
    x: Tensor
    Y: Tensor
    reference: Tensor
    point: FixedRankPoint
    arms: Tensor
    isotropic: Tensor
    other: Tensor

    @classmethod
    def of(
        cls,
        energy: Energy,
        problems: pa.Table,
        block: slice,
        rank: int,
        draws: int,
        perturbations: int,
        largest: float,
        seed: int,
    ) -> Answers:
        """Those of the problems of a block, see `iredinterp.analyses.grassmann.grassmann_tables`.

        Raises:
            ConfigError: no such rank.
        """
        rows = torch.arange(problems.num_rows)[block]
        ids = problems["problem_id"].to_numpy()[block].tolist()
        x, Y = (tensor_column(problems, name) for name in ("x", "y_star"))
        reference = reference_matrices(problems)[rows].to(energy.device)
        point = FixedRankPoint.from_matrix(reference, rank)
        shape = reference.shape[1:]

        def normal(use: str, count: int, *sizes: int) -> Tensor:
            drawn = normal_draws(seed, use, ids, count, math.prod(sizes))
            return drawn.unflatten(-1, sizes).to(energy.device)

        noise, isotropic = normal("arms", draws, *shape), normal("isotropic", perturbations, *shape)
        radius = largest * torch.special.ndtr(normal("radius", perturbations, 1, 1))
        return cls(
            ids,
            x.flatten(1)[rows].to(energy.device, energy.dtype),
            Y.double()[rows].to(energy.device),
            reference,
            point,
            arm_stack(point, noise).nan_to_num(),
            radius * isotropic / torch.linalg.matrix_norm(isotropic, keepdim=True),
            Y.double()[(rows + 1) % problems.num_rows].to(energy.device),
        )


@dataclass(frozen=True)
class Displaced:
    """Displacements of P answers, (P, …) each, and what they cost.

    Attributes:
        radius: norms in units of σ_t√d.
        norm: ‖ΔY‖_F.
        even: energy change; of arms the mean over both signs.
        odd: half the difference of the two signs; NaN where there is one.
        column, row: arc distances of the leading column and row spaces.
        swapped: leading directions exchanged for others, in the column or the row space.
    """

    radius: Tensor
    norm: Tensor
    even: Tensor
    odd: Tensor
    column: Tensor
    row: Tensor
    swapped: Tensor


@dataclass(frozen=True)
class Path:
    """Energy changes from the right answer along P paths that end there, and their length."""

    energy: Tensor
    length: Tensor


@dataclass(frozen=True)
class Level:
    """The landscape at level t.

    Args:
        landscape: E.
        answers: around which to look.
        t: level.
        chunk: energies evaluated at once.
    """

    landscape: Energy
    answers: Answers
    t: int
    chunk: int

    @property
    def scale(self) -> Tensor:
        """√ᾱ_t."""
        return self.landscape.schedule.sqrt_alphas_cumprod[self.t].double()

    @property
    def unit(self) -> Tensor:
        """σ_t√d, the typical norm of the noise."""
        return self.landscape.schedule.sigma[self.t].double() * math.sqrt(self.landscape.dim_y)

    @cached_property
    def energy_of_answers(self) -> Tensor:
        """E(√ᾱ_t y*), (P,)."""
        return self._energies(self.scale * self.answers.Y)

    def change(self, Y: Tensor) -> Tensor:
        """E(Y) − E(√ᾱ_t y*) for Y (P, …, n, m): (P, …)."""
        start = self.energy_of_answers
        return self._energies(Y) - start.reshape(-1, *[1] * (Y.ndim - 3))

    def arms(self, radii: Sequence[float]) -> Displaced:
        """Both signs of every arm at every radius: (P, arms, draws, radii)."""
        answers = self.answers
        radius = torch.tensor(radii, dtype=torch.float64, device=answers.Y.device)
        moves = self.unit * radius[:, None, None] * answers.arms.unsqueeze(3)
        centre = (self.scale * answers.Y)[:, None, None, None]
        up, down = self.change(centre + moves), self.change(centre - moves)
        defined = answers.point.defined[:, None, None, None]
        parts = ((up + down) / 2, (up - down) / 2, *self._distances(moves))
        known = (part.where(defined, torch.nan) for part in parts)
        return Displaced(radius.expand(up.shape), torch.linalg.matrix_norm(moves), *known)

    def isotropic(self) -> Displaced:
        """Displacements in directions uniform on the sphere: (P, perturbations)."""
        answers = self.answers
        moves = self.unit * answers.isotropic
        change = self.change((self.scale * answers.Y)[:, None] + moves)
        defined = answers.point.defined[:, None]
        distances = (part.where(defined, torch.nan) for part in self._distances(moves))
        norm = torch.linalg.matrix_norm(moves)
        return Displaced(norm / self.unit, norm, change, torch.full_like(change, torch.nan), *distances)

    def paths(self, rank: int, steps: int) -> dict[str, Path]:
        """From the other answer to the right one, both scaled by √ᾱ_t, straight and within rank r.

        The second is NaN where an end is no matrix of rank r, and where the path is one of several or passes
        through a matrix of lower rank.
        """
        start, end = self.scale * self.answers.other, self.scale * self.answers.Y
        times = torch.linspace(0, 1, steps, dtype=torch.float64, device=end.device)
        within = subspace_geodesic_path(start, end, rank, times)
        low = [FixedRankPoint.from_matrix(Y, rank).distance <= RANK_TOLERANCE for Y in (start, end)]
        regular = (within.gap > 0) & ~within.cut_locus & ~within.loses_rank
        defined = low[0] & low[1] & regular
        inside = self._path(within.matrices.where(defined[:, None, None, None], 0))
        return {
            "straight": self._path(straight_path(start, end, times)),
            "subspace": Path(
                inside.energy.where(defined[:, None], torch.nan), inside.length.where(defined, torch.nan)
            ),
        }

    def _path(self, matrices: Tensor) -> Path:
        return Path(self.change(matrices), path_length(matrices))

    def _distances(self, moves: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the leading subspaces before and after, (P, …): column and row arc distance, swaps."""
        point, many = self.answers.point, math.prod(moves.shape[1:-2])
        reference = self.scale * self.answers.reference
        moved = (reference.unsqueeze(1) + moves.flatten(1, -3)).flatten(0, 1)
        after = FixedRankPoint.from_matrix(moved, point.rank)
        pairs = [
            (before.repeat_interleave(many, 0), found)
            for before, found in ((point.U, after.U), (point.V, after.V))
        ]
        found = [grassmann_distance(*pair) for pair in pairs]
        swaps = torch.maximum(*(swapped_directions(*pair) for pair in pairs)).double()
        parts = (part.where(after.defined, torch.nan).reshape(moves.shape[:-2]) for part in (*found, swaps))
        return tuple(parts)

    def _energies(self, Y: Tensor) -> Tensor:
        many = math.prod(Y.shape[1:-2])
        x = self.answers.x.repeat_interleave(many, 0)
        y = Y.reshape(len(x), -1).to(x)
        parts = map_chunks(lambda x, y: self.landscape.energy(x, y, self.t), (x, y), self.chunk)
        return torch.cat(list(parts)).double().reshape(Y.shape[:-2])
