"""Training of sparse autoencoders: several seeds and several sparsities in one pass over the vectors.

All autoencoders of a run see the same batches; each draws its initial weights from its own seed, so what else
is trained beside it does not change it. The loss per vector, on standardised x, is ‖x − x̂‖² plus

- relu_l1: l1·‖z‖₁;
- jumprelu: d·(L0/k − 1)², with straight-through gradients of the threshold;
- topk, abstopk, batchtopk and jumprelu, once latents are dead: d/32 times the fraction of the residual x − x̂
  that the best dead latents leave unexplained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from iredinterp.adam import Adam
from iredinterp.analyses.sae.learner import Learner
from iredinterp.analyses.sae.model import (
    SparseAutoencoder,
    Standardisation,
    checked_vectors,
    fvu,
    l0,
)
from iredinterp.analyses.sae.recipe import SAERecipe
from iredinterp.errors import ConfigError, TrainingError
from iredinterp.files import atomic_file
from iredinterp.tables import Metric, tidy

# Key columns of the history, and its metrics with the reason why one can be undefined.
KEYS = {
    "step": pa.int64(),
    "seed": pa.int64(),
    "k": pa.int64(),
    "l1": pa.float64(),
    "split": pa.string(),
    "level": pa.string(),
}
METRICS = {"FVU": "fewer than two different vectors", "L0": "", "dead": ""}


class SAETrainer:
    """A run of several autoencoders on one set of vectors; `run` goes to its end.

    Args:
        recipe: what to train.
        seeds: training seeds; one autoencoder for each and each of the recipe's sparsities.
        x: (N, d), float32 or float64, or several such to be put together; the weights get their dtype.
        t: (N,), integer levels; all 0 if not given.
        problem: (N,), integer problem ids, for the split; if not given, every vector is a problem of its own.
        device: where to train; vectors stay where they are.
        dense: use dense products throughout; slower, equal up to rounding.

    Attributes:
        step: steps done.
        training: (N₁,), rows of x that are trained on, in random order.
        validation: (N₂,), the other rows, of other problems, in random order.
        standardisation: measured on the training vectors.

    Raises:
        ConfigError: x is not finite, mixes dimensions, or has a level without variance; there are fewer
            training vectors than latents, or no two problems; t or problem do not fit x.
    """

    def __init__(
        self,
        recipe: SAERecipe,
        seeds: Sequence[int],
        x: Tensor | Sequence[Tensor],
        t: Tensor | None = None,
        problem: Tensor | None = None,
        device: torch.device | str = "cpu",
        dense: bool = False,
    ):
        self.recipe, self.seeds, self.dense = recipe, tuple(seeds), dense
        self._x = checked_vectors(x)
        count = len(self._x)
        self._t = _checked_labels("t", torch.zeros(count, dtype=torch.long) if t is None else t, count)
        problem = _checked_labels("problem", torch.arange(count) if problem is None else problem, count)
        self.training, self.validation = _split(problem, recipe)
        if len(self.training) < recipe.width:
            raise ConfigError(
                f"{len(self.training)} training vectors for {recipe.width} latents; "
                "collect more vectors or lower width"
            )
        levels = self._t[self.training] if recipe.per_level else None
        self.standardisation = Standardisation.fit(self._x[self.training], levels)
        self._device = torch.device(device)
        self._moved = self.standardisation.to(self._device)
        self._held = {
            name: (self._standardised(rows[: recipe.evaluated]), self._t[rows[: recipe.evaluated]])
            for name, rows in (("train", self.training), ("validation", self.validation))
        }
        self.step = 0
        self._rows: list[dict] = []
        self._learners = [
            self._learner(seed, sparsity) for seed in self.seeds for sparsity in recipe.sparsities
        ]
        trained = [tensor for learner in self._learners for tensor in learner.trained]
        self._optimiser = Adam(trained, fused=True)

    def run(
        self,
        saved: str | Path | None = None,
        every: int = 500,
        progress: Callable[..., Iterable] = lambda steps, description, total: steps,
    ) -> None:
        """Train to the end.

        Args:
            saved: file of the running state, written at every evaluation; if it exists, the run goes on from
                it as if it had not stopped. The caller deletes it once the results are safe.
            every: steps between evaluations.
            progress: wraps the iterator of steps to show how far it is.

        Raises:
            TrainingError: the run diverged, or `saved` belongs to another run.
        """
        if saved is not None and Path(saved).is_file():
            self.load(saved)
        for done in progress(self.steps(), "training", self.recipe.steps - self.step):
            if done % every == 0 or done == self.recipe.steps:
                self._evaluate()
                if saved is not None:
                    self.save(saved)

    def autoencoders(self) -> dict[tuple[int, float], SparseAutoencoder]:
        """What is trained so far, by seed and sparsity; on raw vectors and their levels."""
        return {
            (learner.seed, learner.sparsity): learner.autoencoder(self.standardisation)
            for learner in self._learners
        }

    def history(self) -> pa.Table:
        """The evaluations so far, as a metric table.

        Returns:
            Keys step, seed, k (null for relu_l1), l1 (null for the others), split (train or validation) and
            level ("all", or one of them); metrics `FVU`, `L0` and `dead`, the share of latents that none of
            the evaluated vectors of that level and split uses. Measured on standardised vectors.
        """
        keys = pa.Table.from_pylist(self._rows, pa.schema(KEYS.items()))
        values = {
            name: torch.tensor([row[name] for row in self._rows], dtype=torch.float64) for name in METRICS
        }
        return tidy(keys, [Metric(name, values[name], reason=METRICS[name]) for name in METRICS])

    def save(self, path: str | Path) -> None:
        """Write the running state as one safetensors file, atomically."""
        header = {**self._identity(), "step": self.step, "rows": self._rows}
        with atomic_file(path) as file:
            file.write(save(self._tensors(), {"iredinterp": json.dumps(header)}))

    def load(self, path: str | Path) -> None:
        """Go back to a state written by `save` in a run of the same recipe, seeds and vectors.

        Raises:
            TrainingError: it belongs to another run, or is damaged.
        """
        tensors = self._tensors()
        try:
            with safe_open(path, "pt") as file:
                header = json.loads(file.metadata()["iredinterp"])
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
            step, rows = header.pop("step"), header.pop("rows")
            if any(row.keys() != {*KEYS, *METRICS} for row in rows):
                raise ValueError("a row of the history has other columns")
            pa.Table.from_pylist(
                rows, pa.schema([*KEYS.items(), *((name, pa.float64()) for name in METRICS)])
            )
        except (
            SafetensorError,
            OSError,
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            RecursionError,
            pa.ArrowException,
        ) as error:
            raise TrainingError(
                f"{path}: not a whole training state; delete it to start anew ({error})"
            ) from error
        same_data = all(
            torch.equal(found.get(name, torch.empty(0)), tensors[name].cpu())
            for name in tensors
            if name.startswith("data.")
        )
        if header != self._identity() or found.keys() != tensors.keys() or not same_data:
            raise TrainingError(
                f"{path}: saved by another recipe, for other seeds or other vectors; delete it to start anew"
            )
        for name, tensor in tensors.items():
            value = found[name]
            if (value.shape, value.dtype) != (tensor.shape, tensor.dtype) or not torch.isfinite(value).all():
                raise TrainingError(
                    f"{path}: {name}: expected finite {tensor.dtype} of shape {tuple(tensor.shape)}; "
                    "the file is damaged, delete it to start anew"
                )
        if type(step) is not int or not 0 <= step <= self.recipe.steps:
            raise TrainingError(
                f"{path}: step: found {step!r}, expected 0 … {self.recipe.steps}; delete it to start anew"
            )
        self.step, self._rows = step, rows
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(found[name])

    def _identity(self) -> dict:
        """What a saved state must share with this run, JSON-ready."""
        run = {"recipe": asdict(self.recipe), "seeds": self.seeds, "vectors": tuple(self._x.shape)}
        return json.loads(json.dumps({**run, "dense": self.dense}))

    def _tensors(self) -> dict[str, Tensor]:
        """Every tensor of the running state by name, not copied."""
        tensors = {"data.mean": self.standardisation.mean, "data.scale": self.standardisation.scale}
        for index, learner in enumerate(self._learners):
            for name, value in learner.tensors().items():
                tensors[f"{index}.{name}"] = value.detach()
                for moment, moments in self._optimiser.state.get(value, {}).items():
                    tensors[f"{index}.{name}.{moment}"] = moments
        return tensors

    def steps(self) -> Iterator[int]:
        """Take one optimiser step after another, handing out how many are done."""
        size = min(self.recipe.batch, len(self.training))
        per_epoch = len(self.training) // size
        order = None
        while self.step < self.recipe.steps:
            epoch, position = divmod(self.step, per_epoch)
            if order is None or position == 0:
                shuffle = torch.randperm(
                    len(self.training), generator=_generator("order", self.recipe.order_seed, epoch)
                )
                order = self.training[shuffle]
            self._one_step(self._standardised(order[position * size : (position + 1) * size]))
            yield self.step

    def _one_step(self, x: Tensor) -> None:
        self._optimiser.rate = self.recipe.learning_rate_at(self.step)
        finite = torch.stack([learner.backward(x) for learner in self._learners]).isfinite().tolist()
        if not all(finite):
            learner = self._learners[finite.index(False)]
            raise TrainingError(
                f"training diverged at step {self.step + 1} for seed {learner.seed}, "
                f"sparsity {learner.sparsity}: lower learning_rate"
            )
        self._optimiser.step()
        for learner in self._learners:
            learner.normalise()
        self.step += 1

    @torch.no_grad()
    def _evaluate(self) -> None:
        for learner in self._learners:
            autoencoder = learner.autoencoder(None)
            values = {"k": learner.sparsity, "l1": None}
            if self.recipe.activation == "relu_l1":
                values = {"k": None, "l1": learner.sparsity}
            for split, (x, t) in self._held.items():
                codes = autoencoder.encode(x)
                reconstruction = autoencoder.decode(codes)
                groups = {"all": torch.ones_like(t, dtype=torch.bool)}
                groups |= {str(level): t == level for level in torch.unique(t).tolist()}
                keys = {"step": self.step, "seed": learner.seed, **values, "split": split}
                self._rows += [
                    {
                        **keys,
                        "level": level,
                        "FVU": fvu(x[rows], reconstruction[rows]),
                        "L0": float(l0(codes[rows]).double().mean()),
                        "dead": float((codes[rows] == 0).all(0).double().mean()),
                    }
                    for level, rows in groups.items()
                ]

    def _learner(self, seed: int, sparsity: float) -> Learner:
        # Standardised data have mean 0, so b_dec starts there.
        k = None if self.recipe.activation == "relu_l1" else int(sparsity)
        first = SparseAutoencoder.random(
            self._x.shape[1],
            self.recipe.width,
            _generator("weights", seed),
            self.recipe.activation,
            k,
            dtype=self._x.dtype,
        )
        return Learner.initial(self.recipe, seed, sparsity, self.dense, first, self._device)

    def _standardised(self, rows: Tensor) -> Tensor:
        x = self._x[rows].to(self._device)
        return self._moved.apply(x, self._t[rows].to(self._device))


def _generator(purpose: str, *seeds: int) -> torch.Generator:
    """A generator of its own for each purpose, so that no two draws of a run, or data drawn by a plain
    `manual_seed`, share their numbers.
    """
    words = np.random.SeedSequence([*purpose.encode(), *seeds]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def _checked_labels(name: str, labels: Tensor, count: int) -> Tensor:
    if labels.shape != (count,) or labels.is_floating_point():
        raise ConfigError(
            f"{name} holds one integer per vector; found {labels.dtype} of shape {tuple(labels.shape)} "
            f"for {count} vectors"
        )
    return labels


def _split(problem: Tensor, recipe: SAERecipe) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to validate on, each in random order, no problem in both."""
    problems, which = torch.unique(problem, return_inverse=True)
    if len(problems) < 2:
        raise ConfigError("vectors of one problem cannot be split; validation needs another problem")
    generator = _generator("split", recipe.order_seed)
    count = min(max(1, round(recipe.validation * len(problems))), len(problems) - 1)
    held_out = torch.zeros(len(problems), dtype=torch.bool)
    held_out[torch.randperm(len(problems), generator=generator)[:count]] = True
    rows = torch.randperm(len(problem), generator=generator)
    return rows[~held_out[which[rows]]], rows[held_out[which[rows]]]
