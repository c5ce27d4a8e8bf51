"""Configurations from noise: U4, chi and xi against the size of the lattice.

python paper_figures/generation.py    analysis/generation_ising2d.csv -> generation.png, .pdf

One network for the grids of every scale, and the weights of version 0.1, which see every scale on
the lattice itself. Lines: the limit of large squares (Salas and Sokal, cond-mat/9904038).
"""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes

from skild_phys.models.exact import BINDER, SUSCEPTIBILITY, XI_OVER_L
from skild_phys.plots.style import (
    MARKERS,
    STYLE,
    TRUTH,
    colour,
    legend_above,
    new_figure,
    save_figure,
)

HERE = Path(__file__).parent
TABLE = pd.read_csv(HERE.parent / "analysis" / "generation_ising2d.csv", dtype={"L": str})
SQUARES = TABLE[~TABLE["L"].str.contains("x")].astype({"L": int})
LABELS = {"version 0.1": "version 0.1, one grid", "shipped": "a grid for every scale"}
PANELS = {
    "binder_cumulant": ("$U_4$", 0.0, BINDER),
    "susceptibility": (r"$\chi\, L^{-7/4}$", -1.75, SUSCEPTIBILITY),
    "correlation_length": (r"$\xi / L$", -1.0, XI_OVER_L),
}
"""Observables: label, the power of L they are scaled by, what that is in the limit of large L."""


def draw(panel: Axes, observable: str) -> None:
    """Draw one observable of all weights, and its exact line."""
    label, power, limit = PANELS[observable]
    panel.axhline(limit, color=TRUTH, linewidth=0.8, label="exact")
    own = SQUARES[SQUARES["observable"] == observable]
    for i, (weights, rows) in enumerate(own.groupby("weights", sort=False)):
        rows = rows.sort_values("L")
        scale = rows["L"].astype(float) ** power
        panel.errorbar(
            rows["L"] * 1.04**i, rows["value"] * scale, rows["err"] * scale, color=colour(1 - i),
            marker=MARKERS[1 - i], linestyle=":", label=LABELS.get(str(weights), str(weights)),
        )  # fmt: skip
    sides = sorted(SQUARES["L"].unique())
    panel.set_xscale("log")
    panel.set_xticks(sides, [str(side) for side in sides])
    panel.minorticks_off()
    panel.set(xlabel="$L$", ylabel=label)


with mpl.rc_context(STYLE):
    figure = new_figure(7.2, 2.6)
    for panel, observable in zip(figure.subplots(1, 3), PANELS):
        draw(panel, observable)
    legend_above(figure, figure.axes[0])
    save_figure(figure, HERE / "generation")
