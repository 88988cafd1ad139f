"""Whatever is wrong with a file from outside, the error is ours and names the file and what is wrong in it.

Networks here, configurations and tables in the files beside this one: together more than two thousand cases
in each run, every key, tensor and column wrong by itself, files of other kinds, and damaged bytes drawn anew
each time. Torch files and Parquet hold checksums of their numbers, so a changed byte there is refused, or lies
where nothing is read. Safetensors hold none: some thirty files of each run have bytes changed in numbers that
stay finite. They cannot be told from good ones; what is read of them is finite and of the right shape.
"""

from __future__ import annotations

import io
import json
import zipfile

import pytest
import torch
from bad_input import checkpoints as broken
from bad_input import weights
from bad_input.damage import cuts, flipped, flips
from bad_input.judging import all_refused, by_key, by_name, complaint, drawn, none_of, refused, unless_refused
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from iredinterp.analyses.sae.interop import CONFIG, WEIGHTS, load_saelens, save_saelens
from iredinterp.analyses.sae.model import SparseAutoencoder
from iredinterp.analyses.sae.recipe import SAERecipe
from iredinterp.analyses.sae.training import SAETrainer
from iredinterp.energy import load_energy
from iredinterp.errors import CheckpointError, ConfigError, TrainingError
from iredinterp.ired.checkpoint import load_checkpoint, save_checkpoint
from iredinterp.ired.schedule import cosine_schedule
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.ired.training import Phase, Recipe, TrainingState, initial_state, train
from iredinterp.points import model_keys

RECIPE = Recipe(ProblemSpec("addition", 2), 6, (Phase(4, 1e-3, False),), batch=8, warmup=2)

# Where an entry of a zip file's directory holds them, from its beginning.
ATTRIBUTES = 38


@pytest.fixture
def content(generator):
    return broken.official_content(generator)


@by_name([*broken.LAYOUTS, *broken.tensor_cases("raw", {})])
def test_an_official_checkpoint_that_is_wrong_anywhere_in_its_raw_weights_is_refused(case, content, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(case.spoil(content), path)
    refused(CheckpointError, path, lambda: load_checkpoint(path, "raw"), *case.names)


@by_name([*broken.EMA_LAYOUTS, *broken.tensor_cases("ema")])
def test_an_official_checkpoint_that_is_wrong_anywhere_in_its_ema_weights_is_refused(case, content, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(case.spoil(content), path)
    refused(CheckpointError, path, lambda: load_checkpoint(path, "ema"), *case.names)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("by", [open, exec, eval])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(by, content, tmp_path):
    trace, path = tmp_path / "executed", tmp_path / "evil.pt"
    files = broken.hostile(content, broken.Payload(trace, by))
    all_refused(CheckpointError, path, lambda: load_checkpoint(path), files)
    all_refused(TrainingError, path, lambda: TrainingState.load(path, RECIPE, [0]), files)
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ""])
def test_files_that_are_no_checkpoints_are_refused(suffix, content, tmp_path):
    path = tmp_path / f"a{suffix}"
    refused(CheckpointError, path, lambda: load_checkpoint(path), "no such file")
    path.mkdir()
    refused(CheckpointError, path, lambda: load_checkpoint(path), "no such file")
    path.rmdir()
    all_refused(CheckpointError, path, lambda: load_checkpoint(path), broken.no_checkpoints(content))


def same_networks(first, second):
    pairs = zip(first.model.parameters.values(), second.model.parameters.values(), strict=True)
    levels = zip(*(c.model.schedule.buffers().values() for c in (first, second)), strict=True)
    return first.step == second.step and all(torch.equal(a, b) for a, b in (*pairs, *levels))


@drawn(80)
@given(data=st.data())
def test_an_official_checkpoint_with_changed_bytes_is_refused_or_read_as_it_was(data, content, tmp_path):
    path = tmp_path / "a.pt"
    good = broken.saved(content)
    path.write_bytes(good)
    intact = load_checkpoint(path)
    path.write_bytes(data.draw(flips(good)))
    found = unless_refused(CheckpointError, path, lambda: load_checkpoint(path))
    assert found is None or same_networks(found, intact)


