"""Figures of a comparison. They draw what `measurement.compare` found and compute nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from skild_phys.measurement.report import csv_text, html_report, summary, table
from skild_phys.plots.style import (
    BOTH,
    MARKERS,
    STYLE,
    THEORY,
    TRUTH,
    TRUTH_STYLE,
    WAVE_NUMBERS,
    colour,
    differences,
    figure_bytes,
    legend_above,
    literal,
    log_ticks,
    new_figure,
    open_marker,
    save_figure,
    spread_out,
)

_PANELS = 4
_SHELLS = 40


def four_point_figure(comparison: Comparison) -> Figure | None:
    """Draw |G4c(r)| and its residual, beside a lattice, its coarse version and refinements.

    None for lattices without a square of four sites, and for Potts states.
    """
    if "connected_four_point" not in comparison.truth:
        return None
    lattices = _lattices(comparison)
    with mpl.rc_context(STYLE):
        figure = new_figure(7.2, 4.2)
        grid = figure.add_gridspec(1, 2, width_ratios=(1.15, 1.0))
        left = grid[0].subgridspec(2, 1, height_ratios=(1.5, 1.0))
        top = figure.add_subplot(left[0])
        bottom = figure.add_subplot(left[1], sharex=top)
        _magnitude(top, comparison)
        _residual(bottom, comparison)
        bottom.set_xlabel("side r of the square (lattice constants)")
        bottom.set_ylabel("$G_{4c}$, model $-$ truth")
        sides = comparison.truth["side"].values
        log_ticks(bottom, sides)
        top.tick_params(labelbottom=False)
        rows = (len(lattices) + 1) // 2
        right = grid[1].subgridspec(rows, 2)
        for i, (title, values) in enumerate(lattices):
            _picture(figure.add_subplot(right[i // 2, i % 2]), title, values)
    return figure


def structure_factor_figure(comparison: Comparison) -> Figure | None:
    """Draw S(k) in about `_SHELLS` of its shells, and how far it is from the truth's.

    None for a single site.
    """
    if len(comparison.truth["k"]) < 2:
        return None
    with mpl.rc_context(STYLE):
        figure = new_figure(5.0, 4.6)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, 1.0))
        last = len(comparison.truth["k"]) - 1
        drawn = spread_out(last, _SHELLS)
        k, truth = (comparison.truth[n].values[drawn] for n in ("k", "structure_factor"))
        error = comparison.truth["structure_factor_err"].values[drawn]
        if "structure_factor_theory" in comparison.truth:
            theory = comparison.truth["structure_factor_theory"].values[drawn]
            top.plot(k, theory, color=THEORY, ls="--", label="theory, torus")
        top.errorbar(k, truth, error, label=literal(comparison.name), **TRUTH_STYLE)
        lines = []
        for i, model in enumerate(comparison.stores):
            ratio, spread = (model.data[f"structure_factor_ratio{e}"].values[drawn] for e in BOTH)
            own = model.data["structure_factor"].values[drawn]
            shown = np.where(np.isfinite(ratio), truth * np.nan_to_num(ratio), own)
            top.plot(k, shown, label=literal(model.name), **open_marker(i))
            lines.append((k, np.where(np.isfinite(ratio), ratio - 1, np.nan), spread, i))
        differences(bottom, lines)
        top.set(xscale="log", ylabel="structure factor S(k)")
        if (truth > 0).any():
            top.set_yscale("log")
        bottom.set(xlabel="wave number k (rad / lattice constant)", ylabel="model / truth $-$ 1")
        log_ticks(bottom, np.array([t for t in WAVE_NUMBERS if k[0] <= t <= k[-1]]))
        top.legend()
    return figure


def two_point_figure(comparison: Comparison) -> Figure | None:
    """Draw G(r) along axes and diagonals over its theory, and over the truth's.

    Where there is no theory, G(r) itself is drawn. None where an edge is 1.
    """
    if len(comparison.truth["distance"]) < 2:
        return None
    with mpl.rc_context(STYLE):
        figure = new_figure(7.2, 4.4)
        axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=(1.5, 1.0))
        _two_point_column(comparison, "two_point_axis", 1.0, axes[0, 0], axes[1, 0])
        _two_point_column(comparison, "two_point_diagonal", np.sqrt(2), axes[0, 1], axes[1, 1])
        axes[0, 0].set_title("along the axes")
        axes[0, 1].set_title("along the diagonals")
        known = "two_point_axis_theory" in comparison.truth
        axes[0, 0].set_ylabel("G(r) / theory" if known else "two-point function G(r)")
        axes[1, 0].set_ylabel("model / truth $-$ 1")
        legend_above(figure, axes[0, 0])
    return figure


def distribution_figure(comparison: Comparison) -> Figure:
    """Draw how energy and |m| are distributed over lattices."""
    with mpl.rc_context(STYLE):
        names = [n for n in ("energy", "magnetization") if f"{n}_per_lattice" in comparison.truth]
        figure = new_figure(3.6 * len(names), 3.0)
        axes = figure.subplots(1, len(names), squeeze=False)[0]
        for ax, name in zip(axes, names, strict=True):
            _histogram(ax, comparison, f"{name}_per_lattice", name == "magnetization")
            energy = "energy per site of a lattice (J)"
            ax.set(xlabel=energy if name == "energy" else "|m| of a lattice", ylabel="density")
            ax.set_ylim(bottom=0)
        legend_above(figure, axes[0])
    return figure


def pattern_figure(comparison: Comparison) -> Figure | None:
    """Draw pattern frequencies against the truth's and their total variation; None for fields."""
    models = [m for m in comparison.stores if "patterns_tv" in m.data]
    if not models:
        return None
    with mpl.rc_context(STYLE):
        figure = new_figure(7.2, 3.2)
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1.0))
        name = "pattern_frequency"
        truth = fold_patterns(comparison.truth[name].values)
        for i, model in enumerate(models):
            values = truth + fold_patterns(model.data[f"{name}_residual"].values)
            style: dict[str, Any] = {"color": colour(i), "marker": MARKERS[i % len(MARKERS)]}
            left.plot(
                truth, values, ls="", ms=3, alpha=0.6, mew=0, label=literal(model.name), **style
            )
            tv, error = (float(model.data[f"patterns_tv{e}"]) for e in BOTH)
            right.errorbar(tv, i, xerr=error, ls="", **style)
        seen = truth[truth > 0]
        left.plot([seen.min(), seen.max()], [seen.min(), seen.max()], color=TRUTH, lw=0.8)
        left.set(xscale="log", yscale="log", title="3x3 patterns, up to a flip")
        left.set(xlabel="frequency in the truth", ylabel="frequency in the model")
        left.legend()
        floor = comparison.patterns_floor
        if np.isfinite(floor):
            right.axvline(floor, color=THEORY, ls="--")
            right.set_title("dashed: between two halves of the truth")
        right.set_yticks(range(len(models)), [literal(m.name) for m in models])
        right.set(xlabel="total variation", ylim=(len(models) - 0.5, -0.5))
        right.set_xlim(left=0)
    return figure


