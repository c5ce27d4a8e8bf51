"""The four-point benchmark: G4c, its residuals after refinement, and one configuration.

python paper_figures/benchmark.py    analysis/refinement_ising2d.{csv,npz} -> benchmark.png, .pdf

Critical configurations of 128^2, factor 4. Upper left: -G4c(r) of the truth, of SKILD's refinements
of block means, and in the scaling limit. Lower left: refined minus truth by rule, beside the
protocol of the paper (from the noised truth). Right: one configuration, its block means, and two
refinements of these.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skild_phys.plots.style import MARKERS, STYLE, THEORY, TRUTH, colour, save_figure

HERE = Path(__file__).parent
TABLE = pd.read_csv(HERE.parent / "analysis" / "refinement_ising2d.csv")
G4C = TABLE[(TABLE["observable"] == "connected_four_point") & (TABLE["method"] == "skild")]
LABELS = {
    "block_mean": "block means", "majority": "majorities", "decimate": "one spin per block",
    "marginal": "paper's protocol",
}  # fmt: skip
IMAGES = {"fine": "truth", "coarse": "block means", "skild": "SKILD", "exact": "exact Monte Carlo"}


def rows(rule: str) -> pd.DataFrame:
    """Return G4c of one refinement by distance."""
    return G4C[G4C["rule"] == rule].assign(r=G4C["at"].astype(float)).sort_values("r")


with mpl.rc_context(STYLE), np.load(HERE.parent / "analysis" / "refinement_ising2d.npz") as sample:
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subfigures(1, 2, width_ratios=(1.0, 1.05))
    value, residual = left.subplots(2, 1, sharex=True, height_ratios=(1.0, 1.25))
    own = rows("block_mean")
    known = own.dropna(subset=["theory"])
    value.errorbar(
        own["r"], -own["truth"], own["truth_err"], color=TRUTH, marker=".", label="truth"
    )
    value.plot(known["r"], -known["theory"], "--", color=THEORY, label="torus, scaling limit")
    value.errorbar(
        own["r"], -own["value"], own["err"], color=colour(0), marker=MARKERS[0], mfc="none",
        linestyle="", label="SKILD, block means",
    )  # fmt: skip
    value.set(xscale="log", yscale="log", ylabel="$-G_{4c}(r)$")
    value.set_yticks([0.2, 0.4, 0.8], ["0.2", "0.4", "0.8"])
    value.minorticks_off()
    value.legend(fontsize=7.0)
    for i, (rule, label) in enumerate(LABELS.items()):
        own = rows(rule)
        residual.errorbar(
            own["r"] * 1.05**i, own["residual"], own["residual_err"], color=colour(i),
            marker=MARKERS[i], linestyle=("-", "--", ":", "-.")[i], label=label,
        )  # fmt: skip
    residual.axhline(0.0, color=TRUTH, linewidth=0.8)
    residual.set(xlabel="$r$", ylabel="refined minus truth")
    residual.legend(fontsize=7.0, ncols=2)
    residual.margins(y=0.25)
    residual.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
    residual.minorticks_off()
    for panel, (name, title) in zip(right.subplots(2, 2).flat, IMAGES.items()):
        panel.imshow(sample[name], cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
        panel.set(xticks=[], yticks=[], title=title)
    save_figure(figure, HERE / "benchmark")
