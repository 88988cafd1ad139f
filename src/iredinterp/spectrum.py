"""Spectra of the input Hessian ∇²_yE by interchangeable engines.

`closed` is the engine to use: all eigenvalues, exact. The others are there for energies too large for it
(`lanczos`), and as references (`autograd`, `pyhessian`).
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from iredinterp.energy import Energy, FunctionEnergy, MLPEnergy, autograd_hessian, checked_levels
from iredinterp.errors import EngineError
from iredinterp.linalg import lanczos, random_vectors, zero_tolerance

DEFAULT_COUNT = 10
ENDS = ("low", "high")
# Gaps this small, relative to |λ|max or to σ₁ of a reference, leave the subspaces beside them to rounding
# (Davis & Kahan 1970).
SEPARATION = 1e-8
NOT_SEPARATED = f"eigenspace not separated: relative gap below {SEPARATION:g} or below rounding"


@dataclass(frozen=True)
class Spectra:
    """Eigenvalues of B input Hessians, in float64, and what else was asked for.

    Attributes:
        eigenvalues: (B, k), ascending.
        complete: whether these are all d eigenvalues.
        which: "all", "both ends" or "largest magnitude": what an engine asked for fewer gives.
        residual: (B, k), ‖Hv − λv‖ or a bound on it; some eigenvalue of H lies within it of λ. None from the
            dense engines, whose errors are a few ε·|λ|max.
        low: (B, d, m), eigenvectors of the m smallest eigenvalues, ascending.
        high: (B, d, m), eigenvectors of the m largest eigenvalues, ascending.
        hessian: (B, d, d), if kept.
        symmetry_defect: (B,), ‖H − Hᵀ‖_F/‖H‖_F as autograd built it; NaN where H = 0.
    """

    eigenvalues: Tensor
    complete: bool
    which: str
    residual: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    hessian: Tensor | None = None
    symmetry_defect: Tensor | None = None


def spectra(
    energy: Energy,
    x: Tensor,
    y: Tensor,
    t: Tensor | int,
    engine: str = "closed",
    vectors: int = 0,
    count: int | None = None,
    keep_hessian: bool = False,
    **options,
) -> Spectra:
    """Spectrum of ∇²_yE at each point.

    One call is one chunk; `iredinterp.energy.map_chunks` cuts a larger set.

    Args:
        energy: the landscape.
        x: (B, d_x).
        y: (B, d).
        t: level, an integer or an integer tensor (B,).
        engine: one of `ENGINES`.

            * closed: `energy.hessian` and LAPACK in float64. All eigenvalues.
            * autograd: the same from torch.func, whatever closed form the energy has. All eigenvalues.
            * lanczos: from Hessian-vector products alone. `count` at each end, with residual bounds.
            * pyhessian: the PyHessian library, point by point. `count` by magnitude, with residuals.
        vectors: m, eigenvectors wanted at each end, 0 … d.
        count: eigenvalues wanted, for the engines that do not give all; min(10, d) by magnitude or
            min(10, d/2) at each end if not given.
        keep_hessian: whether to return ∇²_yE too.
        **options: lanczos takes `tolerance` and `seed`, pyhessian `tol`, `max_iter` and `seed`.

    Returns:
        Eigenvalues (B, k), ascending, all d of them from the engines that give all; what else was asked for.

    Raises:
        EngineError: no such engine; one that cannot do what is asked; a Hessian that is not finite.
        ValueError: x, y, t, vectors or count do not fit the energy.

    Source:
        closed: the closed form of `iredinterp.energy.MLPEnergy.hessian`. lanczos: Paige 1972; Parlett, The
        Symmetric Eigenvalue Problem, ch. 13. pyhessian: Yao et al. 2020 (arXiv:1912.07145).
    """
    if engine not in ENGINES:
        raise EngineError(f"unknown engine {engine!r}: use one of {', '.join(ENGINES)}")
    _check_points(energy, x, y)
    levels = checked_levels(y, t, energy.schedule)
    for name, value, least in (("vectors", vectors, 0), ("count", count, 1)):
        if value is not None and not least <= value <= energy.dim_y:
            raise ValueError(f"{name} must lie in {least} … d = {energy.dim_y}, found {value}")
    defaults = {"vectors": 0, "count": None, "keep_hessian": False}
    request = {"vectors": vectors, "count": count, "keep_hessian": keep_hessian}
    request = {name: value for name, value in request.items() if value != defaults[name]} | options
    for name in request:
        if name not in ENGINES[engine].takes:
            able = [other for other, candidate in ENGINES.items() if name in candidate.takes]
            advice = f"use engine {' or '.join(map(repr, able))}" if able else "no engine does"
            raise EngineError(f"engine {engine!r} does not take {name!r}: {advice}")
    return ENGINES[engine].run(energy, x, y, levels, **request)


def separation(found: Spectra, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Gap between either end eigenspace and the rest over |λ|max, and whether it identifies the eigenspace.

    Args:
        found: B spectra.
        precision: in which H was built.

    Returns:
        (B, 2), NaN without eigenvectors or where H = 0, and (B, 2): above 1e-8 and above rounding.
    """
    values = found.eigenvalues
    if found.low is None:
        gaps = values.new_full((len(values), 2), torch.nan)
        return gaps, gaps > 0
    m, largest = found.low.shape[-1], values.abs().amax(-1, keepdim=True)
    gaps = torch.stack([values[:, m] - values[:, m - 1], values[:, -m] - values[:, -m - 1]], dim=1) / largest
    rounding = zero_tolerance(values, precision).unsqueeze(-1) / largest
    return gaps, gaps > rounding.clamp(min=SEPARATION)


