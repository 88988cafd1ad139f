"""EXP-010's figures show what their table holds, the optimum beside it, and why something is missing."""

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from test_annealing import COUNT, KEYS, D, N, attractor, normal, table_of, values

from iredinterp.analyses.annealing import annealing_table
from iredinterp.analyses.annealing.drawing import figures
from iredinterp.analyses.annealing.names import FULL
from iredinterp.errors import TableError
from iredinterp.figures import save_figure

matplotlib.use("Agg")

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


def studied(energies, y_star, seed, miss=0.0):
    """Metrics of one model by condition; its problems ask for answers that lie `miss` beside the right ones."""
    problems = table_of(y_star + miss, y_star)
    tables = (
        annealing_table(energy, problems, KEYS | {"condition": name}, seed=seed)
        for name, energy in energies.items()
    )
    return pa.concat_tables(tables)


def medians(table, metric, component=""):
    """Over problems, by level."""
    return np.median(values(table, metric, component).numpy(), axis=1)


def line_of(ax, expected):
    found = [line for line in ax.lines if len(line.get_ydata()) == len(expected)]
    assert any(np.allclose(line.get_ydata(), expected) for line in found)


def test_every_figure_shows_the_table(seed, generator):
    y_star = normal(generator, COUNT, D) / 4
    conditions = {"trained": attractor(0.3), "oracle_noise": attractor(0.5), "oracle": attractor(1.0)}
    metrics = studied(conditions, y_star, seed, miss=0.05)
    drawn = figures(metrics, "model", "a note")
    assert list(drawn) == ["card", "ledger", "modes", "arms", "calibration"]
    by_condition = {name: metrics.filter(pc.equal(metrics["condition"], name)) for name in conditions}
    trained, noisy = by_condition["trained"], by_condition["oracle_noise"]
    for table in (trained, noisy):
        line_of(drawn["card"].axes[0], medians(table, "answer_error"))
        line_of(drawn["modes"].axes[2], medians(table, "coarse_first_exponent"))
    line_of(drawn["card"].axes[2], -medians(trained, "energy_change", "jump"))
    line_of(drawn["ledger"].axes[3], medians(trained, "stability"))
    errors = medians(trained, "mode_error", "random")
    for i in range(N):
        line_of(drawn["modes"].axes[1], errors[:, i])

    arms = drawn["arms"].axes[0]
    labels = [label.get_text() for label in arms.get_yticklabels()]
    place = labels.index("jumps at the sharpest (4)")
    assert labels[0] == f"{FULL} (24)"
    expected = np.median(values(trained, "arm_log_ratio", "jumps at the sharpest").numpy())
    dots = [line for line in arms.lines if line.get_marker() == "o"]
    assert any(
        np.allclose([line.get_xdata()[0], line.get_ydata()[0]], [expected, place - 0.2]) for line in dots
    )
    for figure in drawn.values():
        assert figure.texts[0].get_text() == "model"
        save_figure(figure)


def test_what_is_undefined_is_said_and_not_drawn(seed, generator):
    rank_one = normal(generator, COUNT, N, 1) @ normal(generator, COUNT, 1, N) / 4
    metrics = studied({"trained": attractor(), "oracle": attractor()}, rank_one.flatten(1), seed)
    drawn = figures(metrics)
    said = " ".join(text.get_text() for text in drawn["modes"].axes[2].texts).replace("\n", " ")
    assert "fewer than two different singular values" in said
    assert {text.get_text() for text in drawn["calibration"].axes[0].texts} == {"undefined"}
    for figure in drawn.values():
        save_figure(figure)


def test_figures_need_the_trained_model(seed, generator):
    metrics = studied({"oracle": attractor()}, normal(generator, COUNT, D) / 4, seed)
    with pytest.raises(TableError, match="no rows of condition 'trained'"):
        figures(metrics)