def cluster_figure(comparison: Comparison) -> Figure | None:
    """Draw how many clusters of each size there are, and over the truth's; None for fields."""
    kinds = [
        (name, title)
        for name, title in _CLUSTERS
        if name in comparison.truth and any(name in m.data for m in comparison.stores)
    ]
    if not kinds:
        return None
    with mpl.rc_context(STYLE):
        figure = new_figure(3.6 * len(kinds), 4.0)
        axes = figure.subplots(2, len(kinds), sharex=True, squeeze=False, height_ratios=(1.5, 1.0))
        for (name, title), top, bottom in zip(kinds, axes[0], axes[1]):
            size = comparison.truth["cluster_size"].values
            truth, error = (comparison.truth[f"{name}{e}"].values for e in BOTH)
            seen = truth > 0
            top.errorbar(
                size[seen], truth[seen], error[seen],
                label=literal(comparison.name), **TRUTH_STYLE,
            )  # fmt: skip
            lines = []
            for i, model in enumerate(comparison.stores):
                if f"{name}_residual" not in model.data:
                    continue
                residual, spread = (model.data[f"{name}_residual{e}"].values for e in BOTH)
                there = seen & (truth + residual > 0)
                values = (truth + residual)[there]
                top.plot(size[there], values, label=literal(model.name), **open_marker(i))
                lines.append(
                    (size[seen], residual[seen] / truth[seen], spread[seen] / truth[seen], i)
                )
            differences(bottom, lines)
            top.set(xscale="log", yscale="log", title=title)
            bottom.set(xlabel="size s of a cluster (sites)")
        axes[0, 0].set_ylabel("clusters of size s per site")
        axes[1, 0].set_ylabel("model / truth $-$ 1")
        legend_above(figure, axes[0, 0])
    return figure


