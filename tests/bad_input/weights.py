"""Broken safetensors files, autoencoder folders and states of a training run."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

import torch
from bad_input.checkpoints import ABSENT, NO_TENSOR, WRONG_SHAPE, Case, with_entry

# Safetensors hold real dense tensors only, each of them whole.
STORED = {
    name: NO_TENSOR[name] for name in ("integers", "booleans", "complex", "NaN", "infinite", "minus infinite")
}


def parts(data: bytes) -> tuple[dict, bytes]:
    """Header and numbers of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def packed(header: object, numbers: bytes) -> bytes:
    """A file with this header, which may be bytes that are no JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def broken_headers(good: bytes) -> dict[str, bytes]:
    """Files that are no safetensors, or whose header does not fit what follows."""
    header, numbers = parts(good)
    name = max(header)
    entry = header[name]
    start, stop = entry["data_offsets"]
    entries = {
        "unknown type": entry | {"dtype": "F99"},
        "another type": entry | {"dtype": "F64"},
        "another shape": entry | {"shape": [*entry["shape"], 2]},
        "a huge shape": entry | {"shape": [2**40, 2**40]},
        "a negative shape": entry | {"shape": [-1]},
        "a fractional shape": entry | {"shape": [1.5]},
        "no shape": {key: value for key, value in entry.items() if key != "shape"},
        "no offsets": {key: value for key, value in entry.items() if key != "data_offsets"},
        "reversed offsets": entry | {"data_offsets": [stop, start]},
        "offsets past the end": entry | {"data_offsets": [start + 10**9, stop + 10**9]},
        "offsets that overlap": entry | {"data_offsets": [start - 8, stop - 8]},
        "no entry": None,
        "a list for an entry": [1, 2],
    }
    files = {wrong: packed(header | {name: changed}, numbers) for wrong, changed in entries.items()}
    text = json.dumps(header).encode()
    return files | {
        "empty": b"",
        "seven bytes": good[:7],
        "length alone": good[:8],
        "length zero": bytes(8) + good[8:],
        "a length past the end": struct.pack("<Q", len(good)) + good[8:],
        "a huge length": b"\xff" * 8 + good[8:],
        "a header of no JSON": packed(b"{" * len(text), numbers),
        "a header of no UTF-8": packed(b"\xff\xfe" * 20, numbers),
        "a header nested deep": packed(b'{"a":' * 5000, numbers),
        "a list for a header": packed([1, 2], numbers),
        "metadata of numbers": packed(header | {"__metadata__": {"format": 1}}, numbers),
        "too few numbers": good[:-4],
        "too many numbers": good + bytes(4),
        "text": b"W_enc: 1.0\n" * 20,
        "a pickle": b"\x80\x04" + bytes(40),
    }


def with_metadata(data: bytes, **values: str | None) -> bytes:
    """The file with entries of its metadata changed, or without those that are None."""
    header, numbers = parts(data)
    metadata = header["__metadata__"] | values
    kept = {key: value for key, value in metadata.items() if value is not None}
    return packed(header | {"__metadata__": kept}, numbers)


def changed(name: str, change: Callable) -> Callable[[dict], dict]:
    """Change one tensor, or take it away."""

    def spoil(tensors):
        tensors = dict(tensors)
        value = change(tensors.pop(name))
        return tensors if value is ABSENT else tensors | {name: value.contiguous()}

    return spoil


def stored_cases(names: list[str]) -> list[Case]:
    """Each of these tensors wrong in every way that a safetensors file can hold."""
    cases = []
    for name in names:
        wrong = {key: change for key, (change, _) in STORED.items()} | WRONG_SHAPE
        wrong |= {"missing": lambda value: ABSENT, "empty": lambda value: value[:0]}
        cases += [Case(f"{name} {key}", changed(name, change)) for key, change in wrong.items()]
    extra = Case("another tensor", lambda tensors: tensors | {"momentum": torch.zeros(3)}, ("momentum",))
    return [*cases, extra]


# The metadata of a checkpoint of ours.
METADATA = {
    "format missing": {"format": None},
    "another format": {"format": "pt"},
    "a later format": {"format": "iredinterp-checkpoint-2"},
    "step missing": {"step": None},
    "step a word": {"step": "six"},
    "step a fraction": {"step": "1.5"},
    "step negative": {"step": "-1"},
    "step empty": {"step": ""},
    "record missing": {"record": None},
    "record empty": {"record": ""},
    "record no JSON": {"record": "{"},
    "record a list": {"record": "[1]"},
    "record a number": {"record": "3"},
    "record null": {"record": "null"},
    "record nested deep": {"record": "[" * 100_000},
}

# The configuration of an autoencoder's folder: what changes, and what the error names.
SAE_CONFIGS = {
    "architecture missing": ({"architecture": None}, "architecture None"),
    "architecture unknown": ({"architecture": "gated"}, "architecture 'gated'"),
    "architecture a number": ({"architecture": 3}, "architecture 3"),
    "architecture a list": ({"architecture": ["topk"]}, "architecture ['topk']"),
    "architecture of another kind": ({"architecture": "standard"}, "'topk'"),
    "k a word": ({"metadata": {"iredinterp": {"activation": "topk", "k": "four"}}}, "k is 'four'"),
    "k a fraction": ({"metadata": {"iredinterp": {"activation": "topk", "k": 1.5}}}, "k is 1.5"),
    "k true": ({"metadata": {"iredinterp": {"activation": "topk", "k": True}}}, "k is True"),
    "k zero": ({"metadata": {"iredinterp": {"activation": "topk", "k": 0}}}, "k = 0"),
    "k too large": ({"metadata": {"iredinterp": {"activation": "topk", "k": 99}}}, "k = 99"),
    "k null": ({"metadata": {"iredinterp": {"activation": "topk", "k": None}}}, "k = None"),
    "activation unknown": ({"metadata": {"iredinterp": {"activation": "step", "k": 4}}}, "'step'"),
    "activation a list": ({"metadata": {"iredinterp": {"activation": [], "k": 4}}}, "activation []"),
    "metadata a list": ({"metadata": [1]}, "metadata"),
    "metadata a word": ({"metadata": "ours"}, "metadata"),
    "metadata of ours a list": ({"metadata": {"iredinterp": [1]}}, "metadata"),
    "d_in of another size": ({"d_in": 7}, "d_in"),
    "d_sae of another size": ({"d_sae": 7}, "d_sae"),
    "d_in a word": ({"d_in": "six"}, "d_in"),
    "not centred": ({"apply_b_dec_to_input": False}, "apply_b_dec_to_input is False"),
    "normalised": ({"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm'"),
    "reshaped": ({"reshape_activations": "hook_z"}, "reshape_activations is 'hook_z'"),
    "rescaled": ({"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm is True"),
}
SAE_CONFIG_FILES = {
    "empty": b"",
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe{}",
    "a list": b"[1]",
    "a number": b"3",
    "null": b"null",
    "nested deep": b"[" * 100_000,
}

FIRST = "fc1.weight"


def _group(group: str, name: str, change: Callable) -> Callable[[dict], dict]:
    return lambda c: c | {group: {k: change(v) if k == name else v for k, v in c[group].items()}}


def _moments(change: Callable) -> Callable[[dict], dict]:
    return lambda c: c | {"optimiser": c["optimiser"] | {"state": change(c["optimiser"]["state"])}}


# The state of a training run of IRED, saved between two steps.
STATES = [
    *(
        Case(f"{key} {wrong}", lambda c, key=key, value=value: c | {key: value})
        for key in ("recipe", "seeds", "step", "raw", "ema", "optimiser", "generators", "history")
        for wrong, value in (("null", None), ("a word", "none"), ("a number", 3.5), ("a tensor", torch.zeros(2)))
    ),
    *(
        Case(f"{key} missing", lambda c, key=key: {k: v for k, v in c.items() if k != key})
        for key in ("recipe", "seeds", "step", "raw", "ema", "optimiser", "generators")
    ),
    *(
        Case(f"{group} {wrong}", _group(group, FIRST, change), (repr(group),))
        for group in ("raw", "ema")
        for wrong, change in {
            **WRONG_SHAPE,
            "NaN": with_entry(torch.nan),
            "infinite": with_entry(torch.inf),
            "integers": lambda value: value.long(),
            "doubles": lambda value: value.double(),
            "a row less": lambda value: value[:, :-1],
            "a seed less": lambda value: value[:-1],
        }.items()
    ),
    Case("a bare list", lambda c: list(c)),
    Case("an unknown key", lambda c: c | {"epoch": 3}),
    Case("a step before the first", lambda c: c | {"step": -1}, ("'step'",)),
    Case("a step past the end", lambda c: c | {"step": 10**6}, ("'step'",)),
    Case("step true", lambda c: c | {"step": True}, ("'step'",)),
    Case("no parameters", lambda c: c | {"raw": {}}),
    Case("another seed", lambda c: c | {"seeds": [seed + 1 for seed in c["seeds"]]}, ("other seeds",)),
    Case("another recipe", lambda c: c | {"recipe": c["recipe"] | {"hidden": 7}}, ("another recipe",)),
    Case("no optimiser", lambda c: c | {"optimiser": {}}, ("'optimiser'",)),
    Case("no moments", _moments(lambda state: {})),
    Case("moments of a list", _moments(list)),
    Case("moments NaN", _moments(lambda s: s | {0: s[0] | {"exp_avg": s[0]["exp_avg"] * torch.nan}}), ("'exp_avg'",)),
    Case("moments of another shape", _moments(lambda s: s | {0: s[0] | {"exp_avg": torch.zeros(2)}}), ("'exp_avg'",)),
    Case("moments missing", _moments(lambda s: s | {0: {"step": s[0]["step"]}})),
    Case("a generator less", lambda c: c | {"generators": c["generators"][:-1]}, ("'generators'",)),
    Case("a generator cut short", lambda c: c | {"generators": [state[:9] for state in c["generators"]]}),
    Case("generators of floats", lambda c: c | {"generators": [state.float() for state in c["generators"]]}),
    Case("a history of numbers", lambda c: c | {"history": [1, 2]}, ("'history'",)),
]  # fmt: skip

# The header of a running state of autoencoders, by key.
SAE_STATES = {
    "step missing": {"step": ABSENT},
    "rows missing": {"rows": ABSENT},
    "seeds missing": {"seeds": ABSENT},
    "recipe missing": {"recipe": ABSENT},
    "step a word": {"step": "six"},
    "step a fraction": {"step": 1.5},
    "step null": {"step": None},
    "step true": {"step": True},
    "step negative": {"step": -1},
    "step past the end": {"step": 10**6},
    "rows null": {"rows": None},
    "rows a number": {"rows": 3},
    "rows of numbers": {"rows": [1, 2]},
    "rows of lists": {"rows": [[1]]},
    "rows with other columns": {"rows": [{"step": 1}]},
    "another seed": {"seeds": [10**6]},
    "another recipe": {"recipe": {"width": 3}},
    "an unknown key": {"epoch": 3},
}


def with_header(data: bytes, change: dict) -> bytes:
    """A state whose header has some keys changed, or without those that are ABSENT."""
    header = json.loads(parts(data)[0]["__metadata__"]["iredinterp"]) | change
    kept = {key: value for key, value in header.items() if value is not ABSENT}
    return with_metadata(data, iredinterp=json.dumps(kept))


# Headers of such a state that are no object of keys.
SAE_STATE_HEADERS = {
    "header missing": None,
    "header empty": "",
    "header no JSON": "{",
    "header a list": "[]",
    "header a number": "3",
    "header null": "null",
    "header nested deep": "[" * 100_000,
}
