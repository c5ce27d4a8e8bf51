"""One network at six scales: a configuration of 256^2 on its way from noise.

python paper_figures/scales.py [WEIGHTS]    -> scales.png, scales.pdf

One chain of the shipped weights, or of WEIGHTS, whose network has a grid for every scale. Columns:
the grids of spacing s = 32, 16 .. 1, each at the last evaluation there (of the lattice, the last
above lambda = 0.7). Top: X_t, what the network sees. Bottom: the mean of X_0 given X_t that it
makes of it, and the spins at the end. Fields are divided by the root mean square of their grid.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch

from skild_phys.methods import weights_of
from skild_phys.plots.style import STYLE, new_figure, save_figure
from skild_phys.rng import Streams
from skild_phys.skild.chain import Chain
from skild_phys.skild.equations import make_step
from skild_phys.skild.skild import Skild

HERE = Path(__file__).parent
SIDE, SEED, SPACINGS = 256, 3, (32, 16, 8, 4, 2, 1)
LEAST = 0.7
"""Lambda over the square of the spacing from which on a grid is shown: the lattice's goes on."""
weights = weights_of(sys.argv[1] if len(sys.argv) > 1 else None)
if weights.window is None:
    raise SystemExit("error: WEIGHTS: these have one grid, not one for every scale")


# %% One chain, and what it was at each scale
class Seen(NamedTuple):
    """A field on a grid, and the mean of what it was."""

    lam: float
    noisy: np.ndarray
    mean: np.ndarray


SEEN: dict[float, Seen] = {}
"""By spacing; later ones replace earlier ones."""


class Watched:
    """The usual step of the weights, which keeps what it is given."""

    def __init__(self) -> None:
        self._step = make_step(Chain().sampler_for(weights))

    def __call__(self, process, y, posterior, lam, to, noise):
        if lam >= LEAST * process.spacing**2:
            fields = (process.fields(one)[0].numpy() / process.rms for one in (y, posterior.mean()))
            SEEN[process.spacing] = Seen(lam, *fields)
        return self._step(process, y, posterior, lam, to, noise)


shape = (SIDE, SIDE)
lambdas = Chain().generating(weights, shape, None)
skild, streams = Skild.of(weights, shape, sampler=Watched), [Streams.of(SEED, 0)]
with torch.inference_mode():
    spins = skild.run(skild.from_noise(float(lambdas[0]), streams), lambdas, streams)[0]

# %% One column per grid
with mpl.rc_context(STYLE):
    figure = new_figure(7.2, 2.55)
    panels = figure.subplots(2, len(SPACINGS) + 1)
    look = {"cmap": "gray", "vmin": -2.0, "vmax": 2.0, "interpolation": "none"}
    for (top, bottom), spacing in zip(panels.T, SPACINGS):
        seen = SEEN[spacing]
        top.imshow(seen.noisy, **look)
        bottom.imshow(seen.mean, **look)
        lam = f"{seen.lam:.0f}" if seen.lam > 100 else f"{seen.lam:.3g}"
        sides = f"${seen.noisy.shape[0]}^2$, $s = {spacing}$"
        top.set_title(f"{sides}\n$\\lambda = {lam}$", fontsize=8.0)
    panels[1, -1].imshow(spins, cmap="gray", vmin=-1, vmax=1, interpolation="none")
    panels[1, -1].set_title("spins", fontsize=8.0)
    panels[0, -1].set_axis_off()
    for panel in panels.flat:
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set(visible=True, linewidth=0.5)
    panels[0, 0].set_ylabel("$X_t$")
    panels[1, 0].set_ylabel(r"$E[X_0 | X_t]$")
    save_figure(figure, HERE / "scales")
