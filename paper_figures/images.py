"""SKILD beside white-noise diffusion on images: distance by network evaluations, and samples.

python paper_figures/images.py FOLDER CIFAR10.zarr
    analysis/images_{cifar10,spectra}.csv -> images.png, .pdf
    samples and factors of the study in FOLDER -> images-samples.png, images-factors.png

Open markers in images.png: half as many samples, which alone makes the distance larger. Rows of
images-samples.png: test images, SKILD, white noise (flow, 100 evaluations). Rows of
images-factors.png: low resolution at factors 2, 2.5, 3, 4, 6, 8, then bicubic, white noise, SKILD;
at the right the photograph.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from skild_phys.images.refine import grid
from skild_phys.plots.style import MARKERS, STYLE, TRUTH, colour, save_figure
from skild_phys.skild.data import ImageLattices, pixels_of
from skild_phys.store import open_store

FOLDER, CIFAR10, HERE = Path(sys.argv[1]), Path(sys.argv[2]), Path(__file__).parent
DISTANCES = pd.read_csv(HERE.parent / "analysis" / "images_cifar10.csv")
SPECTRA = pd.read_csv(HERE.parent / "analysis" / "images_spectra.csv")
LABELS = {"skild": "SKILD", "ddpm": "white noise (DDPM)"}
FLOW = next(name for name in DISTANCES["sampler"].dropna() if name.startswith("angle"))
STEPS = {FLOW: "flow", "ancestral": "ancestral"}
DIRECTIONS = ("intensity", "first colour", "second colour")

# %% Distance against network evaluations; spectra of the samples
with mpl.rc_context(STYLE):
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for i, (model, label) in enumerate(LABELS.items()):
        for j, (sampler, named) in enumerate(STEPS.items()):
            own = DISTANCES[(DISTANCES["model"] == model) & (DISTANCES["sampler"] == sampler)]
            for n, some in own.groupby("n"):
                whole = n == DISTANCES["n"].max()
                left.plot(
                    some["calls"], some["distance"], marker=MARKERS[j], color=colour(i),
                    linestyle=("-", "--")[j], fillstyle="full" if whole else "none",
                    label=f"{label}, {named}" if whole else None,
                )  # fmt: skip
        for k, named in enumerate(DIRECTIONS):
            own = SPECTRA[(SPECTRA["model"] == model) & (SPECTRA["direction"] == k)]
            right.errorbar(
                own["kappa"], own["ratio"], own["ratio_err"], color=colour(i), marker="",
                linestyle=("-", "--", ":")[k], label=f"{label}, {named}",
            )  # fmt: skip
    real = DISTANCES[DISTANCES["model"] == "real"].set_index("n")["distance"]
    left.axhline(real.loc[real.index.max()], color=TRUTH, linewidth=0.8, label="training images")
    left.set(xscale="log", xlabel="network evaluations", ylabel="Frechet distance (VGG16)")
    left.set_ylim(bottom=0)
    right.axhline(1.0, color=TRUTH, linewidth=0.8)
    right.set(xscale="log", xlabel=r"$\kappa$", ylabel="power, samples over data", yscale="log")
    for axes in (left, right):
        axes.legend(fontsize=7.0, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    save_figure(figure, HERE / "images")


# %% Samples, and one photograph at many factors
def images(name: str, n: int) -> np.ndarray:
    """Return the first `n` images of a store of the study."""
    return open_store(FOLDER / f"{name}.zarr").read(0, n)


real = ImageLattices(open_store(CIFAR10), "test")
rows = [pixels_of(np.concatenate([real.read(i, i + 1) for i in range(0, 16 * 617, 617)]))]
rows += [images(f"{model}-{FLOW}-100", 16) for model in LABELS]
grid(np.concatenate(rows), 16, zoom=2).save(HERE / "images-samples.png")

factors = (2, 2.5, 3, 4, 6, 8)
truth = images("strip", 1)
low = [images(f"strip-low{factor}", 1)[0] for factor in factors]
side = truth.shape[-1]


def enlarged(image: np.ndarray) -> np.ndarray:
    """Return the pixels of a low-resolution image as squares (nearest)."""
    large = Image.fromarray(np.moveaxis(image, 0, -1)).resize(
        (side, side), Image.Resampling.NEAREST
    )
    return np.moveaxis(np.asarray(large), -1, 0)


sheet = [enlarged(image) for image in low] + [truth[0]]
for model in ("bicubic", "ddpm", "skild"):
    sheet += [images(f"strip-{factor}x-{model}", 1)[0] for factor in factors] + [truth[0]]
grid(np.stack(sheet), len(factors) + 1).save(HERE / "images-factors.png")
