"""Checkpoints in the official layout, and how they can be wrong one key at a time.

A case is (what is wrong, how it gets wrong, what the error has to name). Content goes in, content comes out.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch

from iredinterp.ired.checkpoint import OTHER_OFFICIAL_BUFFERS
from iredinterp.ired.model import parameter_shapes, random_parameters
from iredinterp.ired.schedule import BUFFER_NAMES, cosine_schedule

SIZES = (4, 4, 6)
PARAMETERS = tuple(parameter_shapes(*SIZES))
SECTIONS = {"raw": ("model", ""), "ema": ("ema", "ema_model.")}
ABSENT = object()


class Case(NamedTuple):
    """One way to be wrong."""

    name: str
    spoil: Callable
    names: tuple[str, ...] = ()


def official_content(generator: torch.Generator) -> dict:
    """What the official `train.py` saves, of a small network with random weights."""
    levels = cosine_schedule().to(torch.float32)
    buffers = levels.buffers() | dict.fromkeys(sorted(OTHER_OFFICIAL_BUFFERS), levels.betas.clone())
    sections = {}
    for section, prefix in SECTIONS.values():
        weights = {f"model.ebm.{name}": value for name, value in random_parameters(*SIZES, generator).items()}
        sections[section] = {f"{prefix}{name}": value for name, value in (buffers | weights).items()}
    return {"step": 6000, "opt": {"state": {}, "param_groups": []}, "scaler": None, **sections}


def saved(content: object, zipped: bool = True) -> bytes:
    """The bytes of a torch file."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def with_entry(number: float, dtype: torch.dtype = torch.float32) -> Callable[[torch.Tensor], torch.Tensor]:
    """Put a number in the place of the last one."""

    def change(value):
        value = value.to(dtype, copy=True)
        value.view(-1)[-1] = number
        return value

    return change


# What can stand in the place of any tensor, and what the error says of it beside the key.
NO_TENSOR = {
    "text": (lambda value: "weights", "str"),
    "null": (lambda value: None, "NoneType"),
    "list": (lambda value: value.tolist(), "list"),
    "number": (lambda value: 1.5, "float"),
    "mapping": (lambda value: {"data": value}, "dict"),
    "integers": (lambda value: value.long(), "torch.int64"),
    "booleans": (lambda value: value > 0, "torch.bool"),
    "complex": (lambda value: value.to(torch.complex64), "torch.complex64"),
    "sparse": (lambda value: value.to_sparse(), "torch.sparse_coo"),
    "without numbers": (lambda value: value.to("meta"), "no numbers"),
    "NaN": (with_entry(torch.nan), "NaN or infinite"),
    "infinite": (with_entry(torch.inf), "NaN or infinite"),
    "minus infinite": (with_entry(-torch.inf), "NaN or infinite"),
    "too large for float32": (with_entry(1e300, torch.float64), "NaN or infinite"),
    "huge by repetition": (
        lambda value: value.view(-1)[:1].expand(2**20, 2**20),
        "as many numbers as its shape",
    ),
    "empty": (lambda value: value[:0], "at least one"),
}
WRONG_SHAPE = {
    "a row more": lambda value: torch.cat([value, value[:1]]),
    "an axis more": lambda value: value[None],
    "scalar": lambda value: value.sum(),
}


def replaced(name: str, weights: str, change: Callable) -> Callable[[dict], dict]:
    """Change one entry of one set of weights; a change to ABSENT takes it away."""
    section, prefix = SECTIONS[weights]

    def spoil(content):
        entries = dict(content[section])
        entries[prefix + name] = change(entries[prefix + name])
        if entries[prefix + name] is ABSENT:
            del entries[prefix + name]
        return content | {section: entries}

    return spoil


def renamed(name: str, weights: str) -> Callable[[dict], dict]:
    section, prefix = SECTIONS[weights]
    return lambda content: (
        content
        | {section: {key + "_" * (key == prefix + name): value for key, value in content[section].items()}}
    )


def tensor_cases(weights: str, wrongs: Mapping = NO_TENSOR) -> Iterator[Case]:
    """Every tensor that is read, wrong in every way, or in these ways."""
    for name in (*(f"model.ebm.{name}" for name in PARAMETERS), *BUFFER_NAMES):
        key = name.removeprefix("model.ebm.")
        for wrong, (change, found) in wrongs.items():
            yield Case(f"{key} {wrong}", replaced(name, weights, change), (repr(key), found))
        yield Case(f"{key} missing", replaced(name, weights, lambda value: ABSENT), (repr(key),))
        yield Case(f"{key} renamed", renamed(name, weights), (key,))
        for wrong, change in WRONG_SHAPE.items():
            # These set the sizes that the others are held against, so another key can be the odd one.
            sets_sizes = key in ("fc1.weight", "fc4.weight", "betas")
            yield Case(f"{key} {wrong}", replaced(name, weights, change), () if sets_sizes else (repr(key),))


