"""What is said of one encoder, trained or not, on real data or null data: the same numbers for all of them.

Every function returns plain numbers or metrics; `iredinterp.analyses.sae.study` gives them their keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.analyses.sae.concepts import auroc, concept_scores, half_of_problems, placements, probe
from iredinterp.analyses.sae.dictionaries import Dictionary, refitted_codes
from iredinterp.analyses.sae.effects import (
    SUMMARY_KEYS,
    effect_summary,
    feature_effects,
    latent_statistics,
    written_variance,
)
from iredinterp.analyses.sae.features import FeatureAnalyzer, monosemanticity, permuted_monosemanticity
from iredinterp.analyses.sae.fidelity import (
    Reconstruction,
    descent_table,
    fidelity_table,
    level_means,
    random_directions,
    substitution_table,
)
from iredinterp.analyses.sae.labels import Labels
from iredinterp.analyses.sae.model import SparseAutoencoder, fvu, l0
from iredinterp.energy import Energy
from iredinterp.errors import ConfigError
from iredinterp.points import normal_draws
from iredinterp.tables import Metric, tensor_column, tidy

# Vectors, at most, that active sets are refitted on: each costs a small least-squares problem.
REFITTED = 512
# Vectors, at most, that probes are fitted to and judged on.
PROBED = 2048
# Of either kind, per latent.
CONTROLS = 3
MEASURES = ("mse", "displacement")
UNUSED = "the latent is never in use"
PERMUTED = "labels or latents that do not tell the halves of the problems apart"

Encoder = SparseAutoencoder | Dictionary


def quality(encoder: Encoder, x: Tensor, t: Tensor) -> dict[str, float]:
    """How well and how sparsely vectors are written.

    Args:
        encoder: with a standardisation.
        x: (N, d), best held out.
        t: (N,), levels.

    Returns:
        FVU, in standardised units; FVU_refitted, once the latents in use get the coefficients that fit best,
        on 512 vectors at most: what an encoder loses beyond it is shrinkage, not a lack of atoms; L0; alive,
        the share of latents in use.
    """
    scaled = encoder.standardisation.apply(x, t)
    codes = encoder.encode(x, t)
    some = slice(REFITTED)
    # What no latent writes.
    rest = encoder.standardisation.apply(encoder.decode(torch.zeros_like(codes[:1]), t[:1]), t[:1])
    refit = refitted_codes(encoder.W_dec, scaled[some] - rest, codes[some]) @ encoder.W_dec + rest
    return {
        "FVU": fvu(scaled, encoder.standardisation.apply(encoder.decode(codes, t), t)),
        "FVU_refitted": fvu(scaled[some], refit),
        "L0": float(l0(codes).double().mean()),
        "alive": float((codes != 0).any(0).double().mean()),
    }


def latents(looked: FeatureAnalyzer, labels: Labels, generator: torch.Generator) -> dict[str, Tensor]:
    """What each latent is, (m,) each, NaN for those never in use.

    Returns:
        `density`, share of vectors that use it; `monosemanticity` and `monosemanticity_chance`, mean cosine
        of the matrices, their mean taken off, of the problems that it is active in, and the same of permuted
        problems; `effective_rank`, `rank_one_share`, … of `atom_structure`.
    """
    count = len(labels.matrices)
    # Matrices do not differ within a problem, so its vectors count together.
    activity = torch.zeros(count, looked.codes.shape[1], dtype=torch.float64)
    activity.index_add_(0, looked.problem, looked.codes.abs().double())
    embedding = F.normalize(labels.matrices.flatten(1), dim=1)
    embedding = embedding - embedding.mean(0)
    each = torch.arange(count)
    values = {
        "monosemanticity": monosemanticity(activity, embedding, each),
        "monosemanticity_chance": permuted_monosemanticity(activity, embedding, each, generator),
        **looked.structure(generator)[0],
    }
    values = {name: value.where(looked.alive, torch.nan) for name, value in values.items()}
    return {"density": (looked.codes != 0).double().mean(0), **values}


def summary(
    found: Mapping[str, Tensor], looked: FeatureAnalyzer, labels: Labels, seed: int
) -> dict[str, float]:
    """Means over latents in use of what `latents` found, and `auroc_mean`, over the concepts of problems.

    Args:
        found: by `latents`.
        looked: the latents.
        labels: the concepts.
        seed: of the halves of the problems.
    """
    means = {name: float(value.nanmean()) for name, value in found.items() if name != "density"}
    scores = concept_scores(
        looked.codes,
        labels.of_problems(looked.problem),
        looked.problem,
        torch.Generator().manual_seed(seed),
        permutations=0,
    )
    return means | {"auroc_mean": float(scores.auroc.nanmean())}


def concept_metrics(
    looked: FeatureAnalyzer, labels: Labels, permutations: int, seed: int
) -> tuple[list[Metric], Tensor, Tensor]:
    """How well single latents tell concepts.

    Args:
        looked: the latents.
        labels: the concepts.
        permutations: of the labels.
        seed: of halves and permutations.

    Returns:
        Metrics of one row, component the concept: `auroc` on problems that did not choose the latent,
        `auroc_selected` on those that did, `auroc_permuted`, mean over permuted labels, `auroc_q`. Then the
        cells (2, C), problem and level, that vectors fall in, and for each the mean, over its vectors and the
        concepts of problems, of `placements` (C,), whose mean over vectors is the mean AUROC. Concepts
        without an `auroc`, of which a half of the problems has one class only, are left out; NaN if all are.
    """
    codes, problem = looked.codes, looked.problem
    given = labels.of_problems(problem)
    # The same seed gives the same halves.
    half = half_of_problems(problem, torch.Generator().manual_seed(seed))
    everything = given | dict(labels.vector)
    scores = concept_scores(codes, everything, problem, torch.Generator().manual_seed(seed), permutations)
    # Where a half has one class only, nothing can be placed.
    defined = scores.auroc[: len(given)].isfinite()
    placed = torch.zeros(len(codes), dtype=torch.float64)
    for (choosing, chosen), (index, label) in product(
        zip((half, ~half), scores.latents.mT, strict=True), enumerate(given.values())
    ):
        if not defined[index]:
            continue
        code, judged = codes[:, chosen[index]].double(), ~choosing
        area = float(auroc(code[choosing, None], label[choosing, None]))
        sign = -1 if area < 0.5 else 1
        placed[judged] += placements(sign * code[judged], label[judged])
    cells, which = torch.unique(torch.stack([problem, looked.t]), dim=1, return_inverse=True)
    sums = torch.zeros(cells.shape[1], dtype=torch.float64).index_add_(0, which, placed)
    counts = torch.zeros_like(sums).index_add_(0, which, torch.ones_like(placed))
    columns = {
        "auroc": scores.auroc,
        "auroc_selected": scores.on_selection,
        "auroc_permuted": scores.null.nanmean(0),
        "auroc_q": scores.q_value,
    }
    metrics = [
        Metric(name, column[index : index + 1], concept, PERMUTED)
        for name, column in columns.items()
        for index, concept in enumerate(scores.concepts)
    ]
    return metrics, cells, sums / (counts * defined.sum())


def probe_metrics(looked: FeatureAnalyzer, labels: Labels, inputs: Sequence[int], seed: int) -> list[Metric]:
    """Do k latents tell a concept better than x does? See `iredinterp.analyses.sae.concepts.probe`.

    Args:
        looked: the latents.
        labels: the concepts of problems are probed.
        inputs: values of k.
        seed: of the halves, and of which vectors are used, 2048 at most.

    Returns:
        Metrics of one row, component the concept: `probe_latents_k` and `probe_components_k` for every k, and
        `probe_raw`.
    """
    draw = torch.randperm(len(looked.x), generator=torch.Generator().manual_seed(seed))
    kept = draw[:PROBED].sort().values
    codes, x, problem = looked.codes[kept], looked.x[kept], looked.problem[kept]
    metrics = []
    names = [f"probe_{kind}_{k}" for k in inputs for kind in ("latents", "components")] + ["probe_raw"]
    for concept, label in labels.of_problems(problem).items():
        try:
            found = probe(codes, x, label, problem, inputs, torch.Generator().manual_seed(seed))
        except ConfigError as error:
            metrics += [one(name, float("nan"), concept, str(error)) for name in names]
            continue
        values = {f"probe_latents_{k}": value for k, value in zip(found.k, found.latents, strict=True)}
        values |= {f"probe_components_{k}": value for k, value in zip(found.k, found.components, strict=True)}
        values["probe_raw"] = found.raw
        metrics += [one(name, value, concept) for name, value in values.items()]
    return metrics


def stability(analyzers: Sequence[FeatureAnalyzer], generator: torch.Generator) -> dict[str, float]:
    """Do trainings agree? Mean over the later ones of how well the first one's latents match theirs.

    Args:
        analyzers: of at least two training seeds, on the same vectors.
        generator: source of randomness.

    Returns:
        `stability`, mean cosine of matched atoms in use; `stability_chance`, that of random dictionaries of
        their sizes.
    """
    pairs = [analyzers[0].match(other, generator) for other in analyzers[1:]]
    return {
        "stability": sum(matching.mean for matching, _ in pairs) / len(pairs),
        "stability_chance": sum(chance for _, chance in pairs) / len(pairs),
    }


@dataclass(frozen=True)
class SamplerRuns:
    """Problems that the sampler solves with something else in the gradient's place.

    Attributes:
        energy: the landscape.
        keys: B rows that name the problems.
        x: (B, d_x).
        y_star: (B, d).
        init: (B, d), first states.
        seed: of everything drawn.
    """

    energy: Energy
    keys: pa.Table
    x: Tensor
    y_star: Tensor
    init: Tensor
    seed: int

    @classmethod
    def of(cls, energy: Energy, problems: pa.Table, seed: int) -> SamplerRuns:
        """From a problems table."""
        x, y_star = (
            tensor_column(problems, name).flatten(1).to(energy.device, energy.dtype)
            for name in ("x", "y_star")
        )
        ids = problems["problem_id"].to_pylist()
        init = normal_draws(seed, "first_state", ids, 1, energy.dim_y).squeeze(1).to(y_star)
        return cls(energy, problems.select(["problem_id"]), x, y_star, init, seed)

    def fidelity(self, encoders: Mapping[str, Encoder], g: Tensor, t: Tensor) -> list[Metric]:
        """What reconstructions are worth to the sampler.

        Args:
            encoders: by name; "mean", each level's, and "random", directions with the norm of g, are added.
            g: (N, d), gradients of the sampler's runs.
            t: (N,), levels.

        Returns:
            Metrics of one row, component place/reconstruction: `fidelity_mse`, `fidelity_displacement` and
            each with _low and _high, see `fidelity_table`; `accept_rate`. Component the reconstruction:
            `descent_kept`, mean over problems and levels, see `descent_table`.
        """
        g, t = g.to(self.y_star), t.to(self.y_star.device)
        reconstructions = {name: _reconstruction(encoder) for name, encoder in encoders.items()}
        reconstructions |= {
            "mean": level_means(g, t),
            "random": random_directions(torch.Generator().manual_seed(self.seed)),
        }
        runs = substitution_table(self.energy, self.x, self.y_star, self.init, reconstructions, self.keys)
        metrics = []
        for measure in MEASURES:
            for row in fidelity_table(runs, measure, seed=self.seed).to_pylist():
                end = "" if row["component"] == "estimate" else f"_{row['component']}"
                value = float("nan") if row["value"] is None else row["value"]
                place = f"{row['place']}/{row['reconstruction']}"
                metrics.append(one(row["metric"] + end, value, place, row["reason"] or ""))
        rows = runs.to_pandas()
        rates = rows[rows["metric"] == "accept_rate"].groupby(["place", "reconstruction"])["value"].mean()
        metrics += [one("accept_rate", rate, "/".join(where)) for where, rate in rates.items()]
        kept = descent_table(g, t, torch.zeros_like(t), reconstructions).to_pandas()
        kept = kept[kept["metric"] == "descent_kept"].groupby("reconstruction")["value"].mean()
        return metrics + [one("descent_kept", share, name) for name, share in kept.items()]

    def effects(self, autoencoder: SparseAutoencoder, g: Tensor, t: Tensor, count: int) -> pa.Table:
        """What the latents that write most do to the answers; see `effect_summary`.

        Args:
            autoencoder: whose latents.
            g: (N, d), gradients of the sampler's runs.
            t: (N,), levels.
            count: latents.
        """
        precise = autoencoder.to(self.energy.device, self.energy.dtype)
        g, t = g.to(self.y_star), t.to(self.y_star.device)
        written = written_variance(precise, g, t).nan_to_num()
        in_use = int(written.count_nonzero())
        if in_use <= CONTROLS:
            return no_effects(f"{in_use} latents are in use; the controls of one are {CONTROLS} others")
        chosen = written.topk(min(count, in_use)).indices.tolist()
        table = feature_effects(
            self.energy,
            self.x,
            self.y_star,
            self.init,
            precise,
            chosen,
            latent_statistics(precise, g, t),
            self.keys,
            torch.Generator().manual_seed(self.seed),
            controls=CONTROLS,
        )
        return effect_summary(table, seed=self.seed)


def no_effects(reason: str) -> pa.Table:
    """The table of `effect_summary` where nothing was done: one undefined row."""
    nothing = pa.table([pa.nulls(1, kind) for kind in SUMMARY_KEYS.types], SUMMARY_KEYS)
    return tidy(nothing, [one("mse_change", float("nan"), "estimate", reason)])


def one(name: str, value: float, component: str = "", reason: str = "") -> Metric:
    """A metric of one row."""
    return Metric(name, torch.tensor([value], dtype=torch.float64), component, reason)


def _reconstruction(encoder: Encoder) -> Reconstruction:
    return lambda g, t: encoder(g.to(encoder.W_dec), t).to(g)
