"""Reading and writing checkpoints; no code from a file is ever executed.

Two formats: what the official `train.py` saves (`.pt`: step, model, opt, ema, scaler), and safetensors
with the same parameter names under `ema.` and `raw.`, the level constants under `schedule.` and the
training record in the header.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from iredinterp.errors import CheckpointError
from iredinterp.files import atomic_file
from iredinterp.ired.model import EnergyMLP, parameter_shapes
from iredinterp.ired.schedule import BUFFER_NAMES, Schedule

WEIGHTS = ("ema", "raw")
OFFICIAL_KEYS = {"step", "model", "opt", "ema", "scaler"}
OTHER_OFFICIAL_BUFFERS = {
    "alphas_cumprod_prev",
    "log_one_minus_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "loss_weight",
}
SAFETENSORS_FORMAT = "iredinterp-checkpoint-1"
# The bit of a zip entry that marks a folder.
MS_DOS_FOLDER = 0x10


@dataclass(frozen=True)
class Checkpoint:
    """One network out of a checkpoint file, with its identity.

    Attributes:
        model: the network on the CPU, float32 unless the file holds float64.
        weights: "ema" (what the official evaluation uses) or "raw" (the online weights).
        step: optimiser step at which the file was saved.
        sha256: of the file.
        record: what the file says of its training; empty for official files, which do not say.
    """

    model: EnergyMLP
    weights: str
    step: int
    sha256: str
    record: Mapping = field(default_factory=dict)


def load_checkpoint(path: str | Path, weights: str = "ema") -> Checkpoint:
    """Load one set of weights from an official `.pt` or a `.safetensors` file.

    Args:
        path: the file; its suffix decides the format.
        weights: "ema" or "raw".

    Raises:
        CheckpointError: the file is absent, damaged, carries code, or is not a matrix-task energy; the
            message names file, key, expected and found.
    """
    path = Path(path)
    if weights not in WEIGHTS:
        raise CheckpointError(f"{path}: weights must be one of {', '.join(WEIGHTS)}, found {weights!r}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of a checkpoint (.pt or .safetensors)")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    read = _read_safetensors if path.suffix == ".safetensors" else _read_official
    parameters, buffers, step, record = read(path, weights)
    if type(step) is not int or step < 0:
        raise CheckpointError(f"{path}: key 'step': expected an integer, found {step!r}; it counts steps")
    _check_parameters(path, weights, parameters)
    kept = {value.dtype for value in parameters.values()} == {torch.float64}
    precision = torch.float64 if kept else torch.float32
    parameters = {name: value.to(precision) for name, value in parameters.items()}
    _refuse_infinite(path, parameters)
    schedule = _schedule(path, buffers).to(precision)
    return Checkpoint(EnergyMLP(parameters, schedule), weights, step, sha256, record)


def save_checkpoint(
    path: str | Path,
    weights: Mapping[str, Mapping[str, Tensor]],
    schedule: Schedule,
    step: int,
    record: Mapping,
) -> None:
    """Write a safetensors checkpoint atomically.

    Args:
        path: file to write.
        weights: {"ema": parameters, "raw": parameters}, at least one of the two.
        schedule: levels the network was trained on.
        step: optimiser steps done.
        record: JSON-ready training record (task, seed, recipe, …).
    """
    path = Path(path)
    tensors = {
        f"schedule.{name}": value for name, value in schedule.to(torch.float32, "cpu").buffers().items()
    }
    for kind, parameters in weights.items():
        tensors |= {f"{kind}.{name}": value.detach().cpu().contiguous() for name, value in parameters.items()}
    header = {"format": SAFETENSORS_FORMAT, "step": str(step), "record": json.dumps(record, sort_keys=True)}
    with atomic_file(path) as file:
        file.write(save(tensors, metadata=header))


def load_plain(path: str | Path, device: torch.device | str = "cpu") -> object:
    """What `torch.save` wrote, if it is tensors, numbers, texts and containers of them; no code is executed.

    Args:
        path: a file of torch.
        device: where the tensors go.

    Raises:
        CheckpointError: the file is absent, damaged, or carries other objects.
    """
    try:
        # torch writes a checksum of every tensor, but does not compare it. Of an entry marked as a folder it
        # reads nothing, and the tensor is whatever its memory held.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise CheckpointError(f"{path}: {damaged} is damaged: its checksum differs")
                if folders := [e.filename for e in archive.infolist() if e.external_attr & MS_DOS_FOLDER]:
                    raise CheckpointError(f"{path}: {folders[0]} is damaged: it is marked as a folder")
        return torch.load(path, map_location=device, weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises a dozen unrelated types on damaged or hostile files
        raise CheckpointError(
            f"{path}: not readable as a plain checkpoint; it is truncated, not a torch file, or carries "
            f"objects other than tensors and numbers, which are refused because loading them would run code. "
            f"torch says: {_first_line(error)}"
        ) from error


def _read_official(path: Path, weights: str):
    content = load_plain(path)
    if not isinstance(content, dict) or not OFFICIAL_KEYS.issuperset(content) or "model" not in content:
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{path}: top level: expected the keys {', '.join(sorted(OFFICIAL_KEYS))}; found {_brief(found)}"
        )
    section, prefix = ("ema", "ema_model.") if weights == "ema" else ("model", "")
    state = content.get(section)
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f"{path}: key {section!r}: expected a state dict, found {type(state).__name__}; "
            f"try weights={'raw' if weights == 'ema' else 'ema'!r}"
        )
    if strange := [name for name in state if not isinstance(name, str)]:
        raise CheckpointError(f"{path}: key {section!r}: expected names of tensors, found {strange[0]!r}")
    state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    parameters = {n.removeprefix("model.ebm."): v for n, v in state.items() if n.startswith("model.ebm.")}
    buffers = {name: value for name, value in state.items() if not name.startswith("model.")}
    if not parameters:
        raise CheckpointError(
            f"{path}: key {section!r}: expected entries '{prefix}model.ebm.fc1.weight' … of an energy "
            f"model (train.py --model mlp); found {_brief(sorted(state))}"
        )
    known = {*BUFFER_NAMES, *OTHER_OFFICIAL_BUFFERS, *(f"model.ebm.{name}" for name in parameters)}
    _refuse_extra(path, section, set(state) - known)
    return parameters, buffers, content.get("step"), {}


def _read_safetensors(path: Path, weights: str):
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file: {_first_line(error)}") from error
    if header.get("format") != SAFETENSORS_FORMAT:
        raise CheckpointError(
            f"{path}: header key 'format': expected {SAFETENSORS_FORMAT!r}, found {header.get('format')!r}"
        )
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = value
    _refuse_extra(path, "tensors", set(groups) - {*WEIGHTS, "schedule"})
    if weights not in groups:
        present = ", ".join(sorted(set(groups) & set(WEIGHTS))) or "none"
        raise CheckpointError(
            f"{path}: expected {weights!r} weights, found {present}; set weights accordingly"
        )
    try:
        step, record = int(header["step"]), json.loads(header["record"])
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: header keys 'step' and 'record': {_first_line(error)}") from error
    if not isinstance(record, dict):
        raise CheckpointError(
            f"{path}: header key 'record': expected a JSON object, found {type(record).__name__}"
        )
    return groups[weights], groups.get("schedule", {}), step, record


def _check_parameters(path: Path, weights: str, parameters: Mapping[str, Tensor]) -> None:
    for name, value in parameters.items():
        _check_stored(path, name, value)
    first, last = (parameters.get(name) for name in ("fc1.weight", "fc4.weight"))
    if first is None or last is None or first.ndim != 2 or last.ndim != 2 or first.shape[1] <= last.shape[0]:
        raise CheckpointError(
            f"{path}: {weights} weights: expected the matrix-task energy network with 2-d 'fc1.weight' "
            f"(h, d_x + d) and 'fc4.weight' (d, h); found {_brief(_shapes(parameters))}. Sudoku, graph and "
            f"planning checkpoints have other networks, which this package does not read"
        )
    expected = parameter_shapes(first.shape[1] - last.shape[0], last.shape[0], first.shape[0])
    missing = sorted(set(expected) - set(parameters))
    if missing:
        raise CheckpointError(
            f"{path}: {weights} weights: expected key {missing[0]!r} {expected[missing[0]]}, found none"
            + (f" ({len(missing)} keys are missing)" if len(missing) > 1 else "")
        )
    _refuse_extra(path, f"{weights} weights", set(parameters) - set(expected))
    for name, shape in expected.items():
        if tuple(parameters[name].shape) != shape:
            raise CheckpointError(
                f"{path}: key {name!r}: expected shape {shape} (from fc1 and fc4), "
                f"found {tuple(parameters[name].shape)}"
            )


def _check_stored(path: Path, name: str, value: object) -> None:
    """Refuse what is no tensor of real numbers that are all in the file."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        found = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise CheckpointError(f"{path}: key {name!r}: expected a floating-point tensor, found {found}")
    if value.layout != torch.strided or value.is_meta:
        found = "no numbers" if value.is_meta else value.layout
        raise CheckpointError(f"{path}: key {name!r}: expected a dense tensor, found {found}")
    # A view can repeat one number into a shape that fills the memory.
    stored = value.untyped_storage().nbytes() // value.element_size()
    if not 0 < value.numel() <= stored:
        raise CheckpointError(
            f"{path}: key {name!r}: expected as many numbers as its shape {tuple(value.shape)} says and at "
            f"least one, found {stored}"
        )


