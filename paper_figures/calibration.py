"""Ranks of the truth and of SKILD among exact samples: flat if all have one distribution.

python paper_figures/calibration.py    analysis/calibration_ising2d.csv -> calibration.png, .pdf

One panel per coarse-graining, one line per quantity, in eighths of the ranks; grey: the band in
which all 8 bins of a flat histogram of 300 ranks lie with probability 0.99.
"""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skild_phys.plots.style import MARKERS, STYLE, colour, save_figure

HERE = Path(__file__).parent
TABLE = pd.read_csv(HERE.parent / "analysis" / "calibration_ising2d.csv")
RULES = {"block_mean": "block means", "majority": "majorities", "decimate": "decimated spins"}
BINS = [f"bin{i}" for i in range(8)]

with mpl.rc_context(STYLE):
    cases = list(TABLE.groupby(["rule", "factor"], sort=False))
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(cases), sharex=True, sharey=True, squeeze=False)
    for column, ((rule, factor), case) in enumerate(cases):
        for panel, lattice in zip(panels[:, column], ("truth", "skild")):
            own = case[case["lattice"] == lattice]
            panel.axhspan(own["low"].iloc[0], own["high"].iloc[0], color="0.9", zorder=0)
            for i, line in enumerate(own.itertuples()):
                panel.plot(
                    [(k + 0.5) / 8 for k in range(8)], [getattr(line, name) for name in BINS],
                    color=colour(i), marker=MARKERS[i % len(MARKERS)], markersize=2.5,
                    linewidth=0.8, linestyle="-" if i < 6 else "--",
                    label=str(line.quantity) if column == 0 and lattice == "truth" else None,
                )  # fmt: skip
            panel.set(ylim=(0, 80), xlim=(0, 1))
        panels[0, column].set_title(f"{RULES[rule]}, factor {factor}")
        panels[1, column].set_xlabel("rank among 63")
    panels[0, 0].set_ylabel("counts, truth")
    panels[1, 0].set_ylabel("counts, SKILD")
    figure.legend(fontsize=6.5, ncols=5, loc="outside lower center")
    save_figure(figure, HERE / "calibration")
