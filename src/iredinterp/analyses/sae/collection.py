"""The vectors that autoencoders are trained on: gradients, their errors and hidden activations, streamed.

Every vector says where it was taken, for the laws differ: at q_samples ∇_yE is trained to be white noise,
along a trajectory it is what remains to be corrected, and at a minimum it is zero.

* q_sample: noised right answers, with noise of their own at every level.
* jump: the state on entering a level of a sampler run, where the sampler's jump takes its gradient.
* inner: the state before each inner step.
* minimum: a stationary point with positive curvature reached from the end of the level; costs Hessians.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from iredinterp.energy import Energy, MLPEnergy
from iredinterp.errors import ConfigError, TableError
from iredinterp.ired.sampler import sample
from iredinterp.ired.schedule import Schedule
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import MODEL_KEYS, minimum, normal_draws, problems_table, q_sample
from iredinterp.tables import read_stream, tensor_array, tensor_column

SOURCES = ("q_sample", "jump", "inner", "minimum")
HIDDEN = ("h1", "h2", "h3")
LABELS = ("t", "problem_id", "source", "inner_step")
# Where `Vectors.step` has no inner step to name.
NO_STEP = -1


def gradient_batches(
    energy: Energy,
    problems: pa.Table | Iterable[pa.Table],
    keys: Mapping[str, object],
    seed: int,
    *,
    sources: Sequence[str] = ("q_sample", "jump", "inner"),
    draws: int = 1,
    oracle: Energy | None = None,
    hidden: bool = False,
    dtype: torch.dtype = torch.float32,
    chunk: int = 256,
) -> Iterator[pa.Table]:
    """Vectors of every problem and level, a chunk of problems at a time; for `write_stream`.

    Everything is computed in the precision of the energy; only what is stored is rounded to `dtype`. Noise
    and first states depend on (seed, problem, draw) alone, and first states are those of `points_table`.

    Args:
        energy: the landscape.
        problems: a problems table, or an endless or finite stream of them, such as `fresh_problems`.
        keys: values of `MODEL_KEYS`, constant over the rows.
        seed: of the noise and of the sampler's first states.
        sources: of `SOURCES`.
        draws: noise draws and sampler runs per problem.
        oracle: the optimum g* = ∇_yE*; without it the errors are null.
        hidden: store the network's hidden activations too.
        dtype: of the stored vectors, float32 or float64.
        chunk: problems at a time; a stream's own tables are cut no further than this.

    Yields:
        One row per vector: keys, `problem_id`, `draw`, `t`, `source`, `inner_step` (null but for inner),
        `accepted` (likewise), `converged` (null but for minimum), `energy`, `gradient_norm` (both float64),
        the tensors `gradient` g (d,) and `error` g − g* (d,), and with `hidden` h1, h2, h3 (h,).

    Raises:
        ConfigError: an unknown source, or hidden activations of an energy that is not a network's.
    """
    if unknown := set(sources) - set(SOURCES):
        raise ConfigError(f"sources: unknown source {min(unknown)!r}; use some of {', '.join(SOURCES)}")
    if hidden and not isinstance(energy, MLPEnergy):
        raise ConfigError(
            f"hidden: {type(energy).__name__} has no hidden activations; leave them out, or give a network"
        )
    return _batches(energy, problems, keys, seed, sources, draws, oracle, hidden, dtype, chunk)


def field_problems(spec: ProblemSpec, count: int, seed: int) -> pa.Table:
    """Problems of their own for EXP-003, which needs more than the others."""
    return problems_table(draw_problems(spec, count, torch.Generator().manual_seed(seed)))


def fresh_problems(
    spec: ProblemSpec, count: int, generator: torch.Generator, chunk: int = 256
) -> Iterator[pa.Table]:
    """Problems tables of at most `chunk` rows with problem_id 0 … count − 1, drawn as they are asked for.

    Args:
        spec: the distribution.
        count: number of problems.
        generator: a CPU generator; other chunks give other problems.
        chunk: problems per table.
    """
    for start in range(0, count, chunk):
        table = problems_table(draw_problems(spec, min(chunk, count - start), generator))
        ids = pa.array(range(start, start + len(table)), pa.int32())
        yield table.set_column(table.column_names.index("problem_id"), "problem_id", ids)


@dataclass(frozen=True)
class Vectors:
    """Vectors of one column with their labels.

    Attributes:
        values: (N, d).
        t: (N,), level.
        problem: (N,), problem id.
        source: (N,), index into `SOURCES`.
        step: (N,), inner step, −1 for vectors of another source.
    """

    values: Tensor
    t: Tensor
    problem: Tensor
    source: Tensor
    step: Tensor


def vector_groups(
    path: str | Path,
    column: str = "gradient",
    sources: Sequence[str] = SOURCES,
    generator: torch.Generator | None = None,
) -> Iterator[Vectors]:
    """Vectors of a file one row group at a time.

    Args:
        path: what `write_stream` made of `gradient_batches`.
        column: "gradient", "error", "h1", "h2" or "h3".
        sources: which to keep.
        generator: draws the order of the row groups; without it they come as written.

    Raises:
        TableError: not such a file, no such column, or one without values.
    """
    for table in read_stream(path, [*LABELS, column], generator):
        table = table.filter(pc.is_in(table["source"], pa.array(sources, pa.string())))
        if table[column].null_count:
            raise TableError(
                f"{path}: column {column!r} has no values; collect it with an oracle, or read another column"
            )
        labels = {
            "t": table["t"],
            "problem": table["problem_id"],
            "source": pc.index_in(table["source"], pa.array(SOURCES)),
            "step": pc.fill_null(table["inner_step"], NO_STEP),
        }
        labels = {name: torch.tensor(label.to_numpy(), dtype=torch.long) for name, label in labels.items()}
        yield Vectors(tensor_column(table, column), **labels)


def read_vectors(
    path: str | Path,
    column: str = "gradient",
    sources: Sequence[str] = SOURCES,
    generator: torch.Generator | None = None,
) -> Vectors:
    """All vectors of a file, or of some of its sources; arguments as in `vector_groups`.

    The peak is one copy of the vectors and one row group.

    Raises:
        TableError: as `vector_groups`, or no vector of these sources.
    """
    kept = pa.array(sources, pa.string())
    count = sum(pc.sum(pc.is_in(table["source"], kept)).as_py() for table in read_stream(path, ["source"]))
    if not count:
        raise TableError(f"{path}: no vector of source {', '.join(sources)}; collect these, or read others")
    filled = 0
    for group in vector_groups(path, column, sources, generator):
        parts = vars(group)
        if not filled:
            whole = {name: part.new_empty(count, *part.shape[1:]) for name, part in parts.items()}
        for name, part in parts.items():
            whole[name][filled : filled + len(part)] = part
        filled += len(group.t)
    return Vectors(**whole)


def _batches(energy, problems, keys, seed, sources, draws, oracle, hidden, dtype, chunk):
    stream = [problems] if isinstance(problems, pa.Table) else problems
    for table in stream:
        for start in range(0, len(table), chunk):
            block = _Block.of(energy, table.slice(start, chunk), seed, draws)
            for asked in block.asked(sources):
                columns = asked.columns(oracle, hidden, dtype)
                constant = {
                    name: pa.repeat(pa.scalar(keys.get(name), kind), len(asked.t))
                    for name, kind in MODEL_KEYS.items()
                }
                yield pa.table(constant | columns)


@dataclass(frozen=True)
class _Asked:
    """Points of one source at which the gradient is known; N of them."""

    energy: Energy
    source: str
    x: Tensor
    y: Tensor
    t: Tensor
    values: Tensor
    gradients: Tensor
    problem: Tensor
    draw: Tensor
    labels: Mapping[str, Tensor] = field(default_factory=dict)

    def columns(self, oracle: Energy | None, hidden: bool, dtype: torch.dtype) -> dict[str, pa.Array]:
        """The table's columns but for the keys."""
        count = len(self.t)
        optional = {"inner_step": pa.int32(), "accepted": pa.bool_(), "converged": pa.bool_()}
        columns = {
            "problem_id": _labels(self.problem, pa.int32()),
            "draw": _labels(self.draw, pa.int32()),
            "t": _labels(self.t, pa.int32()),
            "source": pa.repeat(self.source, count),
        }
        for name, kind in optional.items():
            label = self.labels.get(name)
            columns[name] = pa.nulls(count, kind) if label is None else _labels(label, kind)
        columns["energy"] = _labels(self.values.double(), pa.float64())
        columns["gradient_norm"] = _labels(self.gradients.norm(dim=-1).double(), pa.float64())
        columns["gradient"] = tensor_array(self.gradients.to(dtype))
        if oracle is None:
            kind = columns["gradient"].type
            columns["error"] = pa.ExtensionArray.from_storage(kind, pa.nulls(count, kind.storage_type))
        else:
            error = self.gradients - oracle.gradient(self.x, self.y, self.t)
            columns["error"] = tensor_array(error.to(dtype))
        if hidden:
            activations = self.energy.model.activations(self.x, self.y, self.t)
            columns |= {name: tensor_array(getattr(activations, name).to(dtype)) for name in HIDDEN}
        return columns


