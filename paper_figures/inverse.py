"""Inverse renormalisation: observables of critical configurations that are refined repeatedly.

python paper_figures/inverse.py    analysis/inverse_renormalisation.csv -> inverse.png, inverse.pdf

Flows from simulated configurations (full) and from majorities (open), factor 2 per step.
"""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skild_phys.plots.style import MARKERS, STYLE, THEORY, TRUTH, colour, save_figure

HERE = Path(__file__).parent
TABLE = pd.read_csv(HERE.parent / "analysis" / "inverse_renormalisation.csv")
METHODS = {"skild": "SKILD", "exact": "exact Monte Carlo", "local_rule": "local rule"}
PANELS = {"energy": "energy per site", "U4": "$U_4$", "xi_over_L": r"$\xi / L$"}

with mpl.rc_context(STYLE):
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    known = TABLE[TABLE["method"] == "simulated"]
    for panel, (name, title) in zip(figure.subplots(1, 3), PANELS.items()):
        panel.plot(known["side"], known[f"{name}_exact"], "--", color=THEORY, label="exact")
        panel.errorbar(
            known["side"], known[name], known[f"{name}_err"], color=TRUTH, marker=".",
            linestyle="", label="simulated",
        )  # fmt: skip
        for i, (method, label) in enumerate(METHODS.items()):
            for begun, filled in (("plain", "full"), ("blocked", "none")):
                own = TABLE[(TABLE["method"] == method) & (TABLE["begun"] == begun)]
                panel.errorbar(
                    own["side"], own[name], own[f"{name}_err"], color=colour(i),
                    marker=MARKERS[i], fillstyle=filled, linestyle="-" if filled == "full" else ":",
                    label=f"{label}{'' if filled == 'full' else ', from majorities'}",
                )  # fmt: skip
        panel.set(xscale="log", xlabel="$L$", title=title)
        sides = sorted(TABLE["side"].unique())
        panel.set_xticks(sides, [str(side) for side in sides])
        panel.minorticks_off()
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7.0, ncols=4, loc="outside lower center")
    save_figure(figure, HERE / "inverse")
