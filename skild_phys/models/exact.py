"""Exact results for the Ising model on the square lattice, J = k_B = 1, K = 1 / T."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray
from scipy.special import ellipkm1

from skild_phys.errors import BadInput

Array = NDArray[np.float64]

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


EXACT_UP_TO = 8
"""Larger distance along an axis up to which `critical_correlation` is exact: to 4e-12."""


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


@functools.cache
def _near() -> Array:
    """Return <s_00 s_xy> for x, y = 0 .. EXACT_UP_TO, by Perk's identity from the diagonal out.

    2 C(x, y)^2 = C(x, y-1) C(x, y+1) + C(x-1, y) C(x+1, y) at Tc, everywhere but at the origin.
    Each step loses digits: ten steps out eleven of them are left of sixteen.
    """
    last = EXACT_UP_TO
    c = np.zeros((last + 1, last + 1))
    np.fill_diagonal(c, diagonal_correlation(np.arange(last + 1)))
    c[1, 0] = c[0, 1] = math.sqrt(0.5)
    for n in range(1, last):
        c[n + 1, n] = c[n, n + 1] = c[n, n] ** 2 / c[n, n - 1]
    for away in range(2, last + 1):
        for y in range(last + 1 - away):
            x = y + away - 1
            beside = c[x, abs(y - 1)] * c[x, y + 1]
            c[x + 1, y] = c[y, x + 1] = (2.0 * c[x, y] ** 2 - beside) / c[x - 1, y]
    c.flags.writeable = False
    return c


def critical_correlation(x: ArrayLike, y: ArrayLike) -> Array:
    """Return <s_00 s_xy> at Tc on the infinite lattice.

    Exact up to `EXACT_UP_TO` along either axis; beyond, the asymptotic A r^(-1/4), which is
    within 3e-4 of it there.

    Parameters
    ----------
    x, y : distance in sites, whole numbers that broadcast.

    Examples
    --------
    >>> float(np.round(critical_correlation(1, 1), 6))  # 2 / pi
    0.63662
    """
    x, y = np.broadcast_arrays(np.abs(np.asarray(x)), np.abs(np.asarray(y)))
    r = np.hypot(x, y)
    with np.errstate(divide="ignore"):
        far = AMPLITUDE * r**-0.25
    near = np.maximum(x, y) <= EXACT_UP_TO
    place = (np.where(near, x, 0).astype(int), np.where(near, y, 0).astype(int))
    result: Array = np.where(near, _near()[place], far)
    return result


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


# Terms of a theta series; the first one left out is below 1e-50 for |Im u| <= Ly / Lx, and below
# 1e-40 for half of that.
_TERMS, _FEW_TERMS = 9, 6


class _Torus:
    """The theta functions of nome exp(-pi aspect), aspect >= 1."""

    def __init__(self, aspect: float) -> None:
        self.aspect, self.nome = aspect, math.exp(-math.pi * aspect)
        n = np.arange(_TERMS)
        slopes = 2.0 * np.pi * (-1.0) ** n * (2 * n + 1) * self.nome ** ((n + 0.5) ** 2)
        self.slope = float(slopes.sum())  # d theta_1 / du at 0
        zero = np.zeros(1, complex)
        self.partition = float(sum(abs(self.theta(nu, zero)[0]) for nu in (2, 3, 4)))

    def theta(
        self, nu: int, u: NDArray[np.complex128], terms: int = _TERMS
    ) -> NDArray[np.complex128]:
        """Return the Jacobi theta function nu = 1 .. 4 of argument pi u."""
        n = np.arange(terms)
        if nu <= 2:
            wave = np.sin if nu == 1 else np.cos
            sign = (-1.0) ** n if nu == 1 else np.ones(terms)
            weight = 2.0 * sign * self.nome ** ((n + 0.5) ** 2)
            series = weight * wave(np.pi * u[..., None] * (2 * n + 1))
        else:
            sign = (-1.0) ** n if nu == 4 else np.ones(terms)
            weight = np.where(n == 0, 1.0, 2.0) * sign * self.nome ** (n**2)
            series = weight * np.cos(2.0 * np.pi * u[..., None] * n)
        result: NDArray[np.complex128] = series.sum(axis=-1)
        return result

    def wrapped(self, u: NDArray[np.complex128]) -> NDArray[np.complex128]:
        """Return u moved into the middle cell, where the theta series converge fastest."""
        real = u.real - np.rint(u.real)
        return np.asarray(real + 1j * (u.imag - self.aspect * np.rint(u.imag / self.aspect)))


def _turned(
    x: ArrayLike, y: ArrayLike, L: ArrayLike, aspect: float
) -> tuple[_Torus, NDArray[np.complex128], Array]:
    """Return the torus, u, and the side that u is measured in: the shorter one."""
    x, y, side = (np.asarray(a, dtype=np.float64) for a in (x, y, L))
    if aspect < 1.0:
        return _Torus(1.0 / aspect), np.asarray((y + 1j * x) / (aspect * side)), aspect * side
    return _Torus(aspect), np.asarray((x + 1j * y) / side), side


def torus_two_point(x: ArrayLike, y: ArrayLike, L: ArrayLike, aspect: float = 1.0) -> Array:
    """Return <s_0 s_(x,y)> of a critical torus in the scaling limit; infinite at 0.

    With u = (x + i y) / L, on the lattice within 0.2% from r = 4 on::

        A L^(-1/4) |theta_1' / theta_1(u)|^(1/4) sum_{nu=1..4} |theta_nu(u/2)|
        / sum_{nu=2..4} |theta_nu(0)|

    Parameters
    ----------
    x, y : distance in sites, arrays that broadcast.
    L : side along x, in sites.
    aspect : side along y over that along x.
    """
    torus, u, side = _turned(x, y, L, aspect)
    u = torus.wrapped(u)
    with np.errstate(divide="ignore"):
        pole = (torus.slope / np.abs(torus.theta(1, u, _FEW_TERMS))) ** 0.25
    sectors = np.sum([np.abs(torus.theta(nu, u / 2, _FEW_TERMS)) for nu in (1, 2, 3, 4)], axis=0)
    result: Array = AMPLITUDE * side**-0.25 * pole * sectors / torus.partition
    return result


def torus_four_point(x: ArrayLike, y: ArrayLike, L: ArrayLike, aspect: float = 1.0) -> Array:
    """Return <s1 s2 s3 s4> of a critical torus in the scaling limit.

    The inner sum goes over e in {+-1}^4 with sum 0::

        A^2 L^(-1/2) sum_nu [1/4 sum_e |theta_nu(sum_i e_i u_i / 2)|^2
        prod_{i<j} |theta_1(u_ij) / theta_1'|^(e_i e_j / 2)]^(1/2) / sum_{nu=2..4} |theta_nu(0)|

    Parameters
    ----------
    x, y : (..., 4) positions of the four different sites, within one lattice side of one another.
    L : side along x, in sites; broadcasts with (...).
    aspect : side along y over that along x.
    """
    torus, u, side = _turned(x, y, np.asarray(L, dtype=np.float64)[..., None], aspect)
    side = side[..., 0]
    pairs = list(itertools.combinations(range(4), 2))
    chord = {(i, j): np.abs(torus.theta(1, u[..., i] - u[..., j]) / torus.slope) for i, j in pairs}
    charges = [
        (1, 1, -1, -1),
        (1, -1, 1, -1),
        (1, -1, -1, 1),
    ]  # the other three are their negatives
    total = np.zeros(u.shape[:-1])
    for nu in (1, 2, 3, 4):
        inner = np.zeros(u.shape[:-1])
        for e in charges:
            vertex = np.abs(torus.theta(nu, u @ np.array(e) / 2)) ** 2
            for i, j in pairs:
                vertex = vertex * chord[i, j] ** (0.5 * e[i] * e[j])
            inner += 0.5 * vertex
        total += np.sqrt(inner)
    result: Array = AMPLITUDE**2 * side**-0.5 * total / torus.partition
    return result


def torus_connected_four_point(r: ArrayLike, L: ArrayLike, aspect: float = 1.0) -> Array:
    """Return G4c on the corners of an r x r square of a critical torus, in the scaling limit.

    G4 - G2(r, 0)^2 - G2(0, r)^2 - G2(r, r)^2.

    Parameters
    ----------
    r : side of the square in sites, below both sides of the torus.
    L : side along x; both broadcast.
    aspect : side along y over that along x.

    Examples
    --------
    >>> torus_connected_four_point([4, 8], 128).round(3).tolist()
    [-0.427, -0.315]
    """
    r, side = np.broadcast_arrays(np.asarray(r, dtype=np.float64), np.asarray(L, dtype=np.float64))
    x, y = r[..., None] * np.array([0, 1, 1, 0]), r[..., None] * np.array([0, 0, 1, 1])
    along_x = torus_two_point(r, 0.0 * r, side, aspect)
    along_y = torus_two_point(0.0 * r, r, side, aspect)
    diagonal = torus_two_point(r, r, side, aspect)
    result: Array = torus_four_point(x, y, side, aspect) - along_x**2 - along_y**2 - diagonal**2
    return result


@functools.lru_cache(maxsize=4)
def torus_two_point_map(shape: tuple[int, int]) -> Array:
    """Return G at every separation of a critical torus of (Ly, Lx) sites, (Ly, Lx) float64.

    The scaling limit times the infinite lattice's own ratio to A r^(-1/4) at short distance
    (`critical_correlation`), and 1 at r = 0. What is left out is that this ratio is another for
    the part that the size of the torus makes: 0.035 / L at r = 1 of a square, less further out.
    """
    height, width = shape
    y, x = np.ogrid[: height // 2 + 1, : width // 2 + 1]
    y, x = np.broadcast_arrays(y, x)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = torus_two_point(x, y, float(width), height / width)
        r = np.hypot(x, y)
        ratio = critical_correlation(x, y) / (AMPLITUDE * r**-0.25)
        near = np.maximum(x, y) <= EXACT_UP_TO
        found = np.where(near, found * ratio, found)
    found[0, 0] = 1.0
    at = [np.minimum(np.arange(n), n - np.arange(n)) for n in shape]
    whole = np.asarray(found[np.ix_(*at)])
    whole.flags.writeable = False
    return whole


def torus_structure_factor(shape: tuple[int, int]) -> Array:
    """Return S(k) of a critical torus in the layout of rfft2, (Ly, Lx // 2 + 1) float64.

    The transform of `torus_two_point_map`: S(0) L^(-7/4) of a square is 1.0919, as in
    cond-mat/9904038, and xi / L 0.9051.
    """
    return np.asarray(scipy.fft.rfft2(torus_two_point_map(shape)).real)
