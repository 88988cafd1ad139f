"""Sparse autoencoders: time per training step, and what is found of planted dictionaries.

Step times are CPU seconds of one thread (wall seconds on a GPU), all methods of a table interleaved in one
process in an order drawn anew per round, ratios within a round before their median. sae-lens and
dictionary-learning take part where they are importable; they are no dependencies of this package, so give
them an environment of their own (dictionary-learning does not import beside a torchvision for another torch):

    python -m venv ENV
    ENV/bin/pip install sae-lens dictionary-learning "nnsight<0.4" scikit-learn torch==2.13.0
    ENV/bin/pip uninstall torchvision
    PYTHONPATH=src ENV/bin/python benchmarks/sae.py

The result is written to benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from measure import device_name, interleaved, ratio, synchronised_clock, write_results
from torch import Tensor

from iredinterp.analyses.sae.model import fvu, l0
from iredinterp.analyses.sae.recipe import SAERecipe
from iredinterp.analyses.sae.training import SAETrainer
from iredinterp.truth.dictionary import SparseDictionary, mmcs, recovered

D, WIDTH, K, BATCH = 400, 3200, 16, 4096
L1 = 2.0
SPARSITIES = {"relu_l1": {"l1": (L1,)}, "topk": {"k": (K,)}, "batchtopk": {"k": (K,)}}
# As many steps as it takes; a run is never finished, so the learning rate hardly moves.
ENDLESS = 10**6
SEEDS = (1, 2)
DATA_SEED = 12345
FRESH = 16_384
# Name, d, true atoms, atoms per vector, latents, steps; S64 and S400 of the table.
PLANTED = {"S64": (64, 128, 4, 512, 3000), "S400": (400, 800, 16, 3200, 1000)}
VECTORS = {"S64": 1_000_000, "S400": 300_000}


def main() -> None:
    """Run everything and write the results page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--planted", nargs="*", choices=PLANTED, default=list(PLANTED))
    options = arguments.parse_args()
    torch.set_num_threads(1)
    sections = [introduction(options), step_section(options)]
    if options.planted:
        sections.append(quality_section(options))
    write_results("Sparse autoencoders", device_name(options.device), sections)


def introduction(options) -> str:
    """How the numbers were made."""
    return (
        f"Written by `python benchmarks/sae.py` (torch {torch.__version__.split('+')[0]}, {options.rounds} "
        "rounds). Medians over rounds; in brackets the range of the ratios. All methods of a table alternate "
        "within one process; absolute times depend on the machine and its load, the ratios much less."
    )


def step_section(options) -> str:
    """One optimiser step of every activation, sparse, dense and by the other libraries that are there."""
    clock = time.process_time if options.device == "cpu" else synchronised_clock
    x = torch.randn(4 * BATCH, D, generator=torch.Generator().manual_seed(DATA_SEED))
    methods: dict[str, Callable[[], object]] = {}
    for activation, sparsity in SPARSITIES.items():
        recipe = SAERecipe(WIDTH, activation, **sparsity, steps=ENDLESS, batch=BATCH, evaluated=BATCH)
        paths = ("dense",) if activation == "relu_l1" else ("sparse", "dense")
        for path in paths:
            trainer = SAETrainer(recipe, [0], x, device=options.device, dense=path == "dense")
            methods[f"{activation}, {path}"] = step_of(trainer)
        if importlib.util.find_spec("sae_lens"):
            methods[f"{activation}, sae-lens {version('sae-lens')}"] = saelens_step(
                activation, x, options.device
            )
        if importlib.util.find_spec("dictionary_learning"):
            name = f"{activation}, dictionary-learning {version('dictionary-learning')}"
            methods[name] = dictionary_learning_step(activation, x, options.device)
    seconds = interleaved(methods, options.rounds, clock)
    lines = [
        f"### One step: batch {BATCH}, d = {D}, {WIDTH} latents, k = {K}, float32, white noise",
        "",
        "| activation | path | ms per step | time ÷ first of its activation |",
        "|---|---|---|---|",
    ]
    for name in methods:
        activation, path = name.split(", ")
        first = next(other for other in methods if other.startswith(f"{activation},"))
        lines.append(
            f"| {activation} | {path} | {1e3 * statistics.median(seconds[name]):.0f} | "
            f"{ratio(seconds[name], seconds[first])} |"
        )
    return "\n".join(lines)


def step_of(trainer: SAETrainer) -> Callable[[], object]:
    """One step further per call."""
    steps = trainer.steps()
    return lambda: next(steps)


