"""Spectra of the data, and the scale along schedules.

python paper_figures/spectra.py    analysis/images_spectra.csv -> spectra.png, spectra.pdf

Left: P of critical Ising configurations of 64^2, in the shipped weights and in the scaling limit.
Middle: P of CIFAR-10 along intensity and the two colours, and the paper's fit of all channels.
Right: the resolution that the noise has not erased (`effective_resolution`, of 32 pixels) along the
schedules of the paper, and along one with steps equal in log lambda.
"""

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skild_phys.models.exact import torus_structure_factor
from skild_phys.plots.style import MARKERS, STYLE, THEORY, colour, save_figure
from skild_phys.skild.chain import SCHEDULES
from skild_phys.skild.recipe import read_recipe
from skild_phys.skild.spectrum import make_basis
from skild_phys.skild.weights import load_weights, shipped_weights

HERE = Path(__file__).parent
SPECTRA = pd.read_csv(HERE.parent / "analysis" / "images_spectra.csv")
SIDE = 64
DIRECTIONS = ("intensity", "first colour", "second colour")


def effective_resolution(lam: float, side: int, tau: float = 0.1) -> float:
    """Return R such that noise at `lam` has not yet erased the R x R box of the DCT.

    abar / (1 - abar) = tau at the corner of the box, kappa = sqrt(2) pi R / side.
    """
    return side * math.sqrt(math.log1p(1.0 / tau) / lam) / (math.sqrt(2.0) * math.pi)


# %% What is drawn
torus = make_basis("dft", (SIDE, SIDE))
kappa = np.geomspace(2 * np.pi / SIDE, np.pi * np.sqrt(2), 200)
known = load_weights(shipped_weights()).spectrum(kappa)
limit = torus_structure_factor((SIDE, SIDE))
ky, kx = 2 * np.pi * np.fft.fftfreq(SIDE)[:, None], 2 * np.pi * np.fft.rfftfreq(SIDE)[None]
at = np.hypot(ky, kx)
paper = read_recipe("cifar10")
schedules = {
    "linear (CIFAR-10)": paper.lambdas,
    "log-linear (CIFAR-10)": read_recipe("cifar10-loglinear").lambdas,
    "linear (ImageNet 128, 8x)": read_recipe("imagenet128-8x").lambdas,
    "equal in log lambda": SCHEDULES["geometric"](0.01, 1000.0),
}

# %% Three panels
with mpl.rc_context(STYLE):
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    ising, images, scale = figure.subplots(1, 3)
    ising.plot(kappa, known, color=colour(0), label="shipped weights")
    few = (at > 0) & (ky >= 0) & (at < 1.5)
    ising.plot(
        at[few],
        limit[few],
        ".",
        color=THEORY,
        markersize=3,
        zorder=0,
        label="torus, scaling limit",
    )
    ising.plot(kappa, 1.1 * kappa ** (-7 / 4), ":", color=THEORY, label=r"$\kappa^{-7/4}$")
    ising.set(xscale="log", yscale="log", xlabel=r"$\kappa$", ylabel=r"$P(\kappa)$")
    ising.set_title("critical Ising configurations")
    one = SPECTRA[SPECTRA["model"] == "skild"]
    for k, label in enumerate(DIRECTIONS):
        own = one[one["direction"] == k]
        images.plot(
            own["kappa"], own["power_data"], color=colour(k), marker=MARKERS[k], markersize=2.5,
            label=label,
        )  # fmt: skip
    fit = paper.paper_spectrum.power_law()
    wide = np.geomspace(np.pi / 32, np.pi * np.sqrt(2), 100)
    images.plot(
        wide, fit.amplitude * (wide**2 + fit.k0_squared) ** -fit.alpha, "--", color=THEORY,
        label="paper's fit",
    )  # fmt: skip
    images.set(xscale="log", yscale="log", xlabel=r"$\kappa$", title="CIFAR-10")
    t = np.linspace(0.002, 1.0, 400)
    for i, (label, schedule) in enumerate(schedules.items()):
        side = getattr(schedule, "side", 32)
        sizes = [32 / side * effective_resolution(lam, side) for lam in schedule(t)]
        scale.plot(
            t, np.clip(sizes, None, 32), color=colour(i), linestyle=("-", "--", "-.", ":")[i],
            label=label,
        )  # fmt: skip
    scale.set(yscale="log", xlabel="$t$", ylabel="effective resolution", title="schedules")
    scale.set_yticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
    scale.minorticks_off()
    for axes in (ising, images, scale):
        axes.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    save_figure(figure, HERE / "spectra")
