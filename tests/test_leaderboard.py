"""The leaderboard: the truth gets 1, guessing one half, and what a method cannot say is refused."""

import pytest
import torch

from iredinterp.errors import ConfigError
from iredinterp.evidence.statistics import auroc
from iredinterp.ired.tasks import ProblemSpec
from iredinterp.leaderboard import DECOYS, EVERY, leaderboard, q_samples, recovery, render_leaderboard
from iredinterp.truth.planted import EVERY_DECOY, planted

SPEC = ProblemSpec.from_dict({"task": "addition", "n": 2})
LEVELS = (8, 1)


def told(seed):
    """A method that was told the truth of every network of the leaderboard."""
    networks = [planted(SPEC.dim_x, SPEC.dim_y, seed, decoys=decoys) for decoys in DECOYS.values()]

    def score(model, x, y, t, generator):
        (network,) = (
            known
            for known in networks
            if known.model.hidden == model.hidden
            and all(
                torch.equal(known.model.parameters[name], value) for name, value in model.parameters.items()
            )
        )
        return torch.stack([network.truth.circuit(layer, int(t[0])) for layer in (1, 2, 3)]).double()

    return score


def constant(model, x, y, t, generator):
    return torch.ones(3, model.hidden)


def reading_weights(model, x, y, t, generator):
    """By how much a unit is read: finds units read by nobody, and nothing else."""
    return torch.stack([model.parameters[f"fc{layer + 1}.weight"].norm(dim=0) for layer in (1, 2, 3)])


@pytest.fixture
def board(seed):
    seed %= 2**31
    methods = {"told": told(seed), "constant": constant, "reading": reading_weights}
    return leaderboard(methods, "told", "mine", SPEC, LEVELS, 6, seed)


def test_the_truth_scores_one_and_a_constant_one_half(board):
    frame = board[0].to_pandas()
    frame = frame[(frame["metric"] == "auroc") & frame["value"].notna()]
    assert set(frame["decoy"]) == set(DECOYS)
    assert (frame[frame["method"] == "told"]["value"] == 1).all()
    assert (frame[frame["method"] == "constant"]["value"] == 0.5).all()
    reading = frame[frame["method"] == "reading"].set_index(["decoy", "t", "layer"])["value"]
    assert (reading["dead_end"] == 1).all()
    assert reading["cancelling"].min() < 1


def test_a_row_per_decoy_method_level_and_layer_and_a_cost_per_method(board):
    recovered, costs = board
    rows = recovered.to_pandas()
    assert len(rows[rows["metric"] == "auroc"]) == len(DECOYS) * 3 * len(LEVELS) * 4
    assert len(costs) == len(DECOYS) * 3
    assert (costs["seconds"].to_numpy() > 0).all()


def test_the_gate_is_the_error_of_the_registered_method_among_all_decoys(seed):
    methods = {"told": told(seed % 2**31), "constant": constant}
    frame = leaderboard(methods, "constant", "mine", SPEC, LEVELS, 6, seed % 2**31)[0].to_pandas()
    errors = frame[frame["metric"] == "recovery_error"]
    assert errors["value"].tolist() == [0.5] * len(LEVELS)
    assert set(errors["decoy"]) == {EVERY}
    assert errors["layer"].isna().all()


def test_recovery_is_the_chance_that_a_needed_unit_scores_higher(seed, generator):
    network = planted(3, 4, seed % 2**31, decoys=EVERY_DECOY)
    scores = torch.rand(3, network.model.hidden, generator=generator, dtype=torch.float64)
    rows = {row["layer"]: row["value"] for row in recovery(scores, network, 2)}
    needed = torch.stack([network.truth.circuit(layer, 2) for layer in (1, 2, 3)])
    pairs = scores[needed][:, None] > scores[~needed]
    assert rows[None] == pytest.approx(float(pairs.double().mean()), abs=1e-12)
    assert rows[2] == auroc(scores[1][needed[1]].numpy(), scores[1][~needed[1]].numpy())


def test_a_layer_whose_units_are_all_needed_has_no_score_but_a_reason(seed):
    network = planted(3, 16, seed % 2**31, hidden=64)
    rows = {row["layer"]: row for row in recovery(torch.zeros(3, 64), network, 0)}
    assert rows[1]["value"] is None
    assert "needed" in rows[1]["reason"]


def test_points_are_noised_answers_of_the_task_at_one_level(seed):
    network = planted(SPEC.dim_x, SPEC.dim_y, seed % 2**31)
    x, y, t = q_samples(network, SPEC, 0, 500, seed % 2**31)
    sigma = float(network.model.schedule.sigma[0])
    scale = float(network.model.schedule.sqrt_alphas_cumprod[0])
    answers = x.unflatten(1, (2, -1)).sum(1)
    assert t.tolist() == [0] * 500
    assert float((y - scale * answers).std()) == pytest.approx(sigma, rel=0.1)


def test_an_unknown_registered_method_and_scores_of_another_shape_are_refused(seed):
    with pytest.raises(ConfigError, match=r"circuits\.method.*other.*constant"):
        leaderboard({"constant": constant}, "other", "mine", SPEC, LEVELS, 6, 0)
    network = planted(3, 4, seed % 2**31)
    with pytest.raises(ValueError, match=r"\(3, 32\).*\(32, 3\)"):
        list(recovery(torch.zeros(32, 3), network, 0))


def test_the_page_ranks_methods_and_shows_every_decoy(board, tmp_path):
    render_leaderboard(*board, tmp_path / "board.html")
    page = (tmp_path / "board.html").read_text()
    assert page.index(">told<") < page.index(">reading<") < page.index(">constant<")
    for decoy in DECOYS:
        assert decoy.replace("_", " ") in page
    assert page.count("0.500") == len(DECOYS)
