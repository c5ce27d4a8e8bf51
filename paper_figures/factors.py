"""One set of weights, every factor: one configuration and its refinements, and their residuals.

python paper_figures/factors.py    analysis/factors_ising2d.{csv,npz} -> factors.png, factors.pdf

Above: a critical configuration, its block means at each factor, and SKILD's refinement of each.
Below: refined minus truth against the factor, by rule, with the same weights.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skild_phys.plots.style import MARKERS, STYLE, TRUTH, colour, save_figure

HERE = Path(__file__).parent
TABLE = pd.read_csv(HERE.parent / "analysis" / "factors_ising2d.csv")
LABELS = {
    "block_mean": "block means", "majority": "majorities", "decimate": "decimated spins",
    "spectral": "low-pass field",
}  # fmt: skip
SHOWN = (("connected_four_point", 1.0, "$G_{4c}(1)$"), ("connected_four_point", 4.0, "$G_{4c}(4)$"),
         ("energy", np.nan, "energy per site"))  # fmt: skip

with mpl.rc_context(STYLE), np.load(HERE.parent / "analysis" / "factors_ising2d.npz") as sample:
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subfigures(2, 1, height_ratios=(1.0, 1.05))
    factors = sorted({*TABLE["factor"]})
    images = above.subplots(2, 1 + len(factors))
    for row, kind in enumerate(("coarse", "skild")):
        for panel, factor in zip(images[row, 1:], factors):
            panel.imshow(sample[f"{kind}_factor{factor}-block_mean"], cmap="gray", vmin=-1, vmax=1)
            panel.set_title(f"factor {factor}" if not row else "")
        images[row, 1].set_ylabel(("block means", "refined")[row])
    images[0, 0].imshow(sample["fine"], cmap="gray", vmin=-1, vmax=1)
    images[0, 0].set_title("truth")
    for panel in images.flat:
        panel.set(xticks=[], yticks=[])
    images[1, 0].set_axis_off()
    panels = below.subplots(1, 3)
    for panel, (observable, at, title) in zip(panels, SHOWN):
        own = TABLE[(TABLE["observable"] == observable) & (TABLE["method"] == "skild")]
        own = own[own["at"].astype(float) == at] if at == at else own
        for i, (rule, label) in enumerate(LABELS.items()):
            one = own[own["rule"] == rule].sort_values("factor")
            panel.errorbar(
                one["factor"] * 1.02**i, one["residual"], one["residual_err"], color=colour(i),
                marker=MARKERS[i], linestyle=("-", "--", ":", "-.")[i], label=label,
            )  # fmt: skip
        panel.axhline(0.0, color=TRUTH, linewidth=0.8)
        panel.set(title=title, xlabel="factor", xscale="log")
        panel.set_xticks(factors, [str(factor) for factor in factors])
        panel.minorticks_off()
        panel.set_yscale("symlog", linthresh=0.005)
        panel.set_ylim(-0.2, 0.2)
        ticks = (-0.05, -0.01, -0.004, 0.0, 0.004, 0.01, 0.05)
        panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[0].set_ylabel("refined minus truth")
    below.legend(*panels[0].get_legend_handles_labels(), ncols=4, loc="outside lower center")
    save_figure(figure, HERE / "factors")
