"""Groups of inputs that are ablated together, as masks over the entries of [x; y]."""

from __future__ import annotations

import torch
from torch import Tensor

from iredinterp.errors import ConfigError
from iredinterp.ired.tasks import ProblemSpec

LINES = ("rows", "columns", "entries")


def input_groups(spec: ProblemSpec, by: str = "rows") -> dict[str, Tensor]:
    """Rows, columns or entries of the matrices of a task, each a mask (d_x + d,) bool; every input is in one.

    Names are `x:row0`, `y:column2`, `x:entry1,3` and, for the summands of addition, `x1:` and `x2:`.

    Args:
        spec: the task.
        by: one of `LINES`.

    Returns:
        Masks (d_x + d,) by name.

    Raises:
        ConfigError: no such grouping.
    """
    if by not in LINES:
        raise ConfigError(f"groups by {by!r} are unknown; use one of {', '.join(LINES)}")
    rows, columns = spec.shape
    matrices = ("x1", "x2", "y") if spec.task == "addition" else ("x", "y")
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    if by == "rows":
        names = [f"row{index}" for index in range(rows)]
        lines = [row == index for index in range(rows)]
    elif by == "columns":
        names = [f"column{index}" for index in range(columns)]
        lines = [column == index for index in range(columns)]
    else:
        names = [f"entry{i},{j}" for i in range(rows) for j in range(columns)]
        lines = list(torch.eye(rows * columns, dtype=torch.bool).unflatten(1, (rows, columns)))
    groups = {}
    for place, matrix in enumerate(matrices):
        for name, line in zip(names, lines, strict=True):
            mask = torch.zeros(len(matrices), rows, columns, dtype=torch.bool)
            mask[place] = line
            groups[f"{matrix}:{name}"] = mask.flatten()
    return groups


def observed_groups(mask: Tensor) -> dict[str, Tensor]:
    """Observed and missing entries of x and of y in completion, each a mask per point, (B, 2nm) bool.

    Args:
        mask: (B, n, m), 1 where an entry of the matrix is observed.
    """
    observed = mask.flatten(1).bool()
    none = torch.zeros_like(observed)
    return {
        "x:observed": torch.cat([observed, none], 1),
        "x:missing": torch.cat([~observed, none], 1),
        "y:observed": torch.cat([none, observed], 1),
        "y:missing": torch.cat([none, ~observed], 1),
    }
