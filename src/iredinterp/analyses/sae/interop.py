"""Sparse autoencoders in the file format of SAELens: a folder of sae_weights.safetensors and cfg.json.

Source:
    SAELens 6 (MIT, github.com/jbloomAus/SAELens), `SAE.load_from_disk`; architectures standard, topk, abstopk
    and jumprelu. A BatchTopK autoencoder is written as the JumpReLU that it is after training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from iredinterp.analyses.sae.model import THRESHOLDED, SparseAutoencoder
from iredinterp.errors import CheckpointError, ConfigError
from iredinterp.files import atomic_file

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
ARCHITECTURES = {
    "relu_l1": "standard",
    "topk": "topk",
    "abstopk": "abstopk",
    "batchtopk": "jumprelu",
    "jumprelu": "jumprelu",
}
# What other values of these would change is not implemented here; absent ones have these values.
REQUIRED = {
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "rescale_acts_by_decoder_norm": False,
}
# A file that names an older version is read in the layout of before version 6, which drops metadata.
SAELENS_VERSION = "6.0.0"


def save_saelens(sae: SparseAutoencoder, path: str | Path, metadata: Mapping | None = None) -> None:
    """Write an autoencoder of raw vectors as a folder that SAELens opens.

    Args:
        sae: without a standardisation, see `SparseAutoencoder.folded`.
        path: the folder; created.
        metadata: JSON-ready facts to keep with it, such as task, n, level and source of the vectors.

    Raises:
        ConfigError: its standardisation has not been folded into the weights.
    """
    if sae.standardisation is not None:
        raise ConfigError(
            "SAELens files hold no standardisation per level; write autoencoder.folded(t) for one level t"
        )
    tensors = {
        "W_enc": sae.W_enc.mT.contiguous(),
        "b_enc": sae.b_enc,
        "W_dec": sae.W_dec.contiguous(),
        "b_dec": sae.b_dec,
    }
    config = {
        "architecture": ARCHITECTURES[sae.activation],
        "d_in": sae.d_in,
        "d_sae": sae.width,
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            **(metadata or {}),
            "sae_lens_version": SAELENS_VERSION,
            "iredinterp": {"activation": sae.activation, "k": sae.k},
        },
    }
    if config["architecture"] in ("topk", "abstopk"):
        config["k"] = sae.k
    if sae.activation in THRESHOLDED:
        tensors["threshold"] = sae.threshold
    # The weights come first: a folder with a configuration is a whole one.
    with atomic_file(Path(path) / WEIGHTS) as file:
        file.write(save({name: value.detach().cpu().clone() for name, value in tensors.items()}))
    with atomic_file(Path(path) / CONFIG) as file:
        file.write(json.dumps(config, indent=1, sort_keys=True).encode())


def load_saelens(path: str | Path) -> SparseAutoencoder:
    """Read what `save_saelens` wrote, or an autoencoder of SAELens that has the same shape.

    Args:
        path: the folder.

    Returns:
        Bit for bit what was saved. An autoencoder of SAELens gets the activation of its architecture; if
        that is jumprelu, whose files do not tell k, k is the width.

    Raises:
        CheckpointError: a file is missing or damaged, or asks for something that is not implemented here.
    """
    path = Path(path)
    try:
        config = json.loads((path / CONFIG).read_text())
        tensors = load((path / WEIGHTS).read_bytes())
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{path}: needs a readable {CONFIG} and {WEIGHTS} ({error})") from error
    metadata = (config.get("metadata") or {}) if isinstance(config, dict) else None
    ours = metadata.get("iredinterp", {}) if isinstance(metadata, dict) else None
    if not isinstance(ours, dict):
        raise CheckpointError(f"{path}: {CONFIG} holds no object of settings with an object of metadata")
    architecture = config.get("architecture")
    names = {name: activation for activation, name in ARCHITECTURES.items()}
    if architecture not in list(names):
        raise CheckpointError(
            f"{path}: architecture {architecture!r} is not implemented; expected {', '.join(names)}"
        )
    for key, expected in REQUIRED.items():
        if config.get(key, expected) != expected:
            raise CheckpointError(f"{path}: {key} is {config[key]!r}; only {expected!r} is implemented")
    activation = ours.get("activation", names[architecture])
    if activation not in [name for name, written in ARCHITECTURES.items() if written == architecture]:
        raise CheckpointError(f"{path}: activation {activation!r} is none of architecture {architecture!r}")
    _check_tensors(path, tensors, activation, config)
    k = ours.get("k", config.get("k", len(tensors["W_dec"]) if activation in THRESHOLDED else None))
    if k is not None and type(k) is not int:
        raise CheckpointError(f"{path}: k is {k!r}; expected an integer")
    try:
        return SparseAutoencoder(
            activation,
            tensors["W_enc"].mT.contiguous(),
            tensors["b_enc"],
            tensors["W_dec"],
            tensors["b_dec"],
            k,
            tensors.get("threshold"),
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], activation: str, config: Mapping) -> None:
    names = {"W_enc", "b_enc", "W_dec", "b_dec"} | ({"threshold"} if activation in THRESHOLDED else set())
    if tensors.keys() != names:
        raise CheckpointError(f"{path}: tensors {sorted(tensors)} found, {sorted(names)} expected")
    shape = tuple(tensors["W_dec"].shape)
    given = tuple(config.get(key, size) for key, size in zip(("d_sae", "d_in"), shape, strict=False))
    if len(shape) != 2 or 0 in shape or given != shape:
        raise CheckpointError(f"{path}: W_dec has shape {shape}; expected (d_sae, d_in), here {given}")
    width, d_in = shape
    shapes = {"W_enc": (d_in, width), "b_enc": (width,), "W_dec": shape, "b_dec": (d_in,)}
    shapes["threshold"] = (width,)
    for name, value in tensors.items():
        if tuple(value.shape) != shapes[name]:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(value.shape)}; W_dec with its {shape} wants {shapes[name]}"
            )
        if value.dtype != tensors["W_dec"].dtype or not value.is_floating_point():
            raise CheckpointError(
                f"{path}: {name} holds {value.dtype}; expected one floating-point type for all tensors"
            )
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{path}: {name} has entries that are NaN or infinite")