def _closed(energy, x, y, t, vectors=0, keep_hessian=False) -> Spectra:
    basis = energy.range_basis
    hessian = _finite(energy.hessian(x, y, t, basis).double())
    if basis is None:
        return _dense(hessian, vectors, keep_hessian)
    return _compressed(hessian, basis.double(), vectors, keep_hessian)


def _autograd(energy, x, y, t, vectors=0, keep_hessian=False) -> Spectra:
    hessian = _finite(autograd_hessian(_function(energy, "autograd"), x, y, t).double())
    norm = torch.linalg.matrix_norm
    defect = norm(hessian - hessian.mT) / norm(hessian)
    return _dense((hessian + hessian.mT) / 2, vectors, keep_hessian, symmetry_defect=defect)


def _dense(hessian: Tensor, vectors: int, keep_hessian: bool, **more) -> Spectra:
    if keep_hessian:
        more["hessian"] = hessian
    if not vectors:
        return Spectra(torch.linalg.eigvalsh(hessian), complete=True, which="all", **more)
    values, basis = torch.linalg.eigh(hessian)
    low, high = basis[..., :vectors].clone(), basis[..., -vectors:].clone()
    return Spectra(values, complete=True, which="all", low=low, high=high, **more)


def _compressed(core: Tensor, basis: Tensor, vectors: int, keep_hessian: bool) -> Spectra:
    """Spectrum of Q C Qᵀ from C, (B, k, k), and Q, (d, k): that of C and d − k zeros."""
    (d, k), size = basis.shape, len(core)
    solved = _dense(core, vectors and k, keep_hessian=False)
    values = torch.cat([solved.eigenvalues, core.new_zeros(size, d - k)], dim=1)
    values, order = values.sort(dim=1, stable=True)
    # Householder QR of orthonormal columns returns them up to sign, followed by their complement.
    full, triangle = torch.linalg.qr(basis, mode="complete")
    inside, outside = full[:, :k] * triangle.diagonal().sign(), full[:, k:]

    def columns(which: Tensor) -> Tensor:
        chosen = which.clamp(max=k - 1).unsqueeze(1).expand(-1, k, -1)
        curved = inside @ solved.low.gather(2, chosen)
        flat = outside[:, (which - k).clamp(min=0)].movedim(0, 1)
        return torch.where((which < k).unsqueeze(1), curved, flat)

    return Spectra(
        values,
        complete=True,
        which="all",
        low=columns(order[:, :vectors]) if vectors else None,
        high=columns(order[:, -vectors:]) if vectors else None,
        hessian=inside @ core @ inside.mT if keep_hessian else None,
    )


