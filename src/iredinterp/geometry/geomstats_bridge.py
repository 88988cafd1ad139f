"""The Grassmannian of geomstats with the kernels of `iredinterp.geometry.subspace` in it.

geomstats keeps a point as an n×n projector and measures in the Frobenius norm, so its distances are √2 times
arc lengths. Its own distance and logarithm drop every right principal angle without a warning (2.8.0, issue
2052) and cost a Python loop over matrices. With the metric below its estimators run unchanged, and right.

Importing this module imports geomstats; nothing else in the package does.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iredinterp.errors import ConfigError
from iredinterp.geometry.subspace import (
    chordal_mean,
    grassmann_distance,
    grassmann_exp,
    grassmann_log,
    parallel_transport,
    projector,
    subspace_basis,
)

if os.environ.get("GEOMSTATS_BACKEND", "numpy") != "numpy":
    # Its pytorch backend makes float64 the default of torch for the whole process.
    raise ConfigError(
        f"GEOMSTATS_BACKEND is {os.environ['GEOMSTATS_BACKEND']!r}, but geomstats must run on numpy here: "
        "unset GEOMSTATS_BACKEND and start anew"
    )
if not hasattr(np, "trapz"):
    # geomstats 2.8.0 imports the name that NumPy 2.4 removed.
    np.trapz = np.trapezoid
root = logging.getLogger()
level, handlers = root.level, root.handlers.copy()
try:
    from geomstats.geometry.grassmannian import Grassmannian, GrassmannianCanonicalMetric
    from geomstats.learning.frechet_mean import FrechetMean
    from geomstats.vectorization import repeat_out
except ModuleNotFoundError as error:
    raise ConfigError("the bridge needs the geomstats library: pip install geomstats==2.8.0") from error
finally:
    # geomstats sends the whole process's log to stderr, from level INFO on.
    root.setLevel(level)
    root.handlers = handlers

# The estimator's own 1e-4 stops up to 0.13 rad from the mean of widely spread points in Gr(20, 5).
EPSILON = 1e-14
MAX_ITER = 200


class BasisGrassmannMetric(GrassmannianCanonicalMetric):
    """The canonical metric, right at every principal angle; arguments and results as in geomstats.

    Points are projectors P = UUᵀ and tangent vectors X = DUᵀ + UDᵀ with UᵀD = 0, NumPy arrays (..., n, n);
    ‖X‖_F = √2‖D‖_F. Where a principal angle is right, `log` gives one of the shortest directions; whether
    that is so, `iredinterp.geometry.subspace.grassmann_log` tells.
    """

    def log(self, point, base_point):
        """Initial velocity of a shortest geodesic from `base_point` to `point`."""
        U = self._basis(base_point)
        return _lift(grassmann_log(U, self._basis(point)).direction, U)

    def exp(self, tangent_vec, base_point):
        """The point that the geodesic from `base_point` with this velocity reaches at time 1."""
        U = self._basis(base_point)
        return projector(grassmann_exp(U, _tensor(tangent_vec) @ U)).numpy()

    def squared_dist(self, point_a, point_b):
        """Squared geodesic distance 2‖θ‖², (...,); `dist` is its root."""
        return 2 * grassmann_distance(self._basis(point_a), self._basis(point_b)).square().numpy()

    def geodesic(self, initial_point, end_point=None, initial_tangent_vec=None) -> Callable:
        """The geodesic with this end or initial velocity, as a function of times, (T,) → (..., T, n, n)."""
        if (end_point is None) == (initial_tangent_vec is None):
            raise ValueError("give either end_point or initial_tangent_vec")
        U = self._basis(initial_point)
        D = self._velocity(U, initial_tangent_vec, end_point).unsqueeze(-3)

        def path(t):
            times = torch.from_numpy(np.array(t, dtype=np.float64, ndmin=1))
            return projector(grassmann_exp(U.unsqueeze(-3), times[:, None, None] * D)).numpy()

        return path

    def parallel_transport(self, tangent_vec, base_point, direction=None, end_point=None):
        """Transport along the geodesic with velocity `direction`, or else a shortest one to `end_point`."""
        if direction is None and end_point is None:
            raise ValueError("give direction or end_point")
        U = self._basis(base_point)
        D = self._velocity(U, direction, end_point)
        return _lift(parallel_transport(U, D, _tensor(tangent_vec) @ U), grassmann_exp(U, D))

    def injectivity_radius(self, base_point=None):
        """π/√2 everywhere: the first right angle in the Frobenius norm of projectors."""
        return repeat_out(self._space.point_ndim, np.array(math.pi / math.sqrt(2)), base_point)

    def _basis(self, point) -> Tensor:
        return subspace_basis(_tensor(point), self._space.p)

    def _velocity(self, U: Tensor, tangent_vec, end_point) -> Tensor:
        if tangent_vec is None:
            return grassmann_log(U, self._basis(end_point)).direction
        return _tensor(tangent_vec) @ U


def grassmannian(n: int, k: int) -> Grassmannian:
    """Gr(n, k) of geomstats equipped with `BasisGrassmannMetric`, for any of its estimators.

    Args:
        n: dimension of the space.
        k: dimension of the subspaces, 1 … n − 1.

    Raises:
        ConfigError: no such k.
    """
    if not 1 <= k <= n - 1:
        raise ConfigError(
            f"k must lie in 1 … n − 1 = {n - 1}, found {k}: Gr(n, 0) and Gr(n, n) are single points"
        )
    space = Grassmannian(n, k, equip=False)
    space.equip_with_metric(BasisGrassmannMetric)
    return space


@dataclass(frozen=True)
class FrechetMeanResult:
    """Where the search for a Fréchet mean ended, and whether it is one.

    Attributes:
        U: (n, k), orthonormal columns.
        gradient_norm: ‖Σ w_i log_U(U_i)‖_F in radians (arc length, weights of sum 1); 0 at a mean.
        converged: whether geomstats' criterion 2‖gradient‖² ≤ ε k(n−k) holds at U.
    """

    U: Tensor
    gradient_norm: float
    converged: bool


def frechet_mean(
    U: Tensor, weights: Tensor | None = None, epsilon: float = EPSILON, max_iter: int = MAX_ITER
) -> FrechetMeanResult:
    """The subspace of least mean squared distance, by geomstats' gradient descent from the chordal mean.

    It is unique within a ball of radius π/4 only; more widely spread subspaces can have several, and the
    search may not end: `converged` says so.

    Args:
        U: (N, n, k), orthonormal columns, k < n, on the CPU.
        weights: (N,), not negative, need not sum to 1; equal if not given.
        epsilon: bound on the squared gradient norm per dimension, in geomstats' metric.
        max_iter: most steps.

    Returns:
        Where the search ended, and whether it is a mean.

    Raises:
        ConfigError: a negative weight, or k = n.

    Source:
        Afsari 2011 for uniqueness; geomstats `FrechetMean`.
    """
    _, n, k = U.shape
    space = grassmannian(n, k)
    weights = torch.ones(len(U)) if weights is None else weights
    weights = (weights / weights.sum()).to(torch.float64)
    start = chordal_mean(U, weights).U
    estimator = FrechetMean(space)
    estimator.set(epsilon=epsilon, max_iter=max_iter, init_point=projector(start).numpy())
    estimator.fit(projector(U).numpy(), weights=weights.numpy())
    mean = subspace_basis(_tensor(estimator.estimate_), k)
    velocities = grassmann_log(mean, U).direction
    gradient_norm = torch.einsum("b,bnk->nk", weights, velocities).norm().item()
    return FrechetMeanResult(mean, gradient_norm, 2 * gradient_norm**2 <= epsilon * space.dim)


def _tensor(array) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float64))


def _lift(D: Tensor, U: Tensor) -> np.ndarray:
    """The projector form DUᵀ + UDᵀ of a horizontal D at U."""
    half = D @ U.mT
    return (half + half.mT).numpy()
