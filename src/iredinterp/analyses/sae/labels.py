"""What can be said of a vector without looking at an autoencoder: of its problem's matrix, and of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.analyses.sae.collection import Vectors
from iredinterp.points import reference_matrices
from iredinterp.tables import tensor_column

# A label that varies by less than this, relative to its size, is the same for all.
CONSTANT = 1e-9


@dataclass(frozen=True)
class Labels:
    """What latents are compared with.

    Attributes:
        problem: `problem_labels`, (P,) each.
        vector: `vector_labels`, (N,) each.
        matrices: (P, n, p), the problems'.
    """

    problem: Mapping[str, Tensor]
    vector: Mapping[str, Tensor]
    matrices: Tensor

    @classmethod
    def of(cls, vectors: Vectors, problems: pa.Table) -> Labels:
        """All of them but those that the problems of the vectors, which may be some only, share."""
        different = {
            name: label
            for name, label in problem_labels(problems).items()
            if len(label[vectors.problem].unique()) > 1
        }
        return cls(different, vector_labels(vectors, problems), reference_matrices(problems))

    def of_problems(self, problem: Tensor) -> dict[str, Tensor]:
        """The labels of problems, for vectors of problems (N,)."""
        return {name: label[problem] for name, label in self.problem.items()}


def problem_labels(problems: pa.Table) -> dict[str, Tensor]:
    """What can be said of a problem's matrix, (P,) boolean each.

    The row, and the column, of largest norm; whether norm, σ₁²/Σσ², observed share of the entries and
    condition number exceed their medians. Labels that nearly all problems share, or that repeat an earlier
    one, are left out.
    """
    Y = reference_matrices(problems)
    labels = {}
    for axis, name in ((2, "row"), (1, "column")):
        largest = Y.square().sum(axis).argmax(1)
        labels |= {f"{name} {i + 1} is largest": largest == i for i in range(int(largest.max()) + 1)}
    squares = torch.linalg.svdvals(Y).square()
    sizes = {"norm": squares.sum(1), "share of the first singular value": squares[:, 0] / squares.sum(1)}
    if "mask" in problems.column_names:
        sizes["observed share"] = tensor_column(problems, "mask").double().mean((1, 2))
    if "kappa" in problems.column_names:
        sizes["condition number"] = tensor_column(problems, "kappa").double()
    for name, size in sizes.items():
        if _varies(size):
            labels[f"large {name}"] = size > size.median()
    least = max(2, len(Y) // 50)
    different = {}
    for name, label in labels.items():
        known = any(bool((label == other).all()) for other in different.values())
        if not known and least <= int(label.sum()) <= len(Y) - least:
            different[name] = label
    return different


def vector_labels(vectors: Vectors, problems: pa.Table) -> dict[str, Tensor]:
    """What can be said of a vector itself, (N,) real each: `concept_scores` splits them at their medians.

    Its norm; how much of it lies along the first and the second singular pair uᵢvᵢᵀ of its problem's matrix,
    ⟨g, uᵢvᵢᵀ⟩²/‖g‖², the second where all matrices have one; and how much on missing entries.

    Args:
        vectors: problem ids are rows of `problems`.
        problems: those they come from.
    """
    Y = reference_matrices(problems)
    U, S, Vh = torch.linalg.svd(Y, full_matrices=False)
    pairs = int((CONSTANT * S[:, :1] < S).all(0).sum())
    units = F.normalize(vectors.values.double(), dim=1)
    labels = {"norm of the vector": vectors.values.double().norm(dim=1)}
    for i, name in enumerate(("first", "second")[:pairs]):
        pair = (U[:, :, i, None] * Vh[:, None, i]).flatten(1)
        labels[f"along the {name} singular pair"] = (units * pair[vectors.problem]).sum(1).square()
    if "mask" in problems.column_names:
        missing = 1 - tensor_column(problems, "mask").double().flatten(1)
        labels["on missing entries"] = (units.square() * missing[vectors.problem]).sum(1)
    return {name: label for name, label in labels.items() if _varies(label)}


def _varies(size: Tensor) -> bool:
    return bool(size.std() > CONSTANT * size.abs().mean())