def saelens_step(activation: str, x: Tensor, device: str) -> Callable[[], object]:
    """The same by the training loop of sae-lens."""
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer as TheirTrainer

    common = {"d_in": D, "d_sae": WIDTH, "device": device, "dtype": "float32"}
    model = {
        "relu_l1": lambda: sae_lens.StandardTrainingSAE(
            sae_lens.StandardTrainingSAEConfig(**common, l1_coefficient=L1)
        ),
        # Its sparse activations have no backward pass on a CPU.
        "topk": lambda: sae_lens.TopKTrainingSAE(
            sae_lens.TopKTrainingSAEConfig(**common, k=K, use_sparse_activations=device != "cpu")
        ),
        "batchtopk": lambda: sae_lens.BatchTopKTrainingSAE(
            sae_lens.BatchTopKTrainingSAEConfig(**common, k=K)
        ),
    }[activation]()
    config = SAETrainerConfig(
        total_training_samples=ENDLESS * BATCH,
        train_batch_size_samples=BATCH,
        lr=1e-3,
        lr_end=1e-4,
        device=device,
    )
    trainer = TheirTrainer(config, model, data_provider=iter(()))
    batches = itertools.cycle(x.to(device).split(BATCH))
    return lambda: trainer.step(next(batches))


def dictionary_learning_step(activation: str, x: Tensor, device: str) -> Callable[[], object]:
    """The same by the trainers of dictionary-learning."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainers = {
        "relu_l1": (StandardTrainer, {"l1_penalty": L1}),
        "topk": (TopKTrainer, {"k": K}),
        "batchtopk": (BatchTopKTrainer, {"k": K}),
    }
    kind, sparsity = trainers[activation]
    # It insists on the layer of a language model.
    where = {"layer": 0, "lm_name": "none", "device": device}
    trainer = kind(steps=ENDLESS, activation_dim=D, dict_size=WIDTH, lr=1e-3, **sparsity, **where)
    batches = itertools.cycle(x.to(device).split(BATCH))
    numbers = itertools.count()
    return lambda: trainer.update(next(numbers), next(batches))


def quality_section(options) -> str:
    """Planted dictionaries: what fresh vectors of the same law lose, and which atoms are found."""
    lines = [
        "### Planted dictionaries, batch 1024",
        "",
        "x = Σ aᵢdᵢ + noise of 0.01 per entry, Zipf(0.5) firing, a ~ |N(1, 0.3)|. S64: d = 64, 128 atoms, 4 "
        "active, 512 latents, 3000 steps. S400: d = 400, 800 atoms, 16 active, 3200 latents, 1000 steps. "
        f"Measured on {FRESH:,} fresh vectors. Good: share of the latents in use that have a cosine > 0.9 "
        "with a true atom.",
        "",
        "| data | activation | seed | L0 | FVU | MMCS | recovered | dead | good | CPU-ms per step |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in options.planted:
        d, atoms, active, width, steps = PLANTED[name]
        generator = torch.Generator().manual_seed(DATA_SEED)
        law = SparseDictionary.random(d, atoms, active, generator, dtype=torch.float32)
        x = torch.cat([law.sample(10_000, generator)[0] for _ in range(VECTORS[name] // 10_000)])
        fresh, codes = law.sample(FRESH, generator)
        for activation in ("batchtopk", "topk"):
            recipe = SAERecipe(width, activation, (active,), steps=steps)
            trainer = SAETrainer(recipe, SEEDS, x, device=options.device)
            start = time.process_time()
            trainer.run(every=steps)
            spent = 1e3 * (time.process_time() - start) / (steps * len(SEEDS))
            for (seed, _), sae in trainer.autoencoders().items():
                scores = planted_scores(law, sae.to("cpu"), fresh)
                lines.append(f"| {name} | {activation} | {seed} | {scores} | {spent:.0f} |")
        lines.append(
            f"| {name} | true code | – | {float(l0(codes).double().mean()):.1f} | "
            f"{law.true_fvu(fresh, codes):.4f} | 1 | 1 | – | – | – |"
        )
    return "\n".join(lines)


def planted_scores(law: SparseDictionary, sae, fresh: Tensor) -> str:
    """The middle columns of the quality table."""
    encoded = sae.encode(fresh, 0)
    in_use = (encoded != 0).any(0)
    found = sae.W_dec[in_use]
    return (
        f"{float(l0(encoded).double().mean()):.2f} | {fvu(fresh, sae.decode(encoded, 0)):.4f} | "
        f"{mmcs(law.atoms, found):.4f} | {recovered(law.atoms, found):.3f} | "
        f"{1 - float(in_use.double().mean()):.2f} | {recovered(found, law.atoms):.2f}"
    )


if __name__ == "__main__":
    main()
