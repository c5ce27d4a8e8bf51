"""Figures of a comparison, and its report. They draw what was found and compute nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray

from skild_phys.files import whole_directory, write_text_atomically
from skild_phys.measurement import JSON, REPORT, TABLE
from skild_phys.measurement.compare import Comparison
from skild_phys.measurement.observables.patterns import fold_patterns
from skild_phys.measurement.report import Report
from skild_phys.measurement.tables import Estimates, csv_text
from skild_phys.plots.style import (
    STYLE,
    THEORY,
    TRUTH,
    WAVE_NUMBERS,
    band,
    colour,
    figure_bytes,
    legend_above,
    literal,
    log_ticks,
    marked,
    new_figure,
    save_figure,
    spread_out,
)

_PANELS, _SHELLS = 4, 40
_RATIO = "store / truth $-$ 1"
_Values = NDArray[Any]


def _with_error(data: xr.Dataset, name: str, at: Any = slice(None)) -> tuple[_Values, _Values]:
    value, error = (data[f"{name}{end}"].values[at] for end in ("", "_err"))
    return value, error


def _beside(
    comparison: Comparison,
    axes: Sequence[Axes],
    name: str,
    x: _Values,
    kind: str,
    at: Any = slice(None),
    scale: _Values | float = 1.0,
    own: bool = False,
) -> None:
    """Draw an observable of the truth and of each store, and below what each store is off by.

    A store stands at truth x ratio (`kind` ratio), or at truth + residual, which is below as it
    is (residual) or over the truth (relative). Values are over `scale`. Without a ratio a store
    stands at its `own` value, or is left out.
    """
    top, bottom = axes
    truth, error = (a / scale for a in _with_error(comparison.truth, name, at))
    ls, form = ("", np.abs) if kind == "residual" else ("-", np.asarray)
    top.errorbar(
        x, form(truth), error, label=literal(comparison.name), color=TRUTH, marker=".",
        zorder=1.9, ls=ls,
    )  # fmt: skip
    lines = []
    for i, store in enumerate(comparison.stores):
        found = f"{name}_{'ratio' if kind == 'ratio' else 'residual'}"
        if found not in store.data:
            continue
        off, spread = _with_error(store.data, found, at)
        if kind == "ratio":
            off = np.where(np.isfinite(off), off, np.nan)
            values, off = truth * off, off - 1
            if own:
                values = np.where(np.isnan(off), store.data[name].values[at] / scale, values)
        else:
            values = truth + off
        if kind == "relative":
            values = np.where(values > 0, values, np.nan)
            off, spread = off / truth, spread / truth
        style = marked(i, mfc="none", alpha=0.9, ls=ls)
        top.plot(x, form(values), label=literal(store.name), **style)
        lines.append((x, off, spread, i))
    _differences(bottom, lines)
    top.tick_params(labelbottom=False)


def _differences(ax: Axes, lines: list[tuple[Any, NDArray[Any], NDArray[Any], int]]) -> None:
    """Draw what should be 0; where a few dwarf the errors of the others, linear near 0 only.

    `lines` are x, values, their errors, and the number of the store.
    """
    for x, values, error, i in lines:
        band(ax, x, values, error, i)
    ax.axhline(0.0, color=TRUTH, lw=0.8)
    every = np.concatenate([[np.nan], *(np.ravel(values) for _, values, _, _ in lines)])
    largest = float(np.abs(every[np.isfinite(every)]).max(initial=0.0))
    errors = np.concatenate([[np.nan], *(np.ravel(error) for _, _, error, _ in lines)])
    typical = float(np.nanmedian(errors)) if np.isfinite(errors).any() else 0.0
    ax.margins(y=0.1)
    if 0 < 20 * typical < largest:
        linear = 10.0 ** np.ceil(np.log10(2 * typical))
        ax.set_yscale("symlog", linthresh=linear)
        ax.yaxis.set_minor_locator(NullLocator())


def _four_point(comparison: Comparison) -> Figure | None:
    """Draw |G4c(r)| and its residual, beside one sample, its coarse version and refinements."""
    name, data, shown = "connected_four_point", comparison.truth, comparison.pictures
    if name not in data:
        return None
    pictures = [(comparison.name, shown.truth)]
    pictures += [] if shown.coarse is None else [("coarse", shown.coarse)]
    pictures += zip((s.name for s in comparison.stores), shown.stores, strict=True)
    pictures = pictures[:_PANELS]
    figure = new_figure(7.2, 4.2)
    grid = figure.add_gridspec(1, 2, width_ratios=(1.15, 1.0))
    left = grid[0].subgridspec(2, 1, height_ratios=(1.5, 1.0))
    top = figure.add_subplot(left[0])
    bottom = figure.add_subplot(left[1], sharex=top)
    sides = data["side"].values
    if f"{name}_theory" in data:
        theory = np.abs(data[f"{name}_theory"].values)
        top.plot(sides, theory, color=THEORY, ls="--", label="torus, continuum limit")
    _beside(comparison, (top, bottom), name, sides, "residual")
    top.set(xscale="log", yscale="log", ylabel="$|G_{4c}(r)|$")
    low, high = top.get_ylim()
    ticks = [t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0) if low <= t <= high]
    if len(ticks) >= 2:
        top.yaxis.set_major_locator(FixedLocator(ticks))
        top.yaxis.set_major_formatter(ScalarFormatter())
        top.yaxis.set_minor_locator(NullLocator())
    top.legend()
    bottom.set_xlabel("side r of the square (lattice constants)")
    bottom.set_ylabel("$G_{4c}$, store $-$ truth")
    log_ticks(bottom, sides)
    right = grid[1].subgridspec((len(pictures) + 1) // 2, 2)
    for i, (title, values) in enumerate(pictures):
        ax, limit = figure.add_subplot(right[i // 2, i % 2]), max(1.0, float(np.abs(values).max()))
        ax.imshow(values, cmap="gray_r", vmin=-limit, vmax=limit, interpolation="nearest")
        size, title = "x".join(map(str, values.shape)), literal(title)
        ax.set(title=f"{title}, {size}" if len(title) < 16 else title, xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set_visible(True)
    return figure


def _structure_factor(comparison: Comparison) -> Figure | None:
    """Draw S(k) in about `_SHELLS` of its shells; None for a single site."""
    name, data = "structure_factor", comparison.truth
    if len(data["k"]) < 2:
        return None
    figure = new_figure(5.0, 4.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, 1.0))
    drawn = spread_out(len(data["k"]) - 1, _SHELLS)
    k = data["k"].values[drawn]
    if f"{name}_theory" in data:
        theory = data[f"{name}_theory"].values[drawn]
        top.plot(k, theory, color=THEORY, ls="--", label="theory, torus")
    _beside(comparison, (top, bottom), name, k, "ratio", drawn, own=True)
    top.set(xscale="log", ylabel="structure factor S(k)")
    if (data[name].values[drawn] > 0).any():
        top.set_yscale("log")
    bottom.set(xlabel="wave number k (rad / lattice constant)", ylabel=_RATIO)
    log_ticks(bottom, np.array([t for t in WAVE_NUMBERS if k[0] <= t <= k[-1]]))
    top.legend()
    return figure


def _two_point(comparison: Comparison) -> Figure | None:
    """Draw G(r) along axes and diagonals, over theory where known; None for an edge of 1."""
    data = comparison.truth
    last = len(data["distance"]) - 1
    if last < 1:
        return None
    figure = new_figure(7.2, 4.4)
    axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(1.5, 1.0))
    r, known = spread_out(last, 24), "two_point_axis_theory" in data
    for both, direction, step in zip(axes.T, ("axis", "diagonal"), (1.0, np.sqrt(2))):
        name, title = f"two_point_{direction}", "axes" if direction == "axis" else "diagonals"
        scale = data[f"{name}_theory"].values[r] if known else np.ones(len(r))
        if known:
            both[0].axhline(1.0, color=THEORY, ls="--", label="theory, torus")
        _beside(comparison, both, name, r * step, "ratio", r, scale)
        both[0].set_title(f"along the {title}")
        both[1].set_xlabel("distance (lattice constants)")
        log_ticks(both[1], 2 ** np.arange(int(np.log2(max(last * step, 1))) + 1))
    axes[0, 0].set_ylabel("G(r) / theory" if known else "two-point function G(r)")
    axes[1, 0].set_ylabel(_RATIO)
    legend_above(figure, axes[0, 0])
    return figure


def _clusters(comparison: Comparison) -> Figure | None:
    """Draw how many clusters of each size there are, and over the truth's; None for fields."""
    data = comparison.truth
    kinds = [n for n in _CLUSTERS if n in data and any(n in s.data for s in comparison.stores)]
    if not kinds:
        return None
    figure = new_figure(3.6 * len(kinds), 4.0)
    axes = figure.subplots(2, len(kinds), sharex=True, squeeze=False, height_ratios=(1.5, 1.0))
    for name, both in zip(kinds, axes.T):
        seen = data[name].values > 0
        _beside(comparison, both, name, data["cluster_size"].values[seen], "relative", seen)
        both[0].set(xscale="log", yscale="log", title=_CLUSTERS[name])
        both[1].set(xlabel="size s of a cluster (sites)")
    axes[0, 0].set_ylabel("clusters of size s per site")
    axes[1, 0].set_ylabel(_RATIO)
    legend_above(figure, axes[0, 0])
    return figure


