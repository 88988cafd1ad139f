"""Panels of metric tables against the level, and the frame around them, shared by the analyses.

Level axes run from the noisiest level on the left to the sharpest on the right.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from iredinterp.errors import TableError
from iredinterp.figures import PALETTE, plot_band
from iredinterp.names import MODEL_KEYS

NOISY_TO_SHARP = "noisiest → sharpest"
STEPS = "training step"
BOOTSTRAP = "; bands: 95 % bootstrap over problems, one training seed"
OPTIMUM = "Bayes-optimal"
CONDITION_COLORS = {
    "trained": PALETTE["black"],
    "random_init": PALETTE["vermillion"],
    "permuted_weights": PALETTE["orange"],
    "shuffled_x": PALETTE["blue"],
    "permuted_targets": PALETTE["sky"],
    "oracle_noise": PALETTE["purple"],
    "oracle": PALETTE["green"],
}
# What holds without any model: chance, floors, exact values.
REFERENCE = {"color": "0.3", "linestyle": "--", "linewidth": 0.8}
# A relative spread of values that is rounding and no structure.
CONSTANT = 1e-9
# Of a line of text, in inches.
LINE = 0.19
CHARACTERS_PER_INCH = 15


def one_model(table: pa.Table, point_kind: str) -> pa.Table:
    """Rows of one kind of point, without minima that the search did not reach.

    Raises:
        TableError: no such points, or points of more than one model.
    """
    kinds = pc.unique(table["point_kind"]).to_pylist()
    table = table.filter(pc.equal(table["point_kind"], point_kind))
    if "converged" in table.column_names:
        table = table.filter(pc.fill_null(table["converged"], True))
    if not table.num_rows:
        there = ", ".join(kinds) or "none"
        raise TableError(f"figure: no points of kind {point_kind!r} to draw; the table has {there}")
    for name in set(MODEL_KEYS) & set(table.column_names):
        if len(found := pc.unique(table[name]).to_pylist()) > 1:
            raise TableError(
                f"figure: a figure shows one model; found {name} {found}: filter the table first"
            )
    return table


def one_course(table: pa.Table) -> pd.DataFrame:
    """The rows of a course.

    Raises:
        TableError: none, or those of several recipes.
    """
    metrics = table.to_pandas()
    if metrics["family"].nunique() != 1:
        found = ", ".join(sorted(metrics["family"].unique())) or "none"
        raise TableError(f"figure: a figure shows one course; found {found}: filter the table")
    return metrics


def sentence_of(competence: pa.Table) -> str:
    """What a model can do, in a sentence: the conclusion of its competence card, from the card's table."""
    return competence["sentence"][0].as_py()


def metric_rows(table: pa.Table, metric: str, component: str = "") -> pd.DataFrame:
    """problem_id, t, t2 if there is one, value and reason of one metric."""
    rows = pc.and_(pc.equal(table["metric"], metric), pc.equal(table["component"], component))
    columns = [name for name in ("problem_id", "t", "t2", "value", "reason") if name in table.column_names]
    return table.filter(rows).select(columns).to_pandas()


def by_level(table: pa.Table, metric: str, component: str = "") -> pd.DataFrame:
    """Means over draws, problems × levels, the noisiest first."""
    means = metric_rows(table, metric, component).groupby(["problem_id", "t"])["value"].mean().unstack("t")
    return means[sorted(means.columns, reverse=True)]


def level_curve(
    ax: Axes, table: pa.Table, metric: str, component: str, label: str, color: str, linestyle: str = "-"
) -> None:
    """Median over problems and its bootstrap band, or in words why there is none."""
    samples = by_level(table, metric, component)
    if samples.notna().any(axis=None):
        plot_band(ax, samples.columns, samples, label, color, linestyle)
        return
    reason = textwrap.fill(metric_rows(table, metric, component)["reason"].iloc[0], 22)
    if reason not in (text.get_text() for text in ax.texts):
        height = 0.97 - 0.45 * len(ax.texts)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        ax.text(0.03, height, reason, transform=ax.transAxes, va="top", fontsize=6, color=color, bbox=box)


def optimum_curve(ax: Axes, table: pa.Table | None, metric: str, component: str, color: str) -> None:
    """Median of the Bayes-optimal energy, where there is one and it is defined."""
    if table is None:
        return
    median = by_level(table, metric, component).median()
    if median.notna().any():
        ax.plot(median.index, median, color=color, linestyle="-.", linewidth=0.9)


def optimum_handle() -> Line2D:
    """Legend entry of `optimum_curve`."""
    label = f"median, {OPTIMUM} energy, same colours"
    return Line2D([], [], color="0.3", linestyle="-.", linewidth=0.9, label=label)


def reference_curve(ax: Axes, table: pa.Table, metric: str, component: str = "") -> None:
    """Median over problems of what needs no model."""
    median = by_level(table, metric, component).median()
    ax.plot(median.index, median, **REFERENCE)


def reference_handle(label: str) -> Line2D:
    """Legend entry of `REFERENCE` lines."""
    return Line2D([], [], label=label, **REFERENCE)


def isotropic_band(ax: Axes, table: pa.Table, metric: str, component: str = "") -> None:
    """From METRIC_low to METRIC_high, medians over problems, behind all curves."""
    low, high = (by_level(table, f"{metric}_{end}", component).median() for end in ("low", "high"))
    ax.fill_between(low.index, low, high, color="0.9", linewidth=0)


def isotropic_handle() -> Patch:
    """Legend entry of `isotropic_band`."""
    return Patch(color="0.9", label="95 % of isotropic gradients, each")