LAYOUTS = [
    Case("model missing", lambda c: {k: v for k, v in c.items() if k != "model"}, ("top level", "model")),
    Case("model null", lambda c: c | {"model": None}, ("'model'", "NoneType")),
    Case("model a list", lambda c: c | {"model": list(c["model"])}, ("'model'", "list")),
    Case("model a tensor", lambda c: c | {"model": torch.zeros(3)}, ("'model'", "Tensor")),
    Case("model empty", lambda c: c | {"model": {}}, ("'model'", "nothing")),
    Case("model numbered", lambda c: c | {"model": dict(enumerate(c["model"].values()))}, ("'model'", "0")),
    Case("model nested", lambda c: c | {"model": {"state_dict": c["model"]}}, ("'model'", "state_dict")),
    Case("model with another prefix", lambda c: c | {"model": c["ema"]}, ("'model'", "ema_model.")),
    Case("an unknown buffer", lambda c: c | {"model": c["model"] | {"momentum": torch.zeros(3)}}, ("momentum",)),
    Case("no levels", lambda c: c | {"model": {k: v for k, v in c["model"].items() if "." in k}}, ("'betas'",)),
    Case("another top level", lambda c: c | {"epoch": 3}, ("top level", "epoch")),
    Case("numbered top level", lambda c: dict(enumerate(c.values())), ("top level",)),
    Case("nested", lambda c: {"model": c}, ("'model'",)),
    Case("a bare state dict", lambda c: c["model"], ("top level",)),
    Case("a list", lambda c: list(c.values()), ("top level", "list")),
    Case("a tuple", lambda c: tuple(c.values()), ("top level", "tuple")),
    Case("a tensor", lambda c: torch.zeros(3), ("top level", "Tensor")),
    Case("a number", lambda c: 3, ("top level", "int")),
    Case("a text", lambda c: "weights", ("top level", "str")),
    Case("nothing", lambda c: None, ("top level", "NoneType")),
    *(
        Case(f"step {step!r}", lambda c, step=step: c | {"step": step}, ("'step'", repr(step)))
        for step in (None, "six", 1.5, True, -1, [6000])
    ),
]  # fmt: skip
EMA_LAYOUTS = [
    Case("ema missing", lambda c: {k: v for k, v in c.items() if k != "ema"}, ("'ema'", "weights='raw'")),
    Case("ema null", lambda c: c | {"ema": None}, ("'ema'", "weights='raw'")),
    Case("ema a list", lambda c: c | {"ema": list(c["ema"])}, ("'ema'", "list")),
    Case("ema without its prefix", lambda c: c | {"ema": c["model"]}, ("'ema'", "ema_model.")),
    Case("ema numbered", lambda c: c | {"ema": dict(enumerate(c["ema"].values()))}, ("'ema'", "0")),
]  # fmt: skip


class Payload:
    """Writes a file when unpickled."""

    def __init__(self, path, by=open):
        self.path, self.by = str(path), by

    def __reduce__(self):
        if self.by is open:
            return open, (self.path, "w")
        return self.by, (f"open({self.path!r}, 'w')",)


def hostile(content: dict, payload: object) -> dict[str, bytes]:
    """Files that write a file when they are unpickled, by where the code sits."""
    places = {key: content | {key: payload} for key in content}
    places |= {"deep in ema": content | {"ema": content["ema"] | {"ema_model.betas": payload}}}
    places |= {"as a key": content | {payload: 1}, "alone": payload, "in a list": [payload]}
    files = {f"{place}, zipped": saved(value) for place, value in places.items()}
    files |= {f"{place}, legacy": saved(value, zipped=False) for place, value in places.items()}
    files |= {f"pickle protocol {p}": pickle.dumps(payload, protocol=p) for p in range(6)}
    return files


def no_checkpoints(content: dict) -> dict[str, bytes]:
    """Whole files of another kind."""
    good = saved(content)
    without_pickle, padded = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as source:
        for file, keep in ((without_pickle, False), (padded, True)):
            with zipfile.ZipFile(file, "w") as archive:
                for entry in source.infolist():
                    if keep or not entry.filename.endswith("data.pkl"):
                        content = source.read(entry)
                        archive.writestr(
                            entry.filename, content[:7] if "data/0" in entry.filename else content
                        )
    return {
        "empty": b"",
        "text": b"fc1.weight: 1.0\n",
        "zeros": bytes(5000),
        "zip without data.pkl": without_pickle.getvalue(),
        "zip with a short tensor": padded.getvalue(),
        "empty zip": b"PK\x05\x06" + bytes(18),
        "another picture": b"\x89PNG\r\n\x1a\n" + bytes(200),
        "half of it twice": good[: len(good) // 2] * 2,
        "pickled numbers": pickle.dumps([1, 2, 3]),
        "json": b'{"step": 1}',
    }
