"""One metric table of the sampler's answers: shape of their spectra, and the solutions they are near to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import pyarrow as pa
import torch
from torch import Tensor

from iredinterp.analyses.implicit_bias.measures import (
    ALIKE,
    free_rms,
    matched_errors,
    nearest,
    pull,
    spectral_shape,
)
from iredinterp.analyses.implicit_bias.names import (
    COMPARATORS,
    MATCHED,
    NUCLEAR,
    POSTERIOR,
    PROBLEM,
    RIGHT,
    SHAPES,
    SPREAD,
    SQUARES,
    TRAJECTORY,
)
from iredinterp.analyses.implicit_bias.solutions import Solved, Values, completions, determined
from iredinterp.energy import Energy, map_chunks
from iredinterp.errors import ConfigError, TableError
from iredinterp.ired.sampler import sample
from iredinterp.points import normal_draws, point_keys, reference_matrices
from iredinterp.tables import Metric, tensor_column, tidy

NO_SHAPE = "the matrix is zero or not finite"
NO_TAIL = f"the answers have full rank, or {NO_SHAPE}"
NO_OPTIMUM = "no computable Bayes-optimal reference"
NO_COMPLETION = "not a completion"
NOT_OBSERVED = "no entry of the answer is observed, so nothing is completed"
ONE_SOLUTION = "x determines the answer: there is one solution"
# Why a comparator may be absent.
ABSENT = {
    NUCLEAR: "the least nuclear norm is not certified",
    SQUARES: "the answers have full rank: every completion fits",
    POSTERIOR: NO_OPTIMUM,
}


def implicit_bias_table(
    energy: Energy,
    problems: pa.Table,
    keys: Mapping[str, object],
    *,
    block: slice = slice(None),
    rank: int | None = None,
    draws: int = 16,
    starts: int = 4,
    iterations: int = 50,
    seed: int = 0,
    chunk: int = 64,
    oracle: Energy | None = None,
) -> pa.Table:
    """Spectra of the sampler's answers after every level, and which completion they are near to.

    First states, errors and starts depend on (seed, problem) alone, however problems are split; with the seed
    of the points, first states are theirs.

    Args:
        energy: the landscape.
        problems: a problems table of one task; with a `mask`, of completion.
        keys: values of `iredinterp.points.MODEL_KEYS`, constant over the table.
        block: rows of the problems to run.
        rank: r; if not given that of `keys`, and there is none where they have none.
        draws: isotropic errors per problem and level, at least 2.
        starts: random starts of the least squares.
        iterations: of the least squares, before its damped Gauss–Newton steps.
        seed: of first states, errors and starts.
        chunk: problems run at once.
        oracle: the Bayes-optimal energy of the task, if it has a computable reference.

    Returns:
        Metrics, long and tidy, null with a reason where undefined. Rows of kind "trajectory", one per level,
        of the unscaled answer Ŷ after it:

        * effective_rank, exp of the entropy of s/Σs; nuclear_ratio, ‖Ŷ‖_*/‖Ŷ‖_F; tail_energy, share of
          Σs² beyond rank r; component "matched error", mean over isotropic errors of the same size around
          Y*, with its standard error. The same names with _excess: the answer's less that.
        * distance, to each comparator and to the "right answer": RMS over the free entries, which are the
          missing ones of completion and else all. misfit: RMS over the observed ones.
        * pull, by comparator c: ⟨ŷ − y*, c − y*⟩/‖c − y*‖² over the free entries, 1 at the comparator, 0 on
          average for isotropic errors of any size.
        * nearest, by comparator: 1 for the nearest, shared by those that coincide; margin: ln of the distance
          to the nearest other over that to the nearest. chosen: nearest, where the observed entries leave
          several answers open.

        Rows of kind "problem", one per problem (t = 0): missing_entries; free_directions, in which the answer
        could move on its manifold without changing an observed entry, 0 where it is determined;
        nuclear_gap, the certificate of the least nuclear norm; comparator_distance, components "a | b"; the
        shape and misfit of each comparator and of the right answer.

        Comparators, all equal to x where it is observed: "nuclear norm", the completion of least ‖Y‖_*;
        "least squares", of rank r (equal to x as far as rank r allows); "zero fill", of least ‖Y‖_F;
        "posterior mean".

    Raises:
        ConfigError: fewer than two draws, or no such rank.
        TableError: no problems.

    Source:
        Sampler of the official release (commit 3d74b85). Roy & Vetterli 2007 for the effective rank. Arora et
        al. 2019 (arXiv:1905.13655) for completions by rank against those by norm.
    """
    if draws < 2:
        raise ConfigError(f"implicit_bias: draws: found {draws}, needs 2 to have an error; raise it")
    ids = problems["problem_id"].to_numpy()[block].tolist()
    if not ids:
        raise TableError("implicit_bias: there are no problems in the block; give at least one")
    x = tensor_column(problems, "x")[block].flatten(1).to(energy.device, energy.dtype)
    Y = tensor_column(problems, "y_star").double()[block].to(energy.device)
    signal = reference_matrices(problems)[block].to(energy.device)
    n, m = Y.shape[1:]
    rank = _checked_rank(keys.get("rank") if rank is None else rank, min(n, m))
    sizes = {"first_state": (1, n * m), "isotropic": (draws, n * m), "arms": (starts, m * (rank or 1))}
    first, errors, begun = (normal_draws(seed, use, ids, *size).to(x.device) for use, size in sizes.items())
    errors, begun = errors.unflatten(-1, (n, m)), begun.unflatten(-1, (m, -1))
    completion = "mask" in problems.column_names

    def measure(x: Tensor, Y: Tensor, signal: Tensor, first: Tensor, errors: Tensor, begun: Tensor):
        answers = sample(energy, x, init=first).answers.double().unflatten(-1, (n, m))
        if completion:
            solved = completions(x.view_as(Y), Y, signal, rank, begun, iterations, oracle)
        else:
            solved = determined(x, Y, oracle)
        levels = _shapes_by_level(answers, Y, errors, rank) | _choices(answers, solved)
        return levels, solved.facts | _of_solutions(solved, rank)

    parts = list(map_chunks(measure, (x, Y, signal, first[:, 0], errors, begun), chunk))
    by_level, of_problems = zip(*parts, strict=True)
    levels, facts = _joined(by_level, dim=1), _joined(of_problems, dim=0)
    spread = {name: levels.pop((name, SPREAD)) for name in SHAPES}
    reasons, schedule, tables = _reasons(completion), energy.schedule, []
    for index, t in enumerate(reversed(range(schedule.levels))):
        here = point_keys(keys, ids, t, float(schedule.sigma[t]), TRAJECTORY, [0] * len(ids))
        values = {key: value[index] for key, value in levels.items()}
        stderr = {(name, MATCHED): spread[name][index] for name in SHAPES}
        stderr |= {(f"{name}_excess", ""): spread[name][index] for name in SHAPES}
        tables.append(tidy(here, _metrics(values, reasons, stderr)))
    here = point_keys(keys, ids, 0, float(schedule.sigma[0]), PROBLEM, [0] * len(ids))
    return pa.concat_tables([*tables, tidy(here, _metrics(facts, reasons, {}))])


def _checked_rank(rank: int | None, most: int) -> int | None:
    if rank is not None and not 1 <= rank <= most:
        raise ConfigError(f"implicit_bias: rank: found {rank}, allowed 1 … min(n, m) = {most}; lower it")
    return rank


def _shapes_by_level(answers: Tensor, Y: Tensor, errors: Tensor, rank: int | None) -> Values:
    """(K, B) each."""
    here = spectral_shape(answers, rank)
    matched = spectral_shape(matched_errors(answers, Y, errors), rank)
    values = {}
    for name in SHAPES:
        mean = matched[name].mean(0)
        values[name, ""] = here[name]
        values[name, MATCHED] = mean
        values[name, SPREAD] = matched[name].std(0) / math.sqrt(len(matched[name]))
        values[f"{name}_excess", ""] = here[name] - mean
    return values


def _choices(answers: Tensor, solved: Solved) -> Values:
    """(K, B) each."""
    answers, free = answers.flatten(-2), solved.free
    flat = {name: solution.flatten(1) for name, solution in solved.solutions.items()}
    right = flat[RIGHT]
    values = {("distance", name): free_rms(answers - solution, free) for name, solution in flat.items()}
    size = right.square().mean(1).sqrt()
    for name in COMPARATORS:
        alike = free_rms(flat[name] - right, free) <= ALIKE * size
        values["pull", name] = pull(answers - right, flat[name] - right, free, alike)
    apart = torch.stack(
        [torch.stack([free_rms(flat[a] - flat[b], free) for b in COMPARATORS], -1) for a in COMPARATORS], 1
    )
    distances = torch.stack([values["distance", name] for name in COMPARATORS], -1)
    shares, values["margin", ""] = nearest(distances, apart, size)
    closed = solved.facts["free_directions", ""] == 0
    for name, share in zip(COMPARATORS, shares.unbind(-1), strict=True):
        values["nearest", name] = share
        values["chosen", name] = share.masked_fill(closed, torch.nan)
    values["misfit", ""] = _misfit(answers, solved)
    return values


def _of_solutions(solved: Solved, rank: int | None) -> Values:
    """(B,) each."""
    values = {}
    for name, solution in solved.solutions.items():
        values |= {(metric, name): value for metric, value in spectral_shape(solution, rank).items()}
        values["misfit", name] = _misfit(solution.flatten(1), solved)
    for a, b in combinations(solved.solutions, 2):
        apart = (solved.solutions[a] - solved.solutions[b]).flatten(1)
        values["comparator_distance", f"{a} | {b}"] = free_rms(apart, solved.free)
    return values


def _misfit(answers: Tensor, solved: Solved) -> Tensor:
    """RMS over the observed entries, (…, B) of (…, B, d)."""
    return (answers - solved.observed.flatten(1)).square().nanmean(-1).sqrt()


def _reasons(completion: bool) -> dict[tuple[str, str], str]:
    """Why a value may be undefined, by metric and component; by metric alone under the component ""."""
    reasons = {(name, ""): NO_SHAPE for name in SHAPES} | {
        (f"{name}_excess", ""): NO_SHAPE for name in SHAPES
    }
    reasons |= {("tail_energy", ""): NO_TAIL, ("tail_energy_excess", ""): NO_TAIL}
    if not completion:
        reasons |= {(name, ""): NOT_OBSERVED for name in ("distance", "comparator_distance", "misfit")}
        reasons |= {(name, ""): ONE_SOLUTION for name in ("pull", "nearest", "chosen", "margin")}
        reasons |= {(name, ""): NO_COMPLETION for name in ("missing_entries", "nuclear_gap")}
        return reasons | {("distance", POSTERIOR): NO_OPTIMUM}
    for name in COMPARATORS:
        absent = f", or {ABSENT[name]}" if name in ABSENT else ""
        reasons["distance", name] = f"no entry is missing{absent}"
        reasons["pull", name] = f"it is the right answer, or no entry is missing{absent}"
        reasons["nearest", name] = f"fewer than two solutions differ{absent}"
        reasons["chosen", name] = f"the observed entries determine the answer, or {reasons['nearest', name]}"
        reasons |= {(metric, name): f"{NO_SHAPE}{absent}" for metric in SHAPES}
        reasons["tail_energy", name] = f"{NO_TAIL}{absent}"
        reasons["misfit", name] = f"no entry is observed{absent}"
    reasons["margin", ""] = "fewer than two solutions differ"
    either = "no entry is missing, or one of the two does not exist"
    return (
        reasons
        | {("distance", ""): "no entry is missing", ("comparator_distance", ""): either}
        | {("misfit", ""): "no entry is observed"}
    )


def _metrics(
    values: Values, reasons: Mapping[tuple[str, str], str], stderr: Mapping[tuple[str, str], Tensor]
) -> list[Metric]:
    return [
        Metric(
            name,
            value,
            part,
            reasons.get((name, part)) or reasons.get((name, ""), ""),
            stderr.get((name, part)),
        )
        for (name, part), value in values.items()
    ]


def _joined(parts: Sequence[Values], dim: int) -> Values:
    return {key: torch.cat([part[key] for part in parts], dim) for key in parts[0]}
