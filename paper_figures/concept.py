"""The forward process: a critical configuration and a photograph lose detail from fine to coarse.

python paper_figures/concept.py    -> concept.png, concept.pdf

The configuration is simulated here (128^2 at Tc, seed 1); the photograph is matplotlib's sample of
Grace Hopper (US Navy, public domain). Each is noised with its own spectrum, at one lambda per
column.
"""

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cbook import get_sample_data
from matplotlib.figure import Figure
from PIL import Image

import skild_phys as sp
from skild_phys.plots.style import STYLE, figure_bytes
from skild_phys.skild.equations import Process
from skild_phys.skild.measured import fit_channels
from skild_phys.skild.spectrum import make_basis
from skild_phys.skild.weights import load_weights, shipped_weights

HERE = Path(__file__).parent
SIDE, LAMBDAS = 128, (0.0, 1.0, 4.0, 16.0, 64.0, 1024.0)

# %% Spins on a torus, with the spectrum of the shipped weights; a photograph in a box
fine = sp.simulate("ising2d", L=SIDE, T="Tc", samples=1, seed=1, chains=1)
spins = torch.from_numpy(fine["spins"].values).float()
photo = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
left = (photo.width - photo.height) // 2 if photo.width > photo.height else 0
photo = photo.crop((left, 0, left + min(photo.size), min(photo.size))).resize((SIDE, SIDE))
pixels = np.moveaxis(np.asarray(photo, np.float32) / 127.5 - 1.0, -1, 0)[None]
rows = (
    (spins, Process(load_weights(shipped_weights()).spectrum, (SIDE, SIDE))),
    (
        torch.from_numpy(pixels.copy()),
        Process(fit_channels([pixels], make_basis("dct", (SIDE, SIDE))), (SIDE, SIDE), basis="dct"),
    ),
)

# %% One column per lambda
with mpl.rc_context(STYLE):
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    for panels, (field, process) in zip(figure.subplots(2, len(LAMBDAS)), rows):
        noise = torch.randn(field.shape, generator=torch.Generator().manual_seed(2))
        for panel, lam in zip(panels, LAMBDAS):
            seen = process.forward(field, torch.tensor([lam]), noise)[0].numpy()
            if seen.ndim == 3:
                panel.imshow(
                    np.moveaxis(np.clip((seen + 1.0) / 2.0, 0.0, 1.0), 0, -1), interpolation="none"
                )
            else:
                panel.imshow(seen, cmap="gray", vmin=-1.2, vmax=1.2, interpolation="none")
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
            if field is spins:
                panel.set_title(rf"$\sqrt{{\lambda}} = {math.sqrt(lam):g}$")
    for kind in ("png", "pdf"):  # 150 dpi: noise does not compress
        (HERE / f"concept.{kind}").write_bytes(figure_bytes(figure, kind, dpi=150))
