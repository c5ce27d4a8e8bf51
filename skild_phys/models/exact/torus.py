"""Correlations of the critical Ising model on a torus, in the scaling limit.

P. Di Francesco, H. Saleur and J.-B. Zuber, Nucl. Phys. B 290, 527 (1987). A torus of Ly x Lx
sites has the modulus tau = i Ly / Lx; u = (x + i y) / Lx.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from skild_phys.models.exact.critical import AMPLITUDE
from skild_phys.models.exact.infinite import EXACT_UP_TO, critical_correlation

Array = NDArray[np.float64]

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
