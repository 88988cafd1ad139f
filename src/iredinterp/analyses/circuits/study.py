"""EXP-009 on one network: which hidden units the gradient needs, and what that is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from iredinterp.analyses.circuits.ablation import ABLATIONS, fills
from iredinterp.analyses.circuits.curves import cmd, cpr, faithfulness_gain
from iredinterp.analyses.circuits.exact import (
    GATES,
    Scores,
    input_necessity,
    input_sufficiency,
    necessity,
    sufficiency,
)
from iredinterp.analyses.circuits.export import circuit_graph
from iredinterp.analyses.circuits.frames import RANDOM
from iredinterp.analyses.circuits.level import Level, Ranking, Sample
from iredinterp.analyses.circuits.nodes import input_groups, observed_groups
from iredinterp.analyses.circuits.overlap import overlap
from iredinterp.energy import Energy, MLPEnergy
from iredinterp.errors import ConfigError, TableError
from iredinterp.ired.model import EnergyMLP
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.points import MODEL_KEYS, point_keys, point_noise, point_tensors, problem_rows
from iredinterp.tables import Metric, tensor_array, tensor_column, tidy

POINT_KIND = "q_sample"
NO_UNITS = "the optimal energy has no units"
SILENT = "the gradient is zero at all points of the level"
ALL_UNITS = "the circuit has all units, or none"
NO_RESTART = "no restart is as faithful as asked"
NO_PAIRS = "the sources change no gradient"
TIES = "the circuit's errors are the network's"
EMPTY = "both circuits are empty"
NO_GATE = "layer 1 has no gates"


class Circuits(NamedTuple):
    """The tables of EXP-009, see `circuits_tables`."""

    metrics: pa.Table
    nodes: pa.Table
    edges: pa.Table
    circuits: pa.Table


def circuits_tables(
    energy: Energy,
    points: pa.Table,
    problems: pa.Table,
    spec: ProblemSpec,
    *,
    method: str,
    ablation: str,
    shares: Sequence[float],
    draws: int,
    threshold: float,
    levels: Sequence[int],
    compared: Sequence[str],
    restarts: int,
    permutations: int,
    variables: Mapping[str, object],
    seed: int,
) -> Circuits:
    """Circuits of a network at every level, found on every other problem and judged on the rest.

    A circuit keeps the best units of a ranking; the others are ablated. It is that of the smallest size whose
    faithfulness f = 1 − ‖g_C − g‖²/⟨‖g‖²⟩ reached the threshold where it was searched for.

    Args:
        energy: the landscape.
        points: rows of a points table, of one model; its q_samples are used.
        problems: all problems they belong to.
        spec: their distribution.
        method: which ranking the registered circuits are cut from, one of `search.METHODS`.
        ablation: what stands in for ablated units: "resample", "mean" or "zero".
        shares: sizes of circuits, as shares of all units; none and all are added.
        draws: random circuits, with as many units in each layer.
        threshold: on f.
        levels: at which all the rest is done.
        compared: other methods, whose curves stand beside.
        restarts: searches from random orders, which say whether the circuit is the only one.
        permutations: of the test of independence, and random units of that of minimality.
        variables: `layers`, `dimensions`, `sources` and `steps` of the search for subspaces with the answer.
        seed: of everything drawn.

    Returns:
        * metrics, long and tidy, null with a reason where undefined; `k` is the number of units kept, `t2`
          another level. At every level and held-out point: faithfulness_gain, mean over sizes of f less that
          of random circuits; faithfulness by k, component the method. Per level: random_faithfulness by k and
          draw (`index`); circuit_size, the k of the circuit; cpr and cmd by method, random among them (areas
          under f and under |1 − f| over the share of units). For pairs of levels `t` > `t2`: jaccard,
          jaccard_expected, jaccard_low, jaccard_high, jaccard_p (hypergeometric). At `levels`:
          input_necessity and input_sufficiency by group of inputs; equivalence_wins, equivalence_p,
          equivalence_agreeing, equivalence_agreeing_low, independence_alignment, independence_p,
          minimality_unneeded and minimality_needed (shares of its units); restarts_faithful,
          restarts_distinct, restarts_jaccard, restarts_jaccard_expected and restarts_size;
          interchange_accuracy by `k` (dimension), component e.g. "aligned layer 2".
        * nodes, tidy, one row per level, `layer` and `unit`: score by method; kept, whether it is in the
          circuit; gain of the gate; at `levels` necessity and sufficiency by ablation (M1), the same of
          energy (M3), and gate_necessity.
        * edges at `levels`: between what the circuit keeps, `start`, `end`, `weight` and its size `strength`.
        * circuits, one row per level, method and k: mean faithfulness where it was `searched` for and
          `held_out`, `chosen`, and the tensor `units` (3, h).

        An energy without units has the gain alone, null, and no nodes, edges and circuits.

    Raises:
        ConfigError: an unknown method, ablation or level, or fewer than two problems.
        TableError: no q_samples.
    """
    points = points.filter(pc.equal(points["point_kind"], POINT_KIND))
    if not points.num_rows:
        raise TableError(
            "circuits: no q_samples among the points; name q_sample in points.kinds and null_kinds"
        )
    keys = {name: points[name][0].as_py() for name in MODEL_KEYS}
    searched, held_out = _halves(points)
    if not isinstance(energy, MLPEnergy):
        rows = _with_columns(held_out.drop_columns(["y"]))
        nothing = torch.full((rows.num_rows,), torch.nan, dtype=torch.float64)
        metrics = tidy(rows, [Metric("faithfulness_gain", nothing, reason=NO_UNITS)])
        return Circuits(metrics, *_nothing(keys))
    known = set(pc.unique(points["t"]).to_pylist())
    if missing := sorted(set(levels) - known):
        raise ConfigError(
            f"circuits.levels: there are no points at level {missing[0]}; points have {sorted(known)}"
        )

    study = _Study(energy.model, spec, problems, keys, method, draws, permutations, restarts)
    for t in sorted(known, reverse=True):
        at = [half.filter(pc.equal(half["t"], t)) for half in (searched, held_out)]
        samples = [_sample(energy, half, problems) for half in at]
        level = Level(energy.model, t, *samples, ablation, shares, threshold, seed)
        methods = [method, *(name for name in compared if name != method)] if t in levels else [method]
        study.add_circuits(level, at[1], methods)
        if t in levels:
            study.add_parts(level, at[0])
            study.add_tests(level)
            study.add_variables(level, **variables)
    study.add_overlaps()
    return study.tables()


@dataclass
class _Study:
    """Tables in the making; arguments as in `circuits_tables`."""

    model: EnergyMLP
    spec: ProblemSpec
    problems: pa.Table
    keys: Mapping[str, object]
    method: str
    draws: int
    permutations: int
    restarts: int
    chosen: dict[int, Ranking] = field(default_factory=dict)
    metrics: list[pa.Table] = field(default_factory=list)
    nodes: list[pa.Table] = field(default_factory=list)
    edges: list[dict] = field(default_factory=list)
    circuits: list[pa.Table] = field(default_factory=list)

    def row(self, t: int, metrics: Sequence[Metric], t2: int | None = None, k: int | None = None) -> None:
        """Numbers of a whole level."""
        sigma = float(self.model.schedule.sigma[t])
        keys = point_keys(self.keys, [None], t, sigma, POINT_KIND, [None])
        self.metrics.append(tidy(_with_columns(keys, t2, k), metrics))

    def add_circuits(self, level: Level, points: pa.Table, methods: Sequence[str]) -> None:
        """Rankings, their curves, and what the registered one gains."""
        keys, sizes = points.drop_columns(["y"]), level.sizes
        rankings = {name: level.ranking(name) for name in methods}
        first = self.chosen[level.t] = rankings[self.method]
        random = level.random(first.members, self.draws)
        gain = faithfulness_gain(first.found, random).cpu()
        self.metrics.append(tidy(_with_columns(keys), [Metric("faithfulness_gain", gain, reason=SILENT)]))
        for index, k in enumerate(sizes):
            found = [
                Metric("faithfulness", ranking.found[index].cpu(), name, SILENT)
                for name, ranking in rankings.items()
            ]
            self.metrics.append(tidy(_with_columns(keys, k=k), found))
            drawn = random[:, index].mean(-1)[None].cpu()
            self.row(level.t, [Metric("random_faithfulness", drawn, reason=SILENT)], k=k)
        self.row(level.t, [Metric("circuit_size", _one(sizes[first.chosen]))])
        curves = {name: ranking.found.mean(-1) for name, ranking in rankings.items()}
        curves[RANDOM] = random.mean((0, 2))
        for name, curve in curves.items():
            areas = {"cpr": cpr(sizes, curve.cpu()), "cmd": cmd(sizes, curve.cpu())}
            self.row(level.t, [Metric(metric, _one(area), name, SILENT) for metric, area in areas.items()])
        for name, ranking in rankings.items():
            self.circuits.append(self._cut(level, name, ranking))
        scores = {name: ranking.scores for name, ranking in rankings.items()}
        self._rank(level, {("score", name): value for name, value in scores.items()})
        gains = [torch.ones_like(self.model.modulations[0][0])]
        gains += [self.model.modulations[place][level.t] for place in (0, 2)]
        self._rank(level, {("gain", ""): torch.stack(gains), ("kept", ""): first.circuit.double()})

    def add_parts(self, level: Level, points: pa.Table) -> None:
        """Exact effects of units, gates and groups of inputs, and the edges of the circuit."""
        sample, found = level.search[:3], {}
        for ablation in ABLATIONS:
            fill = fills(self.model, *sample, ablation, level.generator("search"))
            for name, effects in (("necessity", necessity), ("sufficiency", sufficiency)):
                scores: Scores = effects(self.model, *sample, fill)
                found[name, ablation] = scores.gradient
                found[f"{name}_energy", ablation] = scores.energy
            gates = necessity(self.model, *sample, fill, GATES).gradient
            found["gate_necessity", ablation] = torch.cat([torch.full_like(gates[:1], torch.nan), gates])
        self._rank(level, found)
        groups = input_groups(self.spec)
        masks = torch.stack(list(groups.values())).to(sample[1].device)
        self._add_inputs(level, list(groups), masks)
        if "mask" in self.problems.column_names:
            shown = tensor_column(self.problems, "mask")[problem_rows(points, self.problems)]
            observed = observed_groups(shown)
            self._add_inputs(level, list(observed), torch.stack(list(observed.values())).to(masks.device))
        ranking = self.chosen[level.t]
        graph = circuit_graph(self.model, ranking.circuit, level.t, ranking.scores, groups)
        edges = [{"start": start, "end": end, **values} for start, end, values in graph.edges(data=True)]
        self.edges += [{**self.keys, "t": level.t, **edge} for edge in edges]

    def add_tests(self, level: Level) -> None:
        """The three tests of the circuit, and how many others would do."""
        equal, apart, minimal = level.tests(
            self.chosen[level.t].circuit, self.permutations, self.permutations
        )
        found = {
            "equivalence_wins": equal.wins,
            "equivalence_p": equal.p,
            "equivalence_agreeing": equal.agreeing,
            "equivalence_agreeing_low": equal.agreeing_low,
            "independence_alignment": apart.alignment,
            "independence_p": apart.p,
        }
        metrics = [Metric(name, _one(value), reason=TIES) for name, value in found.items()]
        for name in ("unneeded", "needed"):
            share = torch.nan if minimal is None else getattr(minimal, name).double().mean().item()
            metrics.append(Metric(f"minimality_{name}", _one(share), reason=ALL_UNITS))
        index, size = level.restarts(self.restarts)
        found = {
            "restarts_faithful": index.faithful,
            "restarts_distinct": index.distinct,
            "restarts_jaccard": index.jaccard,
            "restarts_jaccard_expected": index.expected,
            "restarts_size": size,
        }
        metrics += [Metric(name, _one(value), reason=NO_RESTART) for name, value in found.items()]
        self.row(level.t, metrics)

    def add_variables(self, level: Level, layers, dimensions, sources: int, steps: int) -> None:
        """Where in the network the answer is."""
        found = level.variables(layers, dimensions, sources, steps)
        for (kind, layer, k), accuracy in found.items():
            name = f"{kind} layer {layer}"
            self.row(level.t, [Metric("interchange_accuracy", _one(accuracy), name, NO_PAIRS)], k=k)

    def add_overlaps(self) -> None:
        """What circuits of two levels share."""
        levels = list(self.chosen)
        found = overlap(torch.stack([self.chosen[t].circuit for t in levels]))
        for i, t in enumerate(levels):
            for j in range(i + 1, len(levels)):
                values = zip(("", "_expected", "_low", "_high", "_p"), found, strict=True)
                metrics = [Metric(f"jaccard{end}", _one(part[i, j]), reason=EMPTY) for end, part in values]
                self.row(t, metrics, t2=levels[j])

    def tables(self) -> Circuits:
        """What was collected."""
        _, edges, _ = _nothing(self.keys)
        edges = pa.Table.from_pylist(self.edges, edges.schema)
        return Circuits(
            pa.concat_tables(self.metrics),
            pa.concat_tables(self.nodes),
            edges,
            pa.concat_tables(self.circuits),
        )

    def _rank(self, level: Level, found: Mapping[tuple[str, str], Tensor]) -> None:
        """Numbers of every unit, (3, h) each."""
        layers, hidden = next(iter(found.values())).shape
        columns = _columns(self.keys, layers * hidden) | {
            "t": pa.array([level.t] * layers * hidden, pa.int32()),
            "layer": pa.array(torch.arange(1, layers + 1).repeat_interleave(hidden).numpy(), pa.int32()),
            "unit": pa.array(torch.arange(hidden).repeat(layers).numpy(), pa.int32()),
        }
        metrics = [
            Metric(name, values.double().flatten().cpu(), component, NO_GATE)
            for (name, component), values in found.items()
        ]
        self.nodes.append(tidy(pa.table(columns), metrics))

    def _add_inputs(self, level: Level, names: Sequence[str], groups: Tensor) -> None:
        sample, fill = level.search[:3], level.fill[0]
        for metric, effects in (
            ("input_necessity", input_necessity),
            ("input_sufficiency", input_sufficiency),
        ):
            found = effects(self.model, *sample, fill, groups).gradient
            self.row(
                level.t,
                [Metric(metric, _one(value), name, SILENT) for name, value in zip(names, found, strict=True)],
            )

    def _cut(self, level: Level, method: str, ranking: Ranking) -> pa.Table:
        count = len(level.sizes)
        columns = _columns(self.keys, count) | {
            "t": pa.array([level.t] * count, pa.int32()),
            "method": pa.array([method] * count),
            "k": pa.array(level.sizes, pa.int32()),
            "chosen": pa.array([index == ranking.chosen for index in range(count)]),
            "searched": pa.array(ranking.searched.cpu().numpy()),
            "held_out": pa.array(ranking.found.mean(-1).cpu().numpy()),
            "units": tensor_array(ranking.members.to(torch.uint8)),
        }
        return pa.table(columns)


def _halves(points: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The points of every other problem, and of the rest."""
    ids = sorted(pc.unique(points["problem_id"]).to_pylist())
    if len(ids) < 2:
        raise ConfigError(f"circuits: found {len(ids)} problem, needs 2: raise sampling.count")
    first = pc.is_in(points["problem_id"], pa.array(ids[::2], points["problem_id"].type))
    return points.filter(first), points.filter(pc.invert(first))


