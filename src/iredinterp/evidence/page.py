"""The verdict page: every claim with its effects, nulls, oracle, verdict and the command that repeats it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from pathlib import Path

from iredinterp.evidence.hypotheses import Registration
from iredinterp.evidence.verdicts import Verdict
from iredinterp.pages import render_page

RULE = {
    "INVALID": "the analysis failed its own calibration on a planted network",
    "REVERSED": "the interval lies below −s against every required null",
    "ABSENT": "the equivalence interval lies inside ±s against every required null",
    "ARTEFACT": "clear of every naive null, but a structure-preserving null reproduces it",
    "PREDICTED": "within ±s of the Bayes-optimal energy: true, but no discovery",
    "SUPPORTED": "the interval lies above s against every required null, and the seed test rejects",
    "INCONCLUSIVE": "none of these, or evidence is missing",
}
MARGIN = 0.08


class Axis:
    """Positions on a horizontal axis that holds ±s and every interval of a verdict, in percent.

    Args:
        sesoi: s, the smallest effect of interest.
        ends: effects and ends of intervals; what is not finite is left out.
    """

    def __init__(self, sesoi: float, ends: Iterable[float]):
        finite = [end for end in ends if isfinite(end)] + [-sesoi, sesoi]
        low, high = min(finite), max(finite)
        margin = MARGIN * (high - low)
        self.low, self.width = low - margin, high - low + 2 * margin

    def at(self, value: float) -> float:
        """Position of a value; what is not finite lies at the edge."""
        return min(100.0, max(0.0, 100 * (value - self.low) / self.width))


def render_verdicts(
    verdicts: Sequence[Verdict], registration: Registration, reproduce: str, path: str | Path
) -> None:
    """Write the page as self-contained HTML, atomically.

    Args:
        verdicts: from `iredinterp.evidence.verdicts.judge`.
        registration: what they were judged by.
        reproduce: the command that repeats them.
        path: file to write.
    """
    render_page(
        "verdicts.html",
        path,
        registration=registration,
        measured=[(found, _axis(found)) for found in verdicts if found.family],
        unmeasured=[found for found in verdicts if not found.family],
        rule=RULE,
        reproduce=reproduce,
    )


def _axis(found: Verdict) -> Axis | None:
    ends = [end for contrast in found.contrasts.values() for end in (*contrast.ci95, contrast.effect)]
    return Axis(found.hypothesis.sesoi, ends) if ends else None
