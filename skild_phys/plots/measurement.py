"""The figure of one measurement, over theory."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skild_phys.plots.style import (
    MARKERS,
    STYLE,
    THEORY,
    WAVE_NUMBERS,
    colour,
    log_ticks,
    new_figure,
    spread_out,
)

_POINTS = 40


def measurement_figure(data: xr.Dataset) -> Figure | None:
    """Draw what one measurement holds of G4c, G(r), S(k) and clusters, over theory.

    None if it holds none of them.
    """
    panels = [panel for panel in _MEASURED if panel[0][0][0] in data]
    if not panels:
        return None
    with mpl.rc_context(STYLE):
        figure = new_figure(3.6 * min(len(panels), 2), 3.0 * ((len(panels) + 1) // 2))
        axes = figure.subplots((len(panels) + 1) // 2, min(len(panels), 2), squeeze=False).ravel()
        figure.suptitle(_title(data))
        for spare in axes[len(panels) :]:
            spare.set_visible(False)
        for ax, (lines, where, xlabel, ylabel) in zip(axes, panels):
            for i, (name, label, step) in enumerate(lines):
                if name in data:
                    _measured_line(ax, data, name, where, label, step, i)
            ax.set(xlabel=xlabel, ylabel=ylabel)
            if not ax.has_data():
                continue
            ax.set(xscale="log", yscale="log")
            if where in ("side", "distance"):
                low, high = ax.get_xlim()
                log_ticks(ax, np.array([2**i for i in range(20) if low <= 2**i <= high]))
            elif where == "k":
                low, high = ax.get_xlim()
                log_ticks(ax, np.array([t for t in WAVE_NUMBERS if low <= t <= high]))
            ax.legend()
    return figure


_MEASURED: tuple[tuple[tuple[tuple[str, str, float], ...], str, str, str], ...] = (
    (
        (("connected_four_point", "squares", 1.0),),
        "side",
        "side r of the square (lattice constants)",
        "$|G_{4c}(r)|$",
    ),
    (
        (
            ("two_point_axis", "along the axes", 1.0),
            ("two_point_diagonal", "along the diagonals", float(np.sqrt(2.0))),
        ),
        "distance",
        "distance (lattice constants)",
        "two-point function $|G(r)|$",
    ),
    (
        (("structure_factor", "shells", 1.0),),
        "k",
        "wave number k (rad / lattice constant)",
        "structure factor S(k)",
    ),
    (
        (("geometric_cluster_density", "geometric", 1.0), ("fk_cluster_density", "FK", 1.0)),
        "cluster_size",
        "size s of a cluster (sites)",
        "clusters of size s per site",
    ),
)


def _title(data: xr.Dataset) -> str:
    size = "x".join(map(str, data.attrs["shape"]))
    known = [f"{data.attrs['lattices']} lattices of {size}"]
    known += [str(data.attrs["model"])] if "model" in data.attrs else []
    known += [f"T = {data.attrs['temperature']:.6g}"] if "temperature" in data.attrs else []
    return ", ".join([*known, "bars are one standard error"])


def _measured_line(
    ax: Axes, data: xr.Dataset, name: str, where: str, label: str, step: float, i: int
) -> None:
    x, values, error = data[where].values * step, data[name].values, data[f"{name}_err"].values
    seen = np.flatnonzero((x > 0) & np.isfinite(values) & (values != 0))
    if not len(seen):
        return
    shown = seen if len(seen) <= _POINTS else seen[spread_out(len(seen), _POINTS) - 1]
    style: Any = {"color": colour(i), "marker": MARKERS[i], "ls": "", "ms": 3}
    ax.errorbar(x[shown], np.abs(values[shown]), error[shown], label=label, **style)
    if f"{name}_theory" in data:
        theory = np.abs(data[f"{name}_theory"].values[shown])
        ax.plot(x[shown], theory, color=THEORY, ls="--", label="theory" if i == 0 else None)
