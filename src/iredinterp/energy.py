"""The energy of a model as every analysis sees it: (x, y, t) → E, ∇_yE, ∇²_yE.

`MLPEnergy` differentiates IRED's network in closed form; `ClosedFormEnergy` is for formulas; `CallableEnergy`
takes any function of (x, y, t) through torch.func. Only differences of E within one (x, t) are comparable:
training leaves an unidentified offset c(x, t).
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.ired.checkpoint import Checkpoint, load_checkpoint
from iredinterp.ired.model import EnergyMLP, swish_curvature, swish_slope
from iredinterp.ired.schedule import Schedule, cosine_schedule

logger = logging.getLogger(__name__)

# Computing only the lower block triangle of a symmetric product pays from this dimension on (measured).
TRIANGLE_FROM = 200
TRIANGLE_BLOCKS = 4
# On a CPU, tangents of this size at a time stay in cache between products (measured, d = 400: 9 % faster).
CACHE_BYTES = 7_000_000


class Energy(ABC):
    """E(x, y, t) and its y-derivatives.

    Shapes: x (B, d_x); y (B, d), the row-major flattening of an n×m matrix at the scale of level t;
    t an integer or an integer tensor (B,). Results keep the device and precision of y and carry no graph.

    Attributes:
        schedule: the levels t = 0 … K−1.
        dim_x: d_x.
        dim_y: d.
        dtype: precision that x and y must be given in.
        device: where they must be.
    """

    schedule: Schedule
    dim_x: int
    dim_y: int
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def energy(self, x: Tensor, y: Tensor, t: Tensor | int) -> Tensor:
        """E, (B,)."""

    @abstractmethod
    def energy_and_gradient(self, x: Tensor, y: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """E, (B,), and ∇_yE, (B, d)."""

    def gradient(self, x: Tensor, y: Tensor, t: Tensor | int) -> Tensor:
        """∇_yE, (B, d)."""
        return self.energy_and_gradient(x, y, t)[1]

    @abstractmethod
    def hessian(self, x: Tensor, y: Tensor, t: Tensor | int, basis: Tensor | None = None) -> Tensor:
        """∇²_yE, (B, d, d); with `basis` Q, (d, k), the compression Qᵀ ∇²_yE Q, (B, k, k)."""

    @abstractmethod
    def hvp_operator(self, x: Tensor, y: Tensor, t: Tensor | int) -> Callable[[Tensor], Tensor]:
        """The product v ↦ ∇²_yE v at fixed points, (B, d) → (B, d), for solvers that multiply many times.

        The graph of ∇_yE is kept inside the returned function and freed with it.
        """

    def hvp(self, x: Tensor, y: Tensor, t: Tensor | int, v: Tensor) -> Tensor:
        """∇²_yE v, (B, d), for v of shape (B, d)."""
        return self.hvp_operator(x, y, t)(v)

    @property
    def range_basis(self) -> Tensor | None:
        """Orthonormal (d, k) basis outside of which ∇²_yE vanishes for every (x, y, t), if k < d."""
        return None


@dataclass(frozen=True)
class MLPEnergy(Energy):
    """The energy of an `EnergyMLP`, differentiated in closed form.

    Args:
        model: one network (no seed axis).
        checkpoint: where it came from, if from a file.
    """

    model: EnergyMLP
    checkpoint: Checkpoint | None = None

    @property
    def schedule(self) -> Schedule:
        """Levels of the network."""
        return self.model.schedule

    @property
    def dim_x(self) -> int:
        """d_x."""
        return self.model.dim_x

    @property
    def dim_y(self) -> int:
        """D."""
        return self.model.dim_y

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.model.device

    @torch.no_grad()
    def energy(self, x: Tensor, y: Tensor, t: Tensor | int) -> Tensor:
        """E = ‖fc4(h₃)‖², (B,)."""
        return self.model.energy(x, y, checked_levels(y, t, self.schedule))

    @torch.no_grad()
    def energy_and_gradient(self, x: Tensor, y: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """E, (B,), and ∇_yE, (B, d), without autograd."""
        return self.model.energy_and_gradient(x, y, checked_levels(y, t, self.schedule))

    @torch.no_grad()
    def hessian(self, x: Tensor, y: Tensor, t: Tensor | int, basis: Tensor | None = None) -> Tensor:
        """∇²_yE by matrix products.

        With pre-activations z_l, tangents J_l = ∂z_l/∂y, J_o = ∂fc4/∂y and cotangents r_l = ∂E/∂h_l:

            ∇²_yE = 2 J_oᵀJ_o + Σ_l J_lᵀ diag(r_l ⊙ swish''(z_l)) J_l

        J₁ is constant; J₂, J₃ and J_o come from products with one weight matrix shared by the batch, so
        all but the last sum runs as large GEMMs.

        Args:
            x: (B, d_x).
            y: (B, d).
            t: integer or (B,).
            basis: Q, (d, k); differentiate along its columns only.

        Returns:
            (B, d, d), or (B, k, k) with a basis; symmetric to the last bit.
        """
        t = checked_levels(y, t, self.schedule)
        size = self.dim_y if basis is None else basis.shape[1]
        hessian = y.new_empty(len(y), size, size)
        together = len(y)
        if y.device.type == "cpu":
            together = max(1, CACHE_BYTES // (size * self.model.hidden * y.element_size()))
        for start in range(0, len(y), together):
            part = slice(start, start + together)
            self._fill_hessian(hessian[part], *self._tangents(x[part], y[part], t[part], basis))
        return hessian

    @torch.no_grad()
    def gauss_newton(self, x: Tensor, y: Tensor, t: Tensor | int) -> Tensor:
        """2 J_oᵀJ_o, (B, d, d): the part of ∇²_yE that would be all of it if every output were 0."""
        output, _ = self._tangents(x, y, checked_levels(y, t, self.schedule), None)
        return 2 * output @ output.mT

    def hvp_operator(self, x: Tensor, y: Tensor, t: Tensor | int) -> Callable[[Tensor], Tensor]:
        """The product v ↦ ∇²_yE v through one kept graph of the closed-form gradient."""
        t = checked_levels(y, t, self.schedule)
        point = y.detach().requires_grad_()
        with torch.enable_grad():
            gradient = self.model.energy_and_gradient(x, point, t)[1]
        return _graph_hvp(gradient, point)

    @property
    def range_basis(self) -> Tensor | None:
        """Orthonormal basis of the row space of fc1's y-columns, (d, h), when d > h."""
        if self.dim_y <= self.model.hidden:
            return None
        rows = self.model.parameters["fc1.weight"][:, self.dim_x :]
        return torch.linalg.qr(rows.mT).Q

    @staticmethod
    def _fill_hessian(hessian: Tensor, output: Tensor, layers: list[tuple[Tensor, Tensor]]) -> None:
        size = hessian.shape[-1]
        blocks = TRIANGLE_BLOCKS if size >= TRIANGLE_FROM else 1
        edges = [round(index * size / blocks) for index in range(blocks + 1)]
        for start, stop in pairwise(edges):
            rows = slice(start, stop)
            block = torch.bmm(output[:, rows], output[:, :stop].mT).mul_(2)
            for tangent, weight in layers:
                block.baddbmm_(tangent[:, rows] * weight.unsqueeze(-2), tangent[:, :stop].mT)
            diagonal = block[:, :, start:]
            block[:, :, start:] = (diagonal + diagonal.mT) / 2
            hessian[:, rows, :stop] = block
            hessian[:, :start, rows] = block[:, :, :start].mT

    def _tangents(self, x: Tensor, y: Tensor, t: Tensor, basis: Tensor | None):
        """J_oᵀ, (B, k, d), and for l = 1, 2, 3 the pair T_l, (B, k, h), and w_l, (B, h).

        T_l is J_lᵀ without the level's gain, which w_l takes in squared (one pass over (B, k, h) less), so
        that J_lᵀ diag(r_l ⊙ swish''(z_l)) J_l = T_l diag(w_l) T_lᵀ.
        """
        weights = self.model.parameters
        a = self.model.activations(x, y, t)
        r = self.model.cotangents(a)
        first = weights["fc1.weight"][:, self.dim_x :].mT
        if basis is not None:
            first = basis.mT @ first
        scaled = first * swish_slope(a.z1).unsqueeze(-2)
        second = F.linear(scaled, weights["fc2.weight"])
        torch.mul(second, (a.gain2 * swish_slope(a.z2)).unsqueeze(-2), out=scaled)
        third = F.linear(scaled, weights["fc3.weight"])
        torch.mul(third, (a.gain3 * swish_slope(a.z3)).unsqueeze(-2), out=scaled)
        output = F.linear(scaled, weights["fc4.weight"])
        layers = [
            (first.expand(len(y), -1, -1), r.h1 * swish_curvature(a.z1)),
            (second, r.h2 * swish_curvature(a.z2) * a.gain2.square()),
            (third, r.h3 * swish_curvature(a.z3) * a.gain3.square()),
        ]
        return output, layers


