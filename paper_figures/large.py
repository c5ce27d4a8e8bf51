"""Large configurations from noise: S(k) and G(r) over theory, and one configuration.

python paper_figures/large.py    analysis/large_ising2d.csv, .npz -> large.png, large.pdf

Bands: standard errors. The configuration is shown in blocks; k and r are in units of the lattice.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

from skild_phys.plots.style import STYLE, THEORY, band, new_figure, save_figure

HERE = Path(__file__).parent
STUDY = HERE.parent / "analysis" / "large_ising2d"
TABLE = pd.read_csv(STUDY.with_suffix(".csv"))
with np.load(STUDY.with_suffix(".npz")) as kept:
    BLOCKS = kept["blocks"]
FEW = 10
"""Points in a factor of ten of k or r, means of those that fall together."""


def thinned(own: pd.DataFrame) -> pd.DataFrame:
    """Return means over ranges of `at`; errors are those of a point, as neighbours go together."""
    own = own[(own["at"] > 0.0) & (own["ratio_err"] > 0.0)]
    return own.groupby(np.round(FEW * np.log10(own["at"])))[["at", "ratio", "ratio_err"]].mean()


with mpl.rc_context(STYLE):
    figure = new_figure(7.2, 2.5)
    left, middle, right = figure.subplots(1, 3)
    panels = ((left, "structure_factor", "$k$", "$S(k)$ / theory"),
              (middle, "two_point_axis", "$r$", "$G(r)$ / theory"))  # fmt: skip
    for panel, observable, x, y in panels:
        panel.axhline(1.0, color=THEORY, linewidth=0.8)
        for i, (side, own) in enumerate(TABLE[TABLE["observable"] == observable].groupby("L")):
            points = thinned(own)
            columns = (points[name].to_numpy() for name in ("at", "ratio", "ratio_err"))
            band(panel, *columns, i, label=f"${side}^2$")
        panel.set(xscale="log", xlabel=x, ylabel=y, ylim=(0.8, 1.2))
    left.legend()
    right.imshow(BLOCKS, cmap="gray", interpolation="antialiased")
    right.set(xticks=[], yticks=[], title=f"${TABLE['L'].max()}^2$")
    save_figure(figure, HERE / "large")
