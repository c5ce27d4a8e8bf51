"""What a denoiser leaves open: the spectrum of X_0 - E[X_0 | X_t], and waves with it.

For a Gaussian field it is (1 - abar) P. Critical spins are known better than that, and better
still with a coarse lattice. For 2D Ising lattices at Tc, free at lambda = 4 .. 36 or with
majorities by 4 or 8, what is left has within 0.05 the shape

    R = P / (1 + SHARPER abar / (1 - abar)),    abar = exp(-kappa^2 lambda'),

with a lambda' of its own, found from the variance that the means leave: sum_k R = 1 - <m^2>.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from skild_phys.skild.process import Process

SHARPER = 1.9
"""How much more X_t says of spins than of a Gaussian field: 1 for that."""


class LeftOpen:
    """Spectra and draws of X_0 - E[X_0 | X_t] for spins of one shape.

    Parameters
    ----------
    process : the forward process; the field's mean square is the spins', 1.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        # Summed by NumPy, whose sums do not depend on the number of threads.
        self._grid = np.geomspace(1e-6, 1e6, 193)
        weight = torch.as_tensor(process.basis.weight, device=process.power.device)
        share = weight / math.prod(process.shape)
        self._variances = np.array(
            [float((self._spectrum(float(lam)) * share).cpu().numpy().sum()) for lam in self._grid]
        )

    def _spectrum(self, lam: Tensor | float) -> Tensor:
        open_ = torch.expm1(self.process.kappa2 * lam)
        # Beyond float64's range all is open.
        return self.process.power * torch.nan_to_num(open_ / (open_ + SHARPER), nan=1.0)

    def spectrum(self, variance: Tensor) -> Tensor:
        """Return R (n, *modes), float64, whose sum is `variance` (n,) a site."""
        log_variance = np.log(variance.cpu().numpy())
        found = np.interp(log_variance, np.log(self._variances), np.log(self._grid))
        lam = torch.as_tensor(np.exp(found), device=self.process.power.device)
        return self._spectrum(lam[:, None, None])

    def draw(self, means: Tensor, white: Tensor) -> Tensor:
        """Return m + sqrt(1 - m^2) g, (n, Ly, Lx), with a Gaussian g of variance 1.

        Not spins, but fields with the waves that spins have: the product has each site's variance
        and the spectrum R, as far as a g there is (no mode of it can have a power below 0).

        Parameters
        ----------
        means : m, (n, Ly, Lx), within [-1, 1].
        white : modes of white noise.
        """
        spread = (1.0 - means * means).clamp(min=0.0)
        spectrum = self.spectrum(spread.double().mean((-2, -1)).clamp(min=1e-9))
        spread = spread.sqrt()
        # By displacement: the covariance of the product is that of g times that of `spread`.
        shape, size = self.process.shape, math.prod(self.process.shape)
        open_, own = torch.fft.irfft2(
            torch.stack([spectrum, torch.fft.rfft2(spread.double()).abs() ** 2 / size]), s=shape
        )
        power = torch.fft.rfft2(open_ / own.clamp(min=1e-12)).real.clamp(min=0.0)
        return means + spread * self.process.basis.fields(white * power.sqrt().float())
