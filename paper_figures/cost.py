"""The cost of accuracy: SKILD and the exact Monte Carlo on one thread.

python paper_figures/cost.py    analysis/cost_ising2d.csv -> cost.png, cost.pdf

Against seconds per configuration (128^2, block means): left the residual of the energy, right the
total variation distance of 3x3 patterns; along a curve the number of denoiser evaluations, or
sweeps, grows.
"""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skild_phys.plots.style import MARKERS, STYLE, colour, save_figure

HERE = Path(__file__).parent
TABLE = pd.read_csv(HERE.parent / "analysis" / "cost_ising2d.csv")

with mpl.rc_context(STYLE):
    figure = Figure(figsize=(7.2, 3.1), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharex=True)
    for panel, observable in zip(panels, ("energy", "patterns_tv")):
        shown = TABLE[TABLE["observable"] == observable].sort_values(["steps", "sweeps"])
        for i, (factor, table) in enumerate(shown.groupby("factor")):
            for method, filled, line in (("skild", "full", "-"), ("exact", "none", ":")):
                own = table[table["method"] == method]
                size = own["residual"].abs() if observable == "energy" else own["value"]
                panel.errorbar(
                    own["seconds_per_lattice"], size, own["residual_err"], color=colour(i),
                    marker=MARKERS[i], fillstyle=filled, linestyle=line,
                    label=f"factor {factor}, {'SKILD' if method == 'skild' else 'exact'}",
                )  # fmt: skip
        panel.set(xscale="log", yscale="log", xlabel="seconds per configuration, one thread")
    panels[0].set(ylabel=r"$|\Delta e|$", title="residual, energy per site", ylim=(2e-4, None))
    panels[1].set(ylabel="total variation", title="3x3 patterns")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize=7.0, ncols=6, loc="outside lower center")
    save_figure(figure, HERE / "cost")
