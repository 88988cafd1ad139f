"""Vectors that are sparse sums of known atoms: what a sparse autoencoder has to find, and what it found.

x = Σᵢ aᵢdᵢ + noise with random unit atoms dᵢ. Atom i fires independently with a probability ∝ i^−s (Zipf),
and then has the amplitude |N(1, 0.3)|.

Draw the data and initialise the model from differently seeded generators: with equal seeds a model's random
initial atoms can equal the true ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from iredinterp.errors import TaskError

AMPLITUDE_SPREAD = 0.3


@dataclass(frozen=True)
class SparseDictionary:
    """A law of sparse sums of atoms.

    Attributes:
        atoms: (m, d), unit rows.
        firing: (m,), probability that an atom takes part.
        noise: standard deviation of the white noise on each entry of x.
    """

    atoms: Tensor
    firing: Tensor
    noise: float

    @classmethod
    def random(
        cls,
        d: int,
        count: int,
        active: float,
        generator: torch.Generator,
        zipf: float = 0.5,
        noise: float = 0.01,
        dtype: torch.dtype = torch.float64,
    ) -> SparseDictionary:
        """Random atoms of which `active` fire on average.

        Args:
            d: dimension of x.
            count: number of atoms m.
            active: mean number of atoms in one x.
            generator: source of randomness.
            zipf: exponent s of the firing probabilities; 0 for equal ones.
            noise: standard deviation of the noise on each entry.
            dtype: of everything.

        Raises:
            TaskError: so many active atoms that the most frequent one would have to fire more than always.
        """
        weights = torch.arange(1, count + 1, dtype=dtype) ** -zipf
        firing = active * weights / weights.sum()
        if firing[0] > 1:
            raise TaskError(
                f"{active} of {count} atoms active on average with Zipf exponent {zipf} needs a firing "
                f"probability of {float(firing[0]):.2f}; lower active or zipf, or raise count"
            )
        atoms = F.normalize(torch.randn(count, d, generator=generator, dtype=dtype), dim=1)
        return cls(atoms, firing, noise)

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw vectors.

        Returns:
            x (count, d) and its true codes (count, m).
        """
        shape, dtype = (count, len(self.atoms)), self.atoms.dtype
        fires = torch.rand(shape, generator=generator, dtype=dtype) < self.firing
        spread = AMPLITUDE_SPREAD * torch.randn(shape, generator=generator, dtype=dtype)
        codes = fires * (1 + spread).abs()
        noise = torch.randn(count, self.atoms.shape[1], generator=generator, dtype=dtype)
        return codes @ self.atoms + self.noise * noise, codes

    def true_fvu(self, x: Tensor, codes: Tensor) -> float:
        """Fraction of the variance of x that the true codes leave unexplained: the noise's share.

        Args:
            x: (N, d), from `sample`.
            codes: (N, m), from the same call.
        """
        return float((x - codes @ self.atoms).square().sum() / (x - x.mean(0)).square().sum())


def planted_vectors(d: int, active: int, count: int, seed: int) -> tuple[SparseDictionary, Tensor]:
    """A dictionary of 2d atoms with vectors of its law.

    Args:
        d: dimension.
        active: atoms per vector.
        count: N vectors.
        seed: of both.

    Returns:
        The dictionary, and (N, d) float32.
    """
    generator = torch.Generator().manual_seed(seed)
    dictionary = SparseDictionary.random(d, 2 * d, active, generator, dtype=torch.float32)
    return dictionary, dictionary.sample(count, generator)[0]


def mmcs(true: Tensor, found: Tensor) -> float:
    """Mean over true atoms of the largest cosine with any found atom.

    Args:
        true: (m, d), no row zero.
        found: (m′, d); drop latents that never fire, or they add chance hits.

    Returns:
        In [−1, 1]; 0 where nothing was found.

    Source:
        Sharkey, Braun & Millidge 2022, mean max cosine similarity.
    """
    return float(_best_cosines(true, found).mean())


def recovered(true: Tensor, found: Tensor, threshold: float = 0.9) -> float:
    """Share of true atoms whose cosine with some found atom exceeds the threshold.

    Args:
        true: (m, d), no row zero.
        found: (m′, d).
        threshold: cosine that counts as found.

    Returns:
        In [0, 1].
    """
    return float((_best_cosines(true, found) > threshold).double().mean())


def _best_cosines(true: Tensor, found: Tensor) -> Tensor:
    if not len(found):
        return torch.zeros(len(true), dtype=true.dtype)
    return (F.normalize(true, dim=1) @ F.normalize(found.to(true.dtype), dim=1).mT).amax(1)