_CLUSTERS = (
    ("geometric_cluster_density", "geometric clusters"),
    ("fk_cluster_density", "Fortuin-Kasteleyn clusters"),
)


FIGURES: dict[str, tuple[str, Callable[[Comparison], Figure | None]]] = {
    "four_point": (
        "Connected four-point function on the corners of an r x r square, its residual with "
        "errors, and one lattice. In the upper panel a model stands at truth + residual; bands are "
        "one standard error. Where differences are large their scale is linear near 0 only.",
        four_point_figure,
    ),
    "structure_factor": (
        "Structure factor, a model at truth x ratio, and how far the ratio is from 1.",
        structure_factor_figure,
    ),
    "two_point": (
        "Two-point function over its theory, a model at truth x ratio, and how far the ratio is "
        "from 1.",
        two_point_figure,
    ),
    "distributions": ("Energy and |m| over the lattices.", distribution_figure),
    "clusters": (
        "Clusters by size, a model at truth + residual, and how far it is from the truth's.",
        cluster_figure,
    ),
    "patterns": ("Frequencies of 3x3 spin patterns.", pattern_figure),
}
"""File name -> (caption, function), in the order of a report; see `caption`."""


def caption(name: str, comparison: Comparison) -> str:
    """Return the caption of a figure, without the theory where there is none."""
    text, known = FIGURES[name][0], "two_point_axis_theory" in comparison.truth
    return text if known else text.replace(" over its theory", "")


def write_report(
    found: Comparison, output: Path | None, *, figures: bool = True, command: str = ""
) -> str:
    """Write a comparison's report, tables and figures into a directory; return the page.

    Without `output` nothing is written. Figures of an earlier comparison that this one does not
    draw are removed.
    """
    images, drawn = [], {}
    for name, (_, draw) in FIGURES.items():
        if figures and (figure := draw(found)) is not None:
            drawn[name] = figure
    if output is None:
        images = [(caption(n, found), figure_bytes(f, dpi=150)) for n, f in drawn.items()]
        return html_report(found, images, command)
    with whole_directory(output) as folder:
        for name, figure in drawn.items():
            save_figure(figure, folder / name)
            images.append((caption(name, found), figure_bytes(figure, dpi=150)))
        page = html_report(found, images, command)
        text = json.dumps(summary(found), indent=1, allow_nan=False)
        write_text_atomically(folder / TABLE, csv_text(table(found)))
        write_text_atomically(folder / JSON, f"{text}\n")
        write_text_atomically(folder / REPORT, page)
    for name in FIGURES.keys() - drawn.keys():
        for kind in ("png", "pdf"):
            (output / f"{name}.{kind}").unlink(missing_ok=True)
    return page


def _magnitude(ax: Axes, comparison: Comparison) -> None:
    name = "connected_four_point"
    sides, truth = comparison.truth["side"].values, comparison.truth[name].values
    if f"{name}_theory" in comparison.truth:
        theory = np.abs(comparison.truth[f"{name}_theory"].values)
        ax.plot(sides, theory, color=THEORY, ls="--", label="torus, continuum limit")
    error = comparison.truth[f"{name}_err"].values
    style = {**TRUTH_STYLE, "ls": ""}
    ax.errorbar(sides, np.abs(truth), error, label=literal(comparison.name), **style)
    for i, model in enumerate(comparison.stores):
        values = np.abs(truth + model.data[f"{name}_residual"].values)
        ax.plot(sides, values, label=literal(model.name), **{**open_marker(i), "ls": ""})
    ax.set(xscale="log", yscale="log", ylabel="$|G_{4c}(r)|$")
    low, high = ax.get_ylim()
    ticks = [t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0) if low <= t <= high]
    if len(ticks) >= 2:
        ax.yaxis.set_major_locator(FixedLocator(ticks))
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_locator(NullLocator())
    ax.legend()


