"""The figure of one measurement, over theory."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skild_phys.measurement.tables import estimated, label, position
from skild_phys.plots.style import (
    STYLE,
    THEORY,
    WAVE_NUMBERS,
    literal,
    log_ticks,
    marked,
    new_figure,
    spread_out,
)

_POINTS = 40
_TICKS = {
    "k": np.array(WAVE_NUMBERS),
    "side": 2.0 ** np.arange(20),
    "distance": 2.0 ** np.arange(20),
}
_PANELS: tuple[tuple[dict[str, tuple[str, float]], str, str], ...] = (
    (
        {"connected_four_point": ("squares", 1.0)},
        "side r of the square (lattice constants)", "$|G_{4c}(r)|$",
    ),
    (
        {
            "two_point_axis": ("along the axes", 1.0),
            "two_point_diagonal": ("along the diagonals", float(np.sqrt(2.0))),
        },
        "distance (lattice constants)", "two-point function $|G(r)|$",
    ),
    (
        {"structure_factor": ("shells", 1.0)},
        "wave number k (rad / lattice constant)", "structure factor S(k)",
    ),
    (
        {"geometric_cluster_density": ("geometric", 1.0), "fk_cluster_density": ("FK", 1.0)},
        "size s of a cluster (sites)", "clusters of size s per site",
    ),
)  # fmt: skip
"""Name -> (label, length of a step) of each line of a panel, and what its axes show."""


def measurement_figure(data: xr.Dataset) -> Figure | None:
    """Draw G4c, G(r), S(k), clusters and other curves with a symbol, over theory.

    None if a measurement holds none of them.
    """
    named = {name for lines, *_ in _PANELS for name in lines}
    panels = [panel for panel in _PANELS if next(iter(panel[0])) in data]
    for name in estimated(data):
        known = data[name]
        if name not in named and known.dims and known.size and "symbol" in known.attrs:
            over, shown = position(data, name), literal(label(data, name))
            if over.dtype.kind != "U":
                words = f"{over.attrs['symbol']} ({over.attrs['units']})"
                panels.append(({name: (shown, 1.0)}, words, f"|{shown}|"))
    if not panels:
        return None
    rows, columns = (len(panels) + 1) // 2, min(len(panels), 2)
    with mpl.rc_context(STYLE):
        figure = new_figure(3.6 * columns, 3.0 * rows)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        about = data.attrs
        title = [f"{about['lattices']} lattices of {'x'.join(map(str, about['shape']))}"]
        title += [str(about["model"])] if "model" in about else []
        title += [f"T = {about['temperature']:.6g}"] if "temperature" in about else []
        figure.suptitle(", ".join([*title, "bars are one standard error"]))
        for spare in axes[len(panels) :]:
            spare.set_visible(False)
        for ax, (lines, xlabel, ylabel) in zip(axes, panels):
            for i, (name, (words, step)) in enumerate(lines.items()):
                if name in data:
                    _line(ax, data, name, words, step, i)
            ax.set(xlabel=xlabel, ylabel=ylabel)
            if ax.has_data():
                ax.set(xscale="log", yscale="log")
                low, high = ax.get_xlim()
                at = _TICKS.get(str(position(data, next(iter(lines))).name))
                if at is not None:
                    log_ticks(ax, at[(low <= at) & (at <= high)])
                ax.legend()
    return figure


def _line(ax: Axes, data: xr.Dataset, name: str, words: str, step: float, i: int) -> None:
    x, values = position(data, name).values * step, data[name].values
    seen = np.flatnonzero((x > 0) & np.isfinite(values) & (values != 0))
    if not len(seen):
        return
    shown = seen if len(seen) <= _POINTS else seen[spread_out(len(seen), _POINTS) - 1]
    error = data[f"{name}_err"].values[shown]
    ax.errorbar(x[shown], np.abs(values[shown]), error, label=words, **marked(i, ls="", ms=3))
    if f"{name}_theory" in data:
        theory = np.abs(data[f"{name}_theory"].values[shown])
        ax.plot(x[shown], theory, color=THEORY, ls="--", label="theory" if i == 0 else None)