@dataclass(frozen=True)
class _Block:
    """Some problems, each `draws` times; B of them in all."""

    energy: Energy
    ids: Sequence[int]
    draws: int
    seed: int
    x: Tensor
    y_star: Tensor

    @classmethod
    def of(cls, energy: Energy, problems: pa.Table, seed: int, draws: int) -> _Block:
        x, y_star = (
            tensor_column(problems, name).flatten(1).to(energy.device, energy.dtype)
            for name in ("x", "y_star")
        )
        ids = problems["problem_id"].to_pylist()
        return cls(
            energy, ids, draws, seed, x.repeat_interleave(draws, 0), y_star.repeat_interleave(draws, 0)
        )

    def asked(self, sources: Sequence[str]) -> Iterator[_Asked]:
        if "q_sample" in sources:
            levels, size = self.energy.schedule.levels, self.energy.dim_y
            noise = self._normal("q_sample", levels * size).unflatten(1, (levels, size))
            # Level by level, so that activations stay in cache.
            for t in range(levels):
                y = q_sample(self.y_star, t, noise[:, t], self.energy.schedule)
                answered = (y, *self.energy.energy_and_gradient(self.x, y, t))
                yield self._of("q_sample", t, [answered])
        if set(sources) - {"q_sample"}:
            yield from self._run(sources)

    def _run(self, sources: Sequence[str]) -> Iterator[_Asked]:
        recorder = _Recorder(self.energy)
        run = sample(recorder, self.x, init=self._normal("first_state", self.energy.dim_y))
        per_level = len(recorder.asked) // len(run.levels)
        for index, t in enumerate(run.levels.tolist()):
            jump, *steps = recorder.asked[index * per_level : (index + 1) * per_level]
            if "jump" in sources:
                yield self._of("jump", t, [jump])
            if "inner" in sources:
                accepted = run.accepted[index].flatten()
                number = torch.arange(len(steps)).repeat_interleave(len(self.x))
                yield self._of("inner", t, steps, {"inner_step": number, "accepted": accepted})
            if "minimum" in sources:
                start = self.energy.schedule.sqrt_alphas_cumprod[t] * run.answers[index]
                found = minimum(self.energy, self.x, start, t)
                answered = (found.y, *self.energy.energy_and_gradient(self.x, found.y, t))
                yield self._of("minimum", t, [answered], {"converged": found.converged})

    def _normal(self, use: str, size: int) -> Tensor:
        return normal_draws(self.seed, use, self.ids, self.draws, size).flatten(0, 1).to(self.x)

    def _of(self, source: str, t: int, asked: list[tuple[Tensor, ...]], labels=None) -> _Asked:
        y, values, gradients = (torch.cat(parts) for parts in zip(*asked, strict=True))
        problem = torch.tensor(self.ids).repeat_interleave(self.draws).repeat(len(asked))
        draw = torch.arange(self.draws).repeat(len(self.ids) * len(asked))
        levels = torch.full((len(y),), t, device=y.device)
        x = self.x.repeat(len(asked), 1)
        return _Asked(self.energy, source, x, y, levels, values, gradients, problem, draw, labels or {})


@dataclass(frozen=True)
class _Recorder:
    """A landscape that keeps (y, E, ∇_yE) wherever a sampler asks it for a gradient."""

    landscape: Energy
    asked: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    @property
    def schedule(self) -> Schedule:
        return self.landscape.schedule

    @property
    def dim_y(self) -> int:
        return self.landscape.dim_y

    def energy(self, x: Tensor, y: Tensor, t: int) -> Tensor:
        return self.landscape.energy(x, y, t)

    def energy_and_gradient(self, x: Tensor, y: Tensor, t: int) -> tuple[Tensor, Tensor]:
        value, gradient = self.landscape.energy_and_gradient(x, y, t)
        self.asked.append((y, value, gradient))
        return value, gradient


def _labels(values: Tensor, kind: pa.DataType) -> pa.Array:
    return pa.array(values.cpu().numpy()).cast(kind)
