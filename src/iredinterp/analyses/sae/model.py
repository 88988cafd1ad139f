"""The sparse autoencoder: x̂ = z W_dec + b_dec with a sparse code z = act((x − b_dec) W_encᵀ + b_enc)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.errors import ConfigError

ACTIVATIONS = ("relu_l1", "topk", "batchtopk", "jumprelu", "abstopk")
# Which of them keep k latents per vector, and which compare with a threshold once they are trained.
PER_VECTOR = ("topk", "abstopk")
THRESHOLDED = ("batchtopk", "jumprelu")
# Vectors looked at together where a copy of all would not fit.
CHUNK = 65536
PARAMETERS = ("W_enc", "b_enc", "W_dec", "b_dec")


@dataclass(frozen=True)
class Standardisation:
    """Centring and scaling, per level or common: (x − μ_t)/s_t has mean 0 and mean square 1 per entry.

    Attributes:
        levels: the L levels that `mean` and `scale` are for, ascending; None if they are for all (L = 1).
        mean: (L, d), μ_t.
        scale: (L,), s_t.
    """

    levels: tuple[int, ...] | None
    mean: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, x: Tensor, t: Tensor | None = None) -> Standardisation:
        """Measure mean and scale.

        Args:
            x: (N, d).
            t: (N,), integer levels; None for one common mean and scale.

        Raises:
            ConfigError: all vectors of a level are equal.
        """
        levels = None if t is None else tuple(torch.unique(t).tolist())
        groups = (
            {"all levels": x} if levels is None else {f"level {level}": x[t == level] for level in levels}
        )
        means, scales = [], []
        for name, rows in groups.items():
            means.append(rows.mean(0))
            scales.append((rows - means[-1]).square().mean().sqrt())
            # Rounding leaves equal vectors a spread of this order about their mean.
            if scales[-1] <= torch.finfo(x.dtype).eps * means[-1].abs().max():
                raise ConfigError(f"the vectors of {name} have zero variance; leave that level out")
        return cls(levels, torch.stack(means), torch.stack(scales))

    @property
    def offset(self) -> Tensor:
        """How far the mean lies from 0 in units of the spread, ‖μ_t‖/(√d·s_t), (L,).

        A large one kills latents in training, unless the vectors are centred.

        Source:
            arXiv:2605.31518.
        """
        return self.mean.square().mean(1).sqrt() / self.scale

    def apply(self, x: Tensor, t: Tensor | int | None = None) -> Tensor:
        """(x − μ_t)/s_t of (B, d) at levels (B,) or one level for all.

        Raises:
            ConfigError: no level given where they matter, or one without statistics.
        """
        mean, scale = self._at(x, t)
        return (x - mean) / scale

    def undo(self, x: Tensor, t: Tensor | int | None = None) -> Tensor:
        """The inverse of `apply`."""
        mean, scale = self._at(x, t)
        return x * scale + mean

    def to(self, *args, **kwargs) -> Standardisation:
        """With `Tensor.to` on every tensor."""
        return replace(self, mean=self.mean.to(*args, **kwargs), scale=self.scale.to(*args, **kwargs))

    def _at(self, x: Tensor, t: Tensor | int | None) -> tuple[Tensor, Tensor]:
        if self.levels is None:
            return self.mean[0], self.scale[0]
        if t is None:
            raise ConfigError(
                f"this autoencoder scales each level by itself; give t, one of {list(self.levels)}"
            )
        t = torch.as_tensor(t, device=x.device)
        matches = t.reshape(-1, 1) == torch.tensor(self.levels, device=x.device)
        if not matches.any(1).all():
            unknown = torch.unique(t.reshape(-1)[~matches.any(1)]).tolist()
            raise ConfigError(f"no statistics of level {unknown}; the autoencoder knows {list(self.levels)}")
        row = matches.int().argmax(1)
        return self.mean[row], self.scale[row, None]


@dataclass(frozen=True)
class SparseAutoencoder:
    """A trained sparse autoencoder; calling it reconstructs.

    `encode` is a function of each vector alone. BatchTopK in particular, which keeps the k·B largest entries
    of a batch in training, keeps what exceeds its threshold here, whatever else is in the batch.

    Attributes:
        activation: one of `ACTIVATIONS`. `abstopk` keeps the largest |entries| with their signs.
        W_enc: (m, d), a row per latent, as in `torch.nn.Linear`.
        b_enc: (m,).
        W_dec: (m, d), atoms; unit rows unless a scale has been folded in.
        b_dec: (d,).
        k: latents kept per vector (topk, abstopk) or on average (batchtopk, jumprelu); None for relu_l1.
        threshold: (m,) for batchtopk and jumprelu: smaller entries are set to zero.
        standardisation: applied to x before encoding and undone after decoding; None for raw x.

    Source:
        TopK: Gao et al. 2024 (arXiv:2406.04093). BatchTopK: Bussmann et al. 2024 (arXiv:2412.06410).
        JumpReLU: Rajamanoharan et al. 2024 (arXiv:2407.14435). AbsTopK: arXiv:2510.00404.
    """

    activation: str
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    k: int | None = None
    threshold: Tensor | None = None
    standardisation: Standardisation | None = None

    def __post_init__(self):
        check_activation(self.activation, self.k, self.width)
        if (self.threshold is not None) != (self.activation in THRESHOLDED):
            raise ConfigError(f"{', '.join(THRESHOLDED)} have a threshold, the other activations have none")

    @classmethod
    def random(
        cls,
        d_in: int,
        width: int,
        generator: torch.Generator,
        activation: str = "batchtopk",
        k: int | None = None,
        mean: Tensor | None = None,
        standardisation: Standardisation | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> SparseAutoencoder:
        """Before training: random unit atoms, the encoder equal to the decoder, b_dec the mean of the data.

        Args:
            d_in: dimension d of x.
            width: number of latents m.
            generator: source of randomness; not the one that drew the data.
            activation: one of `ACTIVATIONS`.
            k: see the class; None for relu_l1.
            mean: (d,), of the data after `standardisation`; zero if not given.
            standardisation: see the class.
            dtype: of the weights.

        Raises:
            ConfigError: an unknown activation, or a k that does not fit.
        """
        atoms = F.normalize(torch.randn(width, d_in, generator=generator, dtype=dtype), dim=1)
        b_dec = torch.zeros(d_in, dtype=dtype) if mean is None else mean.to(dtype)
        threshold = torch.zeros(width, dtype=dtype) if activation in THRESHOLDED else None
        b_enc = torch.zeros(width, dtype=dtype)
        return cls(activation, atoms, b_enc, atoms.clone(), b_dec, k, threshold, standardisation)

    @property
    def d_in(self) -> int:
        """Dimension d of x."""
        return self.W_dec.shape[1]

    @property
    def width(self) -> int:
        """Number of latents m."""
        return self.W_dec.shape[0]

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The trained tensors by name."""
        return {name: getattr(self, name) for name in PARAMETERS}

    def __call__(self, x: Tensor, t: Tensor | int | None = None) -> Tensor:
        """Reconstruct (B, d) vectors; `t` as in `encode`."""
        return self.decode(self.encode(x, t), t)

    def encode(self, x: Tensor, t: Tensor | int | None = None) -> Tensor:
        """Sparse codes.

        Args:
            x: (B, d).
            t: (B,) levels or one for all; needed where the standardisation is per level.

        Returns:
            (B, m), in units of s_t where there is a standardisation.

        Raises:
            ConfigError: x of another dimension, or a missing or unknown level.
        """
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise ConfigError(f"this autoencoder encodes (B, {self.d_in}); found {tuple(x.shape)}")
        if self.standardisation is not None:
            x = self.standardisation.apply(x, t)
        entries = F.linear(x - self.b_dec, self.W_enc, self.b_enc)
        if self.activation in PER_VECTOR:
            return keep_largest(entries, self.k, signed=self.activation == "abstopk")
        if self.activation in THRESHOLDED:
            entries = torch.where(entries > self.threshold, entries, 0)
        return entries.relu()

    def decode(self, codes: Tensor, t: Tensor | int | None = None) -> Tensor:
        """Vectors (B, d) of codes (B, m); `t` as in `encode`."""
        x = codes @ self.W_dec + self.b_dec
        return x if self.standardisation is None else self.standardisation.undo(x, t)

    def folded(self, t: int | None = None) -> SparseAutoencoder:
        """The same map of raw vectors of one level, its centre and scale moved into the weights.

        Codes do not change. Decoder rows get the norm s_t.

        Args:
            t: the level; not needed for a common standardisation.

        Raises:
            ConfigError: a missing or unknown level.
        """
        if self.standardisation is None:
            return self
        mean, scale = (value.squeeze(0) for value in self.standardisation._at(self.b_dec[None], t))
        return replace(
            self,
            W_enc=self.W_enc / scale,
            W_dec=self.W_dec * scale,
            b_dec=mean + scale * self.b_dec,
            standardisation=None,
        )

    def to(self, *args, **kwargs) -> SparseAutoencoder:
        """With `Tensor.to` on every tensor."""
        moved = {name: value.to(*args, **kwargs) for name, value in self.parameters.items()}
        for name in ("threshold", "standardisation"):
            value = getattr(self, name)
            moved[name] = value if value is None else value.to(*args, **kwargs)
        return replace(self, **moved)


