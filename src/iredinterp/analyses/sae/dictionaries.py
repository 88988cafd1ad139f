"""Dictionaries without an encoder, coded by orthogonal matching pursuit: rivals of a trained autoencoder.

A `Dictionary` encodes and decodes as a `SparseAutoencoder` does, so one report serves both. Its codes are
signed and refitted at every step, which non-negative codes of one linear encoder are not: at equal L0 it is
the stronger rival.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import FastICA, MiniBatchDictionaryLearning, MiniBatchNMF
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from iredinterp.analyses.sae.model import Standardisation, checked_vectors
from iredinterp.energy import MLPEnergy
from iredinterp.errors import ConfigError

# Relative size of a correlation that counts as none. A chosen atom then differs from the span of those
# before it by at least as much, so the normal equations, whose error is its square, stay solvable.
PURSUIT_TOLERANCE = 1e-6
PURSUIT_CHUNK = 4096
REFIT_CHUNK = 64
# Coefficient of ‖z‖₁ beside ½‖x − x̂‖² when a dictionary is learned.
L1_WEIGHT = 1.0
LEARNING_EPOCHS = 10
# Principal axes with singular values below this share of the largest hold the rounding of float32 data.
RANK_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Dictionary:
    """Unit atoms, of which k at most write each vector.

    Attributes:
        name: where the atoms come from.
        W_dec: (m, d), unit rows.
        k: atoms per vector, at most.
        standardisation: applied to x before encoding and undone after decoding; None for raw x.
    """

    name: str
    W_dec: Tensor
    k: int
    standardisation: Standardisation | None = None

    def __post_init__(self):
        _check_k(self.k, self.width)

    @classmethod
    def of_atoms(
        cls, name: str, atoms: Tensor, k: int, standardisation: Standardisation | None = None
    ) -> Dictionary:
        """From atoms of any length, of which zero ones are left out.

        Args:
            name: where they come from.
            atoms: (m, d).
            k: atoms per vector, at most.
            standardisation: see the class.

        Raises:
            ConfigError: k exceeds the number of atoms that are not zero.
        """
        used = atoms[(atoms != 0).any(1)]
        return cls(name, F.normalize(used, dim=1, eps=0), k, standardisation)

    @property
    def d_in(self) -> int:
        """Dimension d of x."""
        return self.W_dec.shape[1]

    @property
    def width(self) -> int:
        """Number of atoms m."""
        return self.W_dec.shape[0]

    def __call__(self, x: Tensor, t: Tensor | int | None = None) -> Tensor:
        """Reconstruct (B, d) vectors; `t` as in `encode`."""
        return self.decode(self.encode(x, t), t)

    def encode(self, x: Tensor, t: Tensor | int | None = None) -> Tensor:
        """Codes (B, m) of vectors (B, d).

        Args:
            x: (B, d).
            t: (B,) levels or one for all; needed where the standardisation is per level.

        Raises:
            ConfigError: x of another dimension, or a missing or unknown level.
        """
        if self.standardisation is not None:
            x = self.standardisation.apply(x, t)
        return sparse_codes(self.W_dec, x, self.k)

    def decode(self, codes: Tensor, t: Tensor | int | None = None) -> Tensor:
        """Vectors (B, d) of codes (B, m); `t` as in `encode`."""
        x = codes @ self.W_dec
        return x if self.standardisation is None else self.standardisation.undo(x, t)


def sparse_codes(atoms: Tensor, x: Tensor, k: int) -> Tensor:
    """Orthogonal matching pursuit: k times the atom that correlates best with what is left, then a refit.

    Args:
        atoms: (m, d), unit rows.
        x: (B, d).
        k: atoms per vector; fewer where fewer leave nothing.

    Returns:
        (B, m), signed, in the dtype of x; computed in float64.

    Raises:
        ConfigError: x of another dimension than the atoms, or not 0 < k ≤ m.

    Source:
        Pati, Rezaiifar & Krishnaprasad 1993; by way of the Gram matrix as in Rubinstein, Zibulevsky & Elad
        2008.
    """
    if x.ndim != 2 or x.shape[1] != atoms.shape[1]:
        raise ConfigError(f"these atoms write vectors (B, {atoms.shape[1]}); found {tuple(x.shape)}")
    _check_k(k, len(atoms))
    precise = atoms.double()
    gram = precise @ precise.mT
    codes = [_pursue(part.double(), precise, gram, k).to(x) for part in x.split(PURSUIT_CHUNK)]
    return torch.cat(codes)


def refitted_codes(atoms: Tensor, x: Tensor, codes: Tensor) -> Tensor:
    """The coefficients that write x best with the atoms that its codes use: what shrinkage costs.

    Args:
        atoms: (m, d).
        x: (B, d).
        codes: (B, m).

    Returns:
        (B, m), zero where `codes` are, of least norm where the atoms in use depend on each other.
    """
    precise = atoms.double()
    used = codes != 0
    refitted = torch.zeros_like(codes, dtype=torch.float64)
    for rows in torch.arange(len(codes)).split(REFIT_CHUNK):
        most = int(used[rows].sum(1).max())
        support = used[rows].double().topk(most, dim=1).indices
        taken = used[rows].gather(1, support)
        chosen = precise[support] * taken.unsqueeze(2)
        best = torch.linalg.pinv(chosen.mT) @ x[rows].double().unsqueeze(2)
        refitted[rows] = refitted[rows].scatter(1, support, best.squeeze(2))
    return refitted.to(codes)


def _pursue(x: Tensor, atoms: Tensor, gram: Tensor, k: int) -> Tensor:
    overlaps = x @ atoms.mT
    negligible = PURSUIT_TOLERANCE * x.norm(dim=1, keepdim=True)
    support = torch.empty(len(x), 0, dtype=torch.long, device=x.device)
    taken = torch.empty_like(support, dtype=torch.bool)
    left = overlaps
    for _ in range(k):
        size, best = left.abs().scatter(1, support, -1).max(1, keepdim=True)
        support = torch.cat([support, best], 1)
        taken = torch.cat([taken, size > negligible], 1)
        # An atom that is not taken gets a row of the identity: coefficient 0, and the system stays regular.
        both = taken.unsqueeze(2) & taken.unsqueeze(1)
        inner = torch.where(both, gram[support.unsqueeze(2), support.unsqueeze(1)], 0)
        inner = inner + torch.diag_embed((~taken).double())
        coefficients = torch.linalg.solve(inner, overlaps.gather(1, support) * taken)
        left = overlaps - F.embedding_bag(support, gram, per_sample_weights=coefficients, mode="sum")
    return torch.zeros_like(overlaps).scatter(1, support, coefficients)


def fit_dictionary(
    method: str,
    x: Tensor,
    t: Tensor,
    width: int,
    k: int,
    generator: torch.Generator,
    per_level: bool = True,
    most: int = 8192,
) -> Dictionary:
    """Atoms that a classical method finds in standardised vectors.

    Args:
        method: one of `METHODS`.

            * pca: leading principal axes, d at most; coded, the k largest coordinates. width = k gives the
              leading k.
            * ica: mixing directions of FastICA, as many as x has dimensions at most.
            * nmf: of [x⁺, x⁻], one half of each atom minus the other.
            * learned: sparse coding with an L1 penalty, in mini-batches.
            * samples: vectors of the data themselves.
            * random: uniformly random directions, the frozen decoder.
        x: (N, d), float32 or float64; leave validation problems out.
        t: (N,), integer levels.
        width: number of atoms wanted.
        k: atoms per vector.
        generator: source of randomness.
        per_level: centre and scale every level by itself, not all together.
        most: vectors that the method looks at, drawn at random.

    Raises:
        ConfigError: unknown method, x is not finite or has a level without variance, fewer vectors than
            atoms, or k exceeds the number of atoms.
    """
    if method not in METHODS:
        raise ConfigError(f"dictionary {method!r} is unknown; choose one of {', '.join(METHODS)}")
    x = checked_vectors(x)
    if t.shape != (len(x),):
        raise ConfigError(f"t holds one level per vector; found {tuple(t.shape)} for {len(x)} vectors")
    standardisation = Standardisation.fit(x, t if per_level else None)
    rows = torch.randperm(len(x), generator=generator)[:most]
    if len(rows) < width:
        raise ConfigError(f"{len(rows)} vectors for {width} atoms; collect more vectors or lower width")
    seen = standardisation.apply(x[rows], t[rows]).double()
    with warnings.catch_warnings():
        # On data without structure iterations need not converge; the report shows what that is worth.
        warnings.simplefilter("ignore", ConvergenceWarning)
        atoms = METHODS[method](seen, width, generator)
    return Dictionary.of_atoms(method, atoms.to(x.dtype), k, standardisation)


def first_layer_atoms(energy: MLPEnergy) -> Tensor:
    """The network's own dictionary, W₁y: ∇_yE is a combination of these rows.

    Args:
        energy: a network.

    Returns:
        (hidden, d), the columns of fc1 that see y, not normalised.
    """
    return energy.model.parameters["fc1.weight"][:, energy.dim_x :]


def _pca(x: Tensor, width: int, _generator: torch.Generator) -> Tensor:
    return torch.linalg.eigh(x.mT @ x).eigenvectors.mT.flip(0)[:width]


def _ica(x: Tensor, width: int, generator: torch.Generator) -> Tensor:
    components = min(width, int(torch.linalg.matrix_rank(x, rtol=RANK_TOLERANCE)))
    model = FastICA(components, whiten="unit-variance", random_state=_seed(generator), tol=1e-3)
    model.fit(x.numpy())
    return torch.from_numpy(model.mixing_.T)


def _nmf(x: Tensor, width: int, generator: torch.Generator) -> Tensor:
    parts = np.concatenate([x.relu().numpy(), (-x).relu().numpy()], axis=1)
    model = MiniBatchNMF(width, init="random", random_state=_seed(generator)).fit(parts)
    positive, negative = np.split(model.components_, 2, axis=1)
    return torch.from_numpy(positive - negative)


def _learned(x: Tensor, width: int, generator: torch.Generator) -> Tensor:
    model = MiniBatchDictionaryLearning(
        width, alpha=L1_WEIGHT, max_iter=LEARNING_EPOCHS, fit_algorithm="cd", random_state=_seed(generator)
    )
    return torch.from_numpy(model.fit(x.numpy()).components_)


def _samples(x: Tensor, width: int, _generator: torch.Generator) -> Tensor:
    # The rows are in random order already.
    return x[:width]


def _random(x: Tensor, width: int, generator: torch.Generator) -> Tensor:
    return torch.randn(width, x.shape[1], generator=generator, dtype=x.dtype)


METHODS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "pca": _pca,
    "ica": _ica,
    "nmf": _nmf,
    "learned": _learned,
    "samples": _samples,
    "random": _random,
}


def _seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=generator))


def _check_k(k: int, width: int) -> None:
    if not 0 < k <= width:
        raise ConfigError(f"a code needs 0 < k ≤ number of atoms; found k = {k}, {width} atoms")
