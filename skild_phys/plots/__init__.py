"""Figures: they draw what was found and compute nothing."""

from skild_phys.plots.comparison import FIGURES, caption, draw, write_report
from skild_phys.plots.measurement import measurement_figure
from skild_phys.plots.scaling import scaling_figure
from skild_phys.plots.spectrum import spectrum_figure
from skild_phys.plots.style import (
    COLOURS,
    MARKERS,
    STYLE,
    THEORY,
    TRUTH,
    colour,
    figure_bytes,
    save_figure,
)

__all__ = [
    "COLOURS",
    "FIGURES",
    "MARKERS",
    "STYLE",
    "THEORY",
    "TRUTH",
    "caption",
    "colour",
    "draw",
    "figure_bytes",
    "measurement_figure",
    "save_figure",
    "scaling_figure",
    "spectrum_figure",
    "write_report",
]
