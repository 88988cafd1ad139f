"""Alignment of eigenspaces and curvature with geometric bases, against projectors written out and chance."""

import math

import pytest
import torch
from test_hessian import (
    SCHEDULE,
    D,
    N,
    haar,
    normal,
    planted,
    problems_of,
    projector,
    random_problems,
    reason,
    symmetric,
    tables_of,
    value,
    values,
)

from iredinterp.energy import CallableEnergy
from iredinterp.tables import tensor_array, tensor_column


@pytest.mark.parametrize("basis", ["column", "row", "core", "tangent", "outer", "symmetric"])
def test_shares_and_alignments_match_explicit_projectors(generator, basis):
    problems = random_problems(generator)
    _, metrics, _ = tables_of(planted(None), problems, rank=2)
    Y, scaled = tensor_column(problems, "y_star"), tensor_column(problems, "x")
    P = torch.stack([projector(basis, y, 2) for y in Y])
    k = P[0].trace().round()
    in_basis = (P * scaled).sum((1, 2))
    whole = scaled.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(value(metrics, "curvature_share", basis).view(3, -1)[:, 0], in_basis / whole)
    response = (k - in_basis) / (D - whole)
    torch.testing.assert_close(value(metrics, "response_share", basis).view(3, -1)[:, 2], response)
    error = torch.eye(D) - scaled
    square = (P @ error).square().sum((1, 2)) / error.square().sum((1, 2))
    torch.testing.assert_close(value(metrics, "response_square_share", basis).view(3, -1)[:, 1], square)
    chance = value(metrics, "curvature_share_chance", basis)
    torch.testing.assert_close(chance, torch.full_like(chance, k / D))
    vectors = torch.linalg.eigh(scaled)[1]
    for end, E in {"low": vectors[..., :3], "high": vectors[..., -3:]}.items():
        expected = (P @ E).square().sum((1, 2)) / 3
        found = value(metrics, "alignment", f"{basis}/{end}").view(3, -1)
        torch.testing.assert_close(found, expected.unsqueeze(1).expand(-1, 3))
        excess = value(metrics, "alignment_excess", f"{basis}/{end}").view(3, -1)[:, 1]
        torch.testing.assert_close(excess, (expected - k / D) / (1 - k / D))
        if basis != "symmetric":
            mismatched = (P.roll(-1, 0) @ E).square().sum((1, 2)) / 3
            found = value(metrics, "alignment_mismatched", f"{basis}/{end}").view(3, -1)[:, 0]
            torch.testing.assert_close(found, mismatched)


def test_a_trace_in_which_eigenvalues_cancel_has_no_shares(generator):
    # Σ(1 − σλ) keeps 4 of Σ|1 − σλ| = 12.
    eigenvalues = torch.tensor([0.0] * 8 + [1.0] * 4 + [2.0] * 4, dtype=torch.float64)
    scaled = symmetric(haar(generator, 2, D, D), eigenvalues)
    _, metrics, _ = tables_of(planted(None), problems_of(scaled, normal(generator, 2, N, N)))
    assert reason(metrics, "response_share", "row").startswith("positive and negative eigenvalues cancel")
    assert value(metrics, "curvature_share", "row").shape == (6,)
    assert value(metrics, "response_square_share", "row").shape == (6,)


def test_eigenspace_planted_in_the_tangent_space_has_alignment_one(generator):
    rank, d, k = 2, 4 * 5, 2 * (4 + 5 - 2)
    Y = normal(generator, 4, 4, rank) @ normal(generator, 4, rank, 5)
    P = torch.stack([projector("tangent", y, rank) for y in Y])
    stiff = symmetric(haar(generator, 4, d, d), torch.linspace(1, 2, d, dtype=torch.float64))
    scaled = 0.5 * torch.eye(d) + P @ stiff @ P
    _, metrics, _ = tables_of(planted(None, d), problems_of(scaled, Y), vectors=k, rank=rank)
    ones = torch.ones(12, dtype=torch.float64)
    torch.testing.assert_close(value(metrics, "alignment", "tangent/high"), ones)
    torch.testing.assert_close(value(metrics, "alignment_excess", "tangent/high"), ones)
    assert value(metrics, "alignment_chance", "tangent/high").unique().tolist() == [k / d]
    assert (value(metrics, "alignment_mismatched", "tangent/high") < 0.999).all()


