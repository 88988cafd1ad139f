"""What the latents of an autoencoder are: how often active, on which vectors, with which atoms.

The functions take codes, so they serve trained autoencoders and dictionaries alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.analyses.sae.atoms import as_matrices, atom_structure, chance_structure
from iredinterp.analyses.sae.concepts import (
    COLUMNS,
    ConceptScores,
    Probe,
    concept_scores,
    probe,
    stacked_labels,
)
from iredinterp.analyses.sae.dictionaries import Dictionary
from iredinterp.analyses.sae.matching import Matching, chance_matching, match_atoms
from iredinterp.analyses.sae.model import SparseAutoencoder, checked_vectors
from iredinterp.analyses.sae.nulls import problem_permutation
from iredinterp.errors import ConfigError

CHUNK = 4096


@dataclass(frozen=True)
class Usage:
    """How much latents are used, level by level.

    Attributes:
        levels: L of them, ascending.
        density: (L, m), share of the level's vectors that a latent is active on.
        magnitude: (L, m), mean |activation| where it is active; NaN where it never is.
    """

    levels: tuple[int, ...]
    density: Tensor
    magnitude: Tensor


def usage(codes: Tensor, t: Tensor) -> Usage:
    """Density and magnitude of every latent at every level.

    Args:
        codes: (N, m).
        t: (N,), integer levels.
    """
    levels, which, vectors = torch.unique(t, return_inverse=True, return_counts=True)
    shape = (len(levels), codes.shape[1])
    active = torch.zeros(shape, dtype=torch.float64).index_add_(0, which, (codes != 0).double())
    total = torch.zeros(shape, dtype=torch.float64).index_add_(0, which, codes.abs().double())
    return Usage(tuple(levels.tolist()), active / vectors[:, None], total / active)


def top_examples(codes: Tensor, count: int) -> Tensor:
    """Vectors that activate each latent most.

    Args:
        codes: (N, m); signed codes count by magnitude.
        count: vectors per latent.

    Returns:
        (m, min(count, N)), row numbers of `codes` by falling |activation|; −1 where a latent has fewer.
    """
    values, rows = codes.abs().topk(min(count, len(codes)), dim=0)
    return rows.where(values > 0, -1).mT


def quantile_examples(codes: Tensor, levels: Sequence[float]) -> Tensor:
    """Vectors at quantiles of |activation| among those that each latent is active on.

    Args:
        codes: (N, m).
        levels: of the quantiles, 0 (weakest) … 1 (strongest).

    Returns:
        (m, len(levels)), row numbers of `codes`; −1 for latents that are never active.

    Raises:
        ConfigError: a level outside 0 … 1.
    """
    if not all(0 <= level <= 1 for level in levels):
        raise ConfigError(f"quantiles lie in 0 … 1; found {list(levels)}")
    found = []
    for columns in codes.abs().split(COLUMNS, dim=1):
        order = columns.argsort(0)
        silent = (columns == 0).sum(0)
        active = len(columns) - silent
        steps = torch.tensor(levels, dtype=torch.float64)[:, None] * (active - 1).clamp(min=0)
        position = (silent + steps.round().long()).clamp(max=len(columns) - 1)
        found.append(order.gather(0, position).where(active > 0, -1).mT)
    return torch.cat(found)


def monosemanticity(codes: Tensor, embedding: Tensor, problem: Tensor, top: int | None = None) -> Tensor:
    """Mean cosine of the inputs of each latent, over pairs of problems, weighted by both activations.

    Σ aᵢaⱼ⟨eᵢ, eⱼ⟩ / Σ aᵢaⱼ over pairs i, j of different problems, in time linear in N: the sum over all pairs
    is ‖Σ aᵢeᵢ‖², that within a problem likewise. Vectors of one problem are alike whatever a latent means.

    Args:
        codes: (N, m); signed codes count by magnitude.
        embedding: (N, e), what the vectors are judged by, such as the spectrum of x; no row zero.
        problem: (N,), integer problem ids.
        top: use only so many vectors of largest |activation|; all if not given.

    Returns:
        (m,) in [−1, 1]; NaN for latents that are active in fewer than two problems. What chance gives depends
        on the embedding: see `permuted_monosemanticity`.

    Raises:
        ConfigError: an embedding of another length.

    Source:
        Monosemanticity score, Pach et al. 2025 (arXiv:2504.02821); linear-time form as in arXiv:2602.12403.
    """
    if embedding.ndim != 2 or len(embedding) != len(codes):
        raise ConfigError(
            f"an embedding has one row per vector; found {tuple(embedding.shape)} for {len(codes)} vectors"
        )
    problems, which = torch.unique(problem, return_inverse=True)
    directions = F.normalize(embedding.double(), dim=1)

    def by_problem(parts: Tensor) -> Tensor:
        return parts.new_zeros(len(problems), parts.shape[1]).index_add_(0, which, parts)

    def between(sums: Tensor) -> Tensor:
        return sums.sum(0).square() - sums.square().sum(0)

    scores = []
    for columns in codes.abs().double().split(COLUMNS, dim=1):
        if top is not None:
            smallest = columns.topk(min(top, len(columns)), dim=0).values[-1]
            columns = columns.where(columns >= smallest, 0)
        weights = by_problem(columns)
        similar = sum(between(by_problem(columns * direction[:, None])) for direction in directions.mT)
        several = weights.count_nonzero(0) > 1
        scores.append((similar / between(weights)).where(several, torch.nan))
    return torch.cat(scores)


def permuted_monosemanticity(
    codes: Tensor, embedding: Tensor, problem: Tensor, generator: torch.Generator, top: int | None = None
) -> Tensor:
    """`monosemanticity`, had every latent been active on other problems as often and as much.

    Args:
        codes: (N, m).
        embedding: (N, e).
        problem: (N,), integer problem ids.
        generator: source of randomness, of one permutation for all latents.
        top: as in `monosemanticity`.

    Returns:
        (m,), as from `monosemanticity`.

    Raises:
        ConfigError: also if no two problems have equally many vectors.
    """
    return monosemanticity(codes[problem_permutation(problem, generator)], embedding, problem, top)


class FeatureAnalyzer:
    """The latents of one autoencoder on one set of vectors, best those it was not trained on.

    Args:
        autoencoder: on raw vectors; a dictionary has the same reports.
        x: (N, d), on the CPU; all N·m codes are kept.
        t: (N,), integer levels.
        problem: (N,), integer problem ids.
        shape: (n, p), of the matrices whose row-major flattenings x are.
        concepts: label (N,) by name, see `concept_scores`.

    Attributes:
        atoms: (m, n, p).
        codes: (N, m), on the CPU.
        alive: (m,), which latents are active on any vector.

    Raises:
        ConfigError: x is not finite or of another dimension, or t, problem, shape or a label do not fit it.
    """

    def __init__(
        self,
        autoencoder: SparseAutoencoder | Dictionary,
        x: Tensor,
        t: Tensor,
        problem: Tensor,
        shape: tuple[int, int],
        concepts: Mapping[str, Tensor] | None = None,
    ):
        x = checked_vectors(x)
        self.autoencoder, self.shape, self.concepts = autoencoder, shape, dict(concepts or {})
        self.x, self.t, self.problem = x, t, problem
        for name, labels in (("t", t), ("problem", problem)):
            if labels.shape != (len(x),) or labels.is_floating_point():
                raise ConfigError(
                    f"{name} holds one integer per vector; found {labels.dtype} of shape "
                    f"{tuple(labels.shape)} for {len(x)} vectors"
                )
        if self.concepts:
            stacked_labels(self.concepts, len(x))
        self.atoms = as_matrices(autoencoder.W_dec.cpu(), shape)
        device = autoencoder.W_dec.device
        self.codes = torch.cat(
            [
                autoencoder.encode(rows.to(device), levels.to(device)).cpu()
                for rows, levels in zip(x.split(CHUNK), t.split(CHUNK), strict=True)
            ]
        )
        self.alive = (self.codes != 0).any(0)

    @property
    def signed(self) -> bool:
        """Whether some code is negative, so that an atom and its negative are the same."""
        return bool((self.codes < 0).any())

    def usage(self) -> Usage:
        """See `usage`."""
        return usage(self.codes, self.t)

    def top_examples(self, count: int = 10) -> Tensor:
        """See `top_examples`."""
        return top_examples(self.codes, count)

    def quantile_examples(self, levels: Sequence[float] = (0.25, 0.5, 0.75)) -> Tensor:
        """See `quantile_examples`."""
        return quantile_examples(self.codes, levels)

    def structure(
        self, generator: torch.Generator, reference: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Structure of all atoms, (m,) each, and of random ones; see `atom_structure`, `chance_structure`."""
        return atom_structure(self.atoms, reference), chance_structure(self.shape, generator, reference)

    def concept_scores(self, generator: torch.Generator, permutations: int = 200) -> ConceptScores:
        """See `iredinterp.analyses.sae.concepts.concept_scores`."""
        return concept_scores(self.codes, self.concepts, self.problem, generator, permutations)

    def monosemanticity(
        self, embedding: Tensor, generator: torch.Generator, top: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scores, (m,), and those of permuted activations, (m,); see `monosemanticity`."""
        return (
            monosemanticity(self.codes, embedding, self.problem, top),
            permuted_monosemanticity(self.codes, embedding, self.problem, generator, top),
        )

    def match(self, other: FeatureAnalyzer, generator: torch.Generator) -> tuple[Matching, float]:
        """Matching of the latents alive in each, and its mean by chance.

        Args:
            other: of another seed, or of another half of the data.
            generator: source of randomness.
        """
        signed = self.signed or other.signed
        mine, others = (one.autoencoder.W_dec.cpu()[one.alive] for one in (self, other))
        among_alive = match_atoms(mine, others, signed)
        matching = Matching(
            self.alive.nonzero()[among_alive.first, 0],
            other.alive.nonzero()[among_alive.second, 0],
            among_alive.cosine,
        )
        return matching, chance_matching(len(mine), len(others), mine.shape[1], generator, signed)

    def probe(self, concept: str, k: Sequence[int], generator: torch.Generator) -> Probe:
        """See `iredinterp.analyses.sae.concepts.probe`.

        Raises:
            ConfigError: also if there is no such concept.
        """
        if concept not in self.concepts:
            raise ConfigError(f"no concept {concept!r}; there are {', '.join(self.concepts) or 'none'}")
        return probe(self.codes, self.x, self.concepts[concept], self.problem, k, generator)