def checked_vectors(x: Tensor | Sequence[Tensor]) -> Tensor:
    """Vectors put together and found fit to train on.

    Args:
        x: (N, d), or several such.

    Returns:
        (N, d).

    Raises:
        ConfigError: mixed dimensions, another dtype than float32 or float64, or entries that are not finite.
    """
    parts = [x] if isinstance(x, Tensor) else list(x)
    shapes = sorted({tuple(part.shape[1:]) for part in parts})
    if len(shapes) != 1 or len(shapes[0]) != 1:
        raise ConfigError(
            f"vectors are (N, d) with one d; found rows of shape {shapes}; train one dimension at a time"
        )
    x = parts[0] if len(parts) == 1 else torch.cat(parts)
    if x.dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"vectors are float32 or float64; found {x.dtype}")
    for start in range(0, len(x), CHUNK):
        bad = (~torch.isfinite(x[start : start + CHUNK]).all(1)).nonzero()
        if len(bad):
            raise ConfigError(
                f"vector {start + int(bad[0])} has entries that are NaN or infinite; drop such vectors"
            )
    return x


def check_activation(activation: str, k: int | None, width: int) -> None:
    """Raise ConfigError unless the activation exists and k latents can be kept."""
    if activation not in ACTIVATIONS:
        raise ConfigError(f"activation {activation!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
    if activation == "relu_l1":
        if k is not None:
            raise ConfigError("relu_l1 has no k; its sparsity is set by the coefficient l1")
    elif k is None or not 0 < k <= width:
        raise ConfigError(f"{activation} needs 0 < k ≤ width; found k = {k}, width = {width}")


def keep_largest(entries: Tensor, k: int, signed: bool) -> Tensor:
    """All but the k largest entries of each row set to zero.

    Args:
        entries: (B, m).
        k: how many to keep.
        signed: largest in magnitude, signs kept; otherwise negative ones are zero even among the largest.

    Returns:
        (B, m).
    """
    score = entries.abs() if signed else entries.relu()
    kept = score.topk(k, dim=-1, sorted=False).indices
    return torch.zeros_like(entries).scatter(-1, kept, (entries if signed else score).gather(-1, kept))


def l0(codes: Tensor) -> Tensor:
    """Latents in use, (…,), of codes (…, m); signed codes count like positive ones."""
    return (codes != 0).sum(-1)


def fvu(x: Tensor, reconstruction: Tensor) -> float:
    """Fraction of variance unexplained, Σ‖x − x̂‖²/Σ‖x − x̄‖².

    Args:
        x: (N, d).
        reconstruction: (N, d).

    Returns:
        0 for a perfect reconstruction, 1 for the mean; NaN where x has no variance.
    """
    return float((x - reconstruction).square().sum() / (x - x.mean(0)).square().sum())
