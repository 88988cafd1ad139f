"""Loading: what the official trainer writes, what we write, and everything that must be refused."""

import pickle
import re

import pytest
import torch
from safetensors.torch import save_file

from iredinterp import energy as energy_module
from iredinterp.errors import CheckpointError
from iredinterp.ired.checkpoint import load_checkpoint, save_checkpoint
from iredinterp.ired.model import EnergyMLP, random_parameters
from iredinterp.ired.schedule import cosine_schedule


@pytest.fixture
def content(official):
    return torch.load(official.path, weights_only=True)


@pytest.fixture
def refused(tmp_path):
    """Save `content` and return the message of the error that loading it raises."""

    def save_and_load(content, weights="raw", name="broken.pt"):
        torch.save(content, tmp_path / name)
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(tmp_path / name, weights)
        assert str(tmp_path / name) in str(caught.value)
        return str(caught.value)

    return save_and_load


def test_official_file_gives_dimensions_step_and_both_sets_of_weights(official, content):
    ema, raw = load_checkpoint(official.path, "ema"), load_checkpoint(official.path, "raw")
    assert (ema.model.dim_x, ema.model.dim_y, ema.model.hidden, ema.step) == (25, 25, 512, 6000)
    for checkpoint, section, prefix in ((ema, "ema", "ema_model."), (raw, "model", "")):
        for name, value in checkpoint.model.parameters.items():
            assert torch.equal(value, content[section][f"{prefix}model.ebm.{name}"])
    assert not torch.equal(ema.model.parameters["fc1.weight"], raw.model.parameters["fc1.weight"])
    assert ema.sha256 == raw.sha256
    assert re.fullmatch("[0-9a-f]{64}", ema.sha256)


def test_load_energy_works_in_float64_though_the_official_class_cannot(official):
    energy = energy_module.load_energy(official.path)
    assert energy.dtype == torch.float64
    x = y = torch.ones(2, 25, dtype=torch.float64)
    assert energy.hessian(x, y, 3).dtype == torch.float64


