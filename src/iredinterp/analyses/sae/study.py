"""EXP-003 on one model: train on its gradient field, report beside data and dictionaries without features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.analyses.sae import report
from iredinterp.analyses.sae.atoms import chance_structure
from iredinterp.analyses.sae.collection import Vectors, read_vectors
from iredinterp.analyses.sae.dictionaries import METHODS, Dictionary, first_layer_atoms, fit_dictionary
from iredinterp.analyses.sae.examples import examples_table
from iredinterp.analyses.sae.features import FeatureAnalyzer
from iredinterp.analyses.sae.interop import save_saelens
from iredinterp.analyses.sae.labels import Labels
from iredinterp.analyses.sae.model import SparseAutoencoder
from iredinterp.analyses.sae.names import REAL
from iredinterp.analyses.sae.nulls import gaussian_like, shuffled_coordinates
from iredinterp.analyses.sae.recipe import SAERecipe
from iredinterp.analyses.sae.training import SAETrainer
from iredinterp.energy import Energy, MLPEnergy
from iredinterp.errors import ConfigError
from iredinterp.points import MODEL_KEYS
from iredinterp.tables import Metric, tensor_column, tidy, write_table

# What can be looked at, never mixed: a column of the collected vectors, and where they were taken.
FIELDS = {
    "gradient": ("gradient", ("q_sample",)),
    "error": ("error", ("q_sample",)),
    "run": ("gradient", ("jump", "inner")),
}
# Trained like the real one: on data without features, or with random atoms that stay as they are.
NULL_DATA = {"gaussian": gaussian_like, "shuffled": shuffled_coordinates}
FROZEN = "frozen"
# The network's own atoms.
FIRST_LAYER = "first_layer"
NULLS = (*NULL_DATA, FROZEN, *METHODS, FIRST_LAYER)
# Latents whose examples are kept: those in most use.
EXAMPLES = 64

Progress = Callable[..., Iterable]


class Run(NamedTuple):
    """Which autoencoder, or dictionary, a row is about.

    Attributes:
        data: "real" or one of `NULLS`.
        k: its sparsity.
        seed: of its training; None where nothing was trained.
    """

    data: str
    k: float
    seed: int | None


@dataclass(frozen=True)
class Plan:
    """How much is asked of one study.

    Attributes:
        seeds: of training; the first is the one reported on, the others it is matched with.
        nulls: of `NULLS`; first_layer is left out where the energy is not a network's.
        permutations: of labels.
        probes: numbers of latents that probes may use; none are fitted if empty.
        described: vectors that latents are described on, at most, whole problems of them.
        fidelity: held-out problems on which reconstructions are put into the sampler, at most.
        effects: latents that are taken away and added to there.
        seed: of everything drawn but the training.
    """

    seeds: tuple[int, ...] = (0,)
    nulls: tuple[str, ...] = ()
    permutations: int = 20
    probes: tuple[int, ...] = ()
    described: int = 50_000
    fidelity: int = 64
    effects: int = 0
    seed: int = 0

    def __post_init__(self):
        if unknown := set(self.nulls) - set(NULLS):
            raise ConfigError(f"sae.nulls: unknown null {min(unknown)!r}; use some of {', '.join(NULLS)}")

    @classmethod
    def of(cls, settings: Mapping[str, object], full: bool) -> Plan:
        """From section `sae` of a configuration; if not `full`, without nulls, further seeds and probes."""
        wanted = {name: settings[name] for name in ("permutations", "described", "fidelity", "seed")}
        if not full:
            return cls(tuple(settings["seeds"][:1]), **wanted)
        several = {name: tuple(settings[name]) for name in ("seeds", "nulls", "probes")}
        return cls(**several, **wanted, effects=settings["effects"])


@dataclass(frozen=True)
class Study:
    """What one run of EXP-003 found.

    Attributes:
        metrics: long and tidy, see `study`.
        examples: of the latents in most use, see `examples_table`.
        effects: of single latents, see `effect_summary`; one undefined row if the sampler was not asked.
        history: of the training on the real vectors, see `SAETrainer.history`.
        autoencoders: those, by seed and k.
    """

    metrics: pa.Table
    examples: pa.Table
    effects: pa.Table
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
    plan: Plan = Plan(),
    energy: Energy | None = None,
    saved: str | Path | None = None,
    progress: Progress = lambda steps, description, total: steps,
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
        plan: what is asked beside it.
        energy: the landscape, whose sampler reconstructions are put into if the field is that of its runs.
        saved: folder of running states, see `SAETrainer.run`; the caller deletes it once the results are
            safe.
        progress: as in `SAETrainer.run`.

    Returns:
        Metrics keyed by the model keys, field, problem_id, t, sigma, point_kind "q_sample" or "trajectory",
        data ("real" or one of `NULLS`), k and sae_seed; null where a key does not apply. Component the
        field:

        * concept_auroc: mean over concepts of how well the best latent, chosen with its sign on other
          problems, tells each vector from those of the other class; its mean over vectors is the area under
          the ROC curve (components of DeLong et al. 1988). One row per problem and level.
        * FVU, FVU_refitted, L0, alive: of held-out problems, see `report.quality`.
        * stability, stability_chance: see `report.stability`.
        * monosemanticity, effective_rank, … and auroc_mean: see `report.summary`; effective_rank_chance, …
          of random directions.
        * latent_density, latent_monosemanticity, latent_effective_rank, …, index the latent: see
          `report.latents`.
        * offset: of each level, see `Standardisation.offset`.

        Component the concept: auroc, auroc_selected, auroc_permuted, auroc_q, see `report.concept_metrics`,
        and probe_…, see `report.probe_metrics`. Component place and reconstruction: fidelity_mse, … see
        `report.SamplerRuns.fidelity`.

    Raises:
        ConfigError: as `SAETrainer`, before anything is trained; an unknown field.
    """
    if field not in FIELDS:
        raise ConfigError(f"sae.fields: found {field!r}; use one of {', '.join(FIELDS)}")
    work = _Work(vectors, problems, recipe, plan, energy, saved, progress)
    rows = _Keyed(keys, sigma, field, Run(REAL, recipe.sparsities[0], plan.seeds[0]))
    trainer = work.trained(REAL, recipe, vectors.values)
    held = trainer.validation[: recipe.evaluated]
    first = trainer.autoencoders()[plan.seeds[0], recipe.sparsities[0]]
    looked = work.look(first, vectors.values)
    parts = [*rows.group(work, vectors.values, work.encoders(REAL, trainer), held)]
    parts += rows.reported_on(work, looked, trainer)
    for x, encoders in work.nulls(trainer):
        parts += rows.group(work, x, encoders, held) if encoders else []
    effects = report.no_effects("single latents were not changed in sampler runs of this field")
    if energy is not None and field == "run" and plan.fidelity:
        runs, g, t = work.sampler_runs(trainer), vectors.values[held], vectors.t[held]
        rivals = {"autoencoder": first}
        rivals |= {one.name: one for one in work.dictionaries("pca", trainer, recipe.k[:1])}
        parts.append(rows.table(rows.run, runs.fidelity(rivals, g, t)))
        if plan.effects:
            effects = runs.effects(first, g, t, plan.effects)
    examples = examples_table(looked, work.described, problems, most=EXAMPLES)
    return Study(
        pa.concat_tables(parts),
        rows.with_field(examples),
        rows.with_field(effects),
        trainer.history(),
        trainer.autoencoders(),
    )


