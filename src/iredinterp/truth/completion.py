"""What a completion input x says about the answer y₀: moments of p(y₀ | y, x) at a level.

Both posteriors see x alone. Entries of x that are exactly 0 are the missing ones (an observed entry is 0 with
probability 0). `scale` and `sigma`, (B, 1), are √ᾱ_t and σ_t of y = √ᾱ_t y₀ + σ_t ε.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from iredinterp.errors import TaskError
from iredinterp.ired.tasks import (
    LARGEST_ENTRY,
    OFFICIAL_INNER_DIMENSION,
    OFFICIAL_NOISE,
    SIGNAL_VARIANCE,
    ProblemSpec,
)

# Independent estimates whose spread is the standard error, and the samples in each.
BATCHES = 8
PARTICLES = 512
# Problems whose mixtures of BATCHES·PARTICLES matrices are in memory at once.
CHUNK = 16
WARM_UP = 32
SWEEPS = 64

POSITIVE_RANGE = (0.2, 1.5)
GRID = 2048
# Exponent below its peak at which the density of a free scale is cut off.
CUT_OFF = 44.0
NEARLY_ZERO = 1e-12
# A larger misfit of observed entries to rank one, relative to the largest, is not rounding (of float32).
RANK_ONE_TOLERANCE = 1e-4
RESCALED_TOLERANCE = 1e-6

# Radau's rule on [0, 1], exact up to degree 4; the end point is the point itself.
RADAU_NODES = ((4 - math.sqrt(6)) / 10, (4 + math.sqrt(6)) / 10, 1.0)
RADAU_WEIGHTS = ((16 - math.sqrt(6)) / 36, (16 + math.sqrt(6)) / 36, 1 / 9)

# p, q and the labels of rows and columns, see `rank_one_factors`.
Factors = tuple[Tensor, Tensor, Tensor, Tensor]


class RankOnePosterior:
    """Completion of an exactly rank-1 matrix from noise-free entries.

    Rows and columns are the vertices of a graph with an edge for every observed entry. Within a connected
    component a missing entry is a product and quotient of observed ones along a path. Two components leave
    one scale (and sign) between them free; its law follows from that of the factors, u = a p and v = q/(s a)
    with density a^{#rows − #columns} Π f(a pᵢ) Π f(qⱼ/(s a)) in ln a for each component. Quantiles of these
    laws at scrambled Sobol points make the posterior a mixture of `BATCHES`·`PARTICLES` points.

    Two limits, both only where x leaves a scale free:

    - The standard error is the spread between `BATCHES` independent scramblings of the Sobol points. It is
      as large as the error of the covariance in quadratic mean, or up to twice where few points are near y
      (n = 5, three tenths of the entries observed, level 0), but a single one is itself known to a quarter
      only. None is stated for the gradient. Where a fifth is observed, too many scales are free for the
      points to cover: ‖E[ε | y, x] − ε‖² at level 0 is twice what the Hessian promises.
    - The generator rescales a matrix whose largest entry would pass 1.98. With positive factors this is taken
      into account when that entry is observed or implied, and neglected when it depends on a free scale;
      with normal factors (where it happens to one matrix in thousands) it is neglected. The standard error
      does not contain this. With positive factors and n = 5 it concerns a tenth of the undetermined
      problems; averaged over all undetermined problems, ‖E[ε | y, x] − ε‖² exceeds what the Hessian promises
      by less than can be seen (2 % ± 6 %) at level 2 where half the entries are observed, and by
      7 % ± 3 % where a fifth is.

    Args:
        spec: completion of rank 1 without noise.
        seed: of the Sobol points.
    """

    def __init__(self, spec: ProblemSpec, seed: int):
        self.n = spec.n
        self.positive = spec.factors == "positive"
        self.scale = 1.0 if self.positive else math.sqrt(SIGNAL_VARIANCE)
        self.reference = (
            "the answer itself where the observed entries connect all rows and columns; elsewhere a mixture "
            f"of {BATCHES * PARTICLES} completions over the free scales"
        )
        self.uniforms = torch.cat([self._sobol(BATCHES * seed + batch) for batch in range(BATCHES)])
        self._last: tuple[Tensor, Factors] | None = None

    def exact(self, x: Tensor) -> Tensor:
        """True where x determines the answer, (B,)."""
        return _determined(*self._factors(x))

    def negative_log_density(self, x: Tensor, y: Tensor, scale: Tensor, sigma: Tensor) -> Tensor:
        """−ln p_t(y | x) up to a function of x and t, (B,)."""
        return self._over_groups(_mixture_log_density, x, y, scale, sigma)[0].neg()

    def mean(self, x: Tensor, y: Tensor, scale: Tensor, sigma: Tensor) -> Tensor:
        """E[y₀ | y, x], (B, d)."""
        return self._over_groups(_mixture_mean, x, y, scale, sigma)[0]

    def covariance(self, x: Tensor, y: Tensor, scale: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Cov[y₀ | y, x], (B, d, d), and its standard error in the Frobenius norm, (B,)."""
        return self._over_groups(_mixture_covariance, x, y, scale, sigma)

    def completions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Points of the posterior p(y₀ | x) and the logarithms of their weights, (B, K, d) and (B, K).

        K is 1 if x determines the answer of every problem.

        Raises:
            TaskError: x does not hold entries of a rank-1 matrix of this law.
        """
        return self._completions(x, *self._factors(x))

    def _completions(
        self, x: Tensor, p: Tensor, q: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor]:
        matrix = self._matrix(x)
        within = p[:, :, None] * q[:, None, :]
        together = rows[:, :, None] == columns[:, None, :]
        misfit = torch.where(matrix != 0, within - matrix, 0).abs().amax((1, 2))
        self._require(misfit <= RANK_ONE_TOLERANCE * matrix.abs().amax((1, 2)))
        if together.all():
            return within.flatten(1)[:, None], x.new_zeros(len(x), 1)
        uniforms = self.uniforms.to(x.device)
        largest = torch.where(together, within, 0).abs().amax((1, 2))
        if self.positive:
            ratio, weights = self._positive_scales(p, q, rows, columns, largest, uniforms)
        else:
            ratio, weights = self._normal_scales(p, q, rows, columns, uniforms)
        of_rows = ratio.gather(2, rows[:, None].expand(-1, len(uniforms), -1))
        of_columns = ratio.gather(2, columns[:, None].expand(-1, len(uniforms), -1))
        points = within[:, None] * of_rows[..., None] / of_columns[..., None, :]
        allowed = points.abs().amax((2, 3)) <= LARGEST_ENTRY * (1 + RESCALED_TOLERANCE)
        weights = torch.where(allowed, weights, -torch.inf)
        self._require(weights.amax(1) > -torch.inf)
        return points.flatten(2), weights.log_softmax(1)

    def _positive_scales(
        self, p: Tensor, q: Tensor, rows: Tensor, columns: Tensor, largest: Tensor, uniforms: Tensor
    ) -> tuple[Tensor, Tensor]:
        low, high = (math.log(bound) for bound in POSITIVE_RANGE)
        of_rows, of_columns = self._members(rows), self._members(columns)
        log_p, log_q = p.log()[:, :, None], q.log()[:, :, None]
        rescaled = (largest >= LARGEST_ENTRY * (1 - RESCALED_TOLERANCE))[:, None]
        strongest = math.log(LARGEST_ENTRY) - 2 * high
        log_s = torch.where(rescaled, strongest * uniforms[:, -1], 0)[..., None]
        lower = torch.maximum(
            torch.where(of_rows, low - log_p, -torch.inf).amax(1)[:, None],
            torch.where(of_columns, log_q - high, -torch.inf).amax(1)[:, None] - log_s,
        )
        upper = torch.minimum(
            torch.where(of_rows, high - log_p, torch.inf).amin(1)[:, None],
            torch.where(of_columns, log_q - low, torch.inf).amin(1)[:, None] - log_s,
        )
        present = (of_rows | of_columns).any(1)[:, None]
        lower, width = torch.where(present, lower, 0), torch.where(present, upper - lower, 1)
        power = (of_rows.sum(1) - of_columns.sum(1))[:, None].to(p)
        flat = power == 0
        slope = torch.where(flat, 1, power)
        growth = torch.expm1(slope * width)
        log_a = lower + torch.where(
            flat, uniforms[:, :-1] * width, torch.log1p(uniforms[:, :-1] * growth) / slope
        )
        log_mass = power * lower + torch.where(flat, width, growth / slope).clamp(min=0).log()
        weights = torch.where(present, log_mass, 0).sum(2) - self.n * log_s.squeeze(2)
        return log_a.exp(), weights

    def _normal_scales(
        self, p: Tensor, q: Tensor, rows: Tensor, columns: Tensor, uniforms: Tensor
    ) -> tuple[Tensor, Tensor]:
        of_rows, of_columns = self._members(rows).to(p), self._members(columns).to(p)
        # Exponent P a²/2 + Q/(2a²) = √(PQ) cosh 2(ln a − centre); an empty side counts as nearly zero.
        P = (of_rows.mT @ p.square()[..., None]).clamp(min=NEARLY_ZERO)
        Q = (of_columns.mT @ (q / self.scale).square()[..., None]).clamp(min=NEARLY_ZERO)
        depth, centre = (P * Q).sqrt(), (Q / P).log() / 4
        offset = torch.linspace(-1, 1, GRID, dtype=p.dtype, device=p.device)
        offset = offset * torch.acosh(1 + (CUT_OFF + 2 * self.n) / depth) / 2
        log_a = centre + offset
        power = (of_rows.sum(1) - of_columns.sum(1))[..., None]
        density = (power * log_a - depth * torch.cosh(2 * offset)).softmax(2)
        signs = torch.where(uniforms[:, :-1] < 0.5, -1.0, 1.0)
        quantiles = _quantiles(log_a, density, (2 * uniforms[:, :-1]).frac().mT)
        return signs * quantiles.mT.exp(), p.new_zeros(len(p), len(uniforms))

    def _over_groups(
        self, function: Callable[..., tuple[Tensor, ...]], x: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        # Determined problems have one completion each and must not pay for the others' many.
        factors = self._factors(x)
        exact = _determined(*factors)
        determined, others = ((exact == value).nonzero().squeeze(1) for value in (True, False))
        groups = [group for group in (determined, *others.split(CHUNK)) if len(group)]
        parts = []
        for group in groups:
            completions = self._completions(x[group], *(factor[group] for factor in factors))
            parts.append(function(*completions, *(value[group] for value in rest)))
        back = torch.cat(groups).argsort()
        return tuple(torch.cat(column)[back] for column in zip(*parts, strict=True))

    def _factors(self, x: Tensor) -> Factors:
        # A sampler asks about the same problems hundreds of times; most of its time went into this.
        if self._last is None or self._last[0].device != x.device or not torch.equal(self._last[0], x):
            self._last = x.clone(), rank_one_factors(self._matrix(x))
        return self._last[1]

    def _matrix(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.n, self.n))

    def _members(self, labels: Tensor) -> Tensor:
        return labels[..., None] == torch.arange(2 * self.n, device=labels.device)

    def _sobol(self, seed: int) -> Tensor:
        engine = torch.quasirandom.SobolEngine(2 * self.n + 1, scramble=True, seed=seed)
        return engine.draw(PARTICLES, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)

    def _require(self, good: Tensor) -> None:
        if not good.all():
            law = "positive" if self.positive else "normal"
            raise TaskError(
                f"{int((~good).sum())} of {len(good)} x do not hold noise-free entries of a rank-1 matrix "
                f"with {law} factors; give x drawn from the law of the oracle"
            )


class LowRankPosterior:
    """The official `lowrank` data: R = s UVᵀ + 0.1 N with inner dimension 10, half of it observed.

    y₀ = R with its noise, so observed entries are known and a missing one is seen through y/√ᾱ_t with
    variance σ_t²/ᾱ_t. Given V, the rows of U are independent Gaussians, and conversely: Gibbs sampling of
    (U, V) given x *and* y, in `BATCHES` chains started from the prior. Each moment is averaged in closed form
    over U given V and over the noise (Rao–Blackwell). Off-diagonal covariances of entries in one row, in one
    column and in neither are each shrunk by the factor that minimises the expected squared error, which the
    spread between chains determines. −ln p is the line integral of its gradient from y = 0 on the missing
    entries.

    All points share one set of random numbers: a result does not depend on the other points of the call,
    and errors of different points are not independent.

    Args:
        spec: the official completion.
        seed: of the chains.

    Source:
        Salakhutdinov & Mnih 2008 (the sampler); James & Stein 1961 (the shrinkage).
    """

    def __init__(self, spec: ProblemSpec, seed: int):
        self.n = spec.n
        self.scale = 1 / 5 if spec.ood else 1 / 20
        self.seed = seed
        self.reference = (
            f"Gibbs sampling given x and y: {BATCHES} chains of {SWEEPS} sweeps (and {WARM_UP} before)"
        )
        index = torch.arange(spec.dim_y)
        row, column = index.div(spec.n, rounding_mode="floor"), index % spec.n
        same_row, same_column = row[:, None] == row, column[:, None] == column
        kinds = (
            same_row & same_column,
            same_row & ~same_column,
            ~same_row & same_column,
            ~same_row & ~same_column,
        )
        self.kinds = torch.stack(kinds).flatten(1).double()

    def exact(self, x: Tensor) -> Tensor:
        """True where nothing is missing, (B,)."""
        return (x != 0).all(1)

    def negative_log_density(self, x: Tensor, y: Tensor, scale: Tensor, sigma: Tensor) -> Tensor:
        """−ln p_t(y | x) up to a function of x and t, (B,)."""
        observed = x != 0
        free = torch.where(observed, 0, y)
        total = torch.where(observed, y - scale * x, 0).square().sum(1) / 2
        for node, weight in zip(RADAU_NODES, RADAU_WEIGHTS, strict=True):
            mean = self.mean(x, node * free, scale, sigma)
            total = total + weight * (free * (node * free - scale * mean)).sum(1)
        return total / sigma.squeeze(1).square()

    def mean(self, x: Tensor, y: Tensor, scale: Tensor, sigma: Tensor) -> Tensor:
        """E[y₀ | y, x], (B, d)."""
        missing, trust, _ = self._noise(x, scale, sigma)
        signal = self._chains(x, y, scale, sigma)[0].mean((0, 1))
        return torch.where(missing, (1 - trust) * signal + trust * y / scale, x)

    def covariance(self, x: Tensor, y: Tensor, scale: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Cov[y₀ | y, x], (B, d, d), and its standard error in the Frobenius norm, (B,)."""
        missing, trust, variance = self._noise(x, scale, sigma)
        means, within = self._chains(x, y, scale, sigma, covariance=True)
        weight = torch.where(missing, 1 - trust, 0)
        deviations = (means - means.mean((0, 1))).transpose(1, 2) * weight[:, None]
        total, squares = 0, 0
        for chain, blocks in zip(deviations, within, strict=True):
            estimate = (
                weight[:, :, None] * _block_diagonal(blocks) * weight[:, None] + chain.mT @ chain / SWEEPS
            )
            total, squares = total + estimate, squares + self._squares(estimate)
        covariance = total / BATCHES
        signal = self._squares(covariance)
        noise = (squares / BATCHES - signal).clamp(min=0) / (BATCHES - 1)
        kept = ((signal - noise) / signal.clamp(min=torch.finfo(x.dtype).tiny)).clamp(min=0)
        # The diagonal is many times its error.
        kept[:, 0] = 1
        covariance = covariance * (kept @ self.kinds.to(x)).view_as(covariance)
        noise_of_missing = torch.where(missing, variance, 0)
        return covariance + noise_of_missing.diag_embed(), (kept * noise).sum(1).sqrt()

    def _noise(self, x: Tensor, scale: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where entries are missing; weight of y/√ᾱ against the signal there; variance of y₀ given both."""
        noise, blur = OFFICIAL_NOISE**2, (sigma / scale).square()
        trust = noise / (noise + blur)
        return x == 0, trust, noise * (1 - trust)

    def _squares(self, covariance: Tensor) -> Tensor:
        """Sum of squares over each kind of pair of entries, (B, 4)."""
        return covariance.flatten(1).square() @ self.kinds.to(covariance).mT

    def _chains(self, x: Tensor, y: Tensor, scale: Tensor, sigma: Tensor, covariance: bool = False):
        """E[sUVᵀ | V] of every sweep, (C, S, B, d), and Cov[rows of sUVᵀ | V] of a chain, (C, B, n, n, n)."""
        n, r = self.n, OFFICIAL_INNER_DIMENSION
        missing = x == 0
        blur = torch.where(missing, (sigma / scale).square(), 0)
        W = (1 / (OFFICIAL_NOISE**2 + blur)).unflatten(1, (n, n))
        seen = W * torch.where(missing, y / scale, x).unflatten(1, (n, n))
        generator = torch.Generator().manual_seed(self.seed)
        V = _normal((BATCHES, 1, n, r), generator, x).expand(-1, len(x), -1, -1)
        means = x.new_empty(BATCHES, SWEEPS, len(x), n * n)
        within = x.new_zeros(BATCHES * len(x) * n, n, n)
        for sweep in range(-WARM_UP, SWEEPS):
            factor, mean = _rows_given_columns(self.scale * V, W, seen)
            if sweep >= 0:
                means[:, sweep] = (self.scale * mean @ V.mT).flatten(2)
                if covariance:
                    right = (self.scale * V.mT).unsqueeze(2).expand(-1, -1, n, -1, -1)
                    half = torch.linalg.solve_triangular(factor, right, upper=False).flatten(0, 2)
                    within.baddbmm_(half.mT, half, alpha=1 / SWEEPS)
            U = _drawn(factor, mean, _normal((BATCHES, 1, n, r), generator, x))
            V = _drawn(
                *_rows_given_columns(self.scale * U, W.mT, seen.mT), _normal((BATCHES, 1, n, r), generator, x)
            )
        return means, within.view(BATCHES, len(x), n, n, n)


def rank_one_factors(x: Tensor) -> Factors:
    """Factors p, q with x_ij = p_i q_j where observed, and the connected component of each row and column.

    Args:
        x: (B, n, n), 0 where missing.

    Returns:
        p and q, (B, n), 1 at the first row of a component (the column, if it has no row); the labels of rows
        and columns, (B, n): the first row of the component, or n + j for column j alone.
    """
    size, n = x.shape[:2]
    observed = x != 0
    ascending = torch.arange(n, device=x.device)
    rows, columns = ascending.expand(size, n), (ascending + n).expand(size, n)
    # A path between any two vertices passes through at most n rows.
    for _ in range(n):
        columns = torch.minimum(columns, torch.where(observed, rows[:, :, None], 2 * n).amin(1))
        rows = torch.minimum(rows, torch.where(observed, columns[:, None], 2 * n).amin(2))
    p, q = x.new_ones(2, size, n)
    row_known, column_known = rows == ascending, columns == ascending + n
    for _ in range(n):
        q, column_known = _extend(x.mT, p, row_known, q, column_known)
        p, row_known = _extend(x, q, column_known, p, row_known)
    return p, q, rows, columns


def _determined(p: Tensor, q: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """True where all rows and columns are in one component, (B,)."""
    return (rows == 0).all(1) & (columns == 0).all(1)


def _extend(x: Tensor, q: Tensor, q_known: Tensor, p: Tensor, p_known: Tensor) -> tuple[Tensor, Tensor]:
    """Entries of p that one observed x_ij = p_i q_j with known q_j determines."""
    linked = (x != 0) & q_known[:, None]
    partner = linked.to(torch.uint8).argmax(2)
    value = x.gather(2, partner[..., None]).squeeze(2) / q.gather(1, partner)
    new = linked.any(2) & ~p_known
    return torch.where(new, value, p), p_known | new


def _quantiles(grid: Tensor, mass: Tensor, levels: Tensor) -> Tensor:
    """Inverse of the distribution function of masses on ascending grids, (..., G), at (..., K) levels."""
    cumulative = mass.cumsum(-1) - mass / 2
    levels = levels.expand(*mass.shape[:-1], -1).contiguous()
    right = torch.searchsorted(cumulative, levels).clamp(1, grid.shape[-1] - 1)
    below, above = cumulative.gather(-1, right - 1), cumulative.gather(-1, right)
    part = ((levels - below) / (above - below).clamp(min=NEARLY_ZERO)).clamp(0, 1)
    return torch.lerp(grid.gather(-1, right - 1), grid.gather(-1, right), part)


def _log_components(points: Tensor, weights: Tensor, y: Tensor, scale: Tensor, sigma: Tensor) -> Tensor:
    distances = (y[:, None] - scale[..., None] * points).square().sum(2)
    return weights - distances / (2 * sigma.square())


def _mixture_log_density(points: Tensor, weights: Tensor, y: Tensor, scale: Tensor, sigma: Tensor):
    return (_log_components(points, weights, y, scale, sigma).logsumexp(1),)


def _mixture_mean(points: Tensor, weights: Tensor, y: Tensor, scale: Tensor, sigma: Tensor):
    shares = _log_components(points, weights, y, scale, sigma).softmax(1)
    return ((shares[:, None] @ points).squeeze(1),)


def _mixture_covariance(
    points: Tensor, weights: Tensor, y: Tensor, scale: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor]:
    logits = _log_components(points, weights, y, scale, sigma)
    shares = logits.softmax(1)[..., None]
    centred = points - (shares * points).sum(1, keepdim=True)
    covariance = (shares * centred).mT @ centred
    if points.shape[1] == 1:
        return covariance, y.new_zeros(len(y))
    # About the mean of all batches: a batch that comes down to one point then misses by its distance from
    # the others, while its own covariance would vanish and agree with theirs.
    squares = 0
    for part, part_logits in zip(centred.chunk(BATCHES, 1), logits.chunk(BATCHES, 1), strict=True):
        estimate = (part_logits.softmax(1)[..., None] * part).mT @ part
        squares = squares + (estimate - covariance).square().sum((1, 2))
    return covariance, (squares / (BATCHES * (BATCHES - 1))).sqrt()


def _rows_given_columns(V: Tensor, W: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Rows uᵢ ~ N(0, I) seen through V uᵢ with precisions Wᵢ: Cholesky factor of the precision, and mean."""
    r = V.shape[-1]
    outer = (V[..., :, None] * V[..., None, :]).flatten(-2)
    precision = (W @ outer).unflatten(-1, (r, r)) + torch.eye(r, dtype=V.dtype, device=V.device)
    factor = torch.linalg.cholesky(precision)
    return factor, torch.cholesky_solve((seen @ V)[..., None], factor).squeeze(-1)


def _drawn(factor: Tensor, mean: Tensor, noise: Tensor) -> Tensor:
    noise = noise.expand_as(mean)[..., None]
    return mean + torch.linalg.solve_triangular(factor.mT, noise, upper=True).squeeze(-1)


def _block_diagonal(blocks: Tensor) -> Tensor:
    size, n = blocks.shape[:2]
    return blocks.permute(0, 2, 3, 1).diag_embed(dim1=1, dim2=3).reshape(size, n * n, n * n)


def _normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(like)
