"""Which levels learn together: the level-coupling matrix and its intervals over problems."""

from __future__ import annotations

from typing import NamedTuple

from scipy.special import stdtrit
from torch import Tensor

from iredinterp.analyses.ntk.names import OTHER, SAME


class Coupling(NamedTuple):
    """M_tt′ with a 95 % interval over problems, (L, L) each."""

    value: Tensor
    stderr: Tensor
    low: Tensor
    high: Tensor


def level_coupling(traces: Tensor) -> dict[str, Coupling]:
    """M_tt′ = tr Θ_g(t, t′)/√(tr Θ_g(t, t) tr Θ_g(t′, t′)), each trace a mean over problems.

    A step of gradient descent on a loss of g at level t moves g at level t′ too: where M_tt′ > 0 along the
    same direction (what one level learns, the other learns with it, if both err alike), where M_tt′ < 0
    against it (they interfere), on average over directions and in units of how far each level moves itself.
    0: they share no parameters, or share them without net effect on each other.

    Args:
        traces: T(p_t, q_t′) = tr Θ_g, (L, P, L, P), symmetric under exchange of both pairs.

    Returns:
        By component: "same problem", numerators over p = q, 1 on the diagonal; and "other problems", over
        p ≠ q. Intervals are Student's with the delete-one jackknife over problems; problems share a model, so
        they say nothing of another training run.

    Source:
        Efron & Tibshirani 1993, chapter 11, for the jackknife.
    """
    P = traces.shape[1]
    own = traces.diagonal(dim1=1, dim2=3)
    every = traces.sum(3)
    # Sums over problems, (L, L), and what leaving out each of them removes, (L, L, P).
    same, lost_same = own.sum(-1), own
    crossed = every.transpose(1, 2)
    lost_other = crossed + traces.sum(1) - 2 * own
    other = crossed.sum(-1) - same
    return {
        SAME: _jackknifed(same / P, (same[..., None] - lost_same) / (P - 1), own),
        OTHER: _jackknifed(other / (P * (P - 1)), (other[..., None] - lost_other) / ((P - 1) * (P - 2)), own),
    }


def _jackknifed(mean: Tensor, without: Tensor, own: Tensor) -> Coupling:
    """Ratio to the levels' own traces, from means over all problems and over all but one."""
    P = own.shape[-1]
    value = mean / _scale(own.mean(-1))
    left = without / _scale(((own.sum(-1, keepdim=True) - own) / (P - 1)).movedim(-1, 0)).movedim(0, -1)
    stderr = ((P - 1) / P * (left - left.mean(-1, keepdim=True)).square().sum(-1)).sqrt()
    reach = float(stdtrit(P - 1, 0.975)) * stderr
    return Coupling(value, stderr, value - reach, value + reach)


def _scale(own: Tensor) -> Tensor:
    """√(tr Θ(t, t) tr Θ(t′, t′)), (…, L, L), from (…, L, L) whose diagonals are the traces."""
    root = own.diagonal(dim1=-2, dim2=-1).sqrt()
    return root.unsqueeze(-1) * root.unsqueeze(-2)