def study_of_file(
    path: str | Path,
    field: str,
    energy: Energy,
    problems: pa.Table,
    keys: Mapping[str, object],
    recipe: SAERecipe,
    plan: Plan,
    **how,
) -> Study:
    """`study` of one field of a collected file.

    Args:
        path: what `gradient_batches` collected.
        field: one of `FIELDS`.
        energy: the landscape.
        problems: those of the file.
        keys: values of `iredinterp.points.MODEL_KEYS`.
        recipe: of the training.
        plan: what is asked beside it.
        how: `saved` and `progress` of `study`.
    """
    column, sources = FIELDS[field]
    vectors = read_vectors(path, column, sources)
    sigma = energy.schedule.sigma
    return study(vectors, problems, keys, sigma, field, recipe=recipe, plan=plan, energy=energy, **how)


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


def export(found: Study, folder: str | Path, keys: Mapping[str, object]) -> None:
    """Write the autoencoder reported on in SAELens' format, once per level, whose centre and scale it holds.

    Args:
        found: a study.
        folder: gets a folder `level-T` for every level T.
        keys: what the files say of their origin.
    """
    for t in found.reported.standardisation.levels:
        save_saelens(found.reported.folded(t), Path(folder) / f"level-{t}", {**keys, "level": t})


def write(found: Study, paths: Mapping[str, str], keys: Mapping[str, object], footer: dict) -> None:
    """Write all that a study found.

    Args:
        found: a study.
        paths: of the tables metrics, examples, effects and history, and of the folder autoencoder.
        keys: what the autoencoders' files say of their origin.
        footer: from `iredinterp.provenance.provenance`.
    """
    for name in ("metrics", "examples", "effects", "history"):
        write_table(getattr(found, name), paths[name], footer)
    export(found, paths["autoencoder"], keys)


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


