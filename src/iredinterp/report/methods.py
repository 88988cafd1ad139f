"""How far the methods can be trusted: planted truths found again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from iredinterp.evidence.hypotheses import Registration
from iredinterp.tables import read_table


@dataclass(frozen=True)
class Recovery:
    """What an analysis found on one planted network.

    Attributes:
        problems: whose shapes the network has.
        method: the analysis.
        metric: the error.
        error: its largest value over levels; None where it cannot be said.
        planted: the value to be found, if the metric speaks of one.
        allowed: the largest error with which its hypotheses are judged; None if none depends on it.
        reason: why there is no error.
    """

    problems: str
    method: str
    metric: str
    error: float | None
    planted: float | None
    allowed: float | None
    reason: str

    @property
    def passed(self) -> bool | None:
        """Whether the error is allowed; None where nothing depends on it."""
        return None if self.allowed is None else self.error is not None and self.error <= self.allowed


def read_calibrations(paths: Iterable[str | Path], registration: Registration) -> list[Recovery]:
    """One row per planted network and kind of error.

    Args:
        paths: `…/PROBLEMS/calibration.parquet`, of `iredinterp.evidence.calibration.calibration_table`.
        registration: says which errors are allowed.

    Raises:
        TableError: a file is no table of ours.
    """
    gates = {entry.gate for entry in registration.hypotheses}
    allowed = {(gate.method, gate.metric): gate.tolerance for gate in gates}
    return [
        _recovery(Path(path).parent.name, of, rows, allowed)
        for path in paths
        for of, rows in _grouped(read_table(path).to_pylist()).items()
    ]


def _grouped(rows: Iterable[Mapping]) -> dict[tuple[str, str], list[Mapping]]:
    groups: dict[tuple[str, str], list[Mapping]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["metric"]), []).append(row)
    return groups


def _recovery(problems: str, of: tuple[str, str], rows: list[Mapping], allowed: Mapping) -> Recovery:
    undefined = [row["reason"] for row in rows if row["value"] is None]
    worst = None if undefined else max(rows, key=lambda row: row["value"])
    return Recovery(
        problems,
        *of,
        error=worst and worst["value"],
        planted=(worst or rows[0])["planted"],
        allowed=allowed.get(of),
        reason=undefined[0] if undefined else "",
    )
