"""Maps of atoms: neighbours stay neighbours, whatever their signs where signs do not matter."""

import sys

import pytest
import torch

from iredinterp.analyses.sae.umap import atom_map
from iredinterp.errors import ConfigError

EACH = 30


def two_bundles(generator, opposite=False):
    """Atoms of any length about two orthogonal, or opposite, directions, EACH of either."""
    axes = torch.linalg.qr(torch.randn(12, 2, generator=generator, dtype=torch.float64)).Q.mT
    if opposite:
        axes[1] = -axes[0]
    noise = torch.randn(2 * EACH, 12, generator=generator, dtype=torch.float64)
    length = 0.5 + torch.rand(2 * EACH, 1, generator=generator, dtype=torch.float64)
    return length * (axes.repeat_interleave(EACH, 0) + 0.05 * noise)


def bundles_are_apart(points):
    distance = torch.cdist(points, points)
    within = max(distance[:EACH, :EACH].max(), distance[EACH:, EACH:].max())
    return bool(within < distance[:EACH, EACH:].min())


@pytest.mark.umap
def test_bundles_of_atoms_are_apart_and_the_same_seed_gives_the_same_map(generator, seed):
    pytest.importorskip("umap")
    atoms = two_bundles(generator)
    points = atom_map(atoms, seed)
    assert points.shape == (2 * EACH, 2)
    assert points.dtype == torch.float64
    assert bundles_are_apart(points)
    assert torch.equal(points, atom_map(atoms, seed))
    assert not torch.equal(points, atom_map(atoms, seed + 1))


@pytest.mark.umap
def test_an_atom_and_its_negative_are_the_same_where_codes_have_signs_and_apart_where_not(generator, seed):
    pytest.importorskip("umap")
    atoms = two_bundles(generator)
    signs = 1 - 2 * torch.randint(2, (2 * EACH, 1), generator=generator)
    torch.testing.assert_close(atom_map(signs * atoms, seed, signed=True), atom_map(atoms, seed, signed=True))
    opposite = two_bundles(generator, opposite=True)
    assert bundles_are_apart(atom_map(opposite, seed))
    assert not bundles_are_apart(atom_map(opposite, seed, signed=True))


@pytest.mark.umap
def test_few_atoms_have_a_map_and_fewer_are_refused(generator, seed):
    pytest.importorskip("umap")
    atoms = torch.randn(4, 5, generator=generator)
    assert atom_map(atoms, seed).isfinite().all()
    with pytest.raises(ConfigError, match=r"needs 4 atoms .* found 3 atoms and 15 neighbours"):
        atom_map(atoms[:3], seed)
    with pytest.raises(ConfigError, match="2 neighbours at least; found 4 atoms and 1 neighbours"):
        atom_map(atoms, seed, neighbours=1)
    atoms[2, 0] = torch.nan
    with pytest.raises(ConfigError, match="vector 2 has entries that are NaN"):
        atom_map(atoms, seed)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigError, match=r"needs umap-learn; run pip install iredinterp\[umap\]"):
        atom_map(torch.eye(5), 0)