def test_random_eigenvectors_stay_within_the_chance_band(generator):
    count = 100
    problems = random_problems(generator, count)
    _, metrics, _ = tables_of(planted(None), problems)
    for component in ("column/low", "row/high", "tangent/low", "core/high", "outer/low"):
        found = value(metrics, "alignment", component).view(count, -1)[:, 0]
        chance, deviation = (
            value(metrics, f"alignment_{name}", component)[0] for name in ("chance", "chance_sd")
        )
        # Six standard errors of an independent mean: a false alarm less than once in 10⁸ runs.
        assert (found.mean() - chance).abs() < 6 * deviation / math.sqrt(count), component
        assert 0.5 < found.std() / deviation < 2, component


def test_only_problems_without_a_gap_lose_their_alignment(generator):
    Y = normal(generator, 3, N, N)
    Y[1] = torch.eye(N)
    problems = problems_of(symmetric(haar(generator, 3, D, D), torch.linspace(0.3, 1.4, D).double()), Y)
    _, metrics, _ = tables_of(planted(None), problems, rank=2)
    for name, component in (("alignment", "tangent/low"), ("curvature_share", "row")):
        frame = values(metrics, name, component)
        assert frame.groupby("problem_id")["value"].count().to_dict() == {10: 3, 11: 0, 12: 3}
        (why,) = frame["reason"].dropna().unique()
        assert why == "reference matrix has no gap at rank 2: σ_q − σ_(q+1) below 1e-08·σ_1"
    frame = values(metrics, "alignment_mismatched", "tangent/low")
    assert frame.groupby("problem_id")["value"].count().to_dict() == {10: 0, 11: 3, 12: 3}
    assert value(metrics, "alignment", "symmetric/low").shape == (9,)


def test_outer_products_need_simple_singular_values(generator):
    Q = haar(generator, 2, N, N)
    Y = symmetric(Q, torch.tensor([1.0, 1.0, 0.5, 0.1]).double())
    problems = problems_of(symmetric(haar(generator, 2, D, D), torch.linspace(0.3, 1.4, D).double()), Y)
    _, metrics, _ = tables_of(planted(None), problems, rank=2)
    assert "no gap" in reason(metrics, "alignment", "outer/low")
    assert value(metrics, "alignment", "column/low").shape == (6,)


def test_bases_that_do_not_fit_or_fill_the_space_are_undefined(generator):
    energy = CallableEnergy(lambda x, y, t: (y**2 * x[:, :6]).sum(-1), 6, 6, SCHEDULE)
    problems = problems_of(torch.rand(1, 6, generator=generator).double(), normal(generator, 1, 3, 2))
    _, metrics, _ = tables_of(energy, problems, vectors=2, rank=2)
    assert reason(metrics, "alignment", "symmetric/low") == "basis symmetric needs square matrices"
    assert reason(metrics, "alignment_chance", "symmetric/low") == "basis symmetric needs square matrices"
    assert reason(metrics, "curvature_share", "row") == "basis row is the whole space"
    assert value(metrics, "curvature_share_chance", "row").unique().tolist() == [1]
    assert reason(metrics, "alignment_mismatched", "column/low") == "there is no other problem"


def test_bases_come_from_the_signal_where_there_is_one(generator):
    Y, signal = normal(generator, 2, 2, N, N)
    problems = random_problems(generator, 2)
    with_signal = problems_of(tensor_column(problems, "x"), Y, signal=tensor_array(signal))
    only_signal = problems_of(tensor_column(problems, "x"), signal)
    first, second = (tables_of(planted(None), table)[1] for table in (with_signal, only_signal))
    torch.testing.assert_close(value(first, "alignment", "row/low"), value(second, "alignment", "row/low"))
