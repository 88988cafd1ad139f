"""EXP-001's figures show what their tables hold, the optimum beside it, and why something is missing."""

import matplotlib
import numpy as np
import pyarrow as pa
import pytest
import torch
from test_hessian import (
    D,
    N,
    haar,
    normal,
    planted,
    problems_of,
    random_problems,
    symmetric,
    tables_of,
    values,
)

from iredinterp.analyses.hessian.drawing import (
    figure_alignment,
    figure_spectra,
    figure_summary,
    figure_tracking,
    figures,
)
from iredinterp.errors import TableError
from iredinterp.figures import save_figure

matplotlib.use("Agg")

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


def test_every_figure_shows_the_optimum_beside_the_model(generator):
    problems = random_problems(generator, 4)
    optimum = torch.linspace(0.4, 2, D, dtype=torch.float64)
    oracle = planted(symmetric(haar(generator, 3, D, D), optimum))
    tables, optimal = (tables_of(e, problems, oracle=oracle) for e in (planted(None), oracle))
    drawn = figures(*tables, optimal)
    dashed = [line for line in drawn["spectra"].axes[0].lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed[0].get_ydata(), optimum, rtol=1e-10)
    conditioning = [line for line in drawn["summary"].axes[0].lines if line.get_linestyle() == "-."]
    np.testing.assert_allclose(conditioning[0].get_ydata(), 5, rtol=1e-10)
    distance = drawn["summary"].axes[3]
    expected = values(tables[1], "oracle_distance").groupby("t")["value"].median()[::-1]
    np.testing.assert_allclose(distance.lines[0].get_ydata(), expected)
    share = values(optimal[1], "curvature_share", "column").groupby("t")["value"].median()[::-1]
    below = [line.get_ydata() for line in drawn["alignment"].axes[6].lines if line.get_linestyle() == "-."]
    assert any(np.allclose(line, share) for line in below)
    overlap = values(optimal[2], "level_overlap", "low")["value"].tolist()
    overlap += values(optimal[2], "level_overlap", "high")["value"].tolist()
    foot = " ".join(text.get_text() for text in drawn["tracking"].texts).replace("\n", " ")
    assert f"Bayes-optimal energy: mean overlap {np.mean(overlap):.2f}" in foot
    for figure in drawn.values():
        save_figure(figure)


@pytest.fixture
def drawn(generator):
    return tables_of(planted(None), random_problems(generator, 4))


def test_spectra_are_drawn_per_level_against_the_optimum(drawn):
    figure = figure_spectra(drawn[0], title="a model", note="It solves its task.")
    panels = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title() for ax in panels] == ["level t = 2", "level t = 1", "level t = 0"]
    for ax in panels:
        assert any(
            np.all(np.asarray(line.get_ydata()) == 1) and line.get_linestyle() == "--" for line in ax.lines
        )
    assert "dimensionless" in panels[0].get_ylabel()
    assert panels[1].get_xlabel() == "eigenvalues below (logit scale)"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "Bayes-optimal where y is determined by x: σ$_t$λ = 1" in labels
    texts = [text.get_text() for text in figure.texts]
    assert {"a model", "It solves its task.", "points: q_sample, 4 problems"} <= set(texts)
    save_figure(figure)


def test_part_of_a_spectrum_is_not_drawn_as_the_whole(generator):
    spectra, *_ = tables_of(planted(None), random_problems(generator), engine="lanczos", count=2)
    figure = figure_spectra(spectra)
    assert figure.axes[1].get_xlabel() == "number among the computed eigenvalues"
    save_figure(figure)


def test_levels_run_from_noisy_to_sharp_and_bands_say_what_they_are(drawn):
    for figure in (figure_summary(drawn[1]), figure_alignment(drawn[1])):
        labelled = [ax for ax in figure.axes if ax.get_xlabel()]
        assert all(ax.get_xlabel() == "level t\nnoisiest → sharpest" for ax in labelled)
        assert all(ax.get_xlim()[0] > 2 and ax.get_xlim()[1] < 0 for ax in labelled)
        assert any(
            "95 % bootstrap over problems, one training seed" in text.get_text() for text in figure.texts
        )
        save_figure(figure)


def test_summary_draws_the_medians_of_the_metrics(drawn):
    figure = figure_summary(drawn[1])
    line = next(line for line in figure.axes[1].lines if line.get_label() == "effective rank")
    frame = values(drawn[1], "effective_rank", "H").groupby("t")["value"].median()
    np.testing.assert_allclose(line.get_ydata(), frame[line.get_xdata()].to_numpy())
    assert figure.axes[0].get_yscale() == "log"
    save_figure(figure)


def test_tracking_annotates_every_pair_of_levels(drawn):
    figure = figure_tracking(drawn[2])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["1.00"] * 9
    assert any(f"chance m/d = {3 / D:.2g}" in text.get_text() for text in figure.texts)
    save_figure(figure)


def test_undefined_panels_say_why_instead_of_staying_empty(generator):
    identity = torch.eye(D, dtype=torch.float64).expand(2, D, D)
    tables = tables_of(planted(None), problems_of(identity, normal(generator, 2, N, N)))
    drawn = figures(*tables)
    assert set(drawn) == {"spectra", "summary", "alignment", "tracking"}
    assert any(
        "not separated" in text.get_text().replace("\n", " ") for text in drawn["alignment"].axes[0].texts
    )
    assert {text.get_text() for text in drawn["tracking"].axes[0].texts} == {"–"}
    assert any("–: eigenspace not" in text.get_text() for text in drawn["tracking"].texts)
    for figure in drawn.values():
        save_figure(figure)


def test_a_figure_shows_one_model_at_one_kind_of_point(drawn):
    other = drawn[0].set_column(0, "model", pa.array(["another"] * len(drawn[0])))
    with pytest.raises(TableError, match="a figure shows one model; found model"):
        figure_spectra(pa.concat_tables([drawn[0], other]))
    with pytest.raises(TableError, match="no points of kind 'minimum' to draw; the table has q_sample"):
        figure_spectra(drawn[0], "minimum")
