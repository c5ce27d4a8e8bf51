"""Single-site Metropolis updates, J. Chem. Phys. 21, 1087 (1953)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.rng import below, next_u64


def acceptance_thresholds(temperature: float) -> NDArray[np.uint64]:
    """Return min(1, exp(-2 h / T)) as thresholds for 64 random bits, (5,) uint64.

    Entry (h + 4) / 2 belongs to h = s * (sum of the four neighbours) = -4, -2, .. 4; a flip
    costs the energy 2 h. It is accepted when h <= 0, or the bits fall below the threshold.
    """
    table = [min(int(math.exp(-2.0 * h / temperature) * 2.0**64), 2**64 - 1) for h in (0, 2, 4)]
    return np.array([table[0], table[0], *table], dtype=np.uint64)


@njit(cache=True, nogil=True)
def _metropolis(spins, thresholds, state, sweeps):  # type: ignore[no-untyped-def]
    height, width = spins.shape
    flat = spins.reshape(-1)
    size = height * width
    accepted = np.int64(0)
    for _ in range(sweeps * size):
        site = below(state, size)
        y = site // width
        x = site - y * width
        row = site - x
        right = row + (x + 1 if x + 1 < width else 0)
        left = row + (x - 1 if x > 0 else width - 1)
        down = site + width if y + 1 < height else x
        up = site - width if y > 0 else size - width + x
        h = flat[site] * (flat[right] + flat[left] + flat[down] + flat[up])
        if h <= 0 or next_u64(state) < thresholds[(h + 4) >> 1]:
            flat[site] = -flat[site]
            accepted += 1
    return accepted


def metropolis(
    spins: NDArray[np.int8], temperature: float, state: NDArray[np.uint64], sweeps: int
) -> int:
    """Make `sweeps` times Ly Lx Metropolis updates of the Ising model on a torus, in place.

    Each update takes a site at random. That is in detailed balance for a torus of any size from
    2 x 2 on, odd sides included (a checkerboard needs even ones), and it can reach every
    configuration, where going through the sites in order need not.

    Parameters
    ----------
    spins : (Ly, Lx) int8 array of +-1, C-contiguous; changed in place.
    temperature : in J / k_B.
    state : (4,) uint64 generator state (`rng.kernel_state`); advanced in place.
    sweeps : how many updates, in units of the number of sites.

    Returns
    -------
    The number of accepted flips.
    """
    return int(_metropolis(spins, acceptance_thresholds(temperature), state, sweeps))
