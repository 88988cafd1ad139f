"""Figures: equal bytes for equal figures, and bands that cover what they claim to cover."""

import os
import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.layout_engine import ConstrainedLayoutEngine
from scipy.stats import binom, norm

from iredinterp.errors import ConfigError
from iredinterp.figures import (
    METADATA,
    PALETTE,
    confidence_band,
    level_color,
    panel_grid,
    plot_band,
    save_figure,
    style,
)


@pytest.fixture(autouse=True)
def agg():
    """Tests must not depend on a display."""
    plt.switch_backend("Agg")


@style()
def drawing(seed: int):
    figure, axes = panel_grid(1, 2)
    samples = np.random.default_rng(seed).standard_normal((12, 5))
    for t in (0, 9):
        plot_band(axes[0, 0], range(5), samples + t, f"t = {t}", level_color(t), linestyle="--")
    axes[0, 0].legend()
    axes[0, 1].imshow(samples)
    axes[0, 1].set_title(r"$\sigma_t$ λ")
    return figure


def luminance(rgb) -> float:
    """Relative luminance of sRGB (WCAG 2)."""
    rgb = np.asarray(rgb)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_one_figure_drawn_twice_gives_the_same_bytes_in_every_format(tmp_path, seed):
    names = ("a.pdf", "a.svg", "a.png")
    first, second = ([tmp_path / part / name for name in names] for part in ("first", "second"))
    save_figure(drawing(seed), *first)
    save_figure(drawing(seed), *second)
    for one, other in zip(first, second, strict=True):
        content = one.read_bytes()
        assert content == other.read_bytes()
        assert not re.search(rb"CreationDate|Creator|Producer|dc:date|Software|matplotlib\.org", content)
    starts = [path.read_bytes()[:5] for path in first]
    assert starts == [b"%PDF-", b"<?xml", b"\x89PNG\r"]


def test_rounding_in_the_layout_reaches_no_file(tmp_path, seed):
    class Rounded(ConstrainedLayoutEngine):
        def execute(self, fig):
            super().execute(fig)
            for ax in fig.axes:
                noise = 1e-13 * np.random.default_rng().standard_normal(4)
                ax._set_position(np.array(ax.get_position(original=True).bounds) + noise)

    contents = []
    for layout in (ConstrainedLayoutEngine(), Rounded(), Rounded()):
        figure = drawing(seed)
        figure.set_layout_engine(layout)
        save_figure(figure, tmp_path / "a.svg")
        contents.append((tmp_path / "a.svg").read_bytes())
    assert contents[0] == contents[1] == contents[2]


def test_png_has_two_hundred_dots_per_inch(tmp_path):
    save_figure(plt.figure(figsize=(1, 2)), tmp_path / "a.png")
    assert plt.imread(tmp_path / "a.png").shape[:2] == (400, 200)


