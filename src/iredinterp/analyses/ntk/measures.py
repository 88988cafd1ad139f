"""What the tangent kernels of one block of problems say, level by level and between levels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from iredinterp.analyses.ntk.alignment import LEAST, debiased_alignment, permuted_alignment
from iredinterp.analyses.ntk.block import Kernels, Sampling, spectral_shape
from iredinterp.analyses.ntk.coupling import level_coupling
from iredinterp.analyses.ntk.factors import Points
from iredinterp.analyses.ntk.names import KIND, LAYERS, TARGETS
from iredinterp.energy import Energy, MLPEnergy
from iredinterp.errors import ConfigError, TableError
from iredinterp.points import MODEL_KEYS, point_keys, point_noise, point_tensors, problem_rows
from iredinterp.tables import Metric, tensor_column, tidy

NO_PARAMETERS = "the optimal energy has no parameters"


def ntk_table(
    energy: Energy,
    points: pa.Table,
    problems: pa.Table,
    *,
    block: int = 0,
    count: int | None = None,
    top: int = 5,
    permutations: int = 200,
    exact_below: int = 100,
    probes: int = 16,
    deflated: int = 8,
    pilots: int = 2,
    seed: int = 0,
) -> pa.Table:
    """Tangent kernels over the problems of a block, at each level and between levels.

    The points are the q_samples of draw 0: their noise is shared by all levels of a problem.

    Args:
        energy: the landscape; one without parameters has no kernel.
        points: rows of a points table, every level of a problem among them.
        problems: all problems they belong to.
        block: a key of every row: kernels belong to a block as a whole.
        count: problems at most, the first of the block; all if not given.
        top: eigenvalues reported.
        permutations: of labels, for the band of chance of the alignments.
        exact_below: see `Sampling`, and so are the next four.
        probes: random directions.
        deflated: directions summed exactly.
        pilots: points that give these.
        seed: of probes and permutations.

    Returns:
        Metrics, long and tidy, with the keys of the model, `block`, `problem_id`, `t`, `t2`, `point_kind` and
        `draw`; problem_id is null in rows that speak of all problems together, t2 but in rows of two levels.
        Kernels, the component, are E: Θ_E; g: tr Θ_g; r: tr Θ_r, of every two problems.

        * trace: the kernel of a problem with itself, a row per problem; its stderr is that of the probes.
        * frobenius: ‖K‖_F; effective_rank: (tr K)²/‖K‖²_F; eigenvalue_share: the largest eigenvalues over the
          trace, by index.
        * layer_share, component e.g. "g fc1": part of the trace due to the parameters of one layer.
        * alignment, component e.g. "g residual": debiased CKA with the Gram matrices of the residual ε − g,
          the noise ε and the answer y*; beside it alignment_permuted, alignment_low and alignment_high: mean
          and 95 % of the same with the problems of the target permuted.
        * level_coupling, t > t2 or t = t2: M_tt′ of `level_coupling`, components "same problem" and "other
          problems", with level_coupling_low and level_coupling_high, 95 % over problems.

        All null where the energy has no parameters.

    Raises:
        TableError: no such points, a problem that lacks a level, or points of several models.
        ConfigError: fewer than 4 problems, which a debiased alignment needs, or fewer than 2 probes.
    """
    points, ids, levels = _by_level(points, count)
    if len(ids) < LEAST:
        raise ConfigError(
            f"ntk.kernels.count: found {len(ids)} problems in block {block}, allowed ≥ {LEAST}: raise it, or "
            "sampling.block"
        )
    sizes = len(levels), len(ids)
    if isinstance(energy, MLPEnergy):
        here = Points(*point_tensors(energy, points, problems))
        sampling = Sampling(exact_below, probes, deflated, pilots, seed)
        kernels = Kernels.of(energy.model, here, sizes, sampling)
        targets = _targets(energy, here, points, problems, sizes)
        reasons = _Reasons()
    else:
        kernels = Kernels.undefined(sizes)
        targets = dict.fromkeys(TARGETS, torch.zeros(sizes[0], sizes[1], sizes[1], dtype=torch.float64))
        reasons = _Reasons(*3 * (NO_PARAMETERS,))
        permutations = 1
    generator = torch.Generator().manual_seed(seed)
    by_level = []
    for name, kernel in kernels.within.items():
        by_level += _spectral_metrics(name, kernel, top, reasons)
        by_level += _alignment_metrics(name, kernel.sum(0), targets, permutations, generator, reasons)
    keys = _Keys(points, energy, block)
    pairs = [(i, j) for i in range(len(levels)) for j in range(i, len(levels))]
    return pa.concat_tables(
        [
            tidy(keys.rows(levels, ids), _trace_metrics(kernels, reasons)),
            tidy(keys.rows(levels, [None]), by_level),
            tidy(
                keys.rows([levels[i] for i, _ in pairs], [None], [levels[j] for _, j in pairs]),
                _coupling_metrics(kernels.traces, pairs, reasons),
            ),
        ]
    )


@dataclass(frozen=True)
class _Reasons:
    kernel: str = "the kernel is zero or not finite"
    alignment: str = "the kernel or the target is constant over problems"
    coupling: str = "a level has no kernel"


@dataclass(frozen=True)
class _Keys:
    points: pa.Table
    energy: Energy
    block: int

    def rows(
        self, levels: Sequence[int], ids: Sequence[int | None], others: Sequence[int] | None = None
    ) -> pa.Table:
        """A row for each problem at each level; `t2` from the other levels, one for each level."""
        model = {name: self.points[name][0].as_py() for name in MODEL_KEYS}
        sigma = self.energy.schedule.sigma
        draws = [0] * len(ids)
        tables = [point_keys(model, ids, t, float(sigma[t]), KIND, draws) for t in levels]
        keys = pa.concat_tables(tables)
        t2 = np.repeat(others or [None] * len(levels), len(ids)).tolist()
        after = keys.column_names.index("t") + 1
        keys = keys.add_column(after, "t2", pa.array(t2, pa.int32()))
        return keys.add_column(len(MODEL_KEYS), "block", pa.array([self.block] * len(keys), pa.int32()))


def _by_level(points: pa.Table, count: int | None) -> tuple[pa.Table, list[int], list[int]]:
    """Points of the kind and draw looked at, the noisiest level first, with their problems and levels."""
    chosen = pc.and_(pc.equal(points["point_kind"], KIND), pc.equal(points["draw"], 0))
    points = points.filter(chosen)
    if not points.num_rows:
        raise TableError(f"ntk: no points of kind {KIND!r} and draw 0; give those of one block of problems")
    ids = sorted(pc.unique(points["problem_id"]).to_pylist())[:count]
    levels = sorted(pc.unique(points["t"]).to_pylist(), reverse=True)
    points = points.filter(pc.is_in(points["problem_id"], pa.array(ids, pa.int32())))
    points = points.sort_by([("t", "descending"), ("problem_id", "ascending")])
    if points["problem_id"].to_pylist() != ids * len(levels):
        raise TableError(
            f"ntk: {points.num_rows} points for {len(ids)} problems and {len(levels)} levels; give each "
            "problem once at each level, of one model"
        )
    return points, ids, levels


def _targets(
    energy: MLPEnergy, here: Points, points: pa.Table, problems: pa.Table, sizes: tuple[int, int]
) -> dict[str, Tensor]:
    """Gram matrices over problems of what could be learnt, at each level, (L, P, P)."""
    answers = tensor_column(problems, "y_star").flatten(1)[problem_rows(points, problems)].to(here.y)
    noise = point_noise(energy, points, problems)
    values = (noise - energy.gradient(*here), noise, answers)
    split = (value.unflatten(0, sizes) for value in values)
    return {name: value @ value.mT for name, value in zip(TARGETS, split, strict=True)}


def _trace_metrics(kernels: Kernels, reasons: _Reasons) -> list[Metric]:
    """A row per level and problem."""
    metrics = []
    for name, kernel in kernels.within.items():
        own = kernel.sum(0).diagonal(dim1=1, dim2=2).flatten()
        stderr = kernels.stderr.flatten() if name == "g" else torch.zeros_like(own)
        metrics.append(Metric("trace", own, name, reasons.kernel, stderr))
    return metrics


def _spectral_metrics(name: str, kernel: Tensor, top: int, reasons: _Reasons) -> list[Metric]:
    """A row per level; of a kernel by layer, (8, L, P, P)."""
    shape = spectral_shape(kernel.sum(0), top)
    metrics = [Metric(metric, value, name, reasons.kernel) for metric, value in shape.items()]
    by_layer = kernel.diagonal(dim1=2, dim2=3).sum(-1)
    shares = by_layer / by_layer.sum(0)
    return metrics + [
        Metric("layer_share", share, f"{name} {layer}", reasons.kernel)
        for layer, share in zip(LAYERS, shares, strict=True)
    ]


def _alignment_metrics(
    name: str,
    kernel: Tensor,
    targets: Mapping[str, Tensor],
    permutations: int,
    generator: torch.Generator,
    reasons: _Reasons,
) -> Iterator[Metric]:
    """A row per level; of a kernel (L, P, P)."""
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    for target, gram in targets.items():
        gram = gram.to(kernel)
        shuffled = permuted_alignment(kernel, gram, permutations, generator)
        low, high = shuffled.double().quantile(ends.to(shuffled.device), dim=0)
        values = {
            "alignment": debiased_alignment(kernel, gram),
            "alignment_permuted": shuffled.mean(0),
            "alignment_low": low,
            "alignment_high": high,
        }
        for metric, value in values.items():
            yield Metric(metric, value, f"{name} {target}", reasons.alignment)


def _coupling_metrics(
    traces: Tensor, pairs: Sequence[tuple[int, int]], reasons: _Reasons
) -> Iterator[Metric]:
    """A row per pair of levels."""
    first, second = zip(*pairs, strict=True)
    for component, found in level_coupling(traces).items():
        value, stderr, low, high = (part[list(first), list(second)] for part in found)
        yield Metric("level_coupling", value, component, reasons.coupling, stderr)
        yield Metric("level_coupling_low", low, component, reasons.coupling)
        yield Metric("level_coupling_high", high, component, reasons.coupling)