def _refuse_infinite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if count := int((~torch.isfinite(value)).sum()):
            raise CheckpointError(
                f"{path}: key {name!r}: expected finite numbers, found {count} NaN or infinite"
            )


def _schedule(path: Path, buffers: Mapping[str, Tensor]) -> Schedule:
    for name in BUFFER_NAMES:
        if name not in buffers:
            raise CheckpointError(f"{path}: key {name!r}: expected one constant per level, found nothing")
        _check_stored(path, name, buffers[name])
        shape = tuple(buffers[name].shape)
        if len(shape) != 1 or shape != tuple(buffers["betas"].shape):
            raise CheckpointError(f"{path}: key {name!r}: expected one constant per level, found {shape}")
    constants = {name: buffers[name].to(torch.float32) for name in BUFFER_NAMES}
    _refuse_infinite(path, constants)
    return Schedule(**constants)


def _refuse_extra(path: Path, where: str, extra: set[str]) -> None:
    if extra:
        raise CheckpointError(
            f"{path}: {where}: expected no key {min(extra)!r}; found {_brief(sorted(extra))}"
        )


def _shapes(parameters: Mapping[str, Tensor]) -> list[str]:
    return [f"{name} {tuple(value.shape)}" for name, value in sorted(parameters.items())]


def _brief(found) -> str:
    if isinstance(found, str):
        return found
    return ", ".join(found[:6]) + (f", … ({len(found)} in all)" if len(found) > 6 else "") or "nothing"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