def test_a_saved_figure_is_closed_even_when_saving_fails(tmp_path, monkeypatch):
    save_figure(plt.figure(), tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_figure(drawing(0), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert plt.get_fignums() == []


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_a_file_is_to_the_byte_the_one_that_matplotlib_writes(tmp_path, seed, suffix):
    ours, theirs = tmp_path / f"ours{suffix}", tmp_path / f"theirs{suffix}"
    figure = plt.figure(figsize=(3, 2))
    figure.add_axes((0.25, 0.25, 0.5, 0.5)).plot(np.random.default_rng(seed).standard_normal(9), label="σ")
    figure.legend()
    save_figure(figure, ours)
    with style():
        figure.savefig(theirs, metadata=METADATA[suffix])
    assert ours.read_bytes() == theirs.read_bytes()


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.tiff: figures are written as \.pdf, \.svg, \.png only"):
        save_figure(plt.figure(), tmp_path / "a.png", tmp_path / "a.tiff")
    assert list(tmp_path.iterdir()) == []
    assert plt.get_fignums() == []


def test_style_holds_inside_and_ends_outside():
    before = mpl.rcParams.copy()
    with style():
        assert mpl.rcParams["font.size"] == 9
        assert not mpl.rcParams["axes.spines.top"]
    assert mpl.rcParams == before


def test_levels_get_lighter_with_noise_and_all_differ_in_luminance_from_white():
    light = [luminance(rgb) for rgb in level_color(np.arange(10))[:, :3]]
    assert np.all(np.diff(light) > 0.005)
    assert light[-1] < 0.7
    assert np.array_equal(level_color(9), level_color(np.array([99]), levels=100)[0])


@pytest.mark.parametrize("t", [-1, 10, np.nan])
def test_a_level_that_does_not_exist_has_no_color(t):
    with pytest.raises(ConfigError, match="levels run from 0 to 9"):
        level_color([0, t])


def test_palette_is_eight_distinct_colors():
    assert len({to_rgb(color) for color in PALETTE.values()}) == 8


def test_panels_are_always_a_grid():
    for rows, columns in [(1, 1), (1, 3), (2, 1)]:
        figure, axes = panel_grid(rows, columns, width=2, height=1)
        assert axes.shape == (rows, columns)
        assert tuple(figure.get_size_inches()) == (2 * columns, rows)
        plt.close(figure)


@pytest.mark.parametrize(("level", "tolerance"), [(0.95, 0.02), (0.5, 0.03)])
def test_band_covers_the_true_median_as_often_as_it_claims(seed, level, tolerance):
    replicates = 300
    samples = np.random.default_rng(seed).normal(3.0, 2.0, (40, replicates))
    _, low, high = confidence_band(samples, level, seed=seed)
    hits = int(np.sum((low <= 3.0) & (high >= 3.0)))
    # The percentile bootstrap of a median is a little off its level at N = 40 (0.9455 and 0.4946 in 20 000
    # replicates); the bounds leave out 2e-7 on each side of that.
    assert binom.ppf(2e-7, replicates, level - tolerance) <= hits
    assert hits <= binom.isf(2e-7, replicates, level + tolerance)


def test_band_is_as_wide_as_the_median_of_normal_samples_varies(seed):
    count = 500
    samples = np.random.default_rng(seed).standard_normal((count, 20))
    _, low, high = confidence_band(samples, level=0.9, resamples=500)
    expected = 2 * norm.ppf(0.95) * np.sqrt(np.pi / 2 / count)
    assert np.mean(high - low) == pytest.approx(expected, rel=0.25)


def test_centre_is_the_median_and_missing_entries_are_left_out(seed):
    samples = np.random.default_rng(seed).standard_normal((9, 4))
    samples[3:, 1] = np.nan
    samples[1:, 2] = np.nan
    samples[:, 3] = np.nan
    centre, low, high = confidence_band(samples, seed=seed)
    assert centre[:2].tolist() == [np.median(samples[:, 0]), np.median(samples[:3, 1])]
    alone = confidence_band(samples[:3, 1:2], seed=seed)
    assert [centre[1], low[1], high[1]] == [part[0] for part in alone]
    assert low[1] < centre[1] < high[1]
    assert low[2] == centre[2] == high[2] == samples[0, 2]
    assert np.isnan([centre[3], low[3], high[3]]).all()


def test_one_sample_has_a_band_without_width(seed):
    samples = np.random.default_rng(seed).standard_normal((1, 6))
    for part in confidence_band(samples):
        assert np.array_equal(part, samples[0])


def test_no_position_gives_an_empty_band():
    assert [part.shape for part in confidence_band(np.zeros((3, 0)))] == [(0,)] * 3


def test_band_depends_on_its_seed_alone(seed):
    samples = np.random.default_rng(seed).standard_normal((40, 30))
    one, same, other = (confidence_band(samples, resamples=20, seed=s)[1] for s in (seed, seed, seed + 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    # All positions see the same draws: shifted curves have the same band, shifted.
    shifted = confidence_band(samples[:, :1] + [0.0, 8.0], seed=seed)[1]
    assert shifted[1] - shifted[0] == pytest.approx(8.0)


@pytest.mark.parametrize(("shape", "level"), [((3,), 0.95), ((2, 2, 2), 0.95), ((3, 2), 1.0), ((3, 2), 95)])
def test_samples_and_level_that_make_no_band_are_refused(shape, level):
    with pytest.raises(ConfigError, match=r"need samples \(N, k\) and 0 < level < 1"):
        confidence_band(np.zeros(shape), level)


def test_plot_band_draws_the_median_inside_the_band(seed):
    samples = np.random.default_rng(seed).standard_normal((30, 4))
    figure, axes = panel_grid(1, 1)
    plot_band(axes[0, 0], [0, 1, 2, 3], samples, "trained", PALETTE["blue"])
    (line,) = axes[0, 0].lines
    assert line.get_label() == "trained"
    assert np.array_equal(line.get_ydata(), np.median(samples, axis=0))
    (band,) = axes[0, 0].collections
    _, low, high = confidence_band(samples)
    vertices = band.get_paths()[0].vertices
    assert vertices[:, 1].min() == low.min()
    assert vertices[:, 1].max() == high.max()
    plt.close(figure)