def test_an_official_checkpoint_with_an_entry_marked_as_a_folder_is_refused(content, tmp_path):
    """Of it torch would read nothing, and leave the tensor as its memory was."""
    path = tmp_path / "a.pt"
    good = broken.saved(content)
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        entries = [entry.filename for entry in archive.infolist()]
        record = archive.start_dir
    for name in entries:
        path.write_bytes(flipped(good, [(record + ATTRIBUTES, 0x10)]))
        refused(CheckpointError, path, lambda: load_checkpoint(path), name, "marked as a folder")
        record = good.find(b"PK\x01\x02", record + 1)


@drawn(30)
@given(data=st.data(), zipped=st.booleans())
def test_an_official_checkpoint_cut_short_is_refused(data, zipped, content, tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(data.draw(cuts(broken.saved(content, zipped))))
    refused(CheckpointError, path, lambda: load_checkpoint(path))


@pytest.fixture
def ours(content, tmp_path):
    """A checkpoint in our own format."""
    path = tmp_path / "ours.safetensors"
    prefix = "ema_model.model.ebm."
    entries = content["ema"].items()
    parameters = {name.removeprefix(prefix): value for name, value in entries if name.startswith(prefix)}
    save_checkpoint(path, {"ema": parameters}, cosine_schedule(), 5, {"seed": 1})
    return path


OUR_TENSORS = [f"ema.{name}" for name in broken.PARAMETERS] + [f"schedule.{n}" for n in broken.BUFFER_NAMES]


@by_name(weights.stored_cases(OUR_TENSORS))
def test_a_checkpoint_of_ours_with_one_tensor_wrong_is_refused(case, ours):
    header = weights.parts(ours.read_bytes())[0]["__metadata__"]
    ours.write_bytes(save(case.spoil(load(ours.read_bytes())), header))
    refused(CheckpointError, ours, lambda: load_checkpoint(ours), *case.names)


def test_a_checkpoint_of_ours_with_another_header_is_refused(ours):
    good = ours.read_bytes()
    files = {name: weights.with_metadata(good, **change) for name, change in weights.METADATA.items()}
    all_refused(CheckpointError, ours, lambda: load_checkpoint(ours), files | weights.broken_headers(good))


@drawn(100)
@given(data=st.data(), damage=st.sampled_from([flips, cuts]))
def test_a_damaged_checkpoint_of_ours_is_refused_or_read_finite(data, damage, ours, content):
    good = ours.read_bytes()
    try:
        ours.write_bytes(data.draw(damage(good)))
        found = unless_refused(CheckpointError, ours, lambda: load_checkpoint(ours))
    finally:
        ours.write_bytes(good)
    if found is not None:
        assert damage is flips
        tensors = [*found.model.parameters.values(), *found.model.schedule.buffers().values()]
        assert all(tensor.isfinite().all() for tensor in tensors)
        assert (found.model.dim_x, found.model.dim_y, found.model.hidden) == broken.SIZES


@pytest.mark.parametrize("task", ["addition", "inverse", "completion"])
@pytest.mark.parametrize("n", [3, 4, 5, 20])
def test_a_checkpoint_of_another_size_than_its_problems_is_named(task, n, ours):
    energy = load_energy(ours)
    with pytest.raises(
        ConfigError, match=rf"models\.mine: .*\(4, 4\).*\({task}, n={n}\).*models\.mine\.problems"
    ):
        model_keys("mine", energy, ProblemSpec(task, n))


@pytest.fixture
def folder(generator, tmp_path):
    save_saelens(SparseAutoencoder.random(6, 15, generator, "topk", 4), tmp_path / "sae")
    return tmp_path / "sae"


@by_name(weights.stored_cases(["W_enc", "b_enc", "W_dec", "b_dec"]))
def test_an_autoencoder_with_one_tensor_wrong_is_refused(case, folder):
    path = folder / WEIGHTS
    path.write_bytes(save(case.spoil(load(path.read_bytes()))))
    refused(CheckpointError, folder, lambda: load_saelens(folder), *case.names)


@by_key(weights.SAE_CONFIGS)
def test_an_autoencoder_with_another_configuration_is_refused(case, folder):
    change, found = case
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | change))
    refused(CheckpointError, folder, lambda: load_saelens(folder), found)