def _lanczos(energy, x, y, t, vectors=0, count=None, tolerance=1e-8, seed=0) -> Spectra:
    """Both ends of the spectrum, with more Lanczos steps until every residual is below tolerance·|λ|max.

    A residual says that a value is an eigenvalue, not that none is missing: copies of a repeated eigenvalue
    can be, unless all d steps were made (always so with 2·count ≥ d).
    """
    d = energy.dim_y
    count = count or max(1, vectors, min(DEFAULT_COUNT, d // 2))
    if vectors > count:
        raise EngineError(
            f"engine 'lanczos' finds {count} eigenpairs at each end, asked for {vectors} vectors: raise count"
        )

    def ends(columns: Tensor) -> Tensor:
        if 2 * count >= columns.shape[1]:
            return columns
        return torch.cat([columns[:, :count], columns[:, -count:]], dim=1)

    multiply = energy.hvp_operator(x, y, t)
    generator = torch.Generator().manual_seed(seed)
    start = _start(y, generator)
    steps = min(d, max(40, 4 * count))
    while True:
        krylov = lanczos(multiply, start, steps, generator)
        _finite(krylov.alpha)
        values, coefficients, residual = krylov.ritz()
        accepted = tolerance * values.abs().amax(1, keepdim=True)
        if steps == d or (ends(residual) <= accepted).all():
            break
        steps = min(d, 2 * steps)
    complete = 2 * count >= d
    basis = krylov.basis.double()
    return Spectra(
        ends(values),
        complete=complete,
        which="all" if complete else "both ends",
        residual=ends(residual) + krylov.roundoff.double().unsqueeze(1),
        low=basis @ coefficients[..., :vectors] if vectors else None,
        high=basis @ coefficients[..., -vectors:] if vectors else None,
    )


def _pyhessian(energy, x, y, t, count=None, tol=1e-3, max_iter=100, seed=0) -> Spectra:
    """`pyhessian.hessian(...).eigenvalues(max_iter, tol, count)` at every point, with its own defaults.

    PyHessian (0.1) finds eigenvalues by power iteration and deflation and stops when the Rayleigh quotient
    does, which is no evidence of convergence: between a pair ±λ it stalls at once, in a cluster it stops
    early, and what deflation by an inexact vector leaves over can come back as another eigenvalue. Read the
    residual, which is computed here. Its stopping rule contains the constant 1e-6, so E is divided by an
    estimate of |λ|max first.
    """
    try:
        from pyhessian import hessian
    except ImportError as error:
        raise EngineError(
            "engine 'pyhessian' needs the PyHessian library: pip install \"iredinterp[reference]\""
        ) from error
    function = _function(energy, "pyhessian")
    count = count or min(DEFAULT_COUNT, energy.dim_y)
    multiply = energy.hvp_operator(x, y, t)
    generator = torch.Generator().manual_seed(seed)
    rough = lanczos(multiply, _start(y, generator), min(DEFAULT_COUNT, energy.dim_y), generator)
    _finite(rough.alpha)
    scale = rough.ritz()[0].abs().amax(1)
    scale = scale.where(scale > 0, 1)

    def point(index: int) -> tuple[list[float], Tensor]:
        here = slice(index, index + 1)
        model = _InputAsWeight(lambda one_x, one_y: function(one_x, one_y, t[here]) / scale[index], y[here])
        # The library draws its start vectors from the global generator of the CPU.
        torch.default_generator.manual_seed(seed)
        solver = hessian(model, _first, data=(x[here], y.new_zeros(1)), cuda=y.is_cuda)
        values, vectors = solver.eigenvalues(maxIter=max_iter, tol=tol, top_n=count)
        return values, torch.cat([vector.detach() for (vector,) in vectors])

    with _quiet(), torch.random.fork_rng(devices=[]), _on(y.device):
        values, vectors = zip(*(point(index) for index in range(len(y))), strict=True)
    values = torch.tensor(values, dtype=torch.float64, device=y.device) * scale.unsqueeze(1)
    vectors = normalize(torch.stack(vectors).to(y.dtype), dim=-1)
    images = torch.stack([multiply(vector) for vector in vectors.unbind(1)], dim=1)
    residual = (images - values.unsqueeze(-1) * vectors).norm(dim=-1)
    values, order = values.sort(dim=1)
    return Spectra(values, complete=False, which="largest magnitude", residual=residual.gather(1, order))


class _InputAsWeight(torch.nn.Module):
    """E as a module whose only parameter is y, for libraries that differentiate by parameters."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], y: Tensor):
        super().__init__()
        self.function = function
        self.y = torch.nn.Parameter(y.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.y).sum()


def _first(output: Tensor, target: Tensor) -> Tensor:
    return output


@contextlib.contextmanager
def _quiet():
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using backward\\(\\) with create_graph=True")
        yield


def _on(device: torch.device):
    # The library calls .cuda(), which means the current device.
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@dataclass(frozen=True)
class Engine:
    """A way to a spectrum.

    Attributes:
        run: (energy, x, y, t, **request) → Spectra.
        takes: what a request may contain.
    """

    run: Callable[..., Spectra]
    takes: frozenset[str]


ENGINES = {
    "closed": Engine(_closed, frozenset({"vectors", "keep_hessian"})),
    "autograd": Engine(_autograd, frozenset({"vectors", "keep_hessian"})),
    "lanczos": Engine(_lanczos, frozenset({"vectors", "count", "tolerance", "seed"})),
    "pyhessian": Engine(_pyhessian, frozenset({"count", "tol", "max_iter", "seed"})),
}


def _function(energy: Energy, engine: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    if isinstance(energy, MLPEnergy):
        return energy.model.energy
    if isinstance(energy, FunctionEnergy):
        return energy.function
    raise EngineError(
        f"engine {engine!r} differentiates a function and {type(energy).__name__} offers none: wrap it in a "
        "CallableEnergy, or use engine 'closed' or 'lanczos'"
    )


def _check_points(energy: Energy, x: Tensor, y: Tensor) -> None:
    for name, value, width in (("x", x, energy.dim_x), ("y", y, energy.dim_y)):
        if value.ndim != 2 or value.shape[1] != width:
            raise ValueError(f"{name} must have shape (B, {width}), found {tuple(value.shape)}")
        if value.dtype != energy.dtype:
            raise ValueError(f"{name} must be {energy.dtype} as the energy is, found {value.dtype}")
    if not len(x) == len(y) > 0:
        raise ValueError(f"x and y must describe the same points, found {len(x)} and {len(y)}")


def _start(y: Tensor, generator: torch.Generator) -> Tensor:
    # One vector for all, so that a point's result does not depend on its neighbours in the chunk.
    return random_vectors(y[0], generator).expand_as(y)


def _finite(tensor: Tensor) -> Tensor:
    bad = (~tensor.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if bad:
        raise EngineError(
            f"the Hessian is not finite at points {bad} of this chunk: check that x and y are finite there"
        )
    return tensor
