"""Figures of a measurement, of a finite-size scaling analysis, and of a power spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from skild_phys.measurement.curves import jackknife_error
from skild_phys.measurement.scaling import Scaling
from skild_phys.measurement.tables import Estimates, with_error
from skild_phys.plots.style import (
    STYLE,
    THEORY,
    TRUTH,
    WAVE_NUMBERS,
    band,
    colour,
    legend_above,
    literal,
    log_ticks,
    marked,
    new_figure,
    spread_out,
)

if TYPE_CHECKING:
    from skild_phys.skild.measured import ShellPower

_POINTS = 40  # of a curve, at most
_J = r"J / $\mathrm{k_B}$"
_LABELS = {"binder_cumulant": "Binder cumulant $U_4$", "xi_over_l": r"$\xi / L$"}
_TICKS = {
    "k": np.array(WAVE_NUMBERS),
    "side": 2.0 ** np.arange(20),
    "distance": 2.0 ** np.arange(20),
}
_PANELS: tuple[tuple[dict[str, tuple[str, float]], str, str], ...] = (
    (
        {"connected_four_point": ("squares", 1.0)},
        "side r of the square (lattice constants)", "$|G_{4c}(r)|$",
    ),
    (
        {
            "two_point_axis": ("along the axes", 1.0),
            "two_point_diagonal": ("along the diagonals", float(np.sqrt(2.0))),
        },
        "distance (lattice constants)", "two-point function $|G(r)|$",
    ),
    (
        {"structure_factor": ("shells", 1.0)},
        "wave number k (rad / lattice constant)", "structure factor S(k)",
    ),
    (
        {"geometric_cluster_density": ("geometric", 1.0), "fk_cluster_density": ("FK", 1.0)},
        "size s of a cluster (sites)", "clusters of size s per site",
    ),
)  # fmt: skip
"""Name -> (label, length of a step) of each line of a panel, and what its axes show."""


def measurement_figure(data: xr.Dataset) -> Figure | None:
    """Draw G4c, G(r), S(k), clusters and other curves with a symbol, over theory.

    None if a measurement holds none of them.
    """
    named = {name for lines, *_ in _PANELS for name in lines}
    panels = [panel for panel in _PANELS if next(iter(panel[0])) in data]
    of = Estimates(data)
    for name in of.names:
        known = data[name]
        if name not in named and known.dims and known.size and "symbol" in known.attrs:
            over, shown = of.over(name), literal(of.label(name))
            if over.dtype.kind != "U":
                words = f"{over.attrs['symbol']} ({over.attrs['units']})"
                panels.append(({name: (shown, 1.0)}, words, f"|{shown}|"))
    if not panels:
        return None
    rows, columns = (len(panels) + 1) // 2, min(len(panels), 2)
    with mpl.rc_context(STYLE):
        figure = new_figure(3.6 * columns, 3.0 * rows)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        about = data.attrs
        title = [f"{about['lattices']} lattices of {'x'.join(map(str, about['shape']))}"]
        title += [str(about["model"])] if "model" in about else []
        title += [f"T = {about['temperature']:.6g}"] if "temperature" in about else []
        figure.suptitle(", ".join([*title, "bars are one standard error"]))
        for spare in axes[len(panels) :]:
            spare.set_visible(False)
        for ax, (lines, xlabel, ylabel) in zip(axes, panels):
            for i, (name, (words, step)) in enumerate(lines.items()):
                if name in data:
                    _line(ax, data, name, words, step, i)
            ax.set(xlabel=xlabel, ylabel=ylabel)
            if ax.has_data():
                ax.set(xscale="log", yscale="log")
                low, high = ax.get_xlim()
                at = _TICKS.get(str(of.over(next(iter(lines))).name))
                if at is not None:
                    log_ticks(ax, at[(low <= at) & (at <= high)])
                ax.legend()
    return figure


def _line(ax: Axes, data: xr.Dataset, name: str, words: str, step: float, i: int) -> None:
    x, values = Estimates(data).over(name).values * step, data[name].values
    seen = np.flatnonzero((x > 0) & np.isfinite(values) & (values != 0))
    if not len(seen):
        return
    shown = seen if len(seen) <= _POINTS else seen[spread_out(len(seen), _POINTS) - 1]
    error = data[f"{name}_err"].values[shown]
    ax.errorbar(x[shown], np.abs(values[shown]), error, label=words, **marked(i, ls="", ms=3))
    if f"{name}_theory" in data:
        theory = np.abs(data[f"{name}_theory"].values[shown])
        ax.plot(x[shown], theory, color=THEORY, ls="--", label="theory" if i == 0 else None)


def scaling_figure(found: Scaling) -> Figure:
    """Draw curves and their crossings, their collapse, and the lines that exponents are from."""
    with mpl.rc_context(STYLE):
        figure = new_figure(7.2, 6.6)
        axes = figure.subplots(3, 2)
        for column, name in enumerate(_LABELS):
            _curves(axes[0, column], found, name)
            _collapsed(axes[1, column], found, name)
        slopes = {"U4": "slope_binder_cumulant", "xi/L": "slope_xi_over_l"}
        _lines(axes[2, 0], found, "nu", slopes, r"slope at fixed $U_4$ ($\mathrm{k_B}$ / J)")
        chis = {"chi": "log_susceptibility", "S(2 pi/L)": "log_power_1"}
        _lines(axes[2, 1], found, "eta", chis, r"$\chi$, $S(2\pi / L)$ at fixed $U_4$")
        legend_above(figure, axes[0, 0])
    return figure


def _curves(ax: Axes, found: Scaling, name: str) -> None:
    for i, curve in enumerate(found.curves):
        values, error, size = curve.values[name][0], curve.error(name), f"L = {curve.side}"
        band(ax, curve.temperature, values, error, i, marker="", label=size)
    for crossing in found.crossings:
        if crossing.observable == name and np.isfinite(crossing.temperature.value):
            t, h = crossing.temperature, crossing.height
            style: Any = {"color": "black", "marker": ".", "capsize": 0, "lw": 0.8}
            ax.errorbar(t.value, h.value, h.error, t.error, **style)
    ax.axvline(found.published["temperature"], color=THEORY, ls="--", lw=0.8)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set(xlabel=f"T ({_J}); dashed: published", ylabel=_LABELS[name])


def _collapsed(ax: Axes, found: Scaling, name: str) -> None:
    collapse = next((c for c in found.collapses if c.observable == name), None)
    if collapse is None:
        ax.set_visible(False)
        return
    tc, nu = collapse.temperature.value, collapse.nu.value
    for i, curve in enumerate(found.curves):
        x = (curve.temperature - tc) * curve.side ** (1.0 / nu)
        band(ax, x, curve.values[name][0], curve.error(name), i, markevery=4, lw=0.8)
    ax.set(xlabel=rf"$(T - {tc:.5g})\, L^{{1/{nu:.3g}}}$ ({_J})", ylabel=_LABELS[name])


def _lines(ax: Axes, found: Scaling, name: str, logarithms: dict[str, str], ylabel: str) -> None:
    """Draw the points that an exponent is read off, and lines of its combined value."""
    sides = np.array([curve.side for curve in found.curves], dtype=float)
    best = found.best(name).number
    power = 1.0 / best.value if name == "nu" else 2.0 - best.value
    error = best.error / best.value**2 if name == "nu" else best.error
    for i, (words, key) in enumerate(logarithms.items()):
        values = np.array([of_size[key][0] for of_size in found.at_level])
        spread = np.array([jackknife_error(of_size[key]) for of_size in found.at_level])
        y = np.exp(values)
        ax.errorbar(sides, y, y * spread, label=words, **marked(i, ls="", ms=4))
        scale = np.exp(np.mean(values - power * np.log(sides)))
        ax.plot(sides, scale * sides**power, color=colour(i), lw=0.8)
    ax.set(xscale="log", yscale="log", xlabel="L (lattice constants)", ylabel=ylabel)
    ax.set_xticks(sides, [f"{side:.0f}" for side in sides])
    ax.minorticks_off()
    symbol = r"1/\nu" if name == "nu" else r"2 - \eta"
    text = rf"lines: ${symbol} = {with_error(power, error)}$"
    ax.text(0.97, 0.05, text, transform=ax.transAxes, ha="right")
    ax.legend()


def spectrum_figure(measured: ShellPower, fitted: NDArray[np.float64], kind: str) -> Figure:
    """Draw P(kappa) of a measurement by shells, a fit's means over the same shells, their ratio."""
    with mpl.rc_context(STYLE):
        figure = new_figure(3.6, 4.2)
        grid = figure.add_gridspec(2, 1, height_ratios=(2.0, 1.0))
        top = figure.add_subplot(grid[0])
        bottom = figure.add_subplot(grid[1], sharex=top)
        style: Any = {"color": TRUTH, "marker": ".", "linestyle": "none"}
        top.errorbar(measured.kappa, measured.mean, measured.error, label="measured", **style)
        top.plot(measured.kappa, fitted, color=colour(0), label=kind.replace("_", " "))
        top.set_xscale("log")
        top.set_yscale("log")
        top.set_ylabel(r"$P(\kappa) = \langle |X|^2 \rangle$")
        top.legend()
        top.tick_params(labelbottom=False)
        bottom.axhline(1.0, color=colour(0))
        ratio, error = measured.mean / fitted, measured.error / fitted
        bottom.errorbar(measured.kappa, ratio, error, **style)
        bottom.set_ylabel("measured / fit")
        bottom.set_xlabel(r"wave number $\kappa$ (radians per site)")
    return figure