def test_an_autoencoder_without_one_of_its_files_is_refused(folder):
    good = (folder / WEIGHTS).read_bytes()
    files = weights.broken_headers(good)
    all_refused(CheckpointError, folder, lambda: load_saelens(folder), files, folder / WEIGHTS)
    (folder / WEIGHTS).write_bytes(good)
    files = weights.SAE_CONFIG_FILES
    all_refused(CheckpointError, folder, lambda: load_saelens(folder), files, folder / CONFIG)
    (folder / CONFIG).unlink()
    refused(CheckpointError, folder, lambda: load_saelens(folder), CONFIG)
    refused(CheckpointError, folder / "none", lambda: load_saelens(folder / "none"))


@drawn(120)
@given(data=st.data(), name=st.sampled_from([WEIGHTS, CONFIG]), damage=st.sampled_from([flips, cuts]))
def test_a_damaged_autoencoder_is_refused_or_read_finite(data, name, damage, folder):
    good = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(data.draw(damage(good)))
        found = unless_refused(CheckpointError, folder, lambda: load_saelens(folder))
    finally:
        (folder / name).write_bytes(good)
    if found is not None:
        assert found(torch.zeros(2, 6)).shape == (2, 6)
        assert all(tensor.isfinite().all() for tensor in found.parameters.values())


@pytest.fixture
def state(seed, tmp_path):
    """The saved state of a short training run, and how to go on from it."""
    path, seeds = tmp_path / "state.pt", [seed, seed + 1]
    next(train(initial_state(RECIPE, seeds), every=2, held_out=8)).save(path)
    return path, lambda: TrainingState.load(path, RECIPE, seeds)


def test_a_training_state_with_one_part_wrong_is_refused(state):
    path, resume = state
    assert resume().step == 2
    good = torch.load(path, weights_only=True)
    complaints = {}
    for case in weights.STATES:
        torch.save(case.spoil(good), path)
        complaints[case.name] = complaint(TrainingError, path, resume, *case.names)
    none_of(complaints)


@drawn(40)
@given(data=st.data(), damage=st.sampled_from([flips, cuts]))
def test_a_damaged_training_state_is_refused_or_read_as_it_was(data, damage, state):
    path, resume = state
    good, intact = path.read_bytes(), resume()
    try:
        path.write_bytes(data.draw(damage(good)))
        found = unless_refused(TrainingError, path, resume)
    finally:
        path.write_bytes(good)
    if found is not None:
        assert all(torch.equal(found.raw[name], intact.raw[name]) for name in intact.raw)


@pytest.fixture
def trainer(generator, seed, tmp_path):
    """A trainer of autoencoders, and the file of its running state."""
    recipe = SAERecipe(width=8, k=(2,), steps=6, batch=16)
    trainer = SAETrainer(recipe, [seed], torch.randn(64, 5, generator=generator))
    trainer.run(tmp_path / "state.safetensors", every=3)
    return trainer, tmp_path / "state.safetensors"


def test_a_state_of_autoencoders_with_one_part_wrong_is_refused(trainer):
    trainer, path = trainer
    trainer.load(path)
    good = path.read_bytes()
    tensors, metadata = load(good), weights.parts(good)[0]["__metadata__"]
    headers = weights.SAE_STATE_HEADERS.items()
    files = {name: weights.with_header(good, change) for name, change in weights.SAE_STATES.items()}
    files |= {name: weights.with_metadata(good, iredinterp=text) for name, text in headers}
    floats = [name for name, value in tensors.items() if value.is_floating_point() and value.ndim]
    files |= {c.name: save(c.spoil(tensors), metadata) for c in weights.stored_cases(floats)}
    all_refused(TrainingError, path, lambda: trainer.load(path), files | weights.broken_headers(good))


@drawn(60)
@given(data=st.data(), damage=st.sampled_from([flips, cuts]))
def test_a_damaged_state_of_autoencoders_is_refused_or_read_finite(data, damage, trainer):
    trainer, path = trainer
    good = path.read_bytes()
    try:
        path.write_bytes(data.draw(damage(good)))
        found = unless_refused(TrainingError, path, lambda: trainer.load(path) or trainer)
    finally:
        path.write_bytes(good)
    if found is not None:
        tensors = [value for sae in found.autoencoders().values() for value in sae.parameters.values()]
        assert all(tensor.isfinite().all() for tensor in tensors)
        assert found.history().num_rows
