"""The saddles that minimum-energy paths cross."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iredinterp.barriers import Band
from iredinterp.energy import Energy

# A saddle further than this from the highest image, in spacings between images, is another one's.
NEARBY = 2.0
# One step towards a saddle, in spacings between images.
LONGEST_STEP = 0.5


@dataclass(frozen=True)
class Saddles:
    """Stationary points reached from the highest images of B paths.

    Attributes:
        y: (B, d).
        energy: (B,).
        gradient_norm: (B,).
        eigenvalues: two smallest of ∇²_yE, (B, 2); one and ∞ for d = 1.
        index: negative eigenvalues, (B,).
        verified: gradient within tolerance, index 1, and no further than two spacings between images from
            the highest of them, (B,).
    """

    y: Tensor
    energy: Tensor
    gradient_norm: Tensor
    eigenvalues: Tensor
    index: Tensor
    verified: Tensor


def saddles(
    energy: Energy, x: Tensor, band: Band, t: Tensor, tolerance: float, max_steps: int = 50
) -> Saddles:
    """Climb along the softest mode and descend along all others, from the highest image of each path.

    Close to a saddle of index 1 these are Newton steps on ∇_yE = 0.

    Args:
        energy: the landscape, float64.
        x: (B, d_x).
        band: paths.
        t: (B,).
        tolerance: on ‖∇_yE‖₂.
        max_steps: at most.

    Source:
        Eigenvector following, Cerjan & Miller 1981, J. Chem. Phys. 75, 2800.
    """
    rows = torch.arange(len(x), device=x.device)
    origin = band.images[rows, band.highest]
    spacing = band.length / (band.images.shape[1] - 1)
    y, active = origin.clone(), rows
    for _ in range(max_steps):
        gradient = energy.gradient(x[active], y[active], t[active])
        near = (y[active] - origin[active]).norm(dim=1) <= NEARBY * spacing[active]
        moving = (gradient.norm(dim=1) > tolerance) & near
        active, gradient = active[moving], gradient[moving]
        if not len(active):
            break
        step = _following_step(energy.hessian(x[active], y[active], t[active]), gradient)
        longest = LONGEST_STEP * spacing[active] / step.norm(dim=1)
        y[active] += step * longest.clamp(max=1).unsqueeze(1)
    gradient_norm = energy.gradient(x, y, t).norm(dim=1)
    eigenvalues = torch.linalg.eigvalsh(energy.hessian(x, y, t))
    index = (eigenvalues < 0).sum(1)
    near = (y - origin).norm(dim=1) <= NEARBY * spacing
    lowest = torch.nn.functional.pad(eigenvalues, (0, 1), value=torch.inf)[:, :2]
    verified = (gradient_norm <= tolerance) & (index == 1) & near
    return Saddles(y, energy.energy(x, y, t), gradient_norm, lowest, index, verified)


def _following_step(hessian: Tensor, gradient: Tensor) -> Tensor:
    eigenvalues, vectors = torch.linalg.eigh(hessian)
    size = eigenvalues.abs()
    size = size.maximum(torch.finfo(size.dtype).eps * size.amax(1, keepdim=True))
    size = torch.cat([-size[:, :1], size[:, 1:]], dim=1)
    return -(vectors @ ((vectors.mT @ gradient.unsqueeze(-1)) / size.unsqueeze(-1))).squeeze(-1)
