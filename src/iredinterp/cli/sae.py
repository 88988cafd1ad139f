"""`iredinterp sae`: trained autoencoders, taken out of the results."""

from __future__ import annotations

import json
from pathlib import Path

import click

from iredinterp.errors import CheckpointError, ConfigError
from iredinterp.files import atomic_file


@click.group()
def sae() -> None:
    """Trained sparse autoencoders."""


@sae.command()
@click.argument("run_folder", type=click.Path())
@click.argument("dest", type=click.Path())
def export(run_folder, dest) -> None:
    """Copy the autoencoders below RUN_FOLDER to the new folder DEST, in SAELens' format.

    RUN_FOLDER is results/sae/MODEL/CONDITION/FIELD/width-W, or a folder of several of these. Each is loaded
    before anything is copied, and again from its copy.
    """
    source, destination = Path(run_folder), Path(dest)
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise ConfigError(f"{dest}: exists; name a new folder")
    for name, description in exported(source, destination).items():
        click.echo(f"{destination / name}: {description}")


def exported(source: Path, destination: Path) -> dict[str, str]:
    """Copy every autoencoder below a folder, checked.

    Args:
        source: a folder with autoencoders somewhere below.
        destination: where they go, with their paths relative to `source`.

    Returns:
        What each one is, by its path.

    Raises:
        CheckpointError: there are none, one cannot be loaded, or a copy differs; names it.
    """
    import torch

    from iredinterp.analyses.sae.interop import CONFIG, WEIGHTS, load_saelens

    folders = sorted({path.parent for name in (CONFIG, WEIGHTS) for path in source.rglob(name)})
    if not folders:
        raise CheckpointError(f"{source}: no autoencoder below it; give a folder such as results/sae/MODEL")
    loaded = {folder: load_saelens(folder) for folder in folders}
    descriptions = {}
    for folder, autoencoder in loaded.items():
        name = folder.relative_to(source)
        for part in (WEIGHTS, CONFIG):
            with atomic_file(destination / name / part) as file:
                file.write((folder / part).read_bytes())
        copy = load_saelens(destination / name)
        if not all(torch.equal(value, copy.parameters[key]) for key, value in autoencoder.parameters.items()):
            raise CheckpointError(f"{destination / name}: differs from {folder}; export to another disk")
        about = json.loads((folder / CONFIG).read_text()).get("metadata") or {}
        told = ", ".join(f"{key} {value}" for key, value in about.items() if isinstance(value, str | int))
        kept = f", k = {autoencoder.k}" if autoencoder.k else ""
        size = f"{autoencoder.width} latents of {autoencoder.d_in} dimensions"
        descriptions[str(name)] = f"{autoencoder.activation}{kept}, {size}; {told}"
    return descriptions
