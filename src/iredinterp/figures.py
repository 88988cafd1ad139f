"""The shared look of every figure, bootstrap bands, and files whose bytes depend on the figure alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from iredinterp.errors import ConfigError
from iredinterp.files import atomic_file

RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same glyphs on every machine
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "svg.fonttype": "path",  # text as outlines: looks the same where the font is not installed
    "svg.hashsalt": "iredinterp",
    "pdf.fonttype": 42,  # TrueType: text stays text in the PDF
}

PALETTE = {  # Okabe & Ito 2008
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}

PRINTERS = {
    ".pdf": lambda figure: FigureCanvasPdf(figure).print_pdf,
    ".svg": lambda figure: FigureCanvasSVG(figure).print_svg,
    ".png": lambda figure: FigureCanvasAgg(figure).print_png,
}

# None removes the entry, so that neither the date nor matplotlib's version reaches the file.
METADATA = {
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    ".svg": {"Creator": None, "Date": None},
    ".png": {"Software": None},
}


@contextmanager
def style() -> Iterator[None]:
    """The shared look, around drawing code in a `with` or as the decorator of a drawing function."""
    with mpl.rc_context(RC):
        yield


def level_color(t: ArrayLike, levels: int = 10) -> np.ndarray:
    """Colour of a level: dark is sharp (t = 0), light is noisy (t = levels - 1).

    Args:
        t: one level or an array of any shape, in [0, levels - 1].
        levels: how many levels there are.

    Returns:
        (*t.shape, 4) RGBA from viridis, whose lightness is monotone for every common colour blindness; its
        lightest tenth is left out because it vanishes on white.

    Raises:
        ConfigError: a level outside the range.
    """
    t = np.asarray(t, dtype=float)
    if not np.all((t >= 0) & (t <= levels - 1)):
        raise ConfigError(f"levels run from 0 to {levels - 1}; found {t.min():g} to {t.max():g}")
    return np.asarray(mpl.colormaps["viridis"](0.9 * t / max(levels - 1, 1)))


def panel_grid(
    rows: int, columns: int, width: float = 2.4, height: float = 2.0, **options
) -> tuple[Figure, np.ndarray]:
    """A figure of equal panels.

    Args:
        rows: number of rows.
        columns: number of columns.
        width: of one panel, in inches.
        height: of one panel, in inches.
        options: as for `matplotlib.pyplot.subplots`.

    Returns:
        The figure and its axes, always (rows, columns).
    """
    size = (columns * width, rows * height)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, **options)


def save_figure(figure: Figure, *paths: str | Path) -> None:
    """Write a figure once per path, in the format of each suffix, and close it.

    Each file appears whole or not at all, and the same figure gives the same bytes on one matplotlib version.

    Args:
        figure: the figure; closed even if writing fails.
        paths: files that end in .pdf, .svg or .png (at 200 dpi).

    Raises:
        ConfigError: another suffix; nothing is written then.
    """
    try:
        for path in map(Path, paths):
            if path.suffix not in METADATA:
                raise ConfigError(f"{path}: figures are written as {', '.join(METADATA)} only")
        with style():
            _settle(figure)
            for path in map(Path, paths):
                # Not `savefig`, which draws twice: the first time for a layout, and that is settled.
                figure.set_dpi(RC["savefig.dpi"])
                with atomic_file(path) as file:
                    PRINTERS[path.suffix](figure)(file, metadata=METADATA[path.suffix])
    finally:
        plt.close(figure)


def _settle(figure: Figure) -> None:
    # The solver behind the constrained layout is exact to rounding only, and the names of an SVG's clip paths
    # are digests of the axes' bounds: without this, two runs may differ in their last bits.
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(np.round(axes.get_position(original=True).bounds, 6))


def confidence_band(
    samples: ArrayLike, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median over samples with a pointwise percentile-bootstrap band.

    All positions are resampled with the same draws, so that the band of a smooth curve is smooth.

    Args:
        samples: (N, k), one curve of k positions per row; NaN entries are left out, position by position.
        level: coverage of the band at each position.
        resamples: number of bootstrap draws.
        seed: of the draws.

    Returns:
        Centre, low and high, each (k,). Where one sample is left the three are equal; where none is, NaN.

    Raises:
        ConfigError: samples that are not (N, k), or a level outside (0, 1).

    Source:
        Efron & Tibshirani 1993, section 13.3.
    """
    samples = np.asarray(samples, dtype=float)
    if samples.ndim != 2 or not 0 < level < 1:
        raise ConfigError(f"need samples (N, k) and 0 < level < 1; found {samples.shape} and {level}")
    band = [_median_interval(column[~np.isnan(column)], level, resamples, seed) for column in samples.T]
    centre, low, high = np.array(band).reshape(-1, 3).T
    return centre, low, high


def _median_interval(values: np.ndarray, level: float, resamples: int, seed: int) -> tuple[float, ...]:
    if len(values) < 2:
        return (values.item() if len(values) else np.nan,) * 3
    draws = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    low, high = np.percentile(np.median(values[draws], axis=1), [50 * (1 - level), 50 * (1 + level)])
    return np.median(values), low, high


def plot_band(
    ax: Axes,
    x: ArrayLike,
    samples: ArrayLike,
    label: str,
    color: str | ArrayLike,
    linestyle: str = "-",
    level: float = 0.95,
) -> None:
    """Draw the median of samples over x as a line within its bootstrap band.

    Args:
        ax: where to draw.
        x: (k,) positions.
        samples: (N, k), as for `confidence_band`.
        label: legend entry of the line.
        color: any matplotlib colour.
        linestyle: of the line.
        level: coverage of the band.
    """
    centre, low, high = confidence_band(samples, level)
    ax.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    ax.plot(x, centre, label=label, color=color, linestyle=linestyle)
