"""How scale-invariant is the network: its held-out loss on the grid of each scale.

python paper_figures/invariance.py    analysis/invariance_ising2d.csv -> invariance.png, .pdf

Left: minus that of P(k) alone, of networks for all grids, which are told the grid or not, and of
networks of each grid, at Tc (top) and at 1.1 Tc; they share most of their errors. Right: loss of a
network that has seen one grid (rows) on every grid (columns), less that of the grid's own network.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from skild_phys.plots.style import MARKERS, STYLE, THEORY, colour, new_figure, save_figure

HERE = Path(__file__).parent
TABLE = pd.read_csv(HERE.parent / "analysis" / "invariance_ising2d.csv")
SPACINGS = sorted(TABLE["spacing"].unique())
SHARED = {"shared": "one network, not told the grid", "told": "one network, told the grid"}
ALONE = [f"alone {spacing:g}" for spacing in SPACINGS]
LEAST = 1e-3
"""Excess loss from which on a colour tells it."""


def curves(panel: Axes, own: pd.DataFrame) -> None:
    """Draw the loss on each grid of networks that have seen it."""
    at_home = own["network"] == "alone " + own["spacing"].map("{:g}".format)
    drawn = {label: own[own["network"] == name] for name, label in SHARED.items()}
    drawn["a network of each grid"] = own[at_home]
    for i, (label, rows) in enumerate(drawn.items()):
        rows = rows.sort_values("spacing")
        panel.errorbar(
            rows["spacing"] * 1.06 ** (i - 1), rows["over_power"], rows["over_power_err"],
            color=colour(i), marker=MARKERS[i], linestyle=":", label=label,
        )  # fmt: skip
    panel.axhline(0.0, color=THEORY, linewidth=0.8)
    panel.set_xscale("log")
    panel.set_xticks(SPACINGS, [f"{s:g}" for s in SPACINGS])
    panel.minorticks_off()
    panel.set(ylabel="loss, minus that of $P(k)$ alone")
    relative = own["T / Tc"].iloc[0]
    panel.set_title("$T = T_c$" if relative == 1.0 else f"$T = {relative:g}\\,T_c$")


def cross(panel: Axes, own: pd.DataFrame) -> None:
    """Draw the excess loss of networks of one grid on every grid, and its numbers."""
    excess = own.pivot(index="network", columns="spacing", values="excess").loc[ALONE].to_numpy()
    panel.imshow(
        np.maximum(excess, LEAST), cmap="Oranges", norm=LogNorm(LEAST, 0.3), origin="lower"
    )
    for (seen, at), value in np.ndenumerate(excess):
        if seen != at:
            said = f"{round(value, 3) + 0.0:.3f}"
            panel.text(at, seen, said, ha="center", va="center", fontsize=6.5)
    places = range(len(SPACINGS))
    panel.set_xticks(places, [f"{s:g}" for s in SPACINGS])
    panel.set_yticks(places, [f"{s:g}" for s in SPACINGS])
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    panel.set(ylabel="trained on spacing")


with mpl.rc_context(STYLE):
    temperatures = [*TABLE.groupby("T / Tc")]
    figure = new_figure(7.2, 2.5 * len(temperatures))
    panels = figure.subplots(len(temperatures), 2, squeeze=False, width_ratios=(3, 2))
    for (_, own), (left, right) in zip(temperatures, panels):
        curves(left, own)
        cross(right, own)
    panels[0, 0].legend(fontsize=7.0)
    panels[0, 1].set_title("loss, minus the own network's")
    panels[-1, 0].set_xlabel("spacing of the grid, in sites")
    panels[-1, 1].set_xlabel("measured on spacing")
    save_figure(figure, HERE / "invariance")
