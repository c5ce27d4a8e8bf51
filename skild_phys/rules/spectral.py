"""The low-pass field: the Fourier modes inside the coarse box."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skild_phys.rules.base import Operator, Raw, Rule, Shape, Ties


class _LowPass(Operator):
    """The modes inside the coarse box, with amplitude b^(-d/2); A A^T = b^-d.

    In the orthonormal DFT y(K) = b^(-d/2) x(K) for |K| below the coarse Nyquist mode. For an even
    coarse side the fine modes +-side/2 meet in the one coarse Nyquist mode; each enters with
    weight 1 / sqrt 2 per axis, so that A A^T is the same for every mode and white noise
    coarse-grains to white noise.
    """

    def filter(self, side: int) -> NDArray[np.complex128]:
        edge = side // self.factor
        twice = 2 * np.abs(np.rint(np.fft.fftfreq(side) * side))
        inside = np.where(twice < edge, 1.0, np.where(twice == edge, 0.5**0.5, 0.0))
        return inside.astype(np.complex128)


class Spectral(Rule):
    """The float32 low-pass field of spins or of fields."""

    name = "spectral"
    stores = {"spins": "field", "field": "field"}
    linear = _LowPass
    binds = False
    shown = True
    # The last sample, which holds block sums that the data do not have, is less bound by those
    # before it.
    end_lambda = 0.13

    def condition(self, raw: Raw, shape: Shape, factor: int, ties: Ties, device: Any) -> Any:
        from skild_phys.rules.conditions import KeptModes

        return KeptModes(np.asarray(raw, dtype=np.float64), self.operator(shape, factor), device)
