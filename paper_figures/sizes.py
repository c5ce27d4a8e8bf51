"""One set of weights, trained on 64^2, at every size.

python paper_figures/sizes.py    analysis/sizes_ising2d.csv -> sizes.png, sizes.pdf

Block means, factor 4. Left: G4c(r), refined minus truth, by size. Right: the energy per site, SKILD
and the exact Monte Carlo.
"""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skild_phys.plots.style import MARKERS, STYLE, TRUTH, colour, save_figure

HERE = Path(__file__).parent
TABLE = pd.read_csv(HERE.parent / "analysis" / "sizes_ising2d.csv")
METHODS = {"skild": "SKILD", "exact": "exact Monte Carlo"}

with mpl.rc_context(STYLE):
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    distances, energies = figure.subplots(1, 2, width_ratios=(3, 2))
    of = (TABLE["observable"] == "connected_four_point") & (TABLE["method"] == "skild")
    for i, (side, own) in enumerate(TABLE[of].groupby("L")):
        r = own["at"].astype(float)
        distances.errorbar(
            r * 1.05**i, own["residual"], own["residual_err"], color=colour(i),
            marker=MARKERS[i], linestyle=":", label=f"${side}^2$",
        )  # fmt: skip
    energy = TABLE[TABLE["observable"] == "energy"]
    for i, (method, label) in enumerate(METHODS.items()):
        own = energy[energy["method"] == method].sort_values("L")
        energies.errorbar(
            own["L"] * 1.05**i, own["residual"], own["residual_err"], color=colour(i),
            marker=MARKERS[i], linestyle=("-", ":")[i], label=label,
        )  # fmt: skip
    for panel in (distances, energies):
        panel.axhline(0.0, color=TRUTH, linewidth=0.8)
        panel.set_xscale("log")
        panel.legend(fontsize=7.0)
    distances.set_xticks([1, 4, 16, 64, 256], ["1", "4", "16", "64", "256"])
    distances.minorticks_off()
    sides = sorted(energy["L"].unique())
    energies.set_xticks(sides, [str(side) for side in sides])
    energies.minorticks_off()
    distances.set(xlabel="$r$", ylabel=r"$G_{4c}$, refined minus truth")
    energies.set(xlabel="$L$", ylabel="energy per site, refined minus truth")
    save_figure(figure, HERE / "sizes")
