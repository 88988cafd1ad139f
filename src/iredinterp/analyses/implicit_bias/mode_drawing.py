"""How modes form over training, when they are learnt, and the exponent: the first figure of a course."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from iredinterp.analyses.implicit_bias.names import LEARNT, RANDOM, SHUFFLED, SINGULAR, TURNED
from iredinterp.figures import PALETTE, level_color, panel_grid, style
from iredinterp.panels import STEPS, described, framed, plain_logarithms, rows_of, step_axis

COLORS = {
    SINGULAR: PALETTE["black"],
    TURNED: PALETTE["purple"],
    RANDOM: PALETTE["sky"],
    SHUFFLED: PALETTE["orange"],
}
NAMES = {
    SINGULAR: "singular directions",
    TURNED: "null: errors turned at random",
    RANDOM: "null: random directions",
    SHUFFLED: "null: sizes shuffled",
}
THEORY = {1: "α = 1: gradient flow of two linear layers", 2: "α = 2: linear denoiser, s a deviation"}
STYLES = {1: "--", 2: ":"}
ROOM = 1.6
# The largest exponent with room in the panel.
WIDEST = 2.6


@style()
def figure_modes(metrics: pd.DataFrame, times: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """How modes form, when they are learnt over their size, and the exponent beside its nulls.

    Args:
        metrics: of one course.
        times: its mode times.
        title: of the figure.
        note: a line below the title.
    """
    figure, (axes,) = panel_grid(1, 4, 2.75, 2.6, width_ratios=[1, 1.15, 1.15, 1])
    forming, measured, medians, exponents = axes
    last = int(times["step"].max())
    shown = _draw_shares(forming, rows_of(metrics, "mode_share"))
    _draw_times(measured, times[times["directions"] == SINGULAR], last)
    _draw_fit(measured, metrics)
    for kind in (SINGULAR, TURNED, RANDOM):
        size, middle = (rows_of(metrics, name, kind)["value"] for name in ("bin_size", "median_mode_time"))
        medians.plot(size, middle, color=COLORS[kind], marker="o", linewidth=1)
    for ax in (measured, medians):
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_ylim(0.6, last * ROOM**2)
        ax.set_xlabel("size of the mode s$_i$ (units of y)")
        plain_logarithms(ax.xaxis)
    medians.set_ylabel(f"median τ$_i$ ({STEPS}s)")
    medians.set_title("median times (Kaplan–Meier)")
    _draw_exponents(exponents, metrics)
    handles = [
        *(Line2D([], [], color=COLORS[kind], marker="o", label=label) for kind, label in NAMES.items()),
        Patch(color=PALETTE["vermillion"], alpha=0.4, label="fit and its 95 % interval over seeds"),
        *(
            Line2D([], [], color="0.4", linestyle=STYLES[alpha], label=label)
            for alpha, label in THEORY.items()
        ),
        Line2D([], [], color="0.5", marker="^", linestyle="", label="never learnt"),
        *(
            Line2D([], [], color=level_color(i, max(count, 2)), label=f"singular direction {i + 1}")
            for i, count in shown
        ),
    ]
    foot = (
        f"{described(metrics)}; learnt: from then on u$_i^⊤$Ŷv$_i$ ≥ s$_i$/2; raw weights; left: dotted, "
        "errors turned at random; right: dots are seeds, bars: 95 % Student intervals over seeds"
    )
    return framed(figure, title, note, foot, handles)


def _draw_shares(ax: Axes, shares: pd.DataFrame) -> list[tuple[int, int]]:
    """Medians over problems and seeds of the largest and the smallest mode; which, of how many."""
    defined = shares[(shares["component"] == SINGULAR) & shares["value"].notna()]
    modes = sorted(defined["index"].unique())
    shown = sorted({modes[0], modes[len(modes) // 2], modes[-1]}) if modes else []
    for i in shown:
        for kind, linestyle in ((SINGULAR, "-"), (TURNED, ":")):
            rows = shares[(shares["component"] == kind) & (shares["index"] == i)]
            middle = rows.groupby("step")["value"].median()
            ax.plot(
                middle.index, middle, color=level_color(i, max(len(modes), 2)), linestyle=linestyle, marker=""
            )
    for share in (LEARNT, 1):
        ax.axhline(share, color="0.3", linestyle="--" if share < 1 else "-", linewidth=0.6)
    ax.set_ylim(-1.05, 2.05)
    ax.set_ylabel("median u$_i^⊤$Ŷv$_i$ / s$_i$")
    ax.set_title("share of a mode in the answer")
    step_axis(ax, shares)
    return [(int(i), len(modes)) for i in shown]


def _draw_times(ax: Axes, times: pd.DataFrame, last: int) -> None:
    """A dot per mode and seed, in the middle of what is known, a triangle where it never was learnt."""
    there = times[times["lower"].notna() & (times["size"] > 0)]
    learnt = there["upper"].notna()
    middle = np.sqrt(there["lower"].clip(lower=0.5) * there["upper"])
    options = {"s": 4, "color": "0.5", "alpha": 0.35, "linewidth": 0, "rasterized": True}
    ax.scatter(there["size"][learnt], middle[learnt], **options)
    never = there["size"][~learnt]
    ax.scatter(never, np.full(len(never), last * ROOM), marker="^", **options)
    ax.set_title("when modes are learnt")
    ax.set_ylabel(f"mode time τ$_i$ ({STEPS}s)")


def _draw_fit(ax: Axes, metrics: pd.DataFrame) -> None:
    """The mean fit within the interval of its exponent, and lines of theory through its middle."""
    sizes = rows_of(metrics, "bin_size", SINGULAR)["value"]
    medians = rows_of(metrics, "median_mode_time", SINGULAR)["value"]
    ax.plot(sizes, medians, color=COLORS[SINGULAR], marker="o", linewidth=1)
    alpha, low, high = (
        rows_of(metrics, f"exponent_{name}", SINGULAR)["value"].iloc[0] for name in ("mean", "low", "high")
    )
    if np.isnan(alpha):
        reason = rows_of(metrics, "exponent", SINGULAR)["reason"].iloc[0]
        ax.text(0.04, 0.06, textwrap.fill(f"no exponent: {reason}", 30), transform=ax.transAxes, fontsize=6)
        return
    known = rows_of(metrics, "exponent", SINGULAR)["value"].notna().to_numpy()
    intercepts = rows_of(metrics, "exponent_intercept", SINGULAR)["value"][known]
    s = np.geomspace(sizes.min(), sizes.max(), 50)
    middle = np.exp(np.log(sizes).mean())
    level = np.exp(intercepts.mean() - alpha * np.log(middle))
    if not np.isnan(low):
        edges = [level * (s / middle) ** -edge for edge in (low, high)]
        ax.fill_between(
            s, np.minimum(*edges), np.maximum(*edges), color=PALETTE["vermillion"], alpha=0.25, linewidth=0
        )
    ax.plot(s, level * (s / middle) ** -alpha, color=PALETTE["vermillion"])
    for exponent in THEORY:
        ax.plot(s, level * (s / middle) ** -exponent, color="0.4", linestyle=STYLES[exponent], linewidth=0.9)


def _draw_exponents(ax: Axes, metrics: pd.DataFrame) -> None:
    """Each seed's exponent, their mean and its interval, a row per kind."""
    kinds = list(COLORS)
    for row, kind in enumerate(kinds):
        seeds = rows_of(metrics, "exponent", kind)
        means = rows_of(metrics, "exponent_mean", kind)["value"]
        low, high = (rows_of(metrics, f"exponent_{end}", kind)["value"].iloc[0] for end in ("low", "high"))
        ax.plot(seeds["value"], np.full(len(seeds), row + 0.18), ".", color=COLORS[kind], alpha=0.6)
        ax.plot(means, [row], "o", color=COLORS[kind], markersize=4)
        if (mean := means.iloc[0]) > WIDEST:
            ax.text(WIDEST, row - 0.12, f"mean {mean:.2g} →", ha="right", fontsize=6, color=COLORS[kind])
        ax.hlines(row, low, high, color=COLORS[kind], linewidth=1.2)
        if means.isna().all():
            reason = textwrap.fill(seeds["reason"].iloc[0], 34)
            ax.text(-0.48 * WIDEST, row, reason, va="center", fontsize=6, color=COLORS[kind])
    for alpha, linestyle in STYLES.items():
        ax.axvline(alpha, color="0.4", linestyle=linestyle, linewidth=0.9)
    ax.axvline(0, color="0.3", linewidth=0.6)
    # The interval of a null that hardly knows its exponent may leave the panel.
    ax.set_xlim(-WIDEST / 2, WIDEST)
    ax.set_ylim(len(kinds) - 0.5, -0.5)
    ax.set_yticks(range(len(kinds)), [kind.replace(" ", "\n") for kind in kinds])
    ax.set_xlabel("α of τ$_i$ ∝ s$_i^{−α}$")
    ax.set_title("exponent")
