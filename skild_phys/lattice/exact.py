"""Exact results for the 2D Ising model on the square lattice, J = k_B = 1, K = 1 / T.

Finite tori: B. Kaufman, Phys. Rev. 76, 1232 (1949). Infinite lattice: L. Onsager,
Phys. Rev. 65, 117 (1944), and B. McCoy and T. T. Wu, The Two-Dimensional Ising Model (1973).
Correlations of the critical torus in the scaling limit: P. Di Francesco, H. Saleur and
J.-B. Zuber, Nucl. Phys. B 290, 527 (1987).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ellipkm1

from skild_phys.errors import BadInput

Array = NDArray[np.float64]

_GLAISHER = 1.2824271291006226
_NOME = math.exp(-math.pi)
_TERMS = 9  # of a theta series; the first one left out is below 1e-50 for |Im u| <= 1
_COLDEST = 100.0  # K at which the energy is -2 to all digits; powers of sinh 2K overflow later

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


def _coupling(temperature: float) -> float:
    if not (math.isfinite(temperature) and temperature > 0):
        raise BadInput("--T", temperature, "a positive number")
    return min(1.0 / temperature, _COLDEST)


def energy_infinite(temperature: float) -> float:
    """Return Onsager's energy per site of the infinite lattice, in J; -sqrt 2 at Tc."""
    k = _coupling(temperature)
    kept = 2.0 * math.tanh(2.0 * k) ** 2 - 1.0
    singular = kept * float(ellipkm1(kept**2)) if kept != 0.0 else 0.0
    return -(1.0 + 2.0 / math.pi * singular) / math.tanh(2.0 * k)


def _gammas(side: int, k: float, odd: bool) -> tuple[Array, Array, Array]:
    """Return gamma_l and its first two derivatives in K, for l = 1, 3 .. or 2, 4 .. below 2 L.

    cosh gamma_l = cosh 2K coth 2K - cos(pi l / L), taken as sinh^2(gamma / 2) = y, which keeps
    its digits where gamma is small.
    """
    s, c = math.sinh(2.0 * k), math.cosh(2.0 * k)
    numbers = np.arange(1 if odd else 2, 2 * side, 2)
    y = (1.0 - s) ** 2 / (2.0 * s) + np.sin(0.5 * np.pi * numbers / side) ** 2
    slope = (1.0 - s**-2) * c
    curvature = 4.0 * c**2 / s**3 + 2.0 * s * (1.0 - s**-2)
    sinh = 2.0 * np.sqrt(y * (1.0 + y))
    first = 2.0 * slope / sinh
    second = (2.0 * curvature - (1.0 + 2.0 * y) * first**2) / sinh
    return 2.0 * np.arcsinh(np.sqrt(y)), first, second


def _log_product(
    side: int, gammas: tuple[Array, Array, Array], sign: int
) -> tuple[float, float, float]:
    """Return ln prod 2cosh(L g / 2) (sign +1) or 2sinh (-1), and two derivatives in K."""
    v, first, second = (0.5 * side * g for g in gammas)
    small = sign * np.exp(-2.0 * v)
    ratio = (1.0 - small) / (1.0 + small)
    bend = 4.0 * small / (1.0 + small) ** 2
    return (
        math.fsum(v + np.log1p(small)),
        math.fsum(ratio * first),
        math.fsum(bend * first**2 + ratio * second),
    )