def _sample(energy: MLPEnergy, points: pa.Table, problems: pa.Table) -> Sample:
    return Sample(*point_tensors(energy, points, problems), point_noise(energy, points, problems))


def _with_columns(keys: pa.Table, t2: int | None = None, k: int | None = None) -> pa.Table:
    for name, value in (("t2", t2), ("k", k)):
        keys = keys.append_column(name, pa.array([value] * keys.num_rows, pa.int32()))
    return keys


def _columns(keys: Mapping[str, object], count: int) -> dict[str, pa.Array]:
    return {name: pa.array([keys[name]] * count, kind) for name, kind in MODEL_KEYS.items()}


def _one(value: float) -> Tensor:
    return torch.tensor([float(value)], dtype=torch.float64)


def _nothing(keys: Mapping[str, object]) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Nodes, edges and circuits of a network without units."""
    levels = {"t": pa.array([], pa.int32())}
    place = {"layer": pa.array([], pa.int32()), "unit": pa.array([], pa.int32())}
    empty = torch.empty(0, dtype=torch.float64)
    nodes = tidy(pa.table(_columns(keys, 0) | levels | place), [Metric("score", empty, reason=NO_UNITS)])
    ends = {name: pa.array([], pa.string()) for name in ("start", "end")}
    sizes = {name: pa.array([], pa.float64()) for name in ("weight", "strength")}
    edges = pa.table(_columns(keys, 0) | levels | ends | sizes)
    cut = {
        "method": pa.array([], pa.string()),
        "k": pa.array([], pa.int32()),
        "chosen": pa.array([], pa.bool_()),
    }
    cut |= {name: pa.array([], pa.float64()) for name in ("searched", "held_out")}
    units = {"units": tensor_array(torch.empty(0, 3, 1, dtype=torch.uint8))}
    return nodes, edges, pa.table(_columns(keys, 0) | levels | cut | units)
