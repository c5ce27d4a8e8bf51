"""Pair couplings of spins, learned from configurations alone by maximum pseudo-likelihood.

If p(s) ~ exp(sum over pairs of J_ij s_i s_j), a spin given all others is up with odds
exp(2 sum_j J_ij s_j): a logistic regression, convex and consistent (Besag 1975; for spins
Aurell and Ekeberg, arXiv 1107.3536). Where the true law has more than pair couplings, these are
the best that pairs can say; the network corrects the rest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GROUPS = 8
"""Groups of batches for the jackknife error."""
SIGNIFICANT = 5.0
"""Couplings within so many errors of zero are set to zero."""


@dataclass(frozen=True)
class Couplings:
    """J of a homogeneous lattice by separation.

    Attributes
    ----------
    offsets : (dy, dx) of one of each pair of opposite separations.
    values : J / (k_B T) at `offsets`.
    """

    offsets: tuple[tuple[int, int], ...] = ()
    values: tuple[float, ...] = ()

    def transfer(self, shape: tuple[int, int]) -> Array:
        """Return sum over r of J(r) cos(k r) of every rfft2 mode of a torus, float64."""
        ky = 2.0 * np.pi * np.fft.fftfreq(shape[0])[:, None]
        kx = 2.0 * np.pi * np.fft.rfftfreq(shape[1])[None, :]
        total = np.zeros((ky.size, kx.size))
        for (dy, dx), value in zip(self.offsets, self.values, strict=True):
            total += 2.0 * value * np.cos(ky * dy + kx * dx)
        return total


def couplings_from_record(record: dict[str, Any]) -> Couplings:
    """Return the couplings whose `dataclasses.asdict` went through JSON."""
    offsets = tuple((int(dy), int(dx)) for dy, dx in record["offsets"])
    return Couplings(offsets, tuple(float(value) for value in record["values"]))


def _orbits(reach: int, symmetric: bool) -> list[list[tuple[int, int]]]:
    """Return the separations within `reach`, one of each opposite pair, in groups of equal J.

    The groups are the orbits of flips and quarter turns if `symmetric`, else single separations.
    """
    half = [
        (dy, dx)
        for dy in range(reach + 1)
        for dx in range(-reach, reach + 1)
        if dy > 0 or (dy == 0 and dx > 0)
    ]
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for dy, dx in half:
        key = (max(abs(dy), abs(dx)), min(abs(dy), abs(dx))) if symmetric else (dy, dx)
        groups.setdefault(key, []).append((dy, dx))
    return sorted(groups.values(), key=lambda group: max(dy * dy + dx * dx for dy, dx in group))


def _keys(spins: NDArray[np.generic], orbits: list[list[tuple[int, int]]]) -> NDArray[np.int64]:
    """Return a number for each site that says s_i times the spins' sum over each orbit about i."""
    s = spins.astype(np.int8)
    key = np.zeros(s.shape, dtype=np.int64)
    for orbit in orbits:
        around = np.zeros_like(s)
        for dy, dx in orbit:
            around += np.roll(s, (dy, dx), (1, 2)) + np.roll(s, (-dy, -dx), (1, 2))
        key = key * (4 * len(orbit) + 1) + (s * around + 2 * len(orbit))
    return key.ravel()


def _rows(keys: NDArray[np.int64], orbits: list[list[tuple[int, int]]]) -> Array:
    """Return what `_keys` put into numbers, (keys, orbits)."""
    columns = []
    for orbit in reversed(orbits):
        keys, column = np.divmod(keys, 4 * len(orbit) + 1)
        columns.append(column - 2.0 * len(orbit))
    return np.stack(columns[::-1], axis=1)


def _maximum(rows: Array, counts: Array) -> Array:
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
    """Return the pair couplings of spins (n, Ly, Lx) of +-1, periodic.

    Parameters
    ----------
    batches : of independent lattices; the jackknife error is over groups of them.
    reach : largest |dy| and |dx| of a separation; 0 for no couplings at all.
    symmetric : whether separations that flips and quarter turns take into each other share J.

    Couplings that do not stand out from zero by SIGNIFICANT errors are left out, and the others
    fitted again without them.
    """
    orbits = _orbits(reach, symmetric)
    tables: list[Counter[int]] = [Counter() for _ in range(GROUPS)]
    for index, spins in enumerate(batches):
        if not orbits or min(spins.shape[1:]) < 2 * reach + 1:
            return Couplings()
        seen, times = np.unique(_keys(spins, orbits), return_counts=True)
        tables[index % GROUPS].update(dict(zip(seen.tolist(), times.tolist(), strict=True)))
    keys = sorted(set().union(*tables))
    if not keys:
        return Couplings()
    rows = _rows(np.array(keys, dtype=np.int64), orbits)
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
) -> Array:
    """Return by how many errors spins differ from what pair `couplings` make of them.

    If p(s) ~ exp(sum over pairs of J_ij s_i s_j), then s_i - tanh(sum_j J_ij s_j) has a mean of
    zero times anything that is made of the other spins. Here that is: three of the four nearest
    neighbours, the other three corners of a plaquette, and pairs just beyond `reach`, on axes and
    on diagonals. The error is over batches.

    Returns
    -------
    (4,) mean over its error; NaN from fewer than two batches.
    """
    means = []
    for spins in batches:
        s = spins.astype(np.float64)

        def at(dy: int, dx: int, s: Array = s) -> Array:
            return np.roll(s, (-dy, -dx), (1, 2))

        pull = np.zeros_like(s)
        for (dy, dx), j in zip(couplings.offsets, couplings.values, strict=True):
            pull += j * (at(dy, dx) + at(-dy, -dx))
        around = [at(0, 1), at(1, 0), at(0, -1), at(-1, 0)]
        corners = [at(1, 1), at(1, -1), at(-1, -1), at(-1, 1)]
        all_four = around[0] * around[1] * around[2] * around[3]
        far = reach + 1
        made = (
            all_four * sum(around),
            sum(around[k] * corners[k] * around[k - 3] for k in range(4)),
            at(0, far) + at(far, 0) + at(0, -far) + at(-far, 0),
            at(far, far) + at(far, -far) + at(-far, -far) + at(-far, far),
        )
        rest = s - np.tanh(pull)
        means.append([float((rest * other).mean()) for other in made])
    if len(means) < 2:
        return np.full(4, np.nan)
    found = np.array(means)
    error = found.std(axis=0, ddof=1) / math.sqrt(len(found))
    return np.asarray(found.mean(axis=0) / np.maximum(error, 1e-300))