class FunctionEnergy(Energy):
    """Base of energies given as a function that autograd can follow.

    Attributes:
        function: (x (B, d_x), y (B, d), t (B,)) → E (B,), problem by problem independent.
    """

    function: Callable[[Tensor, Tensor, Tensor], Tensor]

    def __post_init__(self):
        object.__setattr__(self, "device", torch.device(self.device))
        object.__setattr__(self, "schedule", self.schedule.to(self.dtype, self.device))

    @torch.no_grad()
    def energy(self, x: Tensor, y: Tensor, t: Tensor | int) -> Tensor:
        """E, (B,)."""
        return self.function(x, y, checked_levels(y, t, self.schedule))


@dataclass(frozen=True)
class CallableEnergy(FunctionEnergy):
    """Any differentiable function as an `Energy`, through torch.func.

    Args:
        function: (x (B, d_x), y (B, d), t (B,)) → E (B,), problem by problem independent.
        dim_x: d_x.
        dim_y: d.
        schedule: its levels; the official ten if not given.
        dtype: precision x and y are given in.
        device: where x and y live.
    """

    function: Callable[[Tensor, Tensor, Tensor], Tensor]
    dim_x: int
    dim_y: int
    schedule: Schedule = field(default_factory=cosine_schedule)
    dtype: torch.dtype = torch.float64
    device: torch.device | str = "cpu"

    def energy_and_gradient(self, x: Tensor, y: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """E, (B,), and ∇_yE, (B, d), by one backward pass."""
        t = checked_levels(y, t, self.schedule)
        point = y.detach().requires_grad_()
        with torch.enable_grad():
            energy = self.function(x, point, t)
            (gradient,) = torch.autograd.grad(energy.sum(), point)
        return energy.detach(), gradient

    def hessian(self, x: Tensor, y: Tensor, t: Tensor | int, basis: Tensor | None = None) -> Tensor:
        """∇²_yE by reverse over reverse, symmetrised, (B, d, d); compressed to (B, k, k) with a basis."""
        hessian = autograd_hessian(self.function, x, y, checked_levels(y, t, self.schedule))
        hessian = (hessian + hessian.mT) / 2
        return hessian if basis is None else basis.mT @ hessian @ basis

    def hvp_operator(self, x: Tensor, y: Tensor, t: Tensor | int) -> Callable[[Tensor], Tensor]:
        """The product v ↦ ∇²_yE v by double backward through one kept graph."""
        t = checked_levels(y, t, self.schedule)
        point = y.detach().requires_grad_()
        with torch.enable_grad():
            energy = self.function(x, point, t).sum()
            (gradient,) = torch.autograd.grad(energy, point, create_graph=True)
        return _graph_hvp(gradient, point)


@dataclass(frozen=True, kw_only=True)
class ClosedFormEnergy(FunctionEnergy):
    """Base of energies known by a formula: a subclass writes E, ∇_yE and ∇²_yE, the rest follows.

    Args:
        dim_x: d_x.
        dim_y: d.
        schedule: its levels; the official ten if not given.
        dtype: precision x and y are given in.
        device: where x and y live.
    """

    dim_x: int
    dim_y: int
    schedule: Schedule = field(default_factory=cosine_schedule)
    dtype: torch.dtype = torch.float64
    device: torch.device | str = "cpu"

    @abstractmethod
    def function(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """E, (B,), for x (B, d_x), y (B, d) and t (B,), in operations that autograd and vmap can follow."""

    @abstractmethod
    def gradient_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """∇_yE, (B, d), from its formula."""

    @abstractmethod
    def hessian_formula(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """∇²_yE, (B, d, d), from its formula."""

    @torch.no_grad()
    def energy_and_gradient(self, x: Tensor, y: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor]:
        """E, (B,), and ∇_yE, (B, d)."""
        t = checked_levels(y, t, self.schedule)
        return self.function(x, y, t), self.gradient_formula(x, y, t)

    @torch.no_grad()
    def hessian(self, x: Tensor, y: Tensor, t: Tensor | int, basis: Tensor | None = None) -> Tensor:
        """∇²_yE, (B, d, d); compressed to (B, k, k) with a basis."""
        hessian = self.hessian_formula(x, y, checked_levels(y, t, self.schedule))
        return hessian if basis is None else basis.mT @ hessian @ basis

    def hvp_operator(self, x: Tensor, y: Tensor, t: Tensor | int) -> Callable[[Tensor], Tensor]:
        """The product v ↦ ∇²_yE v with the Hessians kept."""
        hessian = self.hessian(x, y, t)
        return lambda v: (hessian @ v.unsqueeze(-1)).squeeze(-1)


def autograd_hessian(
    function: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, y: Tensor, t: Tensor
) -> Tensor:
    """∇²_y of a batched energy function as autograd gives it, not symmetrised.

    Args:
        function: (B, d_x), (B, d), (B,) → (B,).
        x: (B, d_x).
        y: (B, d).
        t: (B,).

    Returns:
        (B, d, d) by `vmap(jacrev(grad))`, the fastest torch.func composition on a CPU.
    """

    def single(one_y: Tensor, one_x: Tensor, one_t: Tensor) -> Tensor:
        return function(one_x[None], one_y[None], one_t[None])[0]

    return torch.func.vmap(torch.func.jacrev(torch.func.grad(single)))(y, x, t).detach()


def load_energy(
    path: str | Path,
    weights: str = "ema",
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> MLPEnergy:
    """The energy of a checkpoint: an official IRED `.pt`, or `.safetensors` as written here.

    Args:
        path: checkpoint file.
        weights: "ema" (what the official evaluation uses) or "raw".
        dtype: float64 unless speed matters more than the last digits.
        device: where to evaluate; "auto" as in `resolve_device`.

    Returns:
        The energy; its `checkpoint` says what the file is.

    Raises:
        CheckpointError: the file cannot be used; names file, key, expected and found.
    """
    checkpoint = load_checkpoint(path, weights)
    return MLPEnergy(checkpoint.model.to(dtype, resolve_device(device)), checkpoint)


def resolve_device(device: torch.device | str) -> torch.device:
    """The device of a name; "auto" is the first CUDA device if there is one, else the CPU.

    The log says which one it is, and warns where a SLURM job was given GPUs that torch cannot use.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        job, gpus = os.environ.get("SLURM_JOB_ID"), os.environ.get("CUDA_VISIBLE_DEVICES")
        if device == "cpu" and job and gpus:
            logger.warning(
                "SLURM gave job %s the GPU %s, but torch %s (CUDA: %s) sees none, so it idles; "
                "see what nvidia-smi says on this node, and whether its driver is recent enough",
                *(job, gpus, torch.__version__, torch.version.cuda),
            )
    logger.info("device: %s", device)
    return torch.device(device)


def map_chunks(function: Callable[..., object], tensors: tuple[Tensor, ...], chunk: int) -> Iterator[object]:
    """Apply `function` to consecutive chunks of the leading axis, halving the chunk when memory runs out.

    Args:
        function: called with one slice of each tensor.
        tensors: all of one length B.
        chunk: largest number of rows per call, at least 1.

    Yields:
        The results in order.

    Raises:
        torch.OutOfMemoryError or RuntimeError: a single row does not fit.
        ValueError: chunk is below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, found {chunk}")
    start, count = 0, len(tensors[0])
    while start < count:
        try:
            result = function(*(tensor[start : start + chunk] for tensor in tensors))
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if chunk == 1 or not _is_out_of_memory(error):
                raise
            chunk = max(1, chunk // 2)
            logger.warning("out of memory: continuing with chunks of %d points", chunk)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield result
        start += chunk


def _is_out_of_memory(error: BaseException) -> bool:
    # The CPU allocator raises a bare RuntimeError, and so do cuBLAS and cuSOLVER for their workspaces.
    told = ("can't allocate memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in told)


def checked_levels(y: Tensor, t: Tensor | int, schedule: Schedule) -> Tensor:
    """One level per point.

    Args:
        y: (B, d).
        t: one integer, or an integer tensor () or (B,).
        schedule: the levels there are.

    Returns:
        (B,), on the device of y.

    Raises:
        ValueError: t has another shape, is not an integer, or lies outside 0 … K−1.
    """
    levels = torch.as_tensor(t, device=y.device)
    if levels.is_floating_point():
        raise ValueError(f"t must be an integer level, found {levels.dtype}")
    if levels.shape not in {(), (len(y),)}:
        raise ValueError(
            f"t must be one level or one for each of {len(y)} points, found shape {tuple(levels.shape)}"
        )
    if levels.numel() and not 0 <= int(levels.min()) <= int(levels.max()) < schedule.levels:
        raise ValueError(
            f"t must lie in 0 … {schedule.levels - 1}, found {int(levels.min())} … {int(levels.max())}"
        )
    return levels.expand(len(y))


def _graph_hvp(gradient: Tensor, point: Tensor) -> Callable[[Tensor], Tensor]:
    # The gradient of an energy linear in y does not depend on it.
    if not gradient.requires_grad:
        return torch.zeros_like

    def multiply(v: Tensor) -> Tensor:
        # Not as `grad_outputs`, which loads SymPy: half a second in every job.
        with torch.enable_grad():
            product = (gradient * v).sum()
        return torch.autograd.grad(product, point, retain_graph=True)[0].detach()

    return multiply
