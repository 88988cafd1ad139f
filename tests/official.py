"""Outputs of the official code that ship with the tests, and the larger set where a neighbour folder has it."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

DATA = Path(__file__).parent / "data"
FULL_SET = Path(__file__).parents[2] / "shared" / "official"


@dataclass(frozen=True)
class Official:
    """An official checkpoint and what the official code computed from it."""

    name: str
    path: Path
    reference: dict[str, Tensor]

    def get(self, weights: str, dtype: torch.dtype, name: str) -> Tensor:
        """Tensor `name` for "ema" or "raw" weights in one precision."""
        official_weights = {"ema": "ema", "raw": "model"}[weights]
        precision = {torch.float32: "f32", torch.float64: "f64"}[dtype]
        return self.reference[f"{official_weights}.{precision}.{name}"]


def bundled() -> Official:
    """The reduced reference in tests/data."""
    stem = "official-inverse-n5"
    return Official(stem, DATA / f"{stem}.pt", load_file(DATA / f"{stem}.reference.safetensors"))


def available() -> list[Official]:
    """The bundled reference, and every full one at hand."""
    full = [folder for folder in sorted(FULL_SET.glob("*")) if (folder / "reference.safetensors").is_file()]
    return [
        bundled(),
        *(Official(f.name, f / "model-1.pt", load_file(f / "reference.safetensors")) for f in full),
    ]
