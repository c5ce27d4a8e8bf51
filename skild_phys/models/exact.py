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
_Complex = NDArray[np.complex128]

# -- numbers of the critical point --------------------------------------------------------------

ETA = 0.25
NU = 1.0

AMPLITUDE = 2.0 ** (5 / 24) * math.exp(0.25) / 1.2824271291006226**3  # Glaisher's constant
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

EXPONENTS = {
    "ising2d": (NU, ETA),
    "ising3d": (0.629971, 0.0362978),
    "potts2": (NU, ETA),
    "potts3": (5 / 6, 4 / 15),
    "potts4": (2 / 3, 1 / 4),
}
"""nu and eta: exact in 2D (F. Y. Wu, Rev. Mod. Phys. 54, 235, 1982), 3D Ising by the conformal
bootstrap (F. Kos et al., arXiv 1603.04436)."""

# -- correlations of the infinite lattice at Tc -------------------------------------------------

EXACT_UP_TO = 8
"""Larger distance along an axis up to which `critical_correlation` is exact: to 4e-12."""


def structure_factor_asymptote(k: ArrayLike) -> Array:
    """Return S(k) at Tc of the infinite lattice for k << 1, k in radians per site.

    The Fourier transform of A r^(-eta): 2 pi A 2^(1 - eta) Gamma(1 - eta / 2) / Gamma(eta / 2)
    k^(eta - 2).
    """
    gammas = math.gamma(1.0 - ETA / 2.0) / math.gamma(ETA / 2.0)
    scale = 2.0 * math.pi * AMPLITUDE * 2.0 ** (1.0 - ETA) * gammas
    with np.errstate(divide="ignore"):
        found: Array = scale * np.asarray(k, dtype=np.float64) ** (ETA - 2.0)
        return found


def _diagonal(n: NDArray[np.int64]) -> Array:
    """Return <s_00 s_nn> = (2 / pi)^n prod_{l=1}^{n-1} (1 - 1 / (4 l^2))^(l - n)."""
    factors = np.arange(1, max(int(n.max(initial=0)), 1))
    logs = np.log1p(-0.25 / factors**2)
    zero = np.concatenate([[0.0, 0.0], np.cumsum(logs)])
    first = np.concatenate([[0.0, 0.0], np.cumsum(factors * logs)])
    return np.asarray(np.exp(n * (math.log(2.0 / math.pi) - zero[n]) + first[n]))


@functools.cache
def _near() -> Array:
    """Return <s_00 s_xy> for x, y = 0 .. EXACT_UP_TO, by Perk's identity from the diagonal out.

    2 C(x, y)^2 = C(x, y-1) C(x, y+1) + C(x-1, y) C(x+1, y) at Tc, everywhere but at the origin.
    Each step loses digits: ten steps out eleven of them are left of sixteen.
    """
    last = EXACT_UP_TO
    c = np.diag(_diagonal(np.arange(last + 1)))
    c[1, 0] = c[0, 1] = math.sqrt(0.5)
    for n in range(1, last):
        c[n + 1, n] = c[n, n + 1] = c[n, n] ** 2 / c[n, n - 1]
    for away in range(2, last + 1):
        for y in range(last + 1 - away):
            x = y + away - 1
            beside = c[x, abs(y - 1)] * c[x, y + 1]
            c[x + 1, y] = c[y, x + 1] = (2.0 * c[x, y] ** 2 - beside) / c[x - 1, y]
    return c


def critical_correlation(x: ArrayLike, y: ArrayLike) -> Array:
    """Return <s_00 s_xy> at Tc on the infinite lattice.

    Exact on the diagonals (B. McCoy and T. T. Wu, The Two-Dimensional Ising Model, 1973, chapter
    XI), and up to `EXACT_UP_TO` along either axis (J. H. H. Perk, Phys. Lett. A 79, 3, 1980);
    beyond, the asymptotic A r^(-1/4), which is within 3e-4 of it there.

    Parameters
    ----------
    x, y : distance in sites, whole numbers that broadcast.

    Examples
    --------
    >>> float(np.round(critical_correlation(1, 1), 6))  # 2 / pi
    0.63662
    """
    x, y = np.broadcast_arrays(*(np.abs(np.asarray(a)).astype(np.int64) for a in (x, y)))
    with np.errstate(divide="ignore"):
        found = np.asarray(AMPLITUDE * np.hypot(x, y) ** -0.25)
    near, diagonal = np.maximum(x, y) <= EXACT_UP_TO, x == y
    found[near] = _near()[x[near], y[near]]
    found[diagonal] = _diagonal(x[diagonal])
    return found


