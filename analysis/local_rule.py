"""A rival: a local rule of three parameters that inverts a factor-2 majority (arXiv 2506.04016).

Our reading of it: each majority spin is copied onto its 2 x 2 block, a 3 x 3 kernel with the
symmetries of the square runs over the copies, and a fine spin is up with the probability
sigmoid(kernel * copies), independently of all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput

Array = NDArray[np.float64]
NEWTON_STEPS = 12


@dataclass(frozen=True)
class LocalRule:
    """Weights of the 3 x 3 kernel: its centre, its four edges and its four corners."""

    centre: float
    edge: float
    corner: float

    @classmethod
    def fit(cls, fine: NDArray[Any], majorities: NDArray[Any]) -> LocalRule:
        """Return the maximum-likelihood rule, by Newton's method.

        Parameters
        ----------
        fine : (n, Ly, Lx) spins of -1 and +1.
        majorities : (n, Ly / 2, Lx / 2) of their 2 x 2 blocks.
        """
        if fine.shape[1:] != tuple(2 * side for side in majorities.shape[1:]):
            raise BadInput("majorities", majorities.shape, f"half the sides of {fine.shape}")
        seen, up = _neighbours(majorities).reshape(3, -1), (fine.ravel() + 1) / 2
        weights = np.zeros(3)
        for _ in range(NEWTON_STEPS):
            p = 1.0 / (1.0 + np.exp(-(weights @ seen)))
            curvature = (seen * (p * (1.0 - p))) @ seen.T
            weights += np.linalg.solve(curvature, seen @ (up - p))
        return cls(*weights.tolist())

    def probabilities(self, majorities: NDArray[Any]) -> Array:
        """Return the probability of +1 at each fine site, (n, 2 Ly, 2 Lx), for (n, Ly, Lx)."""
        weights = (self.centre, self.edge, self.corner)
        return np.asarray(1.0 / (1.0 + np.exp(-np.tensordot(weights, _neighbours(majorities), 1))))

    def draw(self, majorities: NDArray[Any], uniform: Array) -> NDArray[np.int8]:
        """Return fine spins from `uniform` numbers of [0, 1), (n, 2 Ly, 2 Lx)."""
        return np.where(uniform < self.probabilities(majorities), 1, -1).astype(np.int8)


def _neighbours(majorities: NDArray[Any]) -> Array:
    """Return, per fine site, copy, sum of the 4 nearest and of the 4 diagonal copies, (3, ...)."""
    fine = majorities.astype(np.int8).repeat(2, axis=-2).repeat(2, axis=-1)
    edges = sum(np.roll(fine, step, axis) for step in (1, -1) for axis in (-2, -1))
    corners = sum(np.roll(fine, (a, b), (-2, -1)) for a in (1, -1) for b in (1, -1))
    return np.stack([fine, edges, corners]).astype(np.float64)
