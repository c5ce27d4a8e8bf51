"""Wolff's single-cluster update, Phys. Rev. Lett. 62, 361 (1989)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skild_phys.rng import below, next_u64


def bond_threshold(temperature: float) -> np.uint64:
    """Return p = 1 - exp(-2 / T) as an integer threshold for 64 random bits.

    A bond is added when the bits fall below the threshold; p is exact to 2^-53.
    """
    p = -math.expm1(-2.0 / temperature)
    return np.uint64(min(int(p * 2.0**64), 2**64 - 1))


@njit(cache=True, nogil=True)
def _wolff(spins, threshold, state, clusters, stack):  # type: ignore[no-untyped-def]
    height, width = spins.shape
    flat = spins.reshape(-1)
    size = height * width
    flipped = np.int64(0)
    for _ in range(clusters):
        seed = below(state, size)
        old = flat[seed]
        flat[seed] = -old
        stack[0] = seed
        top = 1
        while top > 0:
            top -= 1
            site = stack[top]
            flipped += 1
            y = site // width
            x = site - y * width
            row = site - x
            right = row + (x + 1 if x + 1 < width else 0)
            left = row + (x - 1 if x > 0 else width - 1)
            down = site + width if y + 1 < height else x
            up = site - width if y > 0 else size - width + x
            for nb in (right, left, down, up):
                if flat[nb] == old and next_u64(state) < threshold:
                    flat[nb] = -old
                    stack[top] = nb
                    top += 1
    return flipped


def wolff(
    spins: NDArray[np.int8], temperature: float, state: NDArray[np.uint64], clusters: int
) -> int:
    """Flip `clusters` Wolff clusters of the Ising model on a torus, in place.

    Parameters
    ----------
    spins : (Ly, Lx) int8 array of +-1, C-contiguous; changed in place.
    temperature : in J / k_B.
    state : (4,) uint64 generator state (`rng.kernel_state`); advanced in place.
    clusters : how many clusters. Fixed by the caller: stopping at a number of flipped
        spins instead would bias the ensemble.

    Returns
    -------
    The number of flipped spins.
    """
    stack = np.empty(spins.size, dtype=np.int32)
    return int(_wolff(spins, bond_threshold(temperature), state, clusters, stack))
