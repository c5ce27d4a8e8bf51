"""What all figures share: colours, the style, ticks, and how they are saved.

Colours are Okabe and Ito's, distinct to colour-blind readers; every store has a marker of its
own as well. Figures are made without pyplot, so that no global state and no display is needed.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray

from skild_phys.files import write_bytes_atomically

TRUTH = "#000000"
THEORY = "#777777"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
WAVE_NUMBERS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
"""Where wave numbers have ticks."""

STYLE: Any = {
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "errorbar.capsize": 2.0,
    "pdf.fonttype": 42,
    "savefig.dpi": 300.0,
}


def colour(i: int) -> str:
    """Return the colour of store `i`."""
    return COLOURS[i % len(COLOURS)]


def figure_bytes(figure: Figure, kind: str = "png", dpi: int = 300) -> bytes:
    """Return a figure as `png` or `pdf`; equal figures give equal bytes."""
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"CreationDate": None}
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    figure.set_layout_engine("none")  # it is laid out; once is enough
    return buffer.getvalue()


def save_figure(figure: Figure, stem: Path) -> None:
    """Write STEM.png (300 dpi) and STEM.pdf; raises WriteError."""
    for kind in ("png", "pdf"):
        write_bytes_atomically(stem.with_name(f"{stem.name}.{kind}"), figure_bytes(figure, kind))


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def marked(i: int, **style: Any) -> dict[str, Any]:
    """Return a style with colour and marker of store `i`."""
    return {"color": colour(i), "marker": MARKERS[i % len(MARKERS)]} | style


def legend_above(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6))


def band(
    ax: Axes, x: NDArray[Any], values: NDArray[Any], errors: NDArray[Any], i: int, **style: Any
) -> None:
    """Draw a line of store `i` in a band of its errors."""
    ax.plot(x, values, **marked(i, ms=3) | style)
    ax.fill_between(x, values - errors, values + errors, color=colour(i), alpha=0.25, lw=0)


def spread_out(last: int, most: int) -> NDArray[np.int64]:
    """Return at most so many whole numbers from 1 to `last`, about evenly on a log scale."""
    return np.unique(np.rint(np.geomspace(1, max(last, 1), most)).astype(np.int64))


def log_ticks(ax: Axes, values: NDArray[Any]) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(values.tolist()))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())


def literal(name: str) -> str:
    """Return a store's name as Matplotlib shows it unchanged: a $ starts no formula."""
    return name.replace("$", r"\$")
