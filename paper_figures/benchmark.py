"""The four-point benchmark: residuals of one set of weights by rule, factor and size.

python paper_figures/benchmark.py    analysis/refinement_ising2d.csv -> benchmark.png, benchmark.pdf

Left: G4c(r) of the truth (128^2), SKILD from block means, and the scaling limit. Middle: refined
minus truth by rule (by 4, 128^2), and by the protocol of the paper. Right: block means by other
factors and at other sizes, with the same weights.
"""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skild_phys.plots import MARKERS, STYLE, THEORY, TRUTH, colour, save_figure

HERE = Path(__file__).parent
TABLE = pd.read_csv(HERE.parent / "analysis" / "refinement_ising2d.csv")
G4C = TABLE[(TABLE["observable"] == "connected_four_point") & (TABLE["method"] == "skild")]
LABELS = {
    "block_mean": "block means", "majority": "majorities", "decimate": "every 4th spin",
    "spectral": "kept modes", "marginal": "paper's protocol",
}  # fmt: skip


def rows(rule: str, factor: int, side: int) -> pd.DataFrame:
    """Return the places of one refinement."""
    of = (G4C["rule"] == rule) & (G4C["factor"] == factor) & (G4C["L"] == side)
    return G4C[of].assign(r=G4C["at"].astype(float)).sort_values("r")


with mpl.rc_context(STYLE):
    figure = Figure(figsize=(7.2, 3.1), layout="constrained")
    FigureCanvasAgg(figure)
    value, rules, others = figure.subplots(1, 3)
    own = rows("block_mean", 4, 128)
    known = own.dropna(subset=["theory"])
    value.errorbar(own["r"], own["truth"], own["truth_err"], color=TRUTH, marker=".", label="truth")
    value.plot(known["r"], known["theory"], "--", color=THEORY, label="torus, scaling limit")
    value.errorbar(
        own["r"], own["value"], own["err"], color=colour(0), marker=MARKERS[0], mfc="none",
        linestyle="", label="SKILD, block means",
    )  # fmt: skip
    value.set(xscale="log", xlabel="$r$", ylabel="$G_{4c}(r)$", title=r"$128^2$, by 4")
    for i, (rule, label) in enumerate(LABELS.items()):
        own = rows(rule, 4, 128)
        if len(own):
            rules.errorbar(
                own["r"] * (1 + 0.05 * i), own["residual"], own["residual_err"], color=colour(i),
                marker=MARKERS[i], linestyle=":", label=label,
            )  # fmt: skip
    sizes = [("block_mean", 2, 128), ("block_mean", 8, 128)]
    sizes += [("block_mean", 4, side) for side in (64, 256, 512, 1024)]
    for i, (rule, factor, side) in enumerate(sizes):
        own = rows(rule, factor, side)
        others.errorbar(
            own["r"] * (1 + 0.05 * i), own["residual"], own["residual_err"], color=colour(i),
            marker=MARKERS[i], linestyle=":", label=rf"by {factor}, ${side}^2$",
        )  # fmt: skip
    rules.set(title=r"other rules, $128^2$, by 4", ylabel=r"$G_{4c}$, refined minus truth")
    others.set(title="block means")
    for panel in (rules, others):
        panel.axhline(0.0, color=TRUTH, linewidth=0.8)
        panel.set(xscale="log", xlabel="$r$")
        panel.set_yscale("symlog", linthresh=0.002)
        panel.set_ylim(-0.05, 0.05)
        ticks = (-0.02, -0.005, -0.002, 0.0, 0.002, 0.005, 0.02)
        panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    for panel in (value, rules, others):
        panel.legend(fontsize=6.5, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    save_figure(figure, HERE / "benchmark")