def _distributions(comparison: Comparison) -> Figure:
    """Draw how energy and |m| are distributed over configurations."""
    words = {"energy": "energy per site of a sample (J)", "magnetization": "|m| of a sample"}
    names = [n for n in words if f"{n}_per_lattice" in comparison.truth]
    figure = new_figure(3.6 * len(names), 3.0)
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for ax, name in zip(axes, names, strict=True):
        of = np.abs if name == "magnetization" else np.asarray
        column = f"{name}_per_lattice"
        stores = [(i, s) for i, s in enumerate(comparison.stores) if column in s.data]
        truth, *found = (
            of(d[column].values) for d in (comparison.truth, *(s.data for _, s in stores))
        )
        every = np.concatenate([truth, *found])
        low, high = float(every.min()), float(every.max())
        span = (high - low) / max(np.ptp(truth), 1e-9)
        bins = np.linspace(low, high, int(np.clip(2 * np.cbrt(len(truth)) * span, 8, 60)) + 1)
        bins = bins if high > low else np.array([low - 0.5, low + 0.5])
        density = np.histogram(truth, bins, density=True)[0]
        ax.stairs(density, bins, label=literal(comparison.name), color="#bbbbbb", fill=True)
        for (i, store), values, ls in zip(stores, found, itertools.cycle(("-", "--", ":", "-."))):
            density = np.histogram(values, bins, density=True)[0]
            ax.stairs(density, bins, label=literal(store.name), color=colour(i), lw=1.3, ls=ls)
        ax.set(xlabel=words[name], ylabel="density")
        ax.set_ylim(bottom=0)
    legend_above(figure, axes[0])
    return figure