def level_axis(ax: Axes, table: pa.Table) -> None:
    """Ticks and label of a level axis."""
    levels = pc.unique(table["t"]).to_pylist()
    ax.set_xlim(max(levels) + 0.3, min(levels) - 0.3)
    ax.set_xticks(sorted(levels))
    ax.set_xlabel(f"level t\n{NOISY_TO_SHARP}")


def logarithmic(ax: Axes, nonpositive: str = "clip") -> None:
    """A logarithmic value axis; what is constant but for its last digits is drawn as a constant."""
    low, high = ax.dataLim.intervaly
    if 0 < low <= high < low * (1 + CONSTANT):
        ax.set_ylim(low / 2, high * 2)
    ax.set_yscale("log", nonpositive=nonpositive)


def plain_logarithms(axis: Axis) -> None:
    """Ticks of a finished logarithmic axis: plain numbers at 1, 2 and 5 if it spans under two decades."""
    low, high = axis.get_view_interval()
    if high > 100 * low:
        return
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def points_drawn(table: pa.Table, point_kind: str) -> str:
    """What a figure shows, in words."""
    return f"points: {point_kind}, {len(pc.unique(table['problem_id']))} problems"


def framed(figure: Figure, title: str, note: str, foot: str, handles: Sequence[Artist] = ()) -> Figure:
    """Grow the figure by room for title and note above, and for a legend and what was drawn below."""
    width, height = figure.get_size_inches()
    notes, feet = (textwrap.wrap(text, int(CHARACTERS_PER_INCH * width)) for text in (note, foot))
    columns = 3 if len(handles) > 4 else 2
    heading, footing = 1.2 * LINE * bool(title), LINE * (len(feet) + 0.3)
    legend = LINE * (-(-len(handles) // columns) + 0.4) if handles else 0
    above, below = heading + LINE * len(notes), footing + legend
    total = height + above + below
    figure.set_size_inches(width, total)
    figure.get_layout_engine().set(rect=(0, below / total, 1, height / total))
    left = 0.1 / width
    figure.text(left, 1 - 0.06 / total, title, va="top", fontsize=10, fontweight="bold")
    figure.text(left, 1 - (0.06 + heading) / total, "\n".join(notes), va="top", fontsize=8, color="0.3")
    figure.text(left, 0.06 / total, "\n".join(feet), va="bottom", fontsize=7, color="0.3")
    if handles:
        anchor = (0.5, footing / total)
        figure.legend(
            handles=handles, loc="lower center", bbox_to_anchor=anchor, ncols=columns
        ).set_in_layout(False)
    return figure


def by_condition(table: pa.Table) -> dict[str, pa.Table]:
    """A table of one model by the condition of its rows, in the order of `CONDITION_COLORS`.

    Raises:
        TableError: no rows of condition "trained".
    """
    present = pc.unique(table["condition"]).to_pylist()
    if "trained" not in present:
        raise TableError(f"figure: no rows of condition 'trained'; found {', '.join(present) or 'none'}")
    names = [name for name in CONDITION_COLORS if name in present]
    return {name: table.filter(pc.equal(table["condition"], name)) for name in names}


def model_and_optimum(tables: Mapping[str, pa.Table], point_kind: str) -> tuple[pa.Table, pa.Table | None]:
    """Rows of one kind of point of the trained model, and of the Bayes-optimal energy if it is there.

    Raises:
        TableError: as `one_model`.
    """
    best = tables.get("oracle")
    return one_model(tables["trained"], point_kind), best and one_model(best, point_kind)


def condition_curves(
    ax: Axes, tables: Mapping[str, pa.Table], point_kind: str, metric: str, component: str = ""
) -> None:
    """Median over problems of one metric, a line per condition; the trained model with its bootstrap band."""
    for name, table in tables.items():
        table = one_model(table, point_kind)
        if name == "trained":
            level_curve(ax, table, metric, component, "", CONDITION_COLORS[name])
            continue
        median = by_level(table, metric, component).median()
        if median.notna().any():
            ax.plot(median.index, median, color=CONDITION_COLORS[name], linewidth=1)


def condition_handles(tables: Iterable[str]) -> list[Line2D]:
    """Legend entries of `condition_curves`."""
    return [Line2D([], [], color=CONDITION_COLORS[name], label=name.replace("_", " ")) for name in tables]


def step_axis(ax: Axes, rows: pd.DataFrame) -> None:
    """Logarithmic, with room for step 0."""
    ax.set_xscale("symlog", linthresh=1, linscale=0.4)
    ax.set_xlim(0, rows["step"].max() * 1.1)
    ax.set_xlabel(STEPS)


def rows_of(metrics: pd.DataFrame, metric: str, component: str | None = None) -> pd.DataFrame:
    """Rows of one metric, of all components if none is given."""
    chosen = metrics["metric"] == metric
    if component is not None:
        chosen &= metrics["component"] == component
    return metrics[chosen]


def described(metrics: pd.DataFrame) -> str:
    """What a course is of, in words."""
    row = metrics.dropna(subset=["seed"]).iloc[0]
    seeds = metrics["seed"].nunique()
    law = "" if row["condition"] == "trained" else ", permuted targets"
    return f"{row['task']}, n = {row['n']}{law}; {seeds} training {'seed' if seeds == 1 else 'seeds'}"


def over_steps(ax: Axes, rows: pd.DataFrame, color, linestyle: str = "-") -> None:
    """Median over seeds within their range, of rows of one metric of a course."""
    seeds = rows.pivot(index="step", columns="seed", values="value").sort_index()
    ax.fill_between(seeds.index, seeds.min(axis=1), seeds.max(axis=1), color=color, alpha=0.15, linewidth=0)
    ax.plot(seeds.index, seeds.median(axis=1), color=color, linestyle=linestyle)
