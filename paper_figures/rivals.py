"""SKILD beside other methods with equal network, training data and training time.

python paper_figures/rivals.py    analysis/rivals_ising2d.csv -> rivals.png, rivals.pdf

Left: residuals of G4c(r). Right: residual of the energy against seconds per configuration.
"""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skild_phys.plots.style import MARKERS, STYLE, TRUTH, colour, save_figure

HERE = Path(__file__).parent
RIVALS = pd.read_csv(HERE.parent / "analysis" / "rivals_ising2d.csv")
METHODS = {
    "skild": "SKILD",
    "gaussian": "Gaussian fill",
    "local_rule": "local rule",
    "sr3_1000": "SR3, 1000 evaluations",
    "skild_paper": "SKILD as published",
    "fill": "random fill",
    "exact": "exact Monte Carlo",
}

with mpl.rc_context(STYLE):
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    four_point = RIVALS[RIVALS["observable"] == "connected_four_point"]
    energy = RIVALS[RIVALS["observable"] == "energy"].set_index("model")
    for i, (name, label) in enumerate(METHODS.items()):
        own = four_point[four_point["model"] == name]
        style = {
            "color": TRUTH if name == "exact" else colour(i),
            "marker": MARKERS[i % len(MARKERS)],
        }
        left.errorbar(
            own["at"].astype(float),
            own["residual"].abs(),
            own["residual_err"],
            label=label,
            **style,
        )
        one = energy.loc[name]
        right.errorbar(one["seconds"], abs(one["residual"]), one["residual_err"], **style)
    left.set(xscale="log", yscale="log", xlabel="$r$", ylabel=r"$|\Delta G_{4c}(r)|$", ylim=3e-4)
    minutes = RIVALS.loc[RIVALS["model"] == "skild", "training_minutes"].iloc[0]
    left.set_title(f"block means, factor 4, {minutes:.0f} minutes of training")
    right.set(xscale="log", yscale="log", xlabel="seconds per configuration, one thread")
    right.set(ylabel=r"$|\Delta e|$", title="energy per site")
    figure.legend(*left.get_legend_handles_labels(), ncols=4, loc="outside lower center")
    save_figure(figure, HERE / "rivals")