def _patterns(comparison: Comparison) -> Figure | None:
    """Draw pattern frequencies against the truth's and their total variation; None for fields."""
    stores = [s for s in comparison.stores if "patterns_tv" in s.data]
    if not stores:
        return None
    figure = new_figure(7.2, 3.2)
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1.0))
    name = "pattern_frequency"
    truth = fold_patterns(comparison.truth[name].values)
    for i, store in enumerate(stores):
        values = truth + fold_patterns(store.data[f"{name}_residual"].values)
        style = marked(i, ls="")
        left.plot(truth, values, ms=3, alpha=0.6, mew=0, label=literal(store.name), **style)
        tv, error = _with_error(store.data, "patterns_tv", ())
        right.errorbar(float(tv), i, xerr=float(error), **style)
    seen = truth[truth > 0]
    left.plot([seen.min(), seen.max()], [seen.min(), seen.max()], color=TRUTH, lw=0.8)
    left.set(xscale="log", yscale="log", title="3x3 patterns, up to a flip")
    left.set(xlabel="frequency in the truth", ylabel="frequency in the store")
    left.legend()
    if np.isfinite(comparison.patterns_floor):
        right.axvline(comparison.patterns_floor, color=THEORY, ls="--")
        right.set_title("dashed: between two halves of the truth")
    right.set_yticks(range(len(stores)), [literal(s.name) for s in stores])
    right.set(xlabel="total variation", ylim=(len(stores) - 0.5, -0.5))
    right.set_xlim(left=0)
    return figure


_CLUSTERS = {
    "geometric_cluster_density": "geometric clusters",
    "fk_cluster_density": "Fortuin-Kasteleyn clusters",
}
_ELSEWHERE = {
    "connected_four_point", "structure_factor", "two_point_axis", "two_point_diagonal", *_CLUSTERS,
}  # fmt: skip


