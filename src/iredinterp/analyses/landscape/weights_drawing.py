"""Figure of EXP-002 between two training seeds."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from iredinterp.figures import PALETTE, panel_grid, style
from iredinterp.panels import CONDITION_COLORS, by_condition, framed, logarithmic, one_model

# Name, colour, and line style of each path.
PATHS = {
    "straight": ("straight line", PALETTE["blue"], ":"),
    "matched": ("straight, units matched", PALETTE["blue"], "-"),
    "bezier": ("trained curve, units matched", PALETTE["green"], "-"),
}


@style()
def figure_connectivity(table: pa.Table, title: str = "", note: str = "") -> Figure:
    """Loss on paths from one training seed to another, beside the same between networks that learnt nothing.

    Args:
        table: of `connectivity_table` under several conditions, "trained" among them.
        title: of the figure.
        note: a line below it.

    Raises:
        TableError: no trained model, or several models.
    """
    tables = {name: one_model(part, "q_sample") for name, part in by_condition(table).items()}
    figure, (axes,) = panel_grid(1, len(tables) + 1, 2.2, 2.3)
    *on_paths, summary = axes
    for (name, part), ax in zip(tables.items(), on_paths, strict=True):
        _losses(ax, part)
        ax.set_title(name.replace("_", " "), color=CONDITION_COLORS[name])
    for ax in on_paths[1:]:
        ax.sharey(on_paths[0])
        ax.tick_params(labelleft=False, which="both")
    on_paths[0].autoscale(axis="y")
    on_paths[0].set_ylabel("denoising loss\n(mean square per entry)")
    for name, part in tables.items():
        heights = [_values(part, "barrier", path).item() for path in PATHS]
        summary.plot(range(len(PATHS)), heights, "o-", color=CONDITION_COLORS[name])
    summary.set_xticks(range(len(PATHS)), ["straight", "matched", "curve"])
    summary.set_xlim(-0.3, len(PATHS) - 0.7)
    summary.set_yscale("symlog", linthresh=1e-3)
    summary.set_ylim(0, 2 * summary.get_ylim()[1])
    summary.set_title("barriers")
    summary.set_ylabel("rise of the loss\nabove the higher end")
    handles = [
        *(Line2D([], [], color=color, linestyle=line, label=label) for label, color, line in PATHS.values()),
        Line2D([], [], color="0.3", linestyle="--", linewidth=0.8, label="predicting no noise"),
        *(Line2D([], [], color=CONDITION_COLORS[name], marker="o", label=name.replace("_", " "))
          for name in tables),
    ]  # fmt: skip
    shares = (_values(tables["trained"], "barrier_share", path).item() for path in PATHS)
    lost = ", ".join("undefined" if np.isnan(share) else f"{share:.0%}" for share in shares)
    foot = (
        "one pair of seeds, fresh problems, all levels; share of what training gained over predicting no "
        f"noise that is lost on the way, straight, matched and curve: {lost}"
    )
    return framed(figure, title, note, foot, handles)


def _losses(ax: Axes, table: pa.Table) -> None:
    """Loss along each path of one condition, on a logarithmic axis."""
    for path, (_, color, line) in PATHS.items():
        losses = _values(table, "denoising_loss", path)
        ax.plot(np.linspace(0, 1, len(losses)), losses, color=color, linestyle=line)
    ax.axhline(_values(table, "zero_loss").item(), color="0.3", linestyle="--", linewidth=0.8)
    logarithmic(ax)
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.set_xlabel("position on the path\nthis seed → another seed")


def _values(table: pa.Table, metric: str, component: str = "") -> np.ndarray:
    """Values of one metric, in the order of its index."""
    rows = pc.and_(pc.equal(table["metric"], metric), pc.equal(table["component"], component))
    ordered = table.filter(rows).sort_by("index")
    return ordered["value"].to_numpy()
