"""The forward process on a torus and its bridge: each mode forgets at its own scale.

X_t = sqrt(abar) X_0 + sqrt(1 - abar) sqrt(P) eps mode by mode, with
abar(kappa) = exp(-max(kappa, kappa_c)^2 lambda) (arXiv 2605.26032, with the power spectrum P
itself). kappa_c = 2 pi / L, so that the zero mode is erased along with the longest waves.
Fields are float32 here: a draw of spins decides by them with a relative error near 1e-6.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skild_phys.skild.spectrum import Spectrum, wave_numbers


class Process:
    """Forward process, bridge and Gaussian draws for fields of one shape.

    Parameters
    ----------
    spectrum : P(kappa) of the data.
    shape : (Ly, Lx) of the fields.
    device : where the fields live.
    """

    def __init__(
        self,
        spectrum: Spectrum,
        shape: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape = shape
        kappa = wave_numbers(shape).clip(min=2.0 * math.pi / max(shape))
        self.kappa2 = torch.as_tensor(kappa**2, dtype=torch.float32, device=device)
        amplitude = spectrum.variances(shape) ** 0.5
        self.amplitude = torch.as_tensor(amplitude, dtype=torch.float32, device=device)

    def _modes(self, fields: Tensor) -> Tensor:
        modes: Tensor = torch.fft.rfft2(fields, norm="ortho")
        return modes

    def _fields(self, modes: Tensor) -> Tensor:
        fields: Tensor = torch.fft.irfft2(modes, s=self.shape, norm="ortho")
        return fields

    def forward(self, x0: Tensor, lam: Tensor, noise: Tensor) -> Tensor:
        """Return X_t for fields `x0` (n, Ly, Lx), `lam` (n,) and white `noise` (n, Ly, Lx)."""
        exponent = self.kappa2 * lam[:, None, None]
        keep = torch.exp(-0.5 * exponent)
        erase = torch.sqrt(-torch.expm1(-exponent)) * self.amplitude
        return self._fields(keep * self._modes(x0) + erase * self._modes(noise))

    def velocity(self, x0: Tensor, noise: Tensor, lam: Tensor) -> Tensor:
        """Return v = cos(theta) eps - sin(theta) Y_0 as a field, Y = X / sqrt P, abar = cos^2."""
        exponent = self.kappa2 * lam[:, None, None]
        sin = torch.sqrt(-torch.expm1(-exponent)) / self.amplitude
        cos = torch.exp(-0.5 * exponent)
        return self._fields(cos * self._modes(noise) - sin * self._modes(x0))

    def x0_from_velocity(self, xt: Tensor, v: Tensor, lam: Tensor) -> Tensor:
        """Return X_0 = sqrt P (cos(theta) Y_t - sin(theta) v) from fields X_t and v."""
        exponent = self.kappa2 * lam[:, None, None]
        sin = torch.sqrt(-torch.expm1(-exponent)) * self.amplitude
        cos = torch.exp(-0.5 * exponent)
        return self._fields(cos * self._modes(xt) - sin * self._modes(v))

    def bridge(self, xt: Tensor, x0: Tensor, lam: float, to: float, noise: Tensor) -> Tensor:
        """Draw X at lambda = `to` given X at `lam` > `to` and X_0: the forward process's bridge.

        Exact for any distribution of X_0. With a = abar(to), b = abar(lam), r = b / a:
        mean = [sqrt(a) (1 - r) X_0 + sqrt(r) (1 - a) X_lam] / (1 - b),
        variance = (1 - a) (1 - r) P / (1 - b).
        """
        one_a = -torch.expm1(-self.kappa2 * to)
        one_b = -torch.expm1(-self.kappa2 * lam)
        one_r = -torch.expm1(-self.kappa2 * (lam - to))
        from_x0 = torch.exp(-0.5 * self.kappa2 * to) * one_r / one_b
        from_xt = torch.exp(-0.5 * self.kappa2 * (lam - to)) * one_a / one_b
        spread = torch.sqrt(one_a * one_r / one_b) * self.amplitude
        modes = from_x0 * self._modes(x0) + from_xt * self._modes(xt)
        return self._fields(modes + spread * self._modes(noise))

    def gaussian(self, noise: Tensor) -> Tensor:
        """Return Gaussian fields with spectrum P from white `noise` (n, Ly, Lx)."""
        return self._fields(self.amplitude * self._modes(noise))
