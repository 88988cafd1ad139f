"""EXP-003 on one model: train on its gradient field, report beside data and dictionaries without features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import torch
from scipy.stats import rankdata
from torch import Tensor

from iredinterp.analyses.sae.collection import Vectors, read_vectors
from iredinterp.analyses.sae.concepts import auroc, concept_scores, half_of_problems
from iredinterp.analyses.sae.dictionaries import fit_dictionary
from iredinterp.analyses.sae.features import FeatureAnalyzer
from iredinterp.analyses.sae.fidelity import (
    fidelity_table,
    level_means,
    random_directions,
    substitution_table,
)
from iredinterp.analyses.sae.interop import save_saelens
from iredinterp.analyses.sae.model import SparseAutoencoder, fvu, l0
from iredinterp.analyses.sae.nulls import gaussian_like, shuffled_coordinates
from iredinterp.analyses.sae.training import SAERecipe, SAETrainer
from iredinterp.energy import Energy
from iredinterp.errors import ConfigError
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import MODEL_KEYS, normal_draws, problems_table, reference_matrices
from iredinterp.tables import Metric, tensor_column, tidy

# What can be looked at, never mixed: a column of the collected vectors, and where they were taken.
FIELDS = {
    "gradient": ("gradient", ("q_sample",)),
    "error": ("error", ("q_sample",)),
    "run": ("gradient", ("jump", "inner")),
}
REAL = "real"
NULL_DATA = {"gaussian": gaussian_like, "shuffled": shuffled_coordinates}
DICTIONARIES = ("pca", "samples", "random")
# A label that varies by less than this over problems, relative to its size, is the same for all.
CONSTANT = 1e-9
PERMUTED = "labels or latents that do not tell the halves of the problems apart"
NO_MATCH = "fewer than two training seeds, or no latent in use"
UNUSED = "the latent is never in use"


class Run(NamedTuple):
    """Which autoencoder, or dictionary, a row is about.

    Attributes:
        data: "real", one of `NULL_DATA`, or one of `DICTIONARIES` on the real vectors.
        k: its sparsity.
        seed: of its training; None where nothing was trained.
    """

    data: str
    k: float
    seed: int | None


@dataclass(frozen=True)
class Study:
    """What one run of EXP-003 found.

    Attributes:
        metrics: long and tidy, see `study`.
        history: of the training on the real vectors, see `SAETrainer.history`.
        autoencoders: those, by seed and k.
    """

    metrics: pa.Table
    history: pa.Table
    autoencoders: dict[tuple[int, float], SparseAutoencoder]

    @property
    def reported(self) -> SparseAutoencoder:
        """That of the first training seed and the first k."""
        return next(iter(self.autoencoders.values()))


def study(
    vectors: Vectors,
    problems: pa.Table,
    keys: Mapping[str, object],
    sigma: Tensor,
    field: str,
    *,
    recipe: SAERecipe,
    seeds: Sequence[int] = (0,),
    permutations: int = 20,
    controls: bool = True,
    seed: int = 0,
    energy: Energy | None = None,
    fidelity: int = 64,
) -> Study:
    """Train autoencoders on one field and say what their latents are worth.

    The first training seed and the first k are the ones reported on; the others give the frontier and the
    stability.

    Args:
        vectors: of one field.
        problems: those they come from, problem_id their row.
        keys: values of `iredinterp.points.MODEL_KEYS`.
        sigma: σ_t, (K,).
        field: one of `FIELDS`; the component of what hypotheses speak of.
        recipe: of the training.
        seeds: training seeds.
        permutations: of labels, for the null of concept scores.
        controls: train on null data and fit dictionaries too, and compare seeds.
        seed: of everything drawn but the training.
        energy: the landscape, to put reconstructions into its sampler; left out if not given.
        fidelity: problems of that.

    Returns:
        Metrics keyed by the model keys, problem_id, t, sigma, point_kind "q_sample" or "trajectory", data
        ("real", "gaussian", "shuffled", or a dictionary), k and sae_seed; null where a key does not apply.

        * concept_auroc, component the field: mean over concepts of how well the best latent, chosen with its
          sign on other problems, tells each vector from those of the other class; its mean over vectors is
          the area under the ROC curve (components of DeLong et al. 1988). One row per problem and level.
        * auroc, auroc_selected, auroc_permuted, auroc_q, component the concept: area on problems that did
          not choose the latent; on those that did, biased upwards; mean over permuted labels; q-value.
        * FVU, L0, alive, of held-out problems, in standardised units.
        * stability, stability_chance: mean cosine of latents in use, matched between two seeds; of random
          dictionaries of their sizes.
        * effective_rank, rank_one_share, … and …_chance: mean over latents in use of
          `iredinterp.analyses.sae.atoms.atom_structure`, and of random directions.
        * density, index the latent: share of vectors that use it.
        * fidelity_mse, component place/reconstruction, with _low and _high: see `fidelity_table`.

    Raises:
        ConfigError: as `SAETrainer`, before anything is trained.
    """
    if field not in FIELDS:
        raise ConfigError(f"sae.fields: found {field!r}; use one of {', '.join(FIELDS)}")
    generator = torch.Generator().manual_seed(seed)
    point_kind = "q_sample" if field in ("gradient", "error") else "trajectory"
    report = _Report(keys, sigma, point_kind, field, Run(REAL, recipe.sparsities[0], seeds[0]))
    trainer = _trained(recipe, seeds, vectors, vectors.values)
    autoencoders = trainer.autoencoders()
    first = autoencoders[seeds[0], recipe.sparsities[0]]
    shape = tuple(tensor_column(problems, "y_star").shape[1:])
    looked = FeatureAnalyzer(first, vectors.values, vectors.t, vectors.problem, shape)
    parts = [
        report.frontier(REAL, trainer),
        *report.features(looked, generator),
        *report.concepts(looked, concept_labels(problems), permutations, seed),
    ]
    if controls:
        parts += report.stability(autoencoders, looked, seeds, generator)
        for name, make in NULL_DATA.items():
            null = make(vectors.values, vectors.t, generator)
            parts.append(report.frontier(name, _trained(recipe, seeds[:1], vectors, null)))
        parts += report.dictionaries(vectors, recipe, generator)
    if energy is not None:
        parts.append(report.fidelity(energy, problems.slice(0, fidelity), first, vectors, seed))
    return Study(pa.concat_tables(parts), trainer.history(), autoencoders)


def field_problems(spec: ProblemSpec, count: int, seed: int) -> pa.Table:
    """Problems of their own for EXP-003, which needs more than the others."""
    return problems_table(draw_problems(spec, count, torch.Generator().manual_seed(seed)))


def concept_labels(problems: pa.Table) -> dict[str, Tensor]:
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
        if size.std() > CONSTANT * size.abs().mean():
            labels[f"large {name}"] = size > size.median()
    least = max(2, len(Y) // 50)
    different = {}
    for name, label in labels.items():
        known = any(bool((label == other).all()) for other in different.values())
        if not known and least <= int(label.sum()) <= len(Y) - least:
            different[name] = label
    return different


def recipe_of(settings: Mapping[str, object], width: int, sweep: bool) -> SAERecipe:
    """The recipe that a configuration asks for.

    Args:
        settings: section `sae`.
        width: number of latents.
        sweep: all sparsities, not only the first.

    Raises:
        ConfigError: as `SAERecipe`.
    """
    wanted = "l1" if settings["activation"] == "relu_l1" else "k"
    sparsities = tuple(settings[wanted] if sweep else settings[wanted][:1])
    return SAERecipe(
        width,
        settings["activation"],
        **{wanted: sparsities},
        **{name: settings[name] for name in ("steps", "batch", "learning_rate")},
    )


def study_of_file(
    path: str | Path,
    field: str,
    energy: Energy,
    problems: pa.Table,
    keys: Mapping[str, object],
    recipe: SAERecipe,
    settings: Mapping[str, object],
    full: bool,
) -> Study:
    """`study` of one field of a collected file.

    Args:
        path: what `gradient_batches` collected.
        field: one of `FIELDS`.
        energy: the landscape; reconstructions are put into its sampler if the field is that of its runs.
        problems: those of the file.
        keys: values of `iredinterp.points.MODEL_KEYS`.
        recipe: of the training.
        settings: section `sae` of the configuration.
        full: with controls and all training seeds.
    """
    column, sources = FIELDS[field]
    return study(
        read_vectors(path, column, sources),
        problems,
        keys,
        energy.schedule.sigma,
        field,
        recipe=recipe,
        seeds=settings["seeds"] if full else settings["seeds"][:1],
        permutations=settings["permutations"],
        controls=full,
        seed=settings["seed"],
        energy=energy if full and field == "run" else None,
        fidelity=settings["fidelity"],
    )


def export(found: Study, folder: str | Path, keys: Mapping[str, object]) -> None:
    """Write the autoencoder reported on in SAELens' format, once per level, whose centre and scale it holds.

    Args:
        found: a study.
        folder: gets a folder `level-T` for every level T.
        keys: what the files say of their origin.
    """
    for t in found.reported.standardisation.levels:
        save_saelens(found.reported.folded(t), Path(folder) / f"level-{t}", {**keys, "level": t})


def recovery_table(
    score: Callable[[Tensor], float],
    x: Tensor,
    levels: int,
    keys: Mapping[str, object],
    recipe: SAERecipe,
    seed: int,
) -> pa.Table:
    """How exactly autoencoders find planted atoms, trained as on a gradient field.

    Args:
        score: of found atoms (m, d): 1 where every planted one is among them,
            `iredinterp.truth.dictionary.mmcs` for example.
        x: (N, d), vectors of the planted law.
        levels: of the field.
        keys: columns of the row.
        recipe: of the training.
        seed: of the training.

    Returns:
        dictionary_recovery_error: 1 − score.
    """
    index = torch.arange(len(x))
    trainer = SAETrainer(recipe, (seed,), x, index % levels, index // levels)
    trainer.run()
    (found,) = trainer.autoencoders().values()
    error = torch.tensor([1 - score(found.W_dec)], dtype=torch.float64)
    columns = {name: pa.array([value], pa.string()) for name, value in keys.items()}
    return tidy(pa.table(columns), [Metric("dictionary_recovery_error", error)])


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


@dataclass(frozen=True)
class _Report:
    """Metric tables of one study, all with the same keys."""

    keys: Mapping[str, object]
    sigma: Tensor
    point_kind: str
    field: str
    reported: Run

    def frontier(self, data: str, trainer: SAETrainer) -> pa.Table:
        history = trainer.history()
        last = pc.max(history["step"]).as_py()
        rows = history.filter(
            pc.and_(
                pc.equal(history["step"], last),
                pc.and_(pc.equal(history["split"], "validation"), pc.equal(history["level"], "all")),
            )
        ).to_pandas()
        rows["k"] = rows["k"].fillna(rows["l1"])
        tables = []
        for (k, seed), part in rows.groupby(["k", "seed"]):
            values = part.set_index("metric")["value"].astype(float)
            found = {"FVU": values["FVU"], "L0": values["L0"], "alive": 1 - values["dead"]}
            tables.append(self._one(found, Run(data, k, seed)))
        return pa.concat_tables(tables)

    def features(self, looked: FeatureAnalyzer, generator: torch.Generator) -> Iterator[pa.Table]:
        density = (looked.codes != 0).double().mean(0)
        yield tidy(self._keys(self.reported), [Metric("density", density[None], self.field)])
        structure, chance = looked.structure(generator)
        found = {name: float(values[looked.alive].nanmean()) for name, values in structure.items()}
        found |= {f"{name}_chance": value for name, value in chance.items()}
        yield self._one(found, self.reported, UNUSED)

    def concepts(
        self, looked: FeatureAnalyzer, labels: Mapping[str, Tensor], permutations: int, seed: int
    ) -> Iterator[pa.Table]:
        codes, problem, t = looked.codes, looked.problem, looked.t
        given = {name: label[problem] for name, label in labels.items()}
        # The same seed gives the same halves.
        half = half_of_problems(problem, torch.Generator().manual_seed(seed))
        scores = concept_scores(codes, given, problem, torch.Generator().manual_seed(seed), permutations)
        placed = torch.zeros(len(codes), dtype=torch.float64)
        for (choosing, latents), (index, label) in product(
            zip((half, ~half), scores.latents.mT, strict=True), enumerate(given.values())
        ):
            code, judged = codes[:, latents[index]].double(), ~choosing
            area = float(auroc(code[choosing, None], label[choosing, None]))
            sign = -1 if area < 0.5 else 1
            placed[judged] += placements(sign * code[judged], label[judged]) / len(given)
        cell, which = torch.unique(torch.stack([problem, t]), dim=1, return_inverse=True)
        sums = torch.zeros(cell.shape[1], dtype=torch.float64).index_add_(0, which, placed)
        counts = torch.zeros_like(sums).index_add_(0, which, torch.ones_like(placed))
        yield tidy(
            self._keys(self.reported, *cell),
            [Metric("concept_auroc", sums / counts, self.field)],
        )
        columns = {
            "auroc": scores.auroc,
            "auroc_selected": scores.on_selection,
            "auroc_permuted": scores.null.nanmean(0),
            "auroc_q": scores.q_value,
        }
        yield tidy(
            self._keys(self.reported),
            [
                Metric(name, column[index : index + 1], concept, PERMUTED)
                for name, column in columns.items()
                for index, concept in enumerate(scores.concepts)
            ],
        )

    def stability(
        self,
        autoencoders: Mapping[tuple[int, float], SparseAutoencoder],
        looked: FeatureAnalyzer,
        seeds: Sequence[int],
        generator: torch.Generator,
    ) -> Iterator[pa.Table]:
        if len(seeds) > 1:
            second = autoencoders[seeds[1], self.reported.k]
            other = FeatureAnalyzer(second, looked.x, looked.t, looked.problem, looked.shape)
            matching, chance = looked.match(other, generator)
            found = {"stability": matching.mean, "stability_chance": chance}
            yield self._one(found, self.reported, NO_MATCH)

    def dictionaries(
        self, vectors: Vectors, recipe: SAERecipe, generator: torch.Generator
    ) -> Iterator[pa.Table]:
        x, t = vectors.values, vectors.t
        for name in DICTIONARIES:
            for k in (int(each) for each in recipe.k):
                found = fit_dictionary(name, x, t, recipe.width, k, generator, recipe.per_level)
                codes = found.encode(x, t)
                scaled = found.standardisation.apply(x, t)
                left = fvu(scaled, found.standardisation.apply(found.decode(codes, t), t))
                used = {"FVU": left, "L0": float(l0(codes).double().mean())}
                yield self._one(used, Run(name, k, None))

    def fidelity(
        self,
        energy: Energy,
        problems: pa.Table,
        autoencoder: SparseAutoencoder,
        vectors: Vectors,
        seed: int,
    ) -> pa.Table:
        x, y_star = (
            tensor_column(problems, name).flatten(1).to(energy.device, energy.dtype)
            for name in ("x", "y_star")
        )
        ids = problems["problem_id"].to_pylist()
        init = normal_draws(seed, "first_state", ids, 1, energy.dim_y).squeeze(1).to(y_star)
        generator = torch.Generator().manual_seed(seed)
        reconstructions = {
            "autoencoder": lambda g, t: autoencoder(g.to(autoencoder.b_dec), t).to(g),
            "mean": level_means(vectors.values.to(y_star), vectors.t),
            "random": random_directions(generator),
        }
        keys = problems.select(["problem_id"])
        found = fidelity_table(substitution_table(energy, x, y_star, init, reconstructions, keys), seed=seed)
        metrics = []
        for row in found.to_pylist():
            name = row["metric"] + {"estimate": ""}.get(row["component"], f"_{row['component']}")
            value = torch.tensor([float("nan") if row["value"] is None else row["value"]])
            component = f"{row['place']}/{row['reconstruction']}"
            metrics.append(Metric(name, value.double(), component, row["reason"] or ""))
        return tidy(self._keys(self.reported), metrics)

    def _one(self, values: Mapping[str, float], run: Run, reason: str = "") -> pa.Table:
        numbers = {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}
        metrics = [Metric(name, number, self.field, reason) for name, number in numbers.items()]
        return tidy(self._keys(run), metrics)

    def _keys(self, run: Run, problem: Tensor | None = None, t: Tensor | None = None) -> pa.Table:
        """One row for all problems and levels, or one for each of those given."""
        count = 1 if t is None else len(t)
        nothing = [None] * count
        columns = {name: pa.array([self.keys.get(name)] * count, kind) for name, kind in MODEL_KEYS.items()}
        columns |= {
            "problem_id": pa.array(nothing if problem is None else problem.tolist(), pa.int32()),
            "t": pa.array(nothing if t is None else t.tolist(), pa.int32()),
            "sigma": pa.array(nothing if t is None else self.sigma[t].double().tolist(), pa.float64()),
            "point_kind": pa.array([self.point_kind] * count, pa.string()),
            "data": pa.array([run.data] * count, pa.string()),
            "k": pa.array([float(run.k)] * count, pa.float64()),
            "sae_seed": pa.array([run.seed] * count, pa.int64()),
        }
        return pa.table(columns)


def _trained(recipe: SAERecipe, seeds: Sequence[int], vectors: Vectors, x: Tensor) -> SAETrainer:
    trainer = SAETrainer(recipe, seeds, x, vectors.t, vectors.problem)
    trainer.run()
    return trainer
