"""Away from Tc: residuals of refinements with weights trained at Tc, against temperature.

python paper_figures/temperatures.py    analysis/temperatures_ising2d.csv -> temperatures.png, .pdf
"""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skild_phys.plots.style import MARKERS, STYLE, TRUTH, colour, save_figure

HERE = Path(__file__).parent
TABLE = pd.read_csv(HERE.parent / "analysis" / "temperatures_ising2d.csv")
RULES = {"block_mean": "block means, factor 4", "majority": "majorities, factor 4"}
METHODS = {"skild": "SKILD, weights for Tc", "exact": "exact Monte Carlo at T"}

with mpl.rc_context(STYLE):
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    energy = TABLE[TABLE["observable"] == "energy"].sort_values("relative")
    for panel, (rule, title) in zip(panels, RULES.items()):
        for i, (method, label) in enumerate(METHODS.items()):
            own = energy[(energy["rule"] == rule) & (energy["method"] == method)]
            panel.errorbar(
                own["relative"], own["residual"], own["residual_err"], color=colour(i),
                marker=MARKERS[i], linestyle=("-", ":")[i], label=label,
            )  # fmt: skip
        panel.axhline(0.0, color=TRUTH, linewidth=0.8)
        panel.set(xlabel="$T / T_c$", title=title)
        panel.set_yscale("symlog", linthresh=0.005)
        ticks = (-0.1, -0.02, -0.005, 0.0, 0.005, 0.02, 0.1)
        panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.legend(fontsize=7.0)
    panels[0].set_ylabel("energy per site, refined minus truth")
    save_figure(figure, HERE / "temperatures")
