"""Numbers of the critical two-dimensional Ising model: amplitudes, exponents, universal ratios."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GLAISHER = 1.2824271291006226

ETA = 0.25
NU = 1.0

AMPLITUDE = 2.0 ** (5 / 24) * math.exp(0.25) / _GLAISHER**3
"""A of G(r) ~ A r^(-1/4) at Tc on the infinite lattice."""

SHORT_DISTANCE = {
    "nearest": math.sqrt(0.5),
    "diagonal": 2.0 / math.pi,
    "second": 1.0 - 4.0 / math.pi**2,
    "plaquette": 1.0 - 4.0 / math.pi**2,
    "plaquette_connected": -8.0 / math.pi**2,
}
"""At Tc, infinite lattice: <s00 s10>, <s00 s11>, <s00 s20>, <s00 s10 s11 s01>, and its G4c."""

SUSCEPTIBILITY = 1.09195
"""chi L^(-7/4) of large square tori at Tc, chi = N <m^2>: Salas and Sokal, cond-mat/9904038."""

XI_OVER_L = 0.905049
"""Second-moment correlation length over L of large square tori at Tc: as `SUSCEPTIBILITY`."""

BINDER = 0.61069
"""U4 = 1 - <m^4> / (3 <m^2>^2) of large square tori at Tc: as `SUSCEPTIBILITY`."""


def structure_factor_asymptote(k: ArrayLike) -> NDArray[np.float64]:
    """Return S(k) at Tc of the infinite lattice for k << 1, k in radians per site.

    The Fourier transform of A r^(-eta): 2 pi A 2^(1 - eta) Gamma(1 - eta / 2) / Gamma(eta / 2)
    k^(eta - 2).
    """
    gammas = math.gamma(1.0 - ETA / 2.0) / math.gamma(ETA / 2.0)
    scale = 2.0 * math.pi * AMPLITUDE * 2.0 ** (1.0 - ETA) * gammas
    with np.errstate(divide="ignore"):
        return np.asarray(scale * np.asarray(k, dtype=np.float64) ** (ETA - 2.0))


EXPONENTS = {
    "ising2d": (NU, ETA),
    "ising3d": (0.629971, 0.0362978),
    "potts2": (NU, ETA),
    "potts3": (5 / 6, 4 / 15),
    "potts4": (2 / 3, 1 / 4),
}
"""nu and eta: exact in 2D (F. Y. Wu, Rev. Mod. Phys. 54, 235, 1982), 3D Ising by the conformal
bootstrap (F. Kos et al., arXiv 1603.04436)."""
