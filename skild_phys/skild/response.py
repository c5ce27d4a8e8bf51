"""Rules that are not linear, as near as a linear rule with noise comes to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from skild_phys.rules import RULES, Rule

_Array = NDArray[np.float64]

_KNOTS = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 1.75)
_SMOOTH = 1e-4  # weight of the knots' second differences beside the modes': for knots without any
_LEAST_NOISE = 1e-4


@dataclass(frozen=True)
class Response:
    """A rule as y(K) = g(K) (A x)(K) + n(K), with A its `Rule.proxy` and noise of variance N(K).

    Signs of Gaussian blocks would have one g for all K, and N = 1 - 2 / pi. The blocks of critical
    spins are far from Gaussian: by 2 to 16 N is 0.10 to 0.14, and g falls by 10 to 21% from long
    waves to short ones (2,000 configurations of 128^2).

    Attributes
    ----------
    factors : that were measured, rising; others are interpolated in their logarithm.
    knots : |K| b / pi, 1 at the coarse lattice's Nyquist mode; linear in between.
    gain, noise : at the knots, for each factor.
    """

    factors: tuple[int, ...]
    knots: tuple[float, ...]
    gain: tuple[tuple[float, ...], ...]
    noise: tuple[tuple[float, ...], ...]

    def __call__(self, coarse: tuple[int, ...], factor: int) -> tuple[_Array, _Array]:
        """Return g and N of the modes of `fftn` of a coarse lattice."""
        at = np.interp(math.log(factor), np.log(self.factors), np.arange(len(self.factors)))
        low, part = int(at), at % 1.0
        high = min(low + 1, len(self.factors) - 1)
        hats = _hats(coarse, self.knots)
        rows = (np.array(one) for one in (self.gain, self.noise))
        gain, noise = (hats @ ((1.0 - part) * one[low] + part * one[high]) for one in rows)
        return gain, noise

    @staticmethod
    def measured(
        batches: Sequence[NDArray[np.generic]], factors: Sequence[int]
    ) -> dict[str, Response]:
        """Return the least-squares responses of spins (n, *shape), by rule.

        Of all rules that make spins and are not linear, by the `factors` that divide the sides of
        any batch; shapes may differ from batch to batch. N is the mean square of what g A x leaves
        of y.
        """
        rules = [r for r in RULES.values() if r.linear is None and r.stores.get("spins") == "spins"]
        found = {rule.name: _fit(batches, rule, factors) for rule in rules}
        return {name: one for name, one in found.items() if one is not None}

    @classmethod
    def from_record(cls, table: Mapping[str, Any]) -> Self:
        """Return a response from a table of plain lists, as weights keep it."""
        rows = (tuple(tuple(map(float, row)) for row in table[key]) for key in ("gain", "noise"))
        return cls(tuple(map(int, table["factors"])), tuple(map(float, table["knots"])), *rows)


def _hats(coarse: tuple[int, ...], knots: Sequence[float]) -> _Array:
    """Return the weight of each knot in a linear interpolation at each mode, (*coarse, knots)."""
    squares = [(2.0 * np.fft.fftfreq(side)) ** 2 for side in coarse]
    q = np.sqrt(sum(np.meshgrid(*squares, indexing="ij")))
    each = [np.interp(q, knots, unit) for unit in np.eye(len(knots))]
    return np.stack(each, axis=-1)


def _fit(
    batches: Iterable[NDArray[np.generic]], rule: Rule, factors: Sequence[int]
) -> Response | None:
    found: dict[int, dict[tuple[int, ...], _Array]] = {}
    for batch in batches:
        shape, axes = batch.shape[1:], tuple(range(1, batch.ndim))
        for b in sorted(factors):
            if any(side % b for side in shape):
                continue
            seen = rule.proxy(shape, b).apply(batch.astype(np.float64))
            made = rule.coarsen(batch.astype(np.int8), b).astype(np.float64)
            x, y = (np.fft.fftn(one, axes=axes, norm="ortho") for one in (seen, made))
            pairs = ((x * x.conj()).real, (x * y.conj()).real, (y * y.conj()).real)
            sums = np.stack([np.ones(x[0].shape) * len(x), *(pair.sum(0) for pair in pairs)])
            of = found.setdefault(b, {})
            of[seen.shape[1:]] = of.get(seen.shape[1:], 0.0) + sums
    if not found:
        return None
    gains, noises, roughness = [], [], np.diff(np.eye(len(_KNOTS)), 2, axis=0)
    for b in sorted(found):
        hats = np.concatenate([_hats(side, _KNOTS).reshape(-1, len(_KNOTS)) for side in found[b]])
        n, xx, xy, yy = np.concatenate([s.reshape(4, -1) for s in found[b].values()], axis=1)

        def best(weight: _Array, wanted: _Array, hats: _Array = hats) -> _Array:
            normal = hats.T @ (weight[:, None] * hats)
            smooth = _SMOOTH * np.trace(normal) * roughness.T @ roughness
            return np.linalg.solve(normal + smooth, hats.T @ wanted)

        gain = best(xx, xy)
        g = hats @ gain
        noise = best(n, yy - 2.0 * g * xy + g * g * xx)
        gains.append(tuple(gain.tolist()))
        noises.append(tuple(np.maximum(noise, _LEAST_NOISE).tolist()))
    return Response(tuple(sorted(found)), _KNOTS, tuple(gains), tuple(noises))