def _kaufman(side: int, k: float) -> tuple[float, float]:
    """Return d ln Z / dK and d^2 ln Z / dK^2, per site.

    Z is a sum of four products T_i; the fourth has the factor 2 sinh(L g_0 / 2), which is 0 at
    Tc, and is differentiated by itself. Slopes are taken relative to that of ln T_1.
    """
    if isinstance(side, bool) or side < 2:
        raise BadInput("--L", side, "a whole number of at least 2")
    odd, even = _gammas(side, k, odd=True), _gammas(side, k, odd=False)
    s, c = math.sinh(2.0 * k), math.cosh(2.0 * k)
    u = side * math.asinh((s - 1.0) / math.sqrt(2.0 * s))
    u1, u2 = side * (1.0 + 1.0 / s), -2.0 * side * c / s**2
    small = math.exp(-2.0 * abs(u))
    cosh, sinh = 1.0 + small, math.copysign(1.0 - small, u)
    zero_modes = [
        (1.0, 0.0, 0.0),
        (1.0, 0.0, 0.0),
        (cosh, sinh * u1, cosh * u1**2 + sinh * u2),
        (sinh, cosh * u1, sinh * u1**2 + cosh * u2),
    ]
    products = [_log_product(side, g, sign) for g in (odd, even) for sign in (1, -1)]
    base, slope = products[0][0], products[0][1]
    values = np.zeros(3)
    for (f, f1, f2), (log, log1, log2), shift in zip(
        zero_modes, products, (0.0, 0.0, abs(u), abs(u))
    ):
        d = log1 - slope
        weight = math.exp(log + shift - base)
        values += weight * np.array([f, f1 + f * d, f2 + 2.0 * f1 * d + f * (log2 + d * d)])
    mean, square = values[1] / values[0], values[2] / values[0]
    size = float(side * side)
    first = c / s + (slope + mean) / size
    return float(first), float((square - mean**2) / size - 2.0 / s**2)


def kaufman_energy(L: int, temperature: float) -> float:
    """Return the exact energy per site, in J, of the L x L torus at any temperature.

    Raises BadInput for L < 2 or a temperature that is not positive. At L = 2 each pair of
    neighbours shares two bonds.
    """
    return -_kaufman(L, _coupling(temperature))[0]


def kaufman_specific_heat(L: int, temperature: float) -> float:
    """Return the exact specific heat per site, in k_B, of the L x L torus; as `kaufman_energy`."""
    k = _coupling(temperature)
    return k**2 * _kaufman(L, k)[1]


def diagonal_correlation(n: ArrayLike) -> Array:
    """Return <s_00 s_nn> at Tc on the infinite lattice, for whole numbers n >= 0.

    (2 / pi)^n prod_{l=1}^{n-1} (1 - 1 / (4 l^2))^(l - n): McCoy and Wu, chapter XI.
    """
    n = np.asarray(n, dtype=np.int64)
    factors = np.arange(1, max(int(n.max(initial=0)), 1))
    logs = np.log1p(-0.25 / factors**2)
    zero = np.concatenate([[0.0, 0.0], np.cumsum(logs)])
    first = np.concatenate([[0.0, 0.0], np.cumsum(factors * logs)])
    result: Array = np.exp(n * (math.log(2.0 / math.pi) - zero[n]) + first[n])
    return result