# -- energy and specific heat: Kaufman's torus, Onsager's infinite lattice ------------------------

_HOT, _COLD = 1e-3, 3.3  # K below and above which the products lose more than the series leave out


def _coupling(temperature: float) -> float:
    if not (math.isfinite(temperature) and temperature > 0):
        raise BadInput("T", temperature, "a positive number")
    return min(1.0 / temperature, 1e100)


def energy_infinite(temperature: float) -> float:
    """Return the energy per site of the infinite lattice, in J; -sqrt 2 at Tc.

    L. Onsager, Phys. Rev. 65, 117 (1944).
    """
    k = _coupling(temperature)
    kept = 2.0 * math.tanh(2.0 * k) ** 2 - 1.0
    singular = kept * float(ellipkm1(kept**2)) if kept != 0.0 else 0.0
    return -(1.0 + 2.0 / math.pi * singular) / math.tanh(2.0 * k)


def _log_products(height: int, width: int, k: float, first: int) -> list[tuple[float, ...]]:
    """Return ln prod_l 2cosh(Ly gamma_l / 2), then of 2sinh, each with two derivatives in K.

    l = first, first + 2 .. below 2 Lx. cosh gamma_l = cosh 2K coth 2K - cos(pi l / Lx), taken as
    sinh^2(gamma / 2) = y, which keeps its digits where gamma is small.
    """
    s, c = math.sinh(2.0 * k), math.cosh(2.0 * k)
    sines = np.sin(0.5 * np.pi * np.arange(first, 2 * width, 2) / width)
    y = (1.0 - s) ** 2 / (2.0 * s) + sines**2
    slope, curvature = (1.0 - s**-2) * c, 4.0 * c**2 / s**3 + 2.0 * s * (1.0 - s**-2)
    sinh = 2.0 * np.sqrt(y * (1.0 + y))
    gamma = 2.0 * np.arcsinh(np.sqrt(y))
    gamma1 = 2.0 * slope / sinh
    gamma2 = (2.0 * curvature - (1.0 + 2.0 * y) * gamma1**2) / sinh
    v, v1, v2 = (0.5 * height * g for g in (gamma, gamma1, gamma2))
    found = []
    for sign in (1, -1):
        small = sign * np.exp(-2.0 * v)
        tanh, bend = (1.0 - small) / (1.0 + small), 4.0 * small / (1.0 + small) ** 2
        terms = (v + np.log1p(small), tanh * v1, bend * v1**2 + tanh * v2)
        found.append(tuple(map(math.fsum, terms)))
    return found


def _series(height: int, width: int, k: float) -> tuple[float, float]:
    """Return what `_kaufman` does, by the shortest graphs in tanh K (hot) or exp(-2K) (cold).

    ln Z / N = ln 2 + 2 ln cosh K + t^4 + .. and 2K + z^4 + 2 z^6 + 9/2 z^8 + .., with loops and
    pairs of walls that wind around a side. Off by 1e-5 of C on sides of 2, less on longer ones.
    """
    sides = ((height, width), (width, height))
    if k <= _HOT:
        t = math.tanh(k)
        first, second = (sum((n - 1) ** i * t ** (n - 1 - i) for n, _ in sides) for i in (0, 1))
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
    products = [*_log_products(height, width, k, 1), *_log_products(height, width, k, 2)]
    base, slope, _ = products[0]
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

    B. Kaufman, Phys. Rev. 76, 1232 (1949).

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


# -- the critical torus in the scaling limit ------------------------------------------------------
# P. Di Francesco, H. Saleur and J.-B. Zuber, Nucl. Phys. B 290, 527 (1987). A torus of Ly x Lx
# sites has the modulus tau = i Ly / Lx; u = (x + i y) / Lx.

# Terms of a theta series; the first one left out is below 1e-50 for |Im u| <= Ly / Lx, and below
# 1e-40 for half of that.
_TERMS, _FEW_TERMS = 9, 6


def _theta(nu: int, u: _Complex, aspect: float, terms: int = _TERMS) -> _Complex:
    """Return the Jacobi theta function nu = 1 .. 4 of argument pi u and nome exp(-pi aspect)."""
    n, nome = np.arange(terms), math.exp(-math.pi * aspect)
    sign = (-1.0) ** n if nu in (1, 4) else np.ones(terms)
    half = nu <= 2
    weight = np.where((n == 0) & (not half), 1.0, 2.0) * sign * nome ** ((n + 0.5 * half) ** 2)
    wave = np.sin if nu == 1 else np.cos
    return np.asarray((weight * wave(np.pi * u[..., None] * (2 * n + half))).sum(axis=-1))


