"""SKILD beside other models, and beside the exact Monte Carlo at equal cost.

python paper_figures/rivals.py    analysis/{rivals,cost}_ising2d.csv -> rivals.png, rivals.pdf
"""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skild_phys.plots import MARKERS, STYLE, TRUTH, colour, save_figure

HERE = Path(__file__).parent
RIVALS = pd.read_csv(HERE.parent / "analysis" / "rivals_ising2d.csv")
COST = pd.read_csv(HERE.parent / "analysis" / "cost_ising2d.csv")
MODELS = {
    "skild": "SKILD",
    "gaussian": "Gaussian fill",
    "local_rule": "local rule",
    "sr3_1000": "SR3, 1000 calls",
    "skild_paper": "SKILD as published",
    "fill": "random fill",
    "exact": "exact Monte Carlo",
}

with mpl.rc_context(STYLE):
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    four_point = RIVALS[RIVALS["observable"] == "connected_four_point"]
    for i, (name, label) in enumerate(MODELS.items()):
        own = four_point[four_point["model"] == name]
        style = {"color": TRUTH} if name == "exact" else {"color": colour(i)}
        left.errorbar(
            own["at"].astype(float), own["residual"].abs(), own["residual_err"],
            marker=MARKERS[i % len(MARKERS)], label=label, **style,
        )  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="$r$", ylabel=r"$|\Delta G_{4c}(r)|$", ylim=3e-4)
    minutes = RIVALS.loc[RIVALS["model"] == "skild", "training_minutes"].iloc[0]
    left.set_title(f"block means by 4, {minutes:.0f} minutes of training")
    left.legend(fontsize=7.0, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    patterns = COST[COST["observable"] == "patterns_tv"]
    for i, (factor, table) in enumerate(patterns.groupby("factor")):
        for method, filled in (("skild", "full"), ("exact", "none")):
            own = table[table["method"] == method].sort_values(["steps", "sweeps"])
            right.plot(
                own["seconds_per_lattice"], own["value"], marker=MARKERS[i], color=colour(i),
                fillstyle=filled, linestyle="-" if method == "skild" else ":",
                label=f"{factor}x, {'SKILD' if method == 'skild' else 'exact'}",
            )  # fmt: skip
    right.set(xscale="log", yscale="log", xlabel="seconds a lattice, one thread")
    right.set_ylabel("3x3 patterns, total variation")
    right.set_title("error against cost")
    right.legend(fontsize=7.0, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    save_figure(figure, HERE / "rivals")
