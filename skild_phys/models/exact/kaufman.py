"""Kaufman's energy and specific heat of a finite torus, Onsager's of the infinite lattice.

B. Kaufman, Phys. Rev. 76, 1232 (1949); L. Onsager, Phys. Rev. 65, 117 (1944). J = k_B = 1,
K = 1 / T.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ellipkm1

from skild_phys.errors import BadInput

Array = NDArray[np.float64]

_HOT, _COLD = 1e-3, 3.3  # K below and above which the products lose more than the series leave out


def _coupling(temperature: float) -> float:
    if not (math.isfinite(temperature) and temperature > 0):
        raise BadInput("T", temperature, "a positive number")
    return min(1.0 / temperature, 1e100)


def energy_infinite(temperature: float) -> float:
    """Return Onsager's energy per site of the infinite lattice, in J; -sqrt 2 at Tc."""
    k = _coupling(temperature)
    kept = 2.0 * math.tanh(2.0 * k) ** 2 - 1.0
    singular = kept * float(ellipkm1(kept**2)) if kept != 0.0 else 0.0
    return -(1.0 + 2.0 / math.pi * singular) / math.tanh(2.0 * k)


def _gammas(width: int, k: float, odd: bool) -> tuple[Array, Array, Array]:
    """Return gamma_l and its first two derivatives in K, for l = 1, 3 .. or 2, 4 .. below 2 Lx.

    cosh gamma_l = cosh 2K coth 2K - cos(pi l / Lx), taken as sinh^2(gamma / 2) = y, which keeps
    its digits where gamma is small.
    """
    s, c = math.sinh(2.0 * k), math.cosh(2.0 * k)
    numbers = np.arange(1 if odd else 2, 2 * width, 2)
    y = (1.0 - s) ** 2 / (2.0 * s) + np.sin(0.5 * np.pi * numbers / width) ** 2
    slope = (1.0 - s**-2) * c
    curvature = 4.0 * c**2 / s**3 + 2.0 * s * (1.0 - s**-2)
    sinh = 2.0 * np.sqrt(y * (1.0 + y))
    first = 2.0 * slope / sinh
    second = (2.0 * curvature - (1.0 + 2.0 * y) * first**2) / sinh
    return 2.0 * np.arcsinh(np.sqrt(y)), first, second


def _log_product(
    height: int, gammas: tuple[Array, Array, Array], sign: int
) -> tuple[float, float, float]:
    """Return ln prod 2cosh(Ly g / 2) (sign +1) or 2sinh (-1), and two derivatives in K."""
    v, first, second = (0.5 * height * g for g in gammas)
    small = sign * np.exp(-2.0 * v)
    ratio = (1.0 - small) / (1.0 + small)
    bend = 4.0 * small / (1.0 + small) ** 2
    return (
        math.fsum(v + np.log1p(small)),
        math.fsum(ratio * first),
        math.fsum(bend * first**2 + ratio * second),
    )


def _series(height: int, width: int, k: float) -> tuple[float, float]:
    """Return what `_kaufman` does, by the shortest graphs in tanh K (hot) or exp(-2K) (cold).

    ln Z / N = ln 2 + 2 ln cosh K + t^4 + .. and 2K + z^4 + 2 z^6 + 9/2 z^8 + .., with loops and
    pairs of walls that wind around a side. Off by 1e-5 of C on sides of 2, less on longer ones.
    """
    sides = ((height, width), (width, height))
    if k <= _HOT:
        t = math.tanh(k)
        winding = [(t ** (n - 1), (n - 1) * t ** (n - 2)) for n, _ in sides]
        first, second = (sum(terms) for terms in zip(*winding))
        return 2.0 * t + 4.0 * t**3 + first, 2.0 + 10.0 * t**2 + second
    z = math.exp(-2.0 * k)
    terms = [(4, 1.0), (6, 2.0), (8, 4.5), *((2 * n, (other - 1) / (2 * n)) for n, other in sides)]
    lost = math.fsum(2 * n * a * z**n for n, a in terms)
    return 2.0 - lost, math.fsum(4 * n**2 * a * z**n for n, a in terms)


def _kaufman(L: int | tuple[int, int], k: float) -> tuple[float, float]:
    """Return d ln Z / dK and d^2 ln Z / dK^2, per site.

    Z is a sum of four products T_i; the fourth has the factor 2 sinh(Ly g_0 / 2), which is 0 at
    Tc, and is differentiated by itself. Slopes are taken relative to that of ln T_1.
    """
    height, width = (L, L) if isinstance(L, int | np.integer) else L
    if isinstance(L, bool) or min(height, width) < 2:
        raise BadInput("L", L, "sides of at least 2")
    if not _HOT < k < _COLD:
        return _series(height, width, k)
    odd, even = _gammas(width, k, odd=True), _gammas(width, k, odd=False)
    s, c = math.sinh(2.0 * k), math.cosh(2.0 * k)
    u = height * math.asinh((s - 1.0) / math.sqrt(2.0 * s))
    u1, u2 = height * (1.0 + 1.0 / s), -2.0 * height * c / s**2
    small = math.exp(-2.0 * abs(u))
    cosh, sinh = 1.0 + small, math.copysign(1.0 - small, u)
    zero_modes = [
        (1.0, 0.0, 0.0),
        (1.0, 0.0, 0.0),
        (cosh, sinh * u1, cosh * u1**2 + sinh * u2),
        (sinh, cosh * u1, sinh * u1**2 + cosh * u2),
    ]
    products = [_log_product(height, g, sign) for g in (odd, even) for sign in (1, -1)]
    base, slope = products[0][0], products[0][1]
    values = np.zeros(3)
    for (f, f1, f2), (log, log1, log2), shift in zip(
        zero_modes, products, (0.0, 0.0, abs(u), abs(u))
    ):
        d = log1 - slope
        weight = math.exp(log + shift - base)
        values += weight * np.array([f, f1 + f * d, f2 + 2.0 * f1 * d + f * (log2 + d * d)])
    mean, square = values[1] / values[0], values[2] / values[0]
    size = float(height * width)
    first = c / s + (slope + mean) / size
    return float(first), float((square - mean**2) / size - 2.0 / s**2)


def kaufman_energy(L: int | tuple[int, int], temperature: float) -> float:
    """Return the exact energy per site, in J, of a torus at any temperature.

    Parameters
    ----------
    L : side of a square torus, or both sides, in either order; at least 2. Along a side of 2
        each pair of neighbours shares two bonds.
    temperature : in J / k_B.

    Raises
    ------
    BadInput : a side below 2, or a temperature that is not positive.

    Examples
    --------
    >>> from skild_phys.models import MODELS
    >>> round(kaufman_energy(64, MODELS["ising2d"].critical_temperature), 6)
    -1.423938
    """
    return -_kaufman(L, _coupling(temperature))[0]


def kaufman_specific_heat(L: int | tuple[int, int], temperature: float) -> float:
    """Return the exact specific heat per site, in k_B, of a torus; as `kaufman_energy`."""
    k = _coupling(temperature)
    return k**2 * _kaufman(L, k)[1]