@dataclass
class _Work:
    """What is trained, fitted and described in one study."""

    vectors: Vectors
    problems: pa.Table
    recipe: SAERecipe
    plan: Plan
    energy: Energy | None
    saved: str | Path | None
    progress: Progress
    rows: Tensor = dataclasses.field(init=False)
    """(N,), boolean: the vectors that latents are described on."""

    def __post_init__(self):
        self.rows = _whole_problems(self.vectors.problem, self.plan.described)
        self.described = Vectors(**{name: part[self.rows] for name, part in vars(self.vectors).items()})
        self.labels = Labels.of(self.described, self.problems)
        self.shape = tuple(tensor_column(self.problems, "y_star").shape[1:])
        self.generator = torch.Generator().manual_seed(self.plan.seed)

    def trained(self, name: str, recipe: SAERecipe, x: Tensor) -> SAETrainer:
        trainer = SAETrainer(recipe, self.plan.seeds, x, self.vectors.t, self.vectors.problem)
        state = None if self.saved is None else Path(self.saved) / f"{name}.safetensors"
        trainer.run(state, progress=lambda steps, _, total: self.progress(steps, f"{name} vectors", total))
        return trainer

    def encoders(self, name: str, trainer: SAETrainer) -> dict[Run, report.Encoder]:
        return {Run(name, k, seed): found for (seed, k), found in trainer.autoencoders().items()}

    def look(self, encoder: report.Encoder, x: Tensor) -> FeatureAnalyzer:
        here = self.described
        return FeatureAnalyzer(encoder, x[self.rows], here.t, here.problem, self.shape)

    def nulls(self, trainer: SAETrainer) -> Iterator[tuple[Tensor, dict[Run, report.Encoder]]]:
        """Vectors and encoders of one null after another."""
        x, t = self.vectors.values, self.vectors.t
        for name in self.plan.nulls:
            if name in NULL_DATA:
                x_null = NULL_DATA[name](x, t, self.generator)
                yield x_null, self.encoders(name, self.trained(name, self.recipe, x_null))
            elif name == FROZEN:
                frozen = self.trained(name, replace(self.recipe, frozen_decoder=True), x)
                yield x, self.encoders(name, frozen)
            else:
                found = self.dictionaries(name, trainer, self.recipe.k)
                yield x, {Run(name, one.k, None): one for one in found}

    def dictionaries(self, name: str, trainer: SAETrainer, k: Sequence[float]) -> list[Dictionary]:
        """Fitted to the training vectors once, then one for every k."""
        x, t = self.vectors.values[trainer.training], self.vectors.t[trainer.training]
        if not k or (name == FIRST_LAYER and not isinstance(self.energy, MLPEnergy)):
            return []
        if name == FIRST_LAYER:
            atoms = first_layer_atoms(self.energy).to(x)
            found = Dictionary.of_atoms(name, atoms, 1, trainer.standardisation)
        else:
            found = fit_dictionary(name, x, t, self.recipe.width, 1, self.generator, self.recipe.per_level)
        return [replace(found, k=int(one)) for one in k]

    def sampler_runs(self, trainer: SAETrainer) -> report.SamplerRuns:
        """Of problems held out from training."""
        ids = torch.unique(self.vectors.problem[trainer.validation])[: self.plan.fidelity]
        return report.SamplerRuns.of(self.energy, self.problems.take(pa.array(ids.numpy())), self.plan.seed)


