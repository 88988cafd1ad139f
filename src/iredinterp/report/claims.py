"""The verdicts as the report shows them, read from their tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from iredinterp.evidence.hypotheses import NULLS, VERDICTS
from iredinterp.evidence.page import Axis
from iredinterp.tables import read_table

# What a trained network is compared with, in the order shown.
COMPARED = (*NULLS, "oracle")
ENDS = ("ci_lo", "effect", "ci_hi")


@dataclass(frozen=True)
class Claim:
    """A verdict with its contrasts.

    Attributes:
        row: of the verdict table.
        contrasts: rows of the contrast table, nulls before the oracle.
        axis: that holds all of them; None where nothing was compared.
    """

    row: Mapping
    contrasts: tuple[Mapping, ...]
    axis: Axis | None


@dataclass(frozen=True)
class Claims:
    """All claims of a study.

    Attributes:
        measured: by experiment.
        unmeasured: registered, without anything measured.
    """

    measured: tuple[Claim, ...]
    unmeasured: tuple[Claim, ...]

    @property
    def tally(self) -> dict[str, int]:
        """How often each verdict was given among what was measured."""
        found = Counter(claim.row["verdict"] for claim in self.measured)
        return {name: found[name] for name in VERDICTS if name in found}

    @property
    def seeds(self) -> tuple[int, int]:
        """Fewest and most training seeds in a comparison."""
        counts = [c["n_seeds"] for claim in self.measured for c in claim.contrasts if c["n_seeds"]] or [0]
        return min(counts), max(counts)

    @property
    def problems(self) -> int:
        """Most problems of one family in a comparison."""
        return max((c["n_problems"] for claim in self.measured for c in claim.contrasts), default=0)

    @property
    def commands(self) -> list[str]:
        """What repeats the verdicts."""
        return list(dict.fromkeys(claim.row["reproduce"] for claim in self.measured + self.unmeasured))

    def of(self, experiment: str) -> list[Claim]:
        """The measured claims of one experiment, e.g. `EXP-001`."""
        return [claim for claim in self.measured if claim.row["experiment"] == experiment]


def read_claims(verdicts: str | Path, contrasts: str | Path) -> Claims:
    """Verdicts with their contrasts.

    Args:
        verdicts: file of `iredinterp.evidence.verdicts.verdict_table`.
        contrasts: file of `iredinterp.evidence.verdicts.contrast_table`.

    Raises:
        TableError: a file is no table of ours.
    """
    compared = read_table(contrasts).to_pylist()
    rows = sorted(
        read_table(verdicts).to_pylist(), key=lambda row: (row["experiment"], row["hypothesis"], row["task"])
    )
    claims = [_claim(row, compared) for row in rows]
    measured = tuple(claim for claim in claims if claim.row["family"])
    return Claims(measured, tuple(claim for claim in claims if not claim.row["family"]))


def _claim(row: Mapping, compared: Sequence[Mapping]) -> Claim:
    mine = [other for other in compared if all(other[key] == row[key] for key in ("hypothesis", "family"))]
    mine.sort(key=lambda contrast: COMPARED.index(contrast["condition"]))
    ends = [contrast[end] for contrast in mine for end in ENDS if contrast[end] is not None]
    return Claim(row, tuple(mine), Axis(row["sesoi"], ends) if ends else None)
