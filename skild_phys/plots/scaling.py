"""The figure of a finite-size scaling analysis: crossings, slopes, chi, collapse."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from skild_phys.measurement.curves import jackknife_error
from skild_phys.measurement.scaling import Scaling
from skild_phys.measurement.tables import with_error
from skild_phys.plots.style import STYLE, THEORY, band, colour, legend_above, marked, new_figure

_J = r"J / $\mathrm{k_B}$"
_LABELS = {"binder_cumulant": "Binder cumulant $U_4$", "xi_over_l": r"$\xi / L$"}


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
        values, error, label = curve.values[name][0], curve.error(name), f"L = {curve.side}"
        band(ax, curve.temperature, values, error, i, marker="", label=label)
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
    for i, (label, key) in enumerate(logarithms.items()):
        values = np.array([of_size[key][0] for of_size in found.at_level])
        spread = np.array([jackknife_error(of_size[key]) for of_size in found.at_level])
        y = np.exp(values)
        ax.errorbar(sides, y, y * spread, label=label, **marked(i, ls="", ms=4))
        scale = np.exp(np.mean(values - power * np.log(sides)))
        ax.plot(sides, scale * sides**power, color=colour(i), lw=0.8)
    ax.set(xscale="log", yscale="log", xlabel="L (lattice constants)", ylabel=ylabel)
    ax.set_xticks(sides, [f"{side:.0f}" for side in sides])
    ax.minorticks_off()
    symbol = r"1/\nu" if name == "nu" else r"2 - \eta"
    text = rf"lines: ${symbol} = {with_error(power, error)}$"
    ax.text(0.97, 0.05, text, transform=ax.transAxes, ha="right")
    ax.legend()