@dataclass(frozen=True)
class _Keyed:
    """Tables of one study, all with the same keys; `run` is the one reported on."""

    keys: Mapping[str, object]
    sigma: Tensor
    field: str
    run: Run

    def group(
        self, work: _Work, x: Tensor, encoders: Mapping[Run, report.Encoder], held: Tensor
    ) -> Iterator[pa.Table]:
        """What is said of real vectors and nulls alike: of encoders that differ in k and training seed."""
        t = work.vectors.t[held]
        for run, encoder in encoders.items():
            yield self.values(run, report.quality(encoder, x[held], t))
        looked = {run: work.look(one, x) for run, one in encoders.items() if run.k == self.run.k}
        first, analyzer = next(iter(looked.items()))
        latents = report.latents(analyzer, work.labels, work.generator)
        summary = report.summary(latents, analyzer, work.labels, work.plan.seed)
        yield self.values(first, summary, report.UNUSED)
        if len(looked) > 1:
            yield self.values(first, report.stability([*looked.values()], work.generator), report.UNUSED)

    def reported_on(self, work: _Work, looked: FeatureAnalyzer, trainer: SAETrainer) -> Iterator[pa.Table]:
        """What is said of the one autoencoder reported on only."""
        plan, labels = work.plan, work.labels
        latents = report.latents(looked, labels, work.generator)
        yield self.table(
            self.run,
            [
                Metric(f"latent_{name}", value[None], self.field, report.UNUSED)
                for name, value in latents.items()
            ],
        )
        chance = chance_structure(work.shape, work.generator)
        yield self.values(self.run, {f"{name}_chance": value for name, value in chance.items()})
        concepts, cells, placed = report.concept_metrics(looked, labels, plan.permutations, plan.seed)
        yield self.table(self.run, concepts)
        yield self.table(self.run, [Metric("concept_auroc", placed, self.field, report.PERMUTED)], *cells)
        if plan.probes:
            yield self.table(self.run, report.probe_metrics(looked, labels, plan.probes, plan.seed))
        scaling = trainer.standardisation
        levels = None if scaling.levels is None else torch.tensor(scaling.levels)
        yield self.table(self.run, [Metric("offset", scaling.offset.double(), self.field)], t=levels)

    def values(self, run: Run, values: Mapping[str, float], reason: str = "") -> pa.Table:
        return self.table(run, [report.one(name, v, self.field, reason) for name, v in values.items()])

    def table(
        self, run: Run, metrics: list[Metric], problem: Tensor | None = None, t: Tensor | None = None
    ) -> pa.Table:
        """One row per metric, or one for each problem and level given."""
        count = 1 if t is None else len(t)
        nothing = [None] * count
        columns = {
            "problem_id": pa.array(nothing if problem is None else problem.tolist(), pa.int32()),
            "t": pa.array(nothing if t is None else t.tolist(), pa.int32()),
            "sigma": pa.array(nothing if t is None else self.sigma[t].double().tolist(), pa.float64()),
            "point_kind": pa.repeat("trajectory" if self.field == "run" else "q_sample", count),
            "data": pa.repeat(run.data, count),
            "k": pa.repeat(float(run.k), count),
            "sae_seed": pa.array([run.seed] * count, pa.int64()),
        }
        return tidy(self.with_field(pa.table(columns)), metrics)

    def with_field(self, table: pa.Table) -> pa.Table:
        """The model keys and the field, put first."""
        first = {
            name: pa.repeat(pa.scalar(self.keys.get(name), kind), len(table))
            for name, kind in MODEL_KEYS.items()
        }
        first["field"] = pa.repeat(self.field, len(table))
        return pa.table(first | dict(zip(table.column_names, table.columns, strict=True)))


def _whole_problems(problem: Tensor, most: int) -> Tensor:
    """(N,), boolean: all vectors of the first problems, at most so many, but of two problems at least."""
    _, which, counts = torch.unique(problem, return_inverse=True, return_counts=True)
    fitting = int((counts.cumsum(0) <= most).sum())
    return which < max(2, fitting)
