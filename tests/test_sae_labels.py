"""What is said of vectors without an autoencoder: shares along singular pairs and on missing entries."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from iredinterp.analyses.sae.collection import Vectors
from iredinterp.analyses.sae.labels import Labels, problem_labels, vector_labels
from iredinterp.tables import tensor_array

COUNT, ROWS, COLUMNS = 8, 4, 3
FIRST, SECOND = "along the first singular pair", "along the second singular pair"
MISSING = "on missing entries"


def normal(*shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def table(Y, **columns):
    tensors = {"x": Y, "y_star": Y} | columns
    ids = {"problem_id": pa.array(range(len(Y)), pa.int32())}
    return pa.table(ids | {name: tensor_array(values) for name, values in tensors.items()})


def vectors_of(values, problem):
    zeros = torch.zeros_like(problem)
    return Vectors(values, zeros, problem, zeros, zeros - 1)


@pytest.fixture
def matrices(generator):
    return normal(COUNT, ROWS, COLUMNS, generator=generator)


@pytest.fixture
def vectors(generator):
    """Five per problem, of any length and in any order."""
    problem = torch.arange(COUNT).repeat_interleave(5)[torch.randperm(5 * COUNT, generator=generator)]
    return vectors_of(3 * normal(5 * COUNT, ROWS * COLUMNS, generator=generator), problem)


def test_norm_and_shares_along_singular_pairs_are_those_of_each_vectors_own_problem(matrices, vectors):
    found = vector_labels(vectors, table(matrices))
    assert list(found) == ["norm of the vector", FIRST, SECOND]
    expected = []
    for g, problem in zip(vectors.values.numpy(), vectors.problem.tolist(), strict=True):
        U, _, Vh = np.linalg.svd(matrices[problem].numpy())
        g = g.reshape(ROWS, COLUMNS)
        inner = [U[:, i] @ g @ Vh[i] for i in range(2)]
        expected.append([np.linalg.norm(g), *(np.square(inner) / np.square(g).sum())])
    np.testing.assert_allclose(torch.stack([*found.values()], 1), expected, rtol=1e-10, atol=1e-14)


def test_a_singular_pair_lies_along_itself_and_not_along_the_other(matrices, generator):
    U, _, Vh = np.linalg.svd(matrices.numpy(), full_matrices=False)
    pairs = torch.from_numpy(np.einsum("pnk,pkm->pknm", U, Vh)).flatten(2)
    # The first pair of problem 0, the second of problem 1, and so on, of any sign and size.
    problem = torch.arange(COUNT)
    chosen = problem % 2
    size = normal(COUNT, 1, generator=generator)
    found = vector_labels(vectors_of(size * pairs[problem, chosen], problem), table(matrices))
    assert found[FIRST].tolist() == pytest.approx((1.0 - chosen).tolist())
    assert found[SECOND].tolist() == pytest.approx(chosen.double().tolist())


def test_there_is_no_second_pair_where_a_matrix_has_rank_one(matrices, vectors, generator):
    matrices[3] = torch.outer(normal(ROWS, generator=generator), normal(COLUMNS, generator=generator))
    found = vector_labels(vectors, table(matrices))
    assert FIRST in found
    assert SECOND not in found


def test_pairs_are_of_the_signal_where_there_is_one(matrices, vectors, generator):
    signal = normal(COUNT, ROWS, COLUMNS, generator=generator)
    found = vector_labels(vectors, table(matrices, signal=signal))
    assert torch.equal(found[FIRST], vector_labels(vectors, table(signal))[FIRST])


def test_a_vector_on_missing_entries_scores_one_and_on_observed_ones_zero(matrices, generator):
    mask = (torch.rand(COUNT, ROWS, COLUMNS, generator=generator) < 0.5).double()
    mask[:, 0, 0], mask[:, 0, 1] = 1, 0
    problems, problem = table(matrices, mask=mask), torch.arange(COUNT).repeat(3)
    g = normal(len(problem), ROWS * COLUMNS, generator=generator)
    observed = mask.flatten(1)[problem]
    half = torch.zeros(COUNT, ROWS * COLUMNS, dtype=torch.float64)
    half[:, :2] = 1
    missing, seen = (1 - observed) * g, observed * g
    values = torch.cat([missing[:COUNT], seen[COUNT : 2 * COUNT], half])
    found = vector_labels(vectors_of(values, problem), problems)[MISSING]
    assert found.tolist() == pytest.approx([1.0] * COUNT + [0.0] * COUNT + [0.5] * COUNT)


def test_labels_that_are_the_same_for_all_vectors_are_left_out(matrices, vectors):
    U, _, Vh = np.linalg.svd(matrices.numpy())
    pair = torch.from_numpy(np.einsum("pn,pm->pnm", U[..., 0], Vh[:, 0])).flatten(1)[vectors.problem]
    # All of norm 7 but for rounding, and all along the first pair.
    found = vector_labels(vectors_of(7 * pair, vectors.problem), table(matrices))
    assert "norm of the vector" not in found
    assert FIRST not in found
    everything = torch.ones(COUNT, ROWS, COLUMNS, dtype=torch.float64)
    assert MISSING not in vector_labels(vectors, table(matrices, mask=everything))


def test_float32_vectors_are_judged_in_float64(matrices, vectors):
    rounded = vectors.values.float()
    found = vector_labels(vectors_of(rounded, vectors.problem), table(matrices))
    exact = vector_labels(vectors_of(rounded.double(), vectors.problem), table(matrices))
    assert all(torch.equal(found[name], exact[name]) for name in exact)


def test_vectors_get_the_labels_of_their_problems(matrices, vectors):
    problems = table(matrices)
    labels = Labels.of(vectors, problems)
    assert torch.equal(labels.matrices, matrices)
    assert labels.vector.keys() == vector_labels(vectors, problems).keys()
    one_by_one = problem_labels(problems)
    spread = labels.of_problems(vectors.problem)
    assert spread.keys() == one_by_one.keys()
    for name, label in spread.items():
        assert label.tolist() == [one_by_one[name][problem] for problem in vectors.problem.tolist()]


def test_labels_that_the_problems_of_the_vectors_share_are_left_out(generator):
    # The first row is largest in the first half of the problems, the second in the others.
    matrices = normal(40, ROWS, COLUMNS, generator=generator)
    matrices[:20, 0] *= 100
    matrices[20:, 1] *= 100
    problem = torch.arange(20)
    values = normal(20, ROWS * COLUMNS, generator=generator)
    labels = Labels.of(vectors_of(values, problem), table(matrices))
    assert "row 1 is largest" in problem_labels(table(matrices))
    assert "row 1 is largest" not in labels.problem
    assert all(label.unique().numel() == 2 for label in labels.of_problems(problem).values())
