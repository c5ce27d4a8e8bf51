"""How error falls with the calls of a chain, or with sweeps, and what both cost.

python paper_figures/cost.py    analysis/cost_ising2d.csv -> cost.png, cost.pdf

Left: error of the energy against calls of the denoiser (24 lattices of 128^2, block means by 2 to
16). Right: 3x3 patterns against seconds a lattice on one thread, SKILD and the exact Monte Carlo.
"""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skild_phys.plots import MARKERS, STYLE, colour, save_figure

HERE = Path(__file__).parent
TABLE = pd.read_csv(HERE.parent / "analysis" / "cost_ising2d.csv")

with mpl.rc_context(STYLE):
    figure = Figure(figsize=(7.2, 3.1), layout="constrained")
    FigureCanvasAgg(figure)
    calls, seconds = figure.subplots(1, 2)
    for i, (factor, own) in enumerate(TABLE.groupby("factor")):
        skild = own[own["method"] == "skild"].sort_values("calls_or_sweeps")
        calls.errorbar(
            skild["calls_or_sweeps"] * (1 + 0.02 * i), skild["energy"].abs(), skild["energy_err"],
            color=colour(i), marker=MARKERS[i], label=f"by {factor}",
        )  # fmt: skip
        for method, filled, line in (("skild", "full", "-"), ("exact", "none", ":")):
            one = own[own["method"] == method].sort_values("calls_or_sweeps")
            seconds.plot(
                one["seconds"], one["patterns_tv"], color=colour(i), marker=MARKERS[i],
                fillstyle=filled, linestyle=line,
                label=f"by {factor}, {'SKILD' if method == 'skild' else 'exact'}",
            )  # fmt: skip
    calls.set(xscale="log", yscale="log", xlabel="calls of the denoiser", ylim=(3e-4, 0.1))
    calls.set(ylabel=r"$|\Delta e|$", title="error of the energy")
    calls.set_xticks([4, 8, 16, 28], ["4", "8", "16", "28"])
    calls.minorticks_off()
    seconds.set(xscale="log", yscale="log", xlabel="seconds a lattice, one thread")
    seconds.set(ylabel="total variation", title="3x3 patterns against cost")
    for panel in (calls, seconds):
        panel.legend(fontsize=6.5, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    save_figure(figure, HERE / "cost")
