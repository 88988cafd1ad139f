"""Autoencoders written for SAELens and read back."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from iredinterp.analyses.sae.interop import load_saelens, save_saelens
from iredinterp.analyses.sae.model import ACTIVATIONS, SparseAutoencoder, Standardisation
from iredinterp.errors import CheckpointError, ConfigError


def autoencoder(activation, generator, dtype=torch.float32):
    """Random weights throughout, and a scale of one level folded in."""
    x = 3 + 2 * torch.randn(50, 6, generator=generator, dtype=dtype)
    sae = SparseAutoencoder.random(
        6,
        15,
        generator,
        activation,
        None if activation == "relu_l1" else 4,
        x[0],
        Standardisation.fit(x),
        dtype,
    )
    biases = 0.1 * torch.randn(15, generator=generator, dtype=dtype)
    threshold = None if sae.threshold is None else torch.rand(15, generator=generator, dtype=dtype)
    return replace(sae, b_enc=biases, threshold=threshold).folded()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_saved_is_loaded_bit_for_bit(activation, dtype, tmp_path, generator):
    sae = autoencoder(activation, generator, dtype)
    save_saelens(sae, tmp_path / "sae", {"task": "inverse", "level": 3})
    loaded = load_saelens(tmp_path / "sae")
    assert (loaded.activation, loaded.k) == (sae.activation, sae.k)
    for name, tensor in sae.parameters.items():
        assert torch.equal(getattr(loaded, name), tensor)
        assert getattr(loaded, name).dtype == dtype
    if sae.threshold is not None:
        assert torch.equal(loaded.threshold, sae.threshold)
    x = 3 + 2 * torch.randn(20, 6, generator=generator, dtype=dtype)
    assert torch.equal(loaded.encode(x), sae.encode(x))
    assert torch.equal(loaded(x), sae(x))


def test_the_files_are_those_of_the_format(tmp_path, generator):
    sae = autoencoder("batchtopk", generator)
    save_saelens(sae, tmp_path, {"task": "inverse"})
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "W_enc": (6, 15),
        "b_enc": (15,),
        "W_dec": (15, 6),
        "b_dec": (6,),
        "threshold": (15,),
    }
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["architecture"] == "jumprelu"
    assert (config["d_in"], config["d_sae"], config["dtype"]) == (6, 15, "float32")
    assert int(config["metadata"]["sae_lens_version"].split(".")[0]) >= 6
    assert config["metadata"]["task"] == "inverse"
    # By the formula of the format: relu(entries), where they exceed the threshold.
    x = 3 + 2 * torch.randn(20, 6, generator=generator)
    entries = (x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]
    codes = entries.relu() * (entries > tensors["threshold"])
    torch.testing.assert_close(codes @ tensors["W_dec"] + tensors["b_dec"], sae(x))


def test_a_scale_per_level_has_to_be_folded_first(tmp_path, generator):
    standardisation = Standardisation.fit(torch.randn(8, 6, generator=generator), torch.arange(8) % 2)
    sae = SparseAutoencoder.random(6, 15, generator, k=4, standardisation=standardisation)
    with pytest.raises(ConfigError, match=r"write autoencoder.folded\(t\)"):
        save_saelens(sae, tmp_path)
    save_saelens(sae.folded(1), tmp_path)


def changed(path, **values):
    config = json.loads((path / "cfg.json").read_text())
    (path / "cfg.json").write_text(json.dumps({**config, **values}))


def without_threshold(path):
    tensors = load_file(path / "sae_weights.safetensors")
    del tensors["threshold"]
    save_file(tensors, path / "sae_weights.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "cfg.json").unlink(), "needs a readable cfg.json"),
        (lambda path: (path / "cfg.json").write_text("{"), "needs a readable cfg.json"),
        (lambda path: (path / "sae_weights.safetensors").write_bytes(b"short"), "sae_weights.safetensors"),
        (lambda path: changed(path, architecture="gated"), "architecture 'gated' is not implemented"),
        (
            lambda path: changed(path, normalize_activations="layer_norm"),
            "normalize_activations is 'layer_norm'",
        ),
        (lambda path: changed(path, apply_b_dec_to_input=False), "apply_b_dec_to_input is False"),
        (without_threshold, "'threshold'.* expected"),
    ],
)
def test_folders_that_cannot_be_read_are_refused(spoil, message, tmp_path, generator):
    save_saelens(autoencoder("batchtopk", generator), tmp_path)
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_saelens(tmp_path)


@pytest.mark.saelens
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_saelens_encodes_and_decodes_as_we_do(activation, tmp_path, generator):
    sae_lens = pytest.importorskip("sae_lens")
    sae = autoencoder(activation, generator)
    save_saelens(sae, tmp_path, {"task": "inverse"})
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path))
    x = 3 + 2 * torch.randn(200, 6, generator=generator)
    with torch.no_grad():
        codes = theirs.encode(x)
        torch.testing.assert_close(codes, sae.encode(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(theirs.decode(codes), sae(x), rtol=1e-5, atol=1e-5)
    assert (codes != 0).any()
    assert theirs.cfg.metadata["task"] == "inverse"
    theirs.save_model(tmp_path / "theirs")
    again = load_saelens(tmp_path / "theirs")
    assert torch.equal(again.W_enc, sae.W_enc)