def _residual(ax: Axes, comparison: Comparison) -> None:
    name, sides = "connected_four_point", comparison.truth["side"].values
    lines = []
    for i, model in enumerate(comparison.stores):
        values, error = (model.data[f"{name}_residual{e}"].values for e in BOTH)
        lines.append((sides, values, error, i))
    differences(ax, lines)


def _two_point_column(
    comparison: Comparison, name: str, step: float, top: Axes, bottom: Axes
) -> None:
    last = len(comparison.truth["distance"]) - 1
    r = spread_out(last, 24)
    truth, error = (comparison.truth[f"{name}{e}"].values[r] for e in BOTH)
    scale = np.ones(len(r))
    if f"{name}_theory" in comparison.truth:
        scale = comparison.truth[f"{name}_theory"].values[r]
        top.axhline(1.0, color=THEORY, ls="--", label="theory, torus")
    top.errorbar(
        r * step, truth / scale, error / scale, label=literal(comparison.name), **TRUTH_STYLE
    )
    lines = []
    for i, model in enumerate(comparison.stores):
        ratio, spread = (model.data[f"{name}_ratio{e}"].values[r] for e in BOTH)
        top.plot(r * step, truth * ratio / scale, label=literal(model.name), **open_marker(i))
        lines.append((r * step, ratio - 1, spread, i))
    differences(bottom, lines)
    bottom.set_xlabel("distance (lattice constants)")
    log_ticks(bottom, 2 ** np.arange(int(np.log2(max(last * step, 1))) + 1))


def _histogram(ax: Axes, comparison: Comparison, name: str, absolute: bool) -> None:
    def values(data: xr.Dataset) -> NDArray[np.float64]:
        found = np.asarray(data[name].values)
        return np.abs(found) if absolute else found

    truth = values(comparison.truth)
    models = [
        (literal(m.name), values(m.data), i)
        for i, m in enumerate(comparison.stores)
        if name in m.data
    ]
    every = np.concatenate([truth, *(v for _, v, _ in models)])
    low, high = float(every.min()), float(every.max())
    number = int(np.clip(2 * np.cbrt(len(truth)) * (high - low) / max(np.ptp(truth), 1e-9), 8, 60))
    edges = np.linspace(low, high, number + 1) if high > low else np.array([low - 0.5, low + 0.5])
    density, _ = np.histogram(truth, bins=edges, density=True)
    ax.stairs(density, edges, color="#bbbbbb", fill=True, label=literal(comparison.name))
    for i, (label, found, place) in enumerate(models):
        density, _ = np.histogram(found, bins=edges, density=True)
        style = ("-", "--", ":", "-.")[i % 4]
        ax.stairs(density, edges, color=colour(place), lw=1.3, ls=style, label=label)


def _lattices(comparison: Comparison) -> list[tuple[str, NDArray[Any]]]:
    shown = comparison.pictures
    pictures = [(literal(comparison.name), shown.truth)]
    if shown.coarse is not None:
        pictures.append(("coarse", shown.coarse))
    names = [literal(m.name) for m in comparison.stores]
    return (pictures + list(zip(names, shown.stores, strict=True)))[:_PANELS]


def _picture(ax: Axes, title: str, values: NDArray[Any]) -> None:
    limit = max(1.0, float(np.abs(values).max()))
    ax.imshow(values, cmap="gray_r", vmin=-limit, vmax=limit, interpolation="nearest")
    height, width = values.shape
    ax.set(title=f"{title}, {height}x{width}" if len(title) < 16 else title, xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(True)