def _theta(nu: int, u: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Return the Jacobi theta function nu = 1 .. 4 of argument pi u and nome e^-pi."""
    n = np.arange(_TERMS)
    if nu <= 2:
        wave = np.sin if nu == 1 else np.cos
        sign = (-1.0) ** n if nu == 1 else np.ones(_TERMS)
        terms = 2.0 * sign * _NOME ** ((n + 0.5) ** 2) * wave(np.pi * u[..., None] * (2 * n + 1))
    else:
        sign = (-1.0) ** n if nu == 4 else np.ones(_TERMS)
        half = np.where(n == 0, 1.0, 2.0)
        terms = half * sign * _NOME ** (n**2) * np.cos(2.0 * np.pi * u[..., None] * n)
    result: NDArray[np.complex128] = terms.sum(axis=-1)
    return result


_N = np.arange(_TERMS)
_SLOPE = float(
    (2.0 * np.pi * (-1.0) ** _N * (2 * _N + 1) * _NOME ** ((_N + 0.5) ** 2)).sum()
)  # theta_1' = d theta_1 / du at 0
_PARTITION = float(sum(abs(_theta(nu, np.zeros(1, complex))[0]) for nu in (2, 3, 4)))


def _wrapped(x: ArrayLike, side: ArrayLike) -> Array:
    """Return x / L moved to [-1/2, 1/2], where the theta series converge fastest."""
    u = np.asarray(x, dtype=np.float64) / np.asarray(side, dtype=np.float64)
    result: Array = u - np.rint(u)
    return result


def torus_two_point(x: ArrayLike, y: ArrayLike, L: ArrayLike) -> Array:
    """Return <s_0 s_(x,y)> of the critical L x L torus in the scaling limit; infinite at 0.

    A L^(-1/4) |theta_1' / theta_1(u)|^(1/4) sum_{nu=1..4} |theta_nu(u/2)|
    / sum_{nu=2..4} |theta_nu(0)|, u = (x + i y) / L. On the lattice within 0.2% from r = 4 on.

    Parameters
    ----------
    x, y : distance in sites, arrays that broadcast. L : side in sites.
    """
    u = np.asarray(_wrapped(x, L) + 1j * _wrapped(y, L), dtype=np.complex128)
    with np.errstate(divide="ignore"):
        pole = (_SLOPE / np.abs(_theta(1, u))) ** 0.25
    sectors = np.sum([np.abs(_theta(nu, u / 2)) for nu in (1, 2, 3, 4)], axis=0) / _PARTITION
    result: Array = AMPLITUDE * np.asarray(L, dtype=np.float64) ** -0.25 * pole * sectors
    return result


def torus_four_point(x: ArrayLike, y: ArrayLike, L: ArrayLike) -> Array:
    """Return <s1 s2 s3 s4> of the critical L x L torus in the scaling limit.

    A^2 L^(-1/2) sum_nu [1/4 sum_e |theta_nu(sum_i e_i u_i / 2)|^2
    prod_{i<j} |theta_1(u_ij) / theta_1'|^(e_i e_j / 2)]^(1/2) / sum_{nu=2..4} |theta_nu(0)|,
    the inner sum over e in {+-1}^4 with sum 0.

    Parameters
    ----------
    x, y : (..., 4) positions of the four different sites, within one lattice side of one another.
    L : side in sites; broadcasts with (...).
    """
    side = np.asarray(L, dtype=np.float64)
    sites = np.asarray(x, dtype=np.float64) + 1j * np.asarray(y, dtype=np.float64)
    u = np.asarray(sites / side[..., None], dtype=np.complex128)
    pairs = list(itertools.combinations(range(4), 2))
    chord = {(i, j): np.abs(_theta(1, u[..., i] - u[..., j]) / _SLOPE) for i, j in pairs}
    charges = [
        (1, 1, -1, -1),
        (1, -1, 1, -1),
        (1, -1, -1, 1),
    ]  # the other three are their negatives
    total = np.zeros(u.shape[:-1])
    for nu in (1, 2, 3, 4):
        inner = np.zeros(u.shape[:-1])
        for e in charges:
            vertex = np.abs(_theta(nu, u @ np.array(e) / 2)) ** 2
            for i, j in pairs:
                vertex = vertex * chord[i, j] ** (0.5 * e[i] * e[j])
            inner += 0.5 * vertex
        total += np.sqrt(inner)
    result: Array = AMPLITUDE**2 * side**-0.5 * total / _PARTITION
    return result


def torus_connected_four_point(r: ArrayLike, L: ArrayLike) -> Array:
    """Return G4c on the corners of an r x r square of the critical torus, in the scaling limit.

    G4 - 2 G2(r, 0)^2 - G2(r, r)^2.

    Parameters
    ----------
    r : side of the square in sites, 0 < r < L. L : side of the torus; both broadcast.
    """
    r, side = np.broadcast_arrays(np.asarray(r, dtype=np.float64), np.asarray(L, dtype=np.float64))
    x, y = r[..., None] * np.array([0, 1, 1, 0]), r[..., None] * np.array([0, 0, 1, 1])
    edge, diagonal = torus_two_point(r, 0.0 * r, side), torus_two_point(r, r, side)
    result: Array = torus_four_point(x, y, side) - 2.0 * edge**2 - diagonal**2
    return result
