"""Residuals against the number of network evaluations.

python paper_figures/steps.py    analysis/steps_ising2d.csv -> steps.png, steps.pdf

Left: refinements from block means at factors 2, 4 and 8. Right: factor 4, beside the paper's
protocol, whose chains start from the noised truth. 128^2; filled above zero, open below.
"""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skild_phys.plots.style import MARKERS, STYLE, colour, save_figure

HERE = Path(__file__).parent
TABLE = pd.read_csv(HERE.parent / "analysis" / "steps_ising2d.csv")
G4C = TABLE[TABLE["observable"] == "connected_four_point"]
G4C = G4C[G4C["at"].astype(float) == 1.0].sort_values("steps")
PROTOCOLS = {
    "refine": "refined from block means",
    "mixed": "from the noised truth, our sampler",
    "ancestral": "from the noised truth, ancestral",
}


def draw(panel: Axes, own: pd.DataFrame, i: int, label: str) -> None:
    """Draw one curve of |residual| against network evaluations."""
    x, size = own["evaluations"] * 1.02**i, own["residual"].abs()
    panel.errorbar(
        x, size, own["residual_err"], color=colour(i), marker=MARKERS[i], label=label,
        linestyle=("-", "--", ":")[i],
    )  # fmt: skip
    below = own["residual"] < 0
    panel.plot(x[below], size[below], linestyle="", marker=MARKERS[i], color=colour(i), mfc="w",
               zorder=3)  # fmt: skip


with mpl.rc_context(STYLE):
    figure = Figure(figsize=(7.2, 3.1), layout="constrained")
    FigureCanvasAgg(figure)
    factors, protocols = figure.subplots(1, 2, sharey=True)
    for i, (factor, own) in enumerate(G4C[G4C["protocol"] == "refine"].groupby("factor")):
        draw(factors, own, i, f"factor {factor}")
    by = G4C.loc[G4C["protocol"] != "refine", "factor"].iloc[0]
    for i, (protocol, label) in enumerate(PROTOCOLS.items()):
        of = (G4C["protocol"] == protocol) & (G4C["factor"] == by)
        draw(protocols, G4C[of], i, label)
    for panel in (factors, protocols):
        panel.set(xscale="log", yscale="log", xlabel="network evaluations", ylim=(2e-4, 3.0))
        panel.set_xticks([2, 4, 8, 16], ["2", "4", "8", "16"])
        panel.minorticks_off()
        panel.legend(fontsize=7.0, loc="upper right")
    factors.set(ylabel=r"$|\Delta G_{4c}(1)|$", title="block means")
    protocols.set_title(f"factor {by}")
    save_figure(figure, HERE / "steps")
