"""Pair couplings of spins, learned from configurations alone by maximum pseudo-likelihood.

If p(s) ~ exp(sum over pairs of J_ij s_i s_j), a spin given all others is up with odds
exp(2 sum_j J_ij s_j): a logistic regression, convex and consistent (Besag 1975; for spins Aurell
and Ekeberg, arXiv 1107.3536). Where the data have more than pair couplings, these are the best that
pairs can say; the network corrects the rest.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.skild.spins import Couplings

_Array = NDArray[np.float64]
_Offset = tuple[int, ...]
_Orbits = list[list[_Offset]]

GROUPS = 8
"""Groups of batches for the jackknife error."""
SIGNIFICANT = 5.0
"""Couplings within so many standard errors of zero are set to zero."""


def _orbits(reach: int, dimension: int, symmetric: bool) -> _Orbits:
    """Return the separations within `reach`, one of each opposite pair, in groups of equal J.

    The groups are the orbits of flips and quarter turns if `symmetric`, else single separations.
    """
    groups: dict[_Offset, list[_Offset]] = {}
    for offset in itertools.product(range(-reach, reach + 1), repeat=dimension):
        if offset > (0,) * dimension:
            key = tuple(sorted(map(abs, offset))) if symmetric else offset
            groups.setdefault(key, []).append(offset)
    return sorted(groups.values(), key=lambda group: max(sum(x * x for x in r) for r in group))


def _around(s: NDArray[Any], offset: _Offset) -> NDArray[Any]:
    """Return the sum of s (n, *shape) at both sites that are `offset` away."""
    back, axes = tuple(-step for step in offset), tuple(range(1, s.ndim))
    both: NDArray[Any] = np.roll(s, back, axes) + np.roll(s, offset, axes)
    return both


def _maximum(rows: _Array, counts: _Array) -> _Array:
    """Return the J that maximizes sum of counts ln p, p = 1 / (1 + exp(-2 rows J)), by Newton.

    A small ridge keeps it finite where the data would have it infinite (all spins alike).
    """
    total, ridge = counts.sum(), 1e-6
    j = np.zeros(rows.shape[1])
    for _ in range(50):
        wrong = 1.0 / (1.0 + np.exp(2.0 * rows @ j))
        gradient = 2.0 * (counts * wrong) @ rows / total - ridge * j
        curvature = 4.0 * (rows.T * (counts * wrong * (1.0 - wrong))) @ rows / total
        step = np.linalg.solve(curvature + ridge * np.eye(j.size), gradient)
        j = j + step * min(1.0, 1.0 / max(np.abs(step).max(), 1e-300))
        if np.abs(step).max() < 1e-10:
            break
    return np.asarray(j)


def fit_couplings(
    batches: Iterable[NDArray[np.generic]], reach: int = 2, symmetric: bool = True
) -> Couplings:
    """Return the pair couplings of spins (n, *shape) of +-1, periodic, of any dimension.

    Parameters
    ----------
    batches : of independent configurations; the jackknife error is over groups of them.
    reach : largest separation along an axis; 0 for no couplings at all.
    symmetric : whether separations that flips and quarter turns take into each other share J.

    Couplings that do not stand out from zero by SIGNIFICANT standard errors are left out, and the
    others fitted again without them.
    """
    orbits: _Orbits = []
    tables: list[Counter[int]] = [Counter() for _ in range(GROUPS)]
    for index, spins in enumerate(batches):
        orbits = orbits or _orbits(reach, spins.ndim - 1, symmetric)
        if not orbits or min(spins.shape[1:]) < 2 * reach + 1:
            return Couplings()
        # One number for each site that stands for s_i times the spins' sum over each orbit about i.
        s = spins.astype(np.int8)
        sums = [
            s * sum((_around(s, offset) for offset in orbit), np.zeros_like(s)) + 2 * len(orbit)
            for orbit in orbits
        ]
        values = tuple(4 * len(orbit) + 1 for orbit in orbits)
        seen, times = np.unique(np.ravel_multi_index(tuple(sums), values), return_counts=True)
        tables[index % GROUPS].update(dict(zip(seen.tolist(), times.tolist(), strict=True)))
    keys = sorted(set().union(*tables))
    if not keys:
        return Couplings()
    raised = np.stack(np.unravel_index(np.array(keys), values), axis=1)
    rows = raised - 2.0 * np.array([len(orbit) for orbit in orbits])
    counts = np.array([[table[key] for key in keys] for table in tables], dtype=np.float64)
    counts = counts[counts.sum(axis=1) > 0]
    kept = list(range(len(orbits)))
    while kept:
        best = _maximum(rows[:, kept], counts.sum(axis=0))
        if len(counts) < 2:
            break
        left_out = np.array([_maximum(rows[:, kept], counts.sum(axis=0) - c) for c in counts])
        error = np.sqrt((len(counts) - 1) * left_out.var(axis=0))
        strength = np.abs(best) / np.maximum(error, 1e-12)
        if strength.min() >= SIGNIFICANT:
            break
        del kept[int(np.argmin(strength))]
    offsets = [(offset, best[i]) for i, k in enumerate(kept) for offset in orbits[k]]
    return Couplings(tuple(o for o, _ in offsets), tuple(float(v) for _, v in offsets))


def beyond_pairs(
    batches: Iterable[NDArray[np.generic]], couplings: Couplings, reach: int = 2
) -> _Array:
    """Return by how many standard errors spins differ from what pair `couplings` make of them.

    If p(s) ~ exp(sum over pairs of J_ij s_i s_j), then s_i - tanh(sum_j J_ij s_j) has a mean of
    zero times anything that is made of the other spins. Here that is, summed over the planes of the
    lattice: three of the four nearest neighbours, the other three corners of a plaquette, and pairs
    just beyond `reach`, on axes and on diagonals. The error is over batches.

    Returns
    -------
    (4,) mean over its error; NaN from fewer than two batches.
    """
    means = []
    for spins in batches:
        s = spins.astype(np.float64)
        pull = np.zeros_like(s)
        for offset, j in zip(couplings.offsets, couplings.values, strict=True):
            pull += j * _around(s, offset)
        rest, found = s - np.tanh(pull), np.zeros(4)
        for plane in itertools.combinations(range(1, s.ndim), 2):
            for i, made in enumerate(_in_plane(s, plane, reach + 1)):
                found[i] += (rest * made).mean()
        means.append(found)
    if len(means) < 2:
        return np.full(4, np.nan)
    error = np.std(means, axis=0, ddof=1) / math.sqrt(len(means))
    return np.asarray(np.mean(means, axis=0) / np.maximum(error, 1e-300))


def _in_plane(s: _Array, plane: tuple[int, ...], far: int) -> tuple[_Array, ...]:
    def at(dy: int, dx: int) -> _Array:
        return np.roll(s, (-dy, -dx), plane)

    around = [at(0, 1), at(1, 0), at(0, -1), at(-1, 0)]
    corners = [at(1, 1), at(1, -1), at(-1, -1), at(-1, 1)]
    return (
        around[0] * around[1] * around[2] * around[3] * sum(around),
        np.asarray(sum(around[k] * corners[k] * around[k - 3] for k in range(4))),
        at(0, far) + at(far, 0) + at(0, -far) + at(-far, 0),
        at(far, far) + at(far, -far) + at(-far, -far) + at(-far, far),
    )
