"""What latents know of labelled concepts, scored on problems that did not choose the latent.

The best of m latents separates any labels somewhat, permuted ones too. So half of the problems choose the
latent and its sign, the other half scores them, and permuted labels go the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import false_discovery_control, rankdata
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from iredinterp.analyses.sae.nulls import problem_permutation
from iredinterp.errors import ConfigError

# Columns looked at together where a copy of all would not fit.
COLUMNS = 256
# Of probes: folds over problems, and the inverse penalties that they choose from.
FOLDS = 3
PENALTIES = (1e-3, 1e-1, 1e1)
# Principal axes with singular values below this share of the largest hold the rounding of float32 data.
RANK_TOLERANCE = 1e-6


def auroc(scores: Tensor, labels: Tensor) -> Tensor:
    """Probability that a positive scores above a negative, ties counting half.

    Args:
        scores: (N, m).
        labels: (N, c), boolean.

    Returns:
        (m, c) in float64, for every pair of columns; NaN where labels are all alike.

    Source:
        Mann & Whitney 1947.
    """
    positives = labels.sum(0).double()
    negatives = len(labels) - positives
    rank_sums = torch.cat(
        [
            torch.cat([ranks @ block.double() for block in labels.split(COLUMNS, dim=1)], 1)
            for ranks in map(_ranks, scores.split(COLUMNS, dim=1))
        ]
    )
    return (rank_sums - positives * (positives + 1) / 2) / (positives * negatives)


def placements(scores: Tensor, positive: Tensor) -> Tensor:
    """For each vector the share of vectors of the other class that it is on the right side of, ties half.

    Args:
        scores: (N,).
        positive: (N,), boolean; both classes occur.

    Returns:
        (N,), whose mean over either class is the area under the ROC curve.

    Source:
        The structural components of DeLong, DeLong & Clarke-Pearson 1988.
    """
    rank = torch.from_numpy(rankdata(scores.numpy()))
    found = torch.empty_like(rank)
    for members, sign in ((positive, 1), (~positive, -1)):
        within = torch.from_numpy(rankdata(scores[members].numpy()))
        below = (rank[members] - within) / (~members).sum()
        found[members] = below if sign > 0 else 1 - below
    return found


def half_of_problems(problem: Tensor, generator: torch.Generator) -> Tensor:
    """Rows of a random half of the problems.

    Args:
        problem: (N,), integer problem ids.
        generator: source of randomness.

    Returns:
        (N,), boolean.

    Raises:
        ConfigError: fewer than two problems.
    """
    problems, which = torch.unique(problem, return_inverse=True)
    if len(problems) < 2:
        raise ConfigError("vectors of one problem cannot be split in halves; collect more problems")
    return (torch.randperm(len(problems), generator=generator) < len(problems) // 2)[which]


@dataclass(frozen=True)
class ConceptScores:
    """How well single latents tell concepts, c of them.

    Every number is a mean over the two directions, either half of the problems choosing for the other.

    Attributes:
        concepts: names.
        auroc: (c,), of the chosen latent on the problems that did not choose it; .5 by chance. Below .5
            where the sign chosen on one half is wrong on the other, NaN where a half has one class only.
        on_selection: (c,), of the same latent on the problems that chose it: biased upwards.
        latents: (c, 2), the latent that each half chose.
        null: (P, c), `auroc` of labels permuted between problems.
        p_value: (c,), share of the null at or above `auroc`, the observation counted in.
        q_value: (c,), `p_value` by Benjamini–Hochberg over the concepts.
    """

    concepts: tuple[str, ...]
    auroc: Tensor
    on_selection: Tensor
    latents: Tensor
    null: Tensor
    p_value: Tensor
    q_value: Tensor


def concept_scores(
    codes: Tensor,
    concepts: Mapping[str, Tensor],
    problem: Tensor,
    generator: torch.Generator,
    permutations: int = 200,
) -> ConceptScores:
    """Best single latent for each concept, by split halves of the problems.

    Args:
        codes: (N, m).
        concepts: label (N,) by name: boolean, of two values (the larger is the positive), or real, which
            asks whether it exceeds its median over the half that chooses.
        problem: (N,), integer problem ids.
        generator: source of randomness.
        permutations: of the labels; p is at least 1/(permutations + 1).

    Raises:
        ConfigError: fewer than two problems, no two of equally many vectors, or a label that is constant,
            not finite or of another length.
    """
    values, is_real = stacked_labels(concepts, len(codes))
    half = half_of_problems(problem, generator)
    orders = [torch.arange(len(codes))]
    orders += [problem_permutation(problem, generator) for _ in range(permutations)]
    directions = [_choose_and_score(codes, values, is_real, orders, choosing) for choosing in (half, ~half)]
    scores, on_selection, latents = (
        torch.stack(parts).unflatten(1, (len(orders), -1)) for parts in zip(*directions, strict=True)
    )
    found, null = scores.mean(0)[0], scores.mean(0)[1:]
    p_value = (1 + (null >= found).sum(0).double()) / (1 + null.isfinite().sum(0))
    p_value = p_value.where(found.isfinite(), torch.nan)
    return ConceptScores(
        concepts=tuple(concepts),
        auroc=found,
        on_selection=on_selection.mean(0)[0],
        latents=latents[:, 0].mT,
        null=null,
        p_value=p_value,
        q_value=_benjamini_hochberg(p_value),
    )


@dataclass(frozen=True)
class Probe:
    """AUROC of logistic regressions for one concept, on problems they were not fitted to.

    Attributes:
        k: inputs that the sparse ones may use.
        latents: by k, on the k latents that tell the concept best one by one.
        components: by k, on the k leading principal components of x.
        raw: on all of x, whitened, so that the penalty prefers no coordinates.
    """

    k: tuple[int, ...]
    latents: tuple[float, ...]
    components: tuple[float, ...]
    raw: float


def probe(
    codes: Tensor, x: Tensor, label: Tensor, problem: Tensor, k: Sequence[int], generator: torch.Generator
) -> Probe:
    """k-sparse probing: do k latents tell a concept better than x does?

    Half of the problems choose latents, components and penalty and fit, the other half scores.

    Args:
        codes: (N, m).
        x: (N, d), the vectors.
        label: (N,), as in `concept_scores`.
        problem: (N,), integer problem ids.
        k: numbers of inputs, up to m and to the rank of the x fitted to.
        generator: source of randomness.

    Raises:
        ConfigError: fewer than two problems, a k out of range, a label that is constant, not finite or of
            another length, or a class that fewer than three problems of a half have.

    Source:
        Gurnee et al. 2023 (arXiv:2305.01610); as a test of autoencoders Kantamneni et al. 2025
        (arXiv:2502.16681).
    """
    values, is_real = stacked_labels({"label": label}, len(codes))
    fitted = half_of_problems(problem, generator)
    labels = _binary(values, is_real, fitted)
    truth = labels[:, 0]
    for part in (fitted & truth, fitted & ~truth, ~fitted & truth, ~fitted & ~truth):
        if len(problem[part].unique()) < FOLDS:
            raise ConfigError(
                f"fewer than {FOLDS} problems of a half have one of the classes; "
                "use more problems or another label"
            )
    seen = x[fitted].double()
    rank = int(torch.linalg.matrix_rank(seen - seen.mean(0), rtol=RANK_TOLERANCE))
    most = min(codes.shape[1], rank)
    if not k or not all(1 <= one <= most for one in k):
        raise ConfigError(f"a probe takes 1 … {most} inputs here; found k = {list(k)}")
    best = (auroc(codes[fitted], labels[fitted])[:, 0] - 0.5).abs().argsort(descending=True, stable=True)
    folds = StratifiedGroupKFold(FOLDS).split(truth[fitted], truth[fitted], problem[fitted])
    regression = LogisticRegressionCV(
        Cs=PENALTIES,
        l1_ratios=(0,),
        cv=list(folds),
        scoring="neg_log_loss",
        max_iter=1000,
        use_legacy_attributes=False,
    )

    def score(inputs: Tensor, *first_step) -> float:
        model = make_pipeline(*first_step, StandardScaler(), regression)
        inputs = inputs.double()
        model.fit(inputs[fitted].numpy(), truth[fitted].numpy())
        outputs = torch.from_numpy(model.decision_function(inputs[~fitted].numpy()))
        return float(auroc(outputs[:, None], labels[~fitted]))

    return Probe(
        tuple(k),
        tuple(score(codes[:, best[:one]]) for one in k),
        tuple(score(x, PCA(one, svd_solver="full")) for one in k),
        score(x, PCA(rank, svd_solver="full")),
    )


def stacked_labels(concepts: Mapping[str, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Labels as columns.

    Args:
        concepts: label (N,) by name.
        count: N.

    Returns:
        Values (N, c) in float64, labels of two values as 0 and 1, and (c,) boolean: which have more.

    Raises:
        ConfigError: no label, or one that is constant, not finite or of another length.
    """
    if not concepts:
        raise ConfigError("there are no concepts to score; give at least one label")
    columns, is_real = [], []
    for name, label in concepts.items():
        if label.shape != (count,):
            raise ConfigError(f"concept {name!r} has labels {tuple(label.shape)} for {count} vectors")
        label = label.double()
        if not label.isfinite().all():
            raise ConfigError(f"concept {name!r} has labels that are not finite; drop those vectors")
        kinds = label.unique()
        if len(kinds) < 2:
            raise ConfigError(f"concept {name!r} is the same for all vectors; leave it out")
        is_real.append(len(kinds) > 2)
        columns.append(label if is_real[-1] else (label == kinds[1]).double())
    return torch.stack(columns, 1), torch.tensor(is_real)