def _others(comparison: Comparison) -> Figure:
    """Draw every scalar's residual in errors, and curves that no other figure shows."""
    data, stores = comparison.truth, [*enumerate(comparison.stores)]
    of = Estimates(data)
    names = [n for n in of.names if any(f"{n}_residual" in s.data for _, s in stores)]
    scalars = [n for n in names if not data[n].dims]
    curves = [
        n for n in names
        if n not in _ELSEWHERE and "symbol" in data[n].attrs and data[n].size > 1
        and of.over(n).dtype.kind != "U"
    ]  # fmt: skip
    figure = new_figure(3.6 * (1 + len(curves)), 4.4)
    axes = figure.subplots(1, 1 + len(curves), squeeze=False)[0]
    for i, store in stores:
        having = [(row, n) for row, n in enumerate(scalars) if f"{n}_residual" in store.data]
        both = [[float(a) for a in _with_error(store.data, f"{n}_residual", ())] for _, n in having]
        pulls = [v / e if e > 0 else np.nan for v, e in both]
        rows, style = [r + 0.1 * i for r, _ in having], marked(i, mfc="none", alpha=0.9, ls="")
        axes[0].plot(pulls, rows, label=literal(store.name), **style)
    axes[0].axvline(0.0, color=TRUTH, lw=0.8)
    axes[0].set_yticks(range(len(scalars)), [literal(of.label(n)) for n in scalars])
    axes[0].set(xlabel="residual in standard errors", ylim=(len(scalars) - 0.5, -0.5))
    axes[0].set_ylabel("scalar")
    for ax, name in zip(axes[1:], curves):
        x, found = of.over(name), f"{name}_residual"
        having_it = [(i, s.data) for i, s in stores if found in s.data]
        _differences(ax, [(x.values, *_with_error(its, found), i) for i, its in having_it])
        ax.set(xlabel=f"{x.attrs['symbol']} ({x.attrs['units']})")
        ax.set_ylabel(f"{literal(of.label(name))}, store $-$ truth")
    legend_above(figure, axes[0])
    return figure


FIGURES: dict[str, tuple[str, Callable[[Comparison], Figure | None]]] = {
    "four_point": (
        "Connected four-point function on the corners of an r x r square, its residual with "
        "errors, and one sample. In the upper panel a store stands at truth + residual; bands are "
        "one standard error. Where differences are large their scale is linear near 0 only.",
        _four_point,
    ),
    "structure_factor": (
        "Structure factor, a store at truth x ratio, and how far the ratio is from 1.",
        _structure_factor,
    ),
    "two_point": (
        "Two-point function over its theory, a store at truth x ratio, and how far the ratio is "
        "from 1.",
        _two_point,
    ),
    "distributions": ("Energy and |m| over the samples.", _distributions),
    "clusters": (
        "Clusters by size, a store at truth + residual, and how far it is from the truth's.",
        _clusters,
    ),
    "patterns": ("Frequencies of 3x3 spin patterns.", _patterns),
    "others": ("Residuals of all scalars in standard errors, and of other curves.", _others),
}
"""File name -> (caption, function), in the order of a report; see `_caption`."""


def draw(name: str, comparison: Comparison) -> Figure | None:
    """Return a figure of `FIGURES`, None where it does not apply."""
    with mpl.rc_context(STYLE):
        return FIGURES[name][1](comparison)


def _caption(name: str, comparison: Comparison) -> str:
    """Return the caption of a figure, without the theory where there is none."""
    text, known = FIGURES[name][0], "two_point_axis_theory" in comparison.truth
    return text if known else text.replace(" over its theory", "")


def report_of(
    found: Comparison, output: Path | None, *, figures: bool = True, command: str = ""
) -> Report:
    """Return the report of a comparison; write it, its tables and figures into a directory.

    Without `output` nothing is written. Figures of an earlier comparison that this one does not
    draw are removed.
    """
    drawn = {name: draw(name, found) for name in FIGURES if figures}
    there = {name: figure for name, figure in drawn.items() if figure is not None}

    def page() -> Report:
        images = [(_caption(n, found), figure_bytes(f, dpi=150)) for n, f in there.items()]
        return Report(found, images, command)

    if output is None:
        return page()
    with whole_directory(output) as folder:
        for name, figure in there.items():
            save_figure(figure, folder / name)
        report = page()
        text = json.dumps(report.summary(), indent=1, allow_nan=False)
        write_text_atomically(folder / TABLE, csv_text(report.table))
        write_text_atomically(folder / JSON, f"{text}\n")
        write_text_atomically(folder / REPORT, report.html)
    for name in FIGURES.keys() - there.keys():
        for kind in ("png", "pdf"):
            (output / f"{name}.{kind}").unlink(missing_ok=True)
    return report
