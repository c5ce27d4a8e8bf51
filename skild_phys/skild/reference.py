"""The units of arXiv 2605.26032 and its code, beside those used here.

There a field lies in a box of side 1: kappa_ref = pi u, u = 0, 1, ... counts half waves of the
DCT-II, and lambda_ref goes with it. Its transform is 2/L of the sum of cosines along each axis.
Here kappa is in radians per site, lambda in sites squared, and transforms are orthonormal. Modes
that are constant along an axis differ by another sqrt 2 an axis; one P(kappa) serves them all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from skild_phys.errors import BadInput
from skild_phys.skild.spectrum import PowerLaw


def kappa_from_reference(kappa_ref: float, side: int) -> float:
    """Return kappa in radians per site of kappa_ref = pi u on lattices of `side`^2."""
    return kappa_ref / side


def lambda_from_reference(lambda_ref: float, side: int) -> float:
    """Return lambda in sites squared: kappa^2 lambda is the same in both units."""
    return lambda_ref * side**2


def mode_from_reference(mode_ref: float, side: int) -> float:
    """Return the orthonormal mode of one that is 2/L of a sum of cosines along both axes."""
    return mode_ref * side / 2.0


@dataclass(frozen=True)
class PaperSpectrum:
    """The paper's fit S_0 = amplitude (kappa_ref^2 + k0_squared)^-alpha for fields of `side`^2.

    S_0 is the variance of the noise in the reference's modes. It is Var |F| of the data there,
    about 0.36 of the power spectrum.
    """

    side: int
    alpha: float
    amplitude: float
    k0_squared: float
    kind: str = "paper"

    def __post_init__(self) -> None:
        for name in ("side", "alpha", "amplitude", "k0_squared"):
            if not 0 < getattr(self, name) < math.inf:
                raise BadInput(f"[paper_spectrum] {name}", getattr(self, name), "a number above 0")

    def power_law(self) -> PowerLaw:
        """Return it as P(kappa) of orthonormal modes."""
        scale = (self.side / 2.0) ** 2 * float(self.side) ** (-2.0 * self.alpha)
        return PowerLaw(self.amplitude * scale, self.alpha, self.k0_squared / self.side**2)