def _binary(values: Tensor, is_real: Tensor, choosing: Tensor) -> Tensor:
    return values > values[choosing].median(0).values.where(is_real, 0.5)


def _choose_and_score(
    codes: Tensor, values: Tensor, is_real: Tensor, orders: Sequence[Tensor], choosing: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """For each order of the labels and each concept, (P·c,): score, score on the choosing half, latent."""
    labels = torch.cat([_binary(values[order], is_real, choosing) for order in orders], 1)
    seen = auroc(codes[choosing], labels[choosing])
    best = (seen - 0.5).abs().nan_to_num(nan=-1).argmax(0)
    every = torch.arange(len(best))
    on_selection = seen[best, every]
    # Only latents chosen by some column are ranked again.
    chosen, position = best.unique(return_inverse=True)
    score = auroc(codes[~choosing][:, chosen], labels[~choosing])[position, every]
    inverted = on_selection < 0.5
    undefined = on_selection.isnan()
    score = torch.where(inverted, 1 - score, score).where(~undefined, torch.nan)
    return score, torch.where(inverted, 1 - on_selection, on_selection), best


def _ranks(scores: Tensor) -> Tensor:
    """Ranks within each column, ties at their mean, of (N, m) as (m, N)."""
    return torch.from_numpy(rankdata(scores.mT.numpy(), axis=1))


def _benjamini_hochberg(p_value: Tensor) -> Tensor:
    q_value = p_value.clone()
    defined = p_value.isfinite()
    if defined.any():
        q_value[defined] = torch.from_numpy(np.asarray(false_discovery_control(p_value[defined].numpy())))
    return q_value
