"""Figures of EXP-007 show the table: medians, excesses over the null, shares, and in words what is undefined."""

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from test_implicit_bias import KEYS, N, answering, drawn, normal, values

from iredinterp.analyses.implicit_bias import implicit_bias_table
from iredinterp.analyses.implicit_bias.drawing import figures
from iredinterp.analyses.implicit_bias.names import COMPARATORS, MATCHED, NUCLEAR, RIGHT, ZERO
from iredinterp.errors import TableError
from iredinterp.figures import save_figure
from iredinterp.ired.tasks import ProblemSpec, draw_problems
from iredinterp.points import problems_table
from iredinterp.tables import tensor_array
from iredinterp.truth.oracle import BayesOracle

matplotlib.use("Agg")

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


def studied(targets, problems, keys, **options):
    """Metrics of one model whose answers under each condition are the targets."""
    tables = (
        implicit_bias_table(answering(target), problems, keys | {"condition": name}, **options)
        for name, target in targets.items()
    )
    return pa.concat_tables(tables)


def line_of(ax, expected):
    lines = [line for line in ax.lines if len(line.get_ydata()) == len(expected)]
    assert any(np.allclose(line.get_ydata(), expected) for line in lines)


def of(metrics, condition):
    return metrics.filter(pc.equal(metrics["condition"], condition))


def test_both_figures_show_the_table(generator):
    _, _, Y, problems = drawn(generator, 0.4, 12, factors="positive")
    trained, noisy = ((Y + 0.1 * normal(generator, 12, N, N)).flatten(1) for _ in range(2))
    metrics = studied({"trained": trained, "oracle_noise": noisy}, problems, KEYS)
    drawings = figures(metrics, "model", "a note")
    assert list(drawings) == ["spectrum", "solution"]
    table, other = of(metrics, "trained"), of(metrics, "oracle_noise")
    spectrum, solution = (figure.axes for figure in drawings.values())
    for column, name in enumerate(("effective_rank", "nuclear_ratio", "tail_energy")):
        line_of(spectrum[column], np.median(values(table, name), 1))
        line_of(spectrum[column], np.median(values(table, name, MATCHED), 1))
        line_of(spectrum[column], np.full(2, np.median(values(table, name, RIGHT, "problem"))))
        for one in (table, other):
            line_of(spectrum[3 + column], np.median(values(one, f"{name}_excess"), 1))
    for name in (NUCLEAR, ZERO):
        line_of(solution[0], np.nanmedian(values(table, "distance", name), 1))
        line_of(solution[1], np.nanmedian(values(table, "pull", name), 1))
        line_of(solution[1], np.nanmedian(values(other, "pull", name), 1))
    line_of(solution[2], np.nanmedian(values(table, "misfit"), 1))
    line_of(solution[5], np.nanmedian(values(table, "margin"), 1))

    free = values(table, "free_directions", kind="problem") > 0
    assert f"({int(free.sum())} problems)" in solution[4].get_title()
    shares = [values(table, "chosen", name)[:, free] for name in COMPARATORS]
    known = [share.nanmean(1) for share in shares if not share.isnan().all()]
    expected = torch.cat(known).sort().values
    assert np.allclose(sorted(bar.get_height() for bar in solution[4].patches), expected)
    for figure in drawings.values():
        assert figure.texts[0].get_text() == "model"
        save_figure(figure)


def test_what_is_undefined_is_said_and_not_drawn(generator):
    spec = ProblemSpec("inverse", 3)
    problems = draw_problems(spec, 6, generator)
    keys = KEYS | {"task": "inverse", "rank": None}
    metrics = studied(
        {"trained": problems.y_star + 0.1}, problems_table(problems), keys, oracle=BayesOracle(spec)
    )
    drawings = figures(metrics)
    said = [{text.get_text().replace("\n", " ") for text in ax.texts} for ax in drawings["solution"].axes]
    for place in (1, 3, 4, 5):
        assert said[place] == {"x determines the answer: there is one solution"}
        assert not drawings["solution"].axes[place].patches
    (tail,) = {text.get_text().replace("\n", " ") for text in drawings["spectrum"].axes[2].texts}
    assert tail.startswith("the answers have full rank")
    for figure in drawings.values():
        save_figure(figure)


def test_determined_problems_leave_the_choice_empty_in_words(generator):
    Y = normal(generator, 6, N, 1) @ normal(generator, 6, 1, N) / 4
    mask = torch.ones(6, N, N, dtype=torch.float64)
    mask[:, 0, 0] = 0
    _, _, _, problems = drawn(generator, 0.5, 6)
    for name, value in {"x": mask * Y, "y_star": Y, "signal": Y, "mask": mask}.items():
        index = problems.column_names.index(name)
        problems = problems.set_column(index, name, tensor_array(value))
    drawings = figures(studied({"trained": Y.flatten(1)}, problems, KEYS))
    chosen = drawings["solution"].axes[4]
    assert "(0 problems)" in chosen.get_title()
    assert "determine the answer" in chosen.texts[0].get_text().replace("\n", " ")
    for figure in drawings.values():
        save_figure(figure)


def test_figures_need_the_trained_model(generator):
    _, _, Y, problems = drawn(generator, 0.5, 2)
    with pytest.raises(TableError, match="no rows of condition 'trained'"):
        figures(studied({"oracle": Y.flatten(1)}, problems, KEYS))