def test_safetensors_round_trip_keeps_weights_levels_step_and_record(tmp_path, generator):
    weights = {kind: random_parameters(8, 4, 6, generator) for kind in ("ema", "raw")}
    record = {"task": "inverse", "seed": 3, "recipe": {"phases": [1, 2]}}
    save_checkpoint(tmp_path / "a.safetensors", weights, cosine_schedule(), 1234, record)
    for kind in ("ema", "raw"):
        loaded = load_checkpoint(tmp_path / "a.safetensors", kind)
        assert (loaded.step, loaded.record, loaded.weights) == (1234, record, kind)
        for name, value in weights[kind].items():
            assert torch.equal(loaded.model.parameters[name], value)
        for name, value in cosine_schedule().to(torch.float32).buffers().items():
            assert torch.equal(loaded.model.schedule.buffers()[name], value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


class Payload:
    """Writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_a_payload_is_refused_and_its_code_does_not_run(tmp_path, content, write):
    trace, path = tmp_path / "executed", tmp_path / "evil.pt"
    content["scaler"] = Payload(trace)
    if write == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content["scaler"]))
    with pytest.raises(CheckpointError, match=r"evil.pt.*refused because loading them would run code"):
        load_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, official, share):
    data = official.path.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"cut.pt: not readable.*truncated"):
        load_checkpoint(tmp_path / "cut.pt")


def test_missing_extra_and_misshapen_keys_are_named(content, refused):
    model = content["model"]
    missing = {**content, "model": {k: v for k, v in model.items() if k != "model.ebm.fc2.bias"}}
    assert "expected key 'fc2.bias' (512,), found none" in refused(missing)
    extra = {**content, "model": {**model, "model.ebm.fc5.weight": torch.zeros(2, 2)}}
    assert "expected no key 'fc5.weight'" in refused(extra)
    misshapen = {**content, "model": {**model, "model.ebm.fc3.weight": torch.zeros(512, 511)}}
    assert "'fc3.weight': expected shape (512, 512) (from fc1 and fc4), found (512, 511)" in refused(
        misshapen
    )
    integers = {**content, "model": {**model, "model.ebm.fc3.bias": torch.zeros(512, dtype=torch.int64)}}
    assert "'fc3.bias': expected a floating-point tensor, found torch.int64" in refused(integers)
    no_levels = {**content, "model": {k: v for k, v in model.items() if k != "opt_step_size"}}
    assert "'opt_step_size': expected one constant per level, found nothing" in refused(no_levels)
    no_betas = {**content, "model": {k: v for k, v in model.items() if k != "betas"}}
    assert "'betas': expected one constant per level, found nothing" in refused(no_betas)
    unknown_buffer = {**content, "model": {**model, "momentum": torch.zeros(3)}}
    assert "expected no key 'momentum'" in refused(unknown_buffer)


def test_the_averaged_weights_are_checked_as_strictly(content, refused):
    extra = {**content, "ema": {**content["ema"], "ema_model.model.ebm.fc5.weight": torch.zeros(2, 2)}}
    assert "expected no key 'fc5.weight'" in refused(extra, "ema")
    unknown = {**content, "ema": {**content["ema"], "ema_model.momentum": torch.zeros(3)}}
    assert "expected no key 'momentum'" in refused(unknown, "ema")


def test_nan_weights_are_counted_and_named(content, refused):
    broken = content["model"]["model.ebm.fc4.weight"].clone()
    broken[0, :3] = torch.nan
    content = {**content, "model": {**content["model"], "model.ebm.fc4.weight": broken}}
    assert "'fc4.weight': expected finite numbers, found 3 NaN or infinite" in refused(content)


def test_other_top_levels_are_refused(content, refused):
    assert "top level: expected the keys" in refused({"state_dict": {}})
    assert "top level: expected the keys" in refused([1, 2])
    assert "'ema': expected a state dict, found NoneType; try weights='raw'" in refused(
        {**content, "ema": None}, "ema"
    )
    assert "'step': expected an integer, found 'six'" in refused({**content, "step": "six"})
    assert "'model': expected a state dict" in refused({**content, "model": 3})


def test_sudoku_graph_and_energy_free_checkpoints_are_told_apart(content, refused):
    buffers = {k: v for k, v in content["model"].items() if not k.startswith("model.")}
    sudoku = {
        "model.ebm.conv1.weight": torch.zeros(384, 9, 3, 3),
        "model.ebm.conv5.weight": torch.zeros(9, 384, 1, 1),
    }
    message = refused({**content, "model": buffers | sudoku})
    assert "conv1.weight (384, 9, 3, 3)" in message
    assert "Sudoku, graph and planning checkpoints have other networks" in message
    graph = {"model.ebm.fc1.weight": torch.zeros(512), "model.ebm.gnn.weight": torch.zeros(3, 3)}
    assert "expected the matrix-task energy network" in refused({**content, "model": buffers | graph})
    direct = {k.replace(".ebm.", "."): v for k, v in content["model"].items()}
    assert "of an energy model (train.py --model mlp); found" in refused({**content, "model": direct})


def test_absent_files_and_unknown_weights_are_named(tmp_path, official):
    with pytest.raises(CheckpointError, match=r"none.pt: no such file"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="weights must be one of ema, raw, found 'best'"):
        load_checkpoint(official.path, "best")


def test_broken_safetensors_are_refused(tmp_path, generator):
    parameters = random_parameters(4, 4, 6, generator)
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"ema": parameters}, cosine_schedule(), 1, {})
    with pytest.raises(CheckpointError, match="expected 'raw' weights, found ema"):
        load_checkpoint(path, "raw")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        load_checkpoint(path)
    save_file({"ema.fc1.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match="header key 'format'"):
        load_checkpoint(path)
    save_file({"ema.fc1.weight": torch.zeros(2, 2)}, path, {"format": "iredinterp-checkpoint-1"})
    with pytest.raises(CheckpointError, match="header keys 'step' and 'record'"):
        load_checkpoint(path)
    strange = {f"ema.{k}": v for k, v in parameters.items()} | {"other.x": torch.zeros(1)}
    save_file(strange, path, {"format": "iredinterp-checkpoint-1", "step": "1", "record": "{}"})
    with pytest.raises(CheckpointError, match="expected no key 'other'"):
        load_checkpoint(path)


def test_a_failed_write_leaves_nothing_behind(tmp_path, generator):
    path = tmp_path / "a.safetensors"
    with pytest.raises(Exception, match=r".*"):
        save_checkpoint(path, {"ema": {"fc1.weight": "no tensor"}}, cosine_schedule(), 1, {})
    assert list(tmp_path.iterdir()) == []


def test_half_precision_files_load(tmp_path, generator):
    parameters = {k: v.half() for k, v in random_parameters(4, 4, 6, generator).items()}
    save_checkpoint(tmp_path / "a.safetensors", {"ema": parameters}, cosine_schedule(), 1, {})
    model = load_checkpoint(tmp_path / "a.safetensors").model
    assert isinstance(model, EnergyMLP)
    assert model.dtype == torch.float32


@pytest.mark.parametrize("precision", [torch.float16, torch.float32, torch.float64])
def test_weights_load_in_float32_but_those_stored_in_float64_keep_their_digits(
    tmp_path, generator, precision
):
    drawn = random_parameters(3, 2, 4, generator)
    parameters = {name: value.to(precision) / 3 for name, value in drawn.items()}
    save_checkpoint(tmp_path / "a.safetensors", {"ema": parameters}, cosine_schedule(), 1, {})
    loaded = load_checkpoint(tmp_path / "a.safetensors").model
    expected = torch.float64 if precision == torch.float64 else torch.float32
    assert loaded.dtype == loaded.schedule.sigma.dtype == expected
    for name, value in parameters.items():
        assert torch.equal(loaded.parameters[name], value.to(expected))
    # Levels are what the official buffers hold, float32 constants, in any precision.
    sigma = cosine_schedule().to(torch.float32).sigma
    assert torch.equal(loaded.schedule.sigma, sigma.to(expected))
