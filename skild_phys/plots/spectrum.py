"""The figure of a power spectrum and its fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from numpy.typing import NDArray

from skild_phys.plots.style import STYLE, TRUTH, colour, new_figure

if TYPE_CHECKING:
    import numpy as np

    from skild_phys.skild.measured import ShellPower


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
