@style()
def figure_spectra(table: pa.Table, point_kind: str = "q_sample", title: str = "", note: str = "") -> Figure:
    """Scaled spectra σ_tλ by eigenvalue rank, one panel per level over the medians of all levels in grey.

    Args:
        table: spectra of one model from `spectrum_tables`.
        point_kind: which points.
        title: of the figure.
        note: a line below the title.
    """
    table = _one_model(table, point_kind)
    level = tensor_column(table, "t").numpy()
    levels, scaled = np.unique(level)[::-1], tensor_column(table, "scaled").numpy()
    bands = np.stack([np.quantile(scaled[level == t], [0.025, 0.5, 0.975], axis=0) for t in levels])
    rank = np.arange(1, scaled.shape[1] + 1)
    columns = min(5, len(levels))
    figure, axes = panel_grid(-(-len(levels) // columns), columns, 1.75, 1.75, sharex=True, sharey=True)
    for ax in axes.flat[len(levels) :]:
        ax.set_axis_off()
    for ax, t, (low, median, high) in zip(axes.flat, levels, bands, strict=False):
        color = level_color(t, max(levels.max() + 1, 10))
        ax.plot(rank, bands[:, 1].T, color="0.85", linewidth=0.6)
        ax.fill_between(rank, low, high, color=color, alpha=0.3, linewidth=0)
        ax.plot(rank, median, color=color, linewidth=1.6)
        ax.axhline(1, color="black", linestyle="--", linewidth=0.8)
        ax.set_title(f"level t = {t}")
    figure.supxlabel("rank of the eigenvalue (1 = smallest)", fontsize=9)
    figure.supylabel("σ$_t$λ (dimensionless)", fontsize=9)
    handles = [
        Line2D([], [], color="0.3", linewidth=1.6, label="median over problems"),
        Patch(color="0.3", alpha=0.3, linewidth=0, label="middle 95 % of problems"),
        Line2D([], [], color="0.85", linewidth=0.6, label="medians of the other levels"),
        Line2D([], [], color="black", linestyle="--", linewidth=0.8, label=OPTIMUM),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return _captioned(figure, title, note)


@style()
def figure_summary(
    metrics: pa.Table, point_kind: str = "q_sample", title: str = "", note: str = ""
) -> Figure:
    """Conditioning of H, and effective dimensions of H and of I − σ_tH, against the level.

    Args:
        metrics: of one model, from `spectrum_tables`.
        point_kind: which points.
        title: of the figure.
        note: a line below the title.
    """
    metrics = _one_model(metrics, point_kind)
    figure, (axes,) = panel_grid(1, 3, 2.9, 2.7)
    dimensions = {"effective_rank": "effective rank", "participation_ratio": "participation ratio"}
    dimensions |= {"stable_rank": "stable rank"}
    panels = [
        (
            "Spread of H",
            "",
            {"condition_number": "|λ|max / |λ|min", "quantile_ratio": "|λ|(95 %) / |λ|(5 %)"},
        ),
        ("Effective dimension of H", "H", dimensions),
        ("Effective dimension of I − σ$_t$H", "I-σH", dimensions),
    ]
    colors = [PALETTE[name] for name in ("blue", "vermillion", "green")]
    for ax, (heading, component, names) in zip(axes, panels, strict=True):
        for (name, label), color, line in zip(names.items(), colors, ("-", "--", "-."), strict=False):
            plot_band(ax, *_curves(metrics, name, component), label, color, line)
        ax.set_title(heading)
        _level_axis(ax)
        ax.legend(loc="best")
    axes[0].set_yscale("log")
    axes[0].axhline(1, color="black", linestyle=":", linewidth=0.8)
    axes[0].set_ylabel("ratio (dimensionless)")
    for ax in axes[1:]:
        ax.set_ylabel("number of directions")
        ax.set_ylim(bottom=0)
    return _captioned(figure, title, note, BOOTSTRAP)


@style()
def figure_alignment(
    metrics: pa.Table, point_kind: str = "q_sample", title: str = "", note: str = ""
) -> Figure:
    """Where the end eigenspaces and the curvature lie, one column per geometric basis, against the level.

    Args:
        metrics: of one model, from `spectrum_tables`.
        point_kind: which points.
        title: of the figure.
        note: a line below the title.
    """
    metrics = _one_model(metrics, point_kind)
    figure, axes = panel_grid(2, len(BASES), 1.75, 1.9, sharex=True, sharey="row")
    ends = {
        "low": ("softest eigenspace", PALETTE["blue"]),
        "high": ("stiffest eigenspace", PALETTE["vermillion"]),
    }
    shares = {
        "curvature_share": ("of H", PALETTE["green"]),
        "response_share": ("of I − σ$_t$H", PALETTE["purple"]),
    }
    for basis, above, below in zip(BASES, *axes, strict=True):
        above.set_title(basis)
        chance = _curves(metrics, "alignment_chance", f"{basis}/low").median()
        margin = 2 * _curves(metrics, "alignment_chance_sd", f"{basis}/low").median()
        above.fill_between(
            chance.index, chance - margin, chance + margin, color="0.88", linewidth=0, label="chance ± 2 sd"
        )
        for end, (label, color) in ends.items():
            _draw(above, metrics, "alignment", f"{basis}/{end}", label, color)
            other = _curves(metrics, "alignment_mismatched", f"{basis}/{end}").median()
            above.plot(
                other.index, other, color=color, linestyle=":", label=f"{label}, basis of another problem"
            )
        for name, (label, color) in shares.items():
            _draw(below, metrics, name, basis, label, color)
        for ax in (above, below):
            ax.plot(chance.index, chance, color="0.35", linestyle="--", linewidth=0.8, label="chance k/d")
        _level_axis(below)
    axes[0, 0].set_ylabel("alignment ‖PE‖$_F^2$/m")
    axes[0, 0].set_ylim(0, 1.02)
    axes[1, 0].set_ylabel("share of the trace")
    for row, ncols in zip(axes, (3, 3), strict=True):
        ...
    return _captioned(figure, title, note, BOOTSTRAP)


@style()
def figure_tracking(
    tracking: pa.Table, point_kind: str = "q_sample", title: str = "", note: str = ""
) -> Figure:
    """Mean overlap of the end eigenspaces between every two levels.

    Args:
        tracking: of one model, from `spectrum_tables` or `level_overlap`.
        point_kind: which points.
        title: of the figure.
        note: a line below the title.
    """
    tracking = _one_model(tracking, point_kind)
    figure, (axes,) = panel_grid(1, 2, 3.6, 3.4, sharey=True)
    for ax, end, name in zip(axes, ENDS, ("softest", "stiffest"), strict=True):
        overlap, chance = (
            _level_matrix(tracking, metric, end) for metric in ("level_overlap", "level_overlap_chance")
        )
        ...
    return figure
