"""Figures of EXP-003; those of matrices are in `iredinterp.analyses.sae.pictures`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from iredinterp.analyses.sae.names import PLACES, REAL
from iredinterp.analyses.sae.pictures import Shown, figure_atoms, figure_examples
from iredinterp.errors import TableError
from iredinterp.figures import PALETTE, panel_grid, style
from iredinterp.panels import REFERENCE, framed

# Color, line and meaning of every kind of row; dashed: not trained, coded by matching pursuit.
DATA = {
    REAL: (PALETTE["black"], "-", "this field"),
    "gaussian": (PALETTE["vermillion"], "-", "Gaussian, same mean and covariance"),
    "shuffled": (PALETTE["orange"], "-", "coordinates shuffled"),
    "frozen": (PALETTE["green"], "-", "random atoms, trained encoder"),
    "pca": (PALETTE["blue"], "--", "PCA"),
    "ica": (PALETTE["sky"], "--", "ICA"),
    "nmf": (PALETTE["yellow"], "--", "NMF"),
    "learned": (PALETTE["purple"], "--", "learned dictionary"),
    "samples": (PALETTE["orange"], ":", "data samples as atoms"),
    "random": (PALETTE["vermillion"], ":", "random atoms"),
    "first_layer": (PALETTE["green"], ":", "the network's first layer"),
}
RECONSTRUCTIONS = {
    "autoencoder": PALETTE["black"],
    "pca": PALETTE["blue"],
    "mean": PALETTE["orange"],
    "random": PALETTE["vermillion"],
}
CONTROLS = {"latent − matched": PALETTE["blue"], "latent − random": PALETTE["vermillion"]}
SHAPES = {
    "rank_one_share": "rank\none",
    "row_concentration": "row",
    "column_concentration": "column",
    "symmetric_share": "sym-\nmetric",
}
# By field.
PROBE_COLORS = (PALETTE["black"], PALETTE["sky"], PALETTE["orange"])
# Of q-values.
LEVEL = 0.05
# Shown per field, those told best.
CONCEPTS = 16
NO_RUN = "no field of sampler runs was analysed"


def figures(
    metrics: pa.Table, effects: pa.Table, shown: Sequence[Shown], title: str = "", note: str = ""
) -> dict[str, Figure]:
    """All figures of one trained model.

    Args:
        metrics: of `iredinterp.analyses.sae.study.study`, all fields of one model, condition and width.
        effects: of the same.
        shown: the autoencoder reported on of each field.
        title: of every figure.
        note: a line below it.

    Returns:
        frontier, atoms, examples, density, stability, concepts, fidelity and effects.

    Raises:
        TableError: rows of several conditions.
    """
    if len(found := pc.unique(metrics["condition"]).to_pylist()) != 1:
        raise TableError(f"figure: a figure of EXP-003 shows one condition; found {', '.join(found)}")
    frame = metrics.drop_columns(["problem_id"]).to_pandas()
    return {
        "frontier": figure_frontier(frame, title, note),
        "atoms": figure_atoms(shown, title, note),
        "examples": figure_examples(shown, title, note),
        "density": figure_density(shown, title, note),
        "stability": figure_stability(frame, title, note),
        "concepts": figure_concepts(frame, title, note),
        "fidelity": figure_fidelity(frame, title, note),
        "effects": figure_effects(effects.to_pandas(), title, note),
    }


@style()
def figure_frontier(frame: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """Variance unexplained against latents in use, beside null data and other dictionaries."""
    fields = _fields(frame)
    figure, (axes,) = panel_grid(1, len(fields), 3.8, 2.8, sharey=True)
    for field, ax in zip(fields, axes, strict=True):
        here = frame[(frame["component"] == field) & frame["metric"].isin(["FVU", "L0"])]
        for data in _present(here):
            color, line, _ = DATA[data]
            points = here[here["data"] == data].pivot_table(
                index=["k", "sae_seed"], columns="metric", values="value", dropna=False
            )
            points = points.dropna().groupby("k").mean().sort_values("L0")
            ax.plot(points["L0"], points["FVU"], line, marker="o", color=color, zorder=3 - (data != REAL))
        ax.set_xlabel("latents in use per vector (L0)")
        ax.set_title(field)
        ax.set_ylim(0, 1.02)
    axes[0].set_ylabel("variance unexplained (FVU)")
    foot = (
        "held-out problems, mean over training seeds; dashed and dotted: signed codes by orthogonal matching "
        "pursuit, which sees more than one linear encoder"
    )
    return framed(figure, title, note, foot, _handles(frame))


@style()
def figure_density(fields: Sequence[Shown], title: str = "", note: str = "") -> Figure:
    """How often latents are in use."""
    figure, (axes,) = panel_grid(1, len(fields), 3.2, 2.4, sharey=True)
    for shown, ax in zip(fields, axes, strict=True):
        used = shown.density[shown.density > 0]
        ax.hist(np.log10(used), bins=30, color=PALETTE["blue"])
        ax.set_title(f"{shown.field}: {len(used)} of {len(shown.density)} in use")
        ax.set_xlabel("log₁₀ share of vectors")
        ax.locator_params(axis="x", nbins=5)
    axes[0].set_ylabel("latents")
    return framed(figure, title, note, "first training seed, first k")


@style()
def figure_stability(frame: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """Agreement of trainings, and the shape of atoms, beside null data and chance."""
    fields = _fields(frame)
    figure, axes = panel_grid(1, 2, 3.7, 2.6)
    agreement, shape = axes[0]
    names = [data for data in _present(frame) if _value(frame, "stability", fields[0], data) is not None]
    for place, field in enumerate(fields):
        for shift, data in enumerate(names):
            at, width = place + (shift - (len(names) - 1) / 2) * 0.8 / len(names), 0.8 / len(names)
            agreement.bar(at, _value(frame, "stability", field, data), width, color=DATA[data][0])
            chance = _value(frame, "stability_chance", field, data)
            agreement.plot([at - width / 2, at + width / 2], [chance, chance], color="0.6", linewidth=1.5)
    agreement.set_xticks(range(len(fields)), fields)
    agreement.set_ylim(0, 1)
    agreement.set_title("same atoms from other seeds (cosine)")
    drawn = [data for data in (REAL, "gaussian") if data in _present(frame)]
    known = [name for name in SHAPES if _value(frame, name, fields[0]) is not None]
    for place, name in enumerate(known):
        for shift, data in enumerate(drawn):
            shape.bar(place + 0.4 * shift, _value(frame, name, fields[0], data), 0.4, color=DATA[data][0])
        chance = _value(frame, f"{name}_chance", fields[0])
        shape.plot([place - 0.2, place + 0.6], [chance, chance], color="0.6", linewidth=1.5)
    shape.set_xticks(np.arange(len(known)) + 0.2, [SHAPES[name] for name in known])
    shape.set_title(f"shape of atoms, field {fields[0]}")
    handles = [Patch(color=DATA[data][0], label=DATA[data][2]) for data in names]
    handles.append(Line2D([], [], color="0.6", linewidth=1.5, label="random directions"))
    return framed(figure, title, note, "latents in use only", handles)


@style()
def figure_concepts(frame: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """Which concepts single latents tell, whether null data do as well, and whether probes do better."""
    fields = _fields(frame)
    probed = frame["metric"].str.startswith("probe_").any()
    figure, (axes,) = panel_grid(1, len(fields) + 1 + probed, 3.0, 3.4)
    for field, ax in zip(fields, axes, strict=False):
        _concept_dots(ax, frame[frame["field"] == field])
        ax.set_title(f"{field}: AUROC")
    nulls = axes[len(fields)]
    present = _present(frame)
    for place, data in enumerate(present):
        for field, marker in zip(fields, "os^", strict=False):
            value = _value(frame, "auroc_mean", field, data)
            nulls.plot(
                value, place, marker, color=DATA[data][0], fillstyle="full" if marker == "o" else "none"
            )
    nulls.set_yticks(range(len(present)), present)
    nulls.invert_yaxis()
    nulls.set_title("mean AUROC, concepts of problems")
    if probed:
        _probe_bars(axes[-1], frame, fields)
    marks = {
        f"q < {LEVEL:g}": {"color": PALETTE["blue"], "marker": "o"},
        "not so": {"color": PALETTE["blue"], "marker": "o", "fillstyle": "none"},
        "labels permuted": {"color": PALETTE["orange"], "marker": "|", "markersize": 8},
        "where the latent was chosen": {"color": "0.6", "marker": "x"},
    }
    handles = [Line2D([], [], linestyle="", label=label, **mark) for label, mark in marks.items()]
    if probed:
        colors = zip(fields, PROBE_COLORS, strict=False)
        handles += [Patch(color=color, label=f"probes, {field}") for field, color in colors]
    signs = ", ".join(f"{sign} {field}" for field, sign in zip(fields, "●□△", strict=False))
    foot = f"on problems that did not choose the latent or fit the probe; mean AUROC: {signs}"
    return framed(figure, title, note, foot, handles)


@style()
def figure_fidelity(frame: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """What the sampler keeps when a reconstruction stands in for the gradient."""
    rows = frame[frame["metric"].str.startswith("fidelity_mse")]
    if rows.empty:
        return _nothing(title, note)
    figure, axes = panel_grid(1, 3, 3.6, 2.6, width_ratios=(1.4, 1.2, 0.6))
    values = frame[frame["data"] == REAL].set_index(["metric", "component"])["value"]
    error, rate, descent = axes[0]
    known = {name: color for name, color in RECONSTRUCTIONS.items() if ("descent_kept", name) in values.index}
    width = 0.8 / len(known)
    for shift, (name, color) in enumerate(known.items()):
        for place, where in enumerate(PLACES):
            at = place + (shift - (len(known) - 1) / 2) * width
            key = f"{where}/{name}"
            rate.bar(at, values["accept_rate", key], width, color=color)
            centre, low, high = (values[f"fidelity_mse{end}", key] for end in ("", "_low", "_high"))
            if np.isnan(centre):
                error.text(at, 0.02, "–", ha="center", color=color)
                continue
            error.bar(at, centre, width, color=color)
            error.plot([at, at], [low, high], color="0.5", linewidth=1.5)
        descent.bar(shift, values["descent_kept", name], 0.8, color=color)
    for place, where in enumerate(PLACES):
        kept = values["accept_rate", f"{where}/original"]
        rate.plot([place - 0.45, place + 0.45], [kept, kept], **REFERENCE)
    for ax in (error, rate):
        ax.set_xticks(range(len(PLACES)), [where.replace("_", ",\n") for where in PLACES])
        ax.set_xlim(-0.5, len(PLACES) - 0.5)
    error.axhline(1, **REFERENCE)
    error.set_title("fidelity F of the answers' error")
    rate.set_title("accepted steps (dashed: the gradient)")
    descent.set_xticks([])
    descent.set_title("descent kept")
    handles = [Patch(color=color, label=name) for name, color in known.items()]
    foot = (
        "F = (error with g = 0 − error with ĝ)/(error with g = 0 − error with g); 95 % bootstrap over "
        "held-out problems; –: the sampler does as well without a gradient there"
    )
    return framed(figure, title, note, foot, handles)


@style()
def figure_effects(effects: pd.DataFrame, title: str = "", note: str = "") -> Figure:
    """What single latents do to the error beyond latents like them and beyond random directions."""
    rows = effects[(effects["metric"] == "mse_change") & effects["role"].isin(CONTROLS)]
    if rows.empty:
        return _nothing(title, note)
    # Rows elsewhere name no latent, which makes the column one of floats.
    rows = rows.assign(dose=rows["dose"].fillna(0), latent=rows["latent"].astype(int))
    table = rows.pivot(index=["latent", "intervention", "dose", "role"], columns="component", values="value")
    arms = list(dict.fromkeys(arm[:3] for arm in table.index))
    figure, axes = panel_grid(1, 1, 6.4, 0.6 + 0.22 * len(arms))
    ax = axes[0, 0]
    for place, arm in enumerate(arms):
        for shift, (role, color) in zip((-0.15, 0.15), CONTROLS.items(), strict=True):
            found = table.loc[(*arm, role)]
            ax.plot([found["low"], found["high"]], [place + shift] * 2, color=color)
            ax.plot(found["estimate"], place + shift, "o", color=color)
    ax.axvline(0, **REFERENCE)
    ax.set_yticks(range(len(arms)), [_arm(*arm) for arm in arms])
    ax.invert_yaxis()
    ax.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
    ax.set_xlabel("change of the squared error per entry, beyond that of the control")
    handles = [Line2D([], [], color=color, marker="o", label=role) for role, color in CONTROLS.items()]
    foot = (
        "the latents that write most; matched: latents used as often and as strongly; doses in units of the "
        "latent's mean activation; 95 % bootstrap over held-out problems"
    )
    return framed(figure, title, note, foot, handles)


def _concept_dots(ax: Axes, here: pd.DataFrame) -> None:
    rows = here[here["metric"].str.startswith("auroc") & (here["component"] != here["field"])]
    table = rows.pivot(index="component", columns="metric", values="value").sort_values("auroc")[-CONCEPTS:]
    for place, (_, row) in enumerate(table.iterrows()):
        style = "full" if row["auroc_q"] < LEVEL else "none"
        ax.plot(row["auroc_selected"], place, "x", color="0.6")
        ax.plot(row["auroc_permuted"], place, "|", color=PALETTE["orange"], markersize=8)
        ax.plot(row["auroc"], place, "o", color=PALETTE["blue"], fillstyle=style)
    ax.axvline(0.5, **REFERENCE)
    ax.set_yticks(range(len(table)), table.index, fontsize=7)


def _probe_bars(ax: Axes, frame: pd.DataFrame, fields: Sequence[str]) -> None:
    rows = frame[frame["metric"].str.startswith("probe_")]
    means = rows.groupby(["metric", "field"], sort=False)["value"].mean().unstack("field")
    for shift, (field, color) in enumerate(zip(fields, PROBE_COLORS, strict=False)):
        at = np.arange(len(means)) + shift * 0.8 / len(fields)
        ax.barh(at, means[field] - 0.5, 0.8 / len(fields), left=0.5, color=color)
    names = [_input(*name.split("_")[1:]) for name in means.index]
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_title("probes, mean AUROC")


def _nothing(title: str, note: str) -> Figure:
    figure, axes = panel_grid(1, 1, 6.4, 1.2)
    axes[0, 0].text(0.5, 0.5, NO_RUN, ha="center", va="center", transform=axes[0, 0].transAxes)
    axes[0, 0].set_axis_off()
    return framed(figure, title, note, "")


def _input(kind: str, count: str = "") -> str:
    return f"{count} {kind}" if count else "the whole vector"


def _arm(latent: int, intervention: str, dose: float) -> str:
    return f"latent {latent}: " + ("taken away" if intervention == "ablate" else f"{dose:+g} × added")


def _fields(frame: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(frame["field"]))


def _present(frame: pd.DataFrame) -> list[str]:
    return [data for data in DATA if (frame["data"] == data).any()]


def _handles(frame: pd.DataFrame) -> list[Line2D]:
    return [
        Line2D([], [], color=color, linestyle=line, marker="o", label=label)
        for color, line, label in (DATA[data] for data in _present(frame))
    ]


def _value(frame: pd.DataFrame, metric: str, field: str, data: str = REAL) -> float | None:
    rows = frame[(frame["metric"] == metric) & (frame["field"] == field) & (frame["data"] == data)]
    return None if rows.empty else float(rows["value"].iloc[0])
