"""The forward process and its bridge: each mode forgets at its own scale.

X_t = sqrt(abar) X_0 + sqrt(1 - abar) sqrt(P) eps mode by mode, with
abar(kappa) = exp(-max(kappa, kappa_c)^2 lambda) (arXiv 2605.26032, with the power spectrum P
itself). kappa_c is the lowest wave number above zero unless it is given, so that the zero mode is
erased along with the longest waves. In whitened modes Y = X / sqrt(P) every mode is a
variance-preserving diffusion, Y = cos(theta) Y_0 + sin(theta) eps with cos^2 theta = abar.

Coefficients are computed in float64; fields and modes are float32: a draw of spins decides by them
with a relative error near 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skild_phys.skild.basis import Basis, Mixed, Torus, make_basis
from skild_phys.skild.spectrum import ChannelSpectra, Spectrum

SMALLEST_SINE = 1e-30
"""Where nothing is erased there is no angle: a velocity of 0 / 0 is 0."""


def each(lam: Tensor | float, fields: Tensor) -> Tensor | float:
    """Return `lam` (n,) of `fields` (n, ..., Ly, Lx) as float64 that broadcasts with them."""
    if not isinstance(lam, Tensor):
        return lam
    return lam.double().reshape(-1, *[1] * (fields.dim() - 1))


class Process:
    """Forward process, bridge and Gaussian draws for fields of one shape.

    Fields are (n, Ly, Lx), or (n, channels, Ly, Lx) with the same spectrum in every channel, or
    with those of `ChannelSpectra`. A cutoff of 0 keeps the zero mode at every lambda, as it is.

    Parameters
    ----------
    spectrum : P(kappa) of the data.
    shape : (Ly, Lx) of the fields; any sides.
    device : where the fields live.
    basis : 'dft' (periodic lattices) or 'dct' (open edges).
    cutoff : kappa_c in radians per site; None for the lowest wave number above zero.
    """

    def __init__(
        self,
        spectrum: Spectrum,
        shape: tuple[int, int],
        device: torch.device | str = "cpu",
        basis: str = Torus.name,
        cutoff: float | None = None,
    ) -> None:
        self.shape = shape
        self.basis: Basis = make_basis(basis, shape)
        kappa = self.basis.kappa.clip(min=self.basis.lowest if cutoff is None else cutoff)
        self.kappa2 = torch.as_tensor(kappa**2, dtype=torch.float64, device=device)
        power, norms = spectrum.variances(self.basis), spectrum.eps_norms(self.basis)
        if isinstance(spectrum, ChannelSpectra):
            self.basis = Mixed(self.basis, spectrum.matrix)
        self.power = torch.as_tensor(power, dtype=torch.float64, device=device)
        self.amplitude = self.power.sqrt().float()
        self.eps_norms = torch.as_tensor(norms, dtype=torch.float32, device=device)

    # Whitened modes.

    def modes(self, fields: Tensor) -> Tensor:
        """Return the whitened modes Y of `fields`."""
        return self.basis.modes(fields) / self.amplitude

    def fields(self, modes: Tensor) -> Tensor:
        """Return the fields of whitened modes."""
        return self.basis.fields(modes * self.amplitude)

    def white(self, noise: Tensor) -> Tensor:
        """Return the modes of white `noise`: standard normal whitened modes."""
        return self.basis.modes(noise)

    def cosine(self, lam: Tensor | float) -> Tensor:
        """Return cos(theta) = sqrt(abar), float32; `lam` is a number or from `each`."""
        return torch.exp(-0.5 * self.kappa2 * lam).float()

    def sine(self, lam: Tensor | float) -> Tensor:
        """Return sin(theta) = sqrt(1 - abar), float32; `lam` is a number or from `each`."""
        return torch.sqrt(-torch.expm1(-self.kappa2 * lam)).float()

    def angle_between(self, lam: float, to: float) -> Tensor:
        """Return theta(lam) - theta(to), float32."""
        return (self._angle(lam) - self._angle(to)).float()

    def _angle(self, lam: float) -> Tensor:
        sine = torch.sqrt(-torch.expm1(-self.kappa2 * lam))
        return torch.atan2(sine, torch.exp(-0.5 * self.kappa2 * lam))

    def velocity(self, y: Tensor, y0: Tensor, lam: Tensor | float) -> Tensor:
        """Return v = cos(theta) eps - sin(theta) Y_0 = (cos(theta) Y - Y_0) / sin(theta)."""
        return (self.cosine(lam) * y - y0) / self.sine(lam).clamp(min=SMALLEST_SINE)

    def y0_from_velocity(self, y: Tensor, v: Tensor, lam: Tensor | float) -> Tensor:
        """Return Y_0 = cos(theta) Y - sin(theta) v."""
        return self.cosine(lam) * y - self.sine(lam) * v

    def bridge_modes(
        self, y: Tensor, y0: Tensor, lam: float, to: float, noise: Callable[[], Tensor]
    ) -> Tensor:
        """Draw Y at lambda = `to` given Y at `lam` > `to` and Y_0: the forward process's bridge.

        Exact for any distribution of Y_0. With a = abar(to), b = abar(lam), r = b / a:
        mean = [sqrt(a) (1 - r) Y_0 + sqrt(r) (1 - a) Y_lam] / (1 - b),
        variance = (1 - a) (1 - r) / (1 - b). At `to` = 0 it is Y_0.
        """
        one_a = -torch.expm1(-self.kappa2 * to)
        # A mode that is never erased (cutoff 0) has Y = Y_0 throughout.
        erased = self.kappa2 > 0
        y0 = torch.where(erased, y0, y)
        one_b = (-torch.expm1(-self.kappa2 * lam)).clamp(min=1e-300)
        one_r = -torch.expm1(-self.kappa2 * (lam - to))
        one_r = torch.where(erased, one_r, one_b)
        from_y0 = torch.exp(-0.5 * self.kappa2 * to) * one_r / one_b
        if to == 0.0:
            return from_y0.float() * y0
        from_y = torch.exp(-0.5 * self.kappa2 * (lam - to)) * one_a / one_b
        spread = torch.sqrt(one_a * one_r / one_b)
        return from_y0.float() * y0 + from_y.float() * y + spread.float() * noise()

    # Fields.

    def forward(self, x0: Tensor, lam: Tensor, noise: Tensor) -> Tensor:
        """Return X_t for fields `x0`, `lam` (n,) and white `noise` of their shape."""
        at = each(lam, x0)
        kept = self.cosine(at) * self.basis.modes(x0)
        erased = self.sine(at) * self.amplitude * self.basis.modes(noise)
        return self.basis.fields(kept + erased)

    def gaussian(self, noise: Tensor) -> Tensor:
        """Return Gaussian fields with spectrum P from white `noise`."""
        return self.fields(self.white(noise))
