"""Matrix problems (x, y*): addition, inverse and completion.

The official distributions are those of `dataset.py` in yilundu/ired_code_release (commit 3d74b85): classes
`Addition`, `Inverse` and `LowRankDataset`. They fix the rank (10, plus full-rank noise) and leave the
condition number to chance, so two controlled families stand beside them: completion of an exactly rank-r
matrix and inversion of a matrix with an exact condition number κ. Both keep |y*| < 2, the range to which the
sampler clamps its answers; a target outside it could not be reached by any model.

Every x and y* is the row-major flattening of its matrix (addition: of the two summands, one after the other).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor

from iredinterp.errors import ConfigError, TaskError

TASKS = ("addition", "inverse", "completion")
FACTORS = ("normal", "positive")

OFFICIAL_INNER_DIMENSION = 10
OFFICIAL_NOISE = 0.1
# Entry variance of the official completion signal UVᵀ/20 with inner dimension 10: 10/20².
SIGNAL_VARIANCE = 0.025
# The sampler clamps answers to ±2; the margin keeps the target off the clamp itself.
LARGEST_ENTRY = 1.98
# ‖x‖₂ of every controlled inverse problem, so that κ is not confounded with the scale of the input.
INVERSE_INPUT_NORM = 10.0


@dataclass(frozen=True)
class ProblemSpec:
    """A distribution of matrix problems.

    Args:
        task: "addition", "inverse" or "completion".
        n: matrix size, n×n (official addition with n = 2 is 2×1).
        rank: completion of exactly this rank; None is the official data set `lowrank`.
        kappa: inverse with exactly this 2-norm condition number; None is the official distribution.
        ood: the official harder distribution (`--ood`).
        factors: law of the factors at a given rank: "normal", N(0, 1), or "positive", U(0.2, 1.5).
        observed: probability that an entry is observed, at a given rank.
        noise: standard deviation of the observation noise, at a given rank; y* stays noise-free.

    Raises:
        TaskError: a value is undefined, or undefined in combination with another.
    """

    task: str
    n: int
    rank: int | None = None
    kappa: float | None = None
    ood: bool = False
    factors: str = "normal"
    observed: float = 0.5
    noise: float = 0.0

    def __post_init__(self):
        self._check_values()
        self._check_combination()
        for key in ("kappa", "observed", "noise"):
            if getattr(self, key) is not None:
                object.__setattr__(self, key, float(getattr(self, key)))

    def _check_values(self):
        if self.task == "lowrank":
            raise TaskError(
                "task: found 'lowrank', the name of an official data set; use task='completion' with "
                "rank=None for that data set, or with rank=r for matrices of exact rank r"
            )
        _require(self.task in TASKS, "task", self.task, f"one of {', '.join(TASKS)}", "correct the name")
        _require(_is_int(self.n) and self.n >= 1, "n", self.n, "an integer ≥ 1", "give the matrix size")
        _require(
            self.rank is None or (_is_int(self.rank) and self.rank >= 1),
            "rank",
            self.rank,
            "an integer ≥ 1, or None for the official data",
            "give the exact rank",
        )
        _require(
            self.kappa is None or (_is_real(self.kappa) and self.kappa >= 1),
            "kappa",
            self.kappa,
            "a finite number ≥ 1, or None for the official data",
            "give the condition number λ_max/λ_min",
        )
        _require(isinstance(self.ood, bool), "ood", self.ood, "True or False", "write a boolean")
        _require(
            self.factors in FACTORS,
            "factors",
            self.factors,
            f"one of {', '.join(FACTORS)}",
            "correct the name",
        )
        _require(
            _is_real(self.observed) and 0 < self.observed < 1,
            "observed",
            self.observed,
            "a probability strictly between 0 and 1",
            "leave some entries observed and some missing",
        )
        _require(
            _is_real(self.noise) and self.noise >= 0,
            "noise",
            self.noise,
            "a finite standard deviation ≥ 0",
            "use 0 for exact observations",
        )

    def _check_combination(self):
        if self.rank is not None:
            _require(self.task == "completion", "rank", self.rank, f"None for {self.task}", "leave rank out")
            _require(
                self.rank <= self.n, "rank", self.rank, f"1 … n = {self.n}", "lower the rank or enlarge n"
            )
        if self.kappa is not None:
            _require(self.task == "inverse", "kappa", self.kappa, f"None for {self.task}", "leave kappa out")
            _require(
                self.n >= 2 or self.kappa == 1,
                "kappa",
                self.kappa,
                "1 for n = 1, which has a single eigenvalue",
                "use n ≥ 2",
            )
        controlled = self.rank is not None or self.kappa is not None
        _require(
            not (self.ood and controlled),
            "ood",
            self.ood,
            "False where rank or kappa is given (only the official distributions have an ood variant)",
            "leave ood out, or leave rank and kappa out",
        )
        for key in ("factors", "observed", "noise"):
            found, default = getattr(self, key), getattr(type(self), key)
            _require(
                self.rank is not None or found == default,
                key,
                found,
                f"{default!r} where no rank is given (that law is fixed)",
                f"leave {key} out, or use task='completion' with a rank",
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of y* (and of each matrix in x)."""
        return (self.n, 1) if self.task == "addition" and self.n == 2 else (self.n, self.n)

    @property
    def dim_y(self) -> int:
        """Length of y*."""
        return math.prod(self.shape)

    @property
    def dim_x(self) -> int:
        """Length of x: two matrices for addition, else one."""
        return 2 * self.dim_y if self.task == "addition" else self.dim_y

    def check_sizes(self, dim_x: int, dim_y: int, name: str = "NAME") -> None:
        """Refuse a network of other dimensions than these problems.

        Args:
            dim_x: of the network.
            dim_y: likewise.
            name: of the model in the configuration.

        Raises:
            ConfigError: they differ.
        """
        found, expected = (dim_x, dim_y), (self.dim_x, self.dim_y)
        if found != expected:
            raise ConfigError(
                f"models.{name}: the checkpoint takes (d_x, d) = {found}, but its problems ({self.task}, "
                f"n={self.n}) have {expected}; set models.{name}.problems to the distribution it was "
                "trained on"
            )

    def to_dict(self) -> dict:
        """The specification as plain values, for a configuration or a table footer."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> "ProblemSpec":
        """The specification written by `to_dict`; keys with a default may be absent.

        Raises:
            TaskError: an unknown or missing key, or a value that is not defined.
        """
        valid = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(valid), key=str)
        if unknown:
            raise TaskError(f"unknown key {', '.join(map(repr, unknown))}; valid keys: {', '.join(valid)}")
        missing = [key for key in ("task", "n") if key not in values]
        if missing:
            raise TaskError(
                f"missing key {', '.join(map(repr, missing))}; a problem needs at least task and n"
            )
        return cls(**values)


@dataclass(frozen=True, eq=False)
class Problems:
    """Problems drawn from one distribution; slices and index tensors select along the batch.

    Attributes:
        spec: the distribution.
        x: (B, d_x) float64, what the model is given.
        y_star: (B, d) float64, the answer.
        meta: per-problem facts.
            completion: `mask` (B, n, n), 1 where observed; `signal` (B, n, n), the low-rank matrix without
            noise; `scale` (B,), with signal = scale · UVᵀ.
            inverse: `kappa` (B,), the condition number of x; `x_scale` and `y_scale` (B,), with
            x = x_scale · S and y* = y_scale · S⁻¹.
            addition: nothing.
    """

    spec: ProblemSpec
    x: Tensor
    y_star: Tensor
    meta: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: slice | Tensor) -> "Problems":
        if not isinstance(index, slice | Tensor) or (isinstance(index, Tensor) and index.ndim != 1):
            raise TaskError(
                f"problems[{index!r}]: select with a slice or a 1-d index tensor, e.g. problems[3:4] for one"
            )
        meta = {key: value[index] for key, value in self.meta.items()}
        return Problems(self.spec, self.x[index], self.y_star[index], meta)


def make_problems(
    task: str,
    n: int,
    count: int,
    seed: int,
    rank: int | None = None,
    kappa: float | None = None,
    ood: bool = False,
    factors: str = "normal",
    observed: float = 0.5,
    noise: float = 0.0,
) -> Problems:
    """Problems of a task, the same for the same arguments.

    Args:
        task, n, rank, kappa, ood, factors, observed, noise: see `ProblemSpec`.
        count: number of problems B.
        seed: of the generator; a larger count need not begin with the problems of a smaller one.

    Returns:
        `count` problems, float64 on the CPU.

    Raises:
        TaskError: the distribution or the count is not defined.

    Source:
        Without rank and kappa, the generators of the official release (commit 3d74b85).
    """
    spec = ProblemSpec(task, n, rank, kappa, ood, factors, observed, noise)
    return draw_problems(spec, count, torch.Generator().manual_seed(seed))


def draw_problems(spec: ProblemSpec, count: int, generator: torch.Generator) -> Problems:
    """The next `count` problems from a generator.

    Args:
        spec: the distribution.
        count: number of problems B.
        generator: a CPU generator; it moves on.

    Returns:
        `count` problems, float64 on the CPU.

    Raises:
        TaskError: count is not a positive integer.
    """
    _require(_is_int(count) and count >= 1, "count", count, "an integer ≥ 1", "ask for at least one problem")
    if spec.task == "addition":
        return _addition(spec, count, generator)
    if spec.task == "inverse":
        return _inverse(spec, count, generator)
    return _completion(spec, count, generator)


def _addition(spec: ProblemSpec, count: int, generator: torch.Generator) -> Problems:
    bound = 2.5 if spec.ood else 1.0
    summands = _uniform(-bound, bound, (count, 2, spec.dim_y), generator)
    return Problems(spec, summands.flatten(1), summands.sum(1), {})


def _inverse(spec: ProblemSpec, count: int, generator: torch.Generator) -> Problems:
    if spec.kappa is None:
        x, y_star, kappa, x_scale = _official_inverse(spec, count, generator)
    else:
        x, y_star, kappa, x_scale = _conditioned_inverse(spec, count, generator)
    meta = {"kappa": kappa, "x_scale": _full(count, x_scale), "y_scale": _full(count, 1.0)}
    return Problems(spec, x.flatten(1), y_star.flatten(1), meta)


def _official_inverse(spec: ProblemSpec, count: int, generator: torch.Generator):
    """S = 2AAᵀ + 0.5 I (ood: 0.1 I) with A ~ U(−1, 1): smallest eigenvalue ≥ 0.5, so |y*| ≤ 2."""
    A = _uniform(-1, 1, (count, spec.n, spec.n), generator)
    shift = 0.1 if spec.ood else 0.5
    S = 2 * A @ A.mT + shift * torch.eye(spec.n, dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh(S)
    return S, torch.linalg.inv(S), eigenvalues[:, -1] / eigenvalues[:, 0], 1.0


def _conditioned_inverse(spec: ProblemSpec, count: int, generator: torch.Generator):
    """S = Q diag(λ) Qᵀ with Q Haar, λ_1 = 1, λ_n = κ, the rest log-uniform: ‖y*‖₂ = 1 for every κ."""
    # Q of a Gaussian matrix is Haar up to the signs of its columns, which cancel in Q diag(λ) Qᵀ.
    Q = torch.linalg.qr(_normal((count, spec.n, spec.n), generator)).Q
    exponents = _uniform(0, 1, (count, 1, spec.n), generator)
    exponents[..., 0] = 0
    exponents[..., 1:2] = 1
    eigenvalues = spec.kappa**exponents
    x_scale = INVERSE_INPUT_NORM / spec.kappa
    x = x_scale * _symmetric((Q * eigenvalues) @ Q.mT)
    return x, _symmetric((Q / eigenvalues) @ Q.mT), _full(count, spec.kappa), x_scale


def _completion(spec: ProblemSpec, count: int, generator: torch.Generator) -> Problems:
    shape = (count, spec.n, spec.n)
    if spec.rank is None:
        signal, scale = _official_signal(spec, count, generator)
        y_star = signal + OFFICIAL_NOISE * _normal(shape, generator)
        measured = y_star
    else:
        signal, scale = _exact_rank_signal(spec, count, generator)
        y_star = signal
        measured = y_star + spec.noise * _normal(shape, generator)
    mask = (_uniform(0, 1, shape, generator) < spec.observed).double()
    meta = {"mask": mask, "signal": signal, "scale": scale}
    return Problems(spec, (mask * measured).flatten(1), y_star.flatten(1), meta)


def _official_signal(spec: ProblemSpec, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    U, V = _normal((2, count, spec.n, OFFICIAL_INNER_DIMENSION), generator)
    scale = _full(count, 1 / 5 if spec.ood else 1 / 20)
    return scale[:, None, None] * (U @ V.mT), scale


def _exact_rank_signal(spec: ProblemSpec, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = (2, count, spec.n, spec.rank)
    if spec.factors == "normal":
        U, V = _normal(shape, generator)
        scale = math.sqrt(SIGNAL_VARIANCE / spec.rank)
    else:
        U, V = _uniform(0.2, 1.5, shape, generator)
        scale = 1 / spec.rank
    product = U @ V.mT
    scale = (LARGEST_ENTRY / product.abs().amax((1, 2))).clamp(max=scale)
    return scale[:, None, None] * product, scale


def _symmetric(A: Tensor) -> Tensor:
    return (A + A.mT) / 2


def _full(count: int, value: float) -> Tensor:
    return torch.full((count,), value, dtype=torch.float64)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require(condition: bool, key: str, found: object, allowed: str, fix: str) -> None:
    if not condition:
        raise TaskError(f"{key}: found {found!r}, allowed {allowed}; {fix}")