def _norms(aspect: float) -> tuple[float, float]:
    """Return d theta_1 / du at 0, and the partition function: sum_{nu=2..4} |theta_nu(0)|."""
    n = np.arange(_TERMS)
    slopes = (-1.0) ** n * (2 * n + 1) * math.exp(-math.pi * aspect) ** ((n + 0.5) ** 2)
    zero = np.zeros(1, complex)
    partition = sum(abs(_theta(nu, zero, aspect)[0]) for nu in (2, 3, 4))
    return float((2.0 * np.pi * slopes).sum()), float(partition)


def _turned(
    x: ArrayLike, y: ArrayLike, L: ArrayLike, aspect: float
) -> tuple[_Complex, Array, float]:
    """Return u, the side it is measured in, the shorter one, and the other side over that."""
    x, y, side = (np.asarray(a, dtype=np.float64) for a in (x, y, L))
    if aspect < 1.0:
        return np.asarray((y + 1j * x) / (aspect * side)), aspect * side, 1.0 / aspect
    return np.asarray((x + 1j * y) / side), side, aspect


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
    u, side, aspect = _turned(x, y, L, aspect)
    slope, partition = _norms(aspect)
    # In the middle cell the series converge fastest.
    u = u - np.rint(u.real) - 1j * (aspect * np.rint(u.imag / aspect))
    with np.errstate(divide="ignore"):
        pole = (slope / np.abs(_theta(1, u, aspect, _FEW_TERMS))) ** 0.25
    sectors = sum(np.abs(_theta(nu, u / 2, aspect, _FEW_TERMS)) for nu in (1, 2, 3, 4))
    found: Array = AMPLITUDE * side**-0.25 * pole * sectors / partition
    return found


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
    u, side, aspect = _turned(x, y, np.asarray(L, dtype=np.float64)[..., None], aspect)
    slope, partition = _norms(aspect)
    pairs = itertools.combinations(range(4), 2)
    chords = {(i, j): np.abs(_theta(1, u[..., i] - u[..., j], aspect) / slope) for i, j in pairs}
    total = np.zeros(u.shape[:-1])
    for nu in (1, 2, 3, 4):
        inner = np.zeros(u.shape[:-1])
        for e in ((1, 1, -1, -1), (1, -1, 1, -1), (1, -1, -1, 1)):  # and the negative of each
            vertex = np.abs(_theta(nu, u @ np.array(e) / 2, aspect)) ** 2
            for (i, j), chord in chords.items():
                vertex = vertex * chord ** (0.5 * e[i] * e[j])
            inner += 0.5 * vertex
        total += np.sqrt(inner)
    found: Array = AMPLITUDE**2 * side[..., 0] ** -0.5 * total / partition
    return found


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
    found = torus_four_point(x, y, side, aspect)
    for dx, dy in ((r, 0.0 * r), (0.0 * r, r), (r, r)):
        found = found - torus_two_point(dx, dy, side, aspect) ** 2
    return found


@functools.lru_cache(maxsize=4)
def torus_two_point_map(shape: tuple[int, int]) -> Array:
    """Return G at every separation of a critical torus of (Ly, Lx) sites, (Ly, Lx) float64.

    The scaling limit times the infinite lattice's own ratio to A r^(-1/4) at short distance
    (`critical_correlation`), and 1 at r = 0. What is left out is that this ratio is another for
    the part that the size of the torus makes: 0.035 / L at r = 1 of a square, less further out.
    """
    height, width = shape
    y, x = np.indices((height // 2 + 1, width // 2 + 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = torus_two_point(x, y, float(width), height / width)
        ratio = critical_correlation(x, y) / (AMPLITUDE * np.hypot(x, y) ** -0.25)
        found = np.where(np.maximum(x, y) <= EXACT_UP_TO, found * ratio, found)
    found[0, 0] = 1.0
    whole = np.asarray(found[np.ix_(*(np.minimum(np.arange(n), n - np.arange(n)) for n in shape))])
    whole.flags.writeable = False
    return whole


def torus_structure_factor(shape: tuple[int, int]) -> Array:
    """Return S(k) of a critical torus in the layout of rfft2, (Ly, Lx // 2 + 1) float64.

    The transform of `torus_two_point_map`: S(0) L^(-7/4) of a square is 1.0919, as in
    cond-mat/9904038, and xi / L 0.9051.
    """
    return np.asarray(scipy.fft.rfft2(torus_two_point_map(shape)).real)
