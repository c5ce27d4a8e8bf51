"""What autocorrelation times to expect, before any is measured.

Good enough to plan with (how many samples between two commits, how far apart training lattices
are); samples of a simulation are spaced by what is measured.
"""

from __future__ import annotations

import math

from skild_phys.models import MODELS


def correlation_length(temperature: float) -> float:
    """Return the correlation length of the infinite 2D Ising lattice along an axis, in sites.

    1 / |ln tanh K + 2 K| above Tc and half of that below (McCoy and Wu, The Two-Dimensional
    Ising Model, 1973); infinite at Tc.
    """
    k = 1.0 / temperature
    inverse = -math.log(math.tanh(k)) - 2.0 * k
    if inverse == 0.0:
        return math.inf
    return 1.0 / inverse if inverse > 0.0 else -0.5 / inverse


def default_every(side: int, temperature: float) -> int:
    """Return how many Wolff clusters of the 2D Ising model make about two autocorrelation times.

    tau is 2.2 (ell / 64)^0.3 lattices' worth of flipped spins, ell the smaller of L and the
    correlation length, and a cluster has on average about chi = min(1.09 L^(7/4),
    1 + 2.6 xi^(7/4)) spins above Tc (at Tc 5.8 and 8.4 clusters at L = 64 and 128, in the table
    of exact references).
    """
    xi = correlation_length(temperature)
    ell = max(1.0, min(float(side), xi))
    size = float(side * side)
    cluster = 1.09 * math.pow(side, 1.75)
    if temperature > MODELS["ising2d"].critical_temperature and math.isfinite(xi):
        cluster = min(cluster, 1.0 + 2.6 * math.pow(xi, 1.75))
    return math.ceil(4.4 * math.pow(ell / 64.0, 0.3) * size / min(cluster, size))


def sweeps_between_samples(local: bool, side: int, temperature: float, critical: float) -> int:
    """Return roughly how many sweeps two samples of any model are apart.

    16 for cluster updates; ell^2.17 for local ones (Nightingale and Bloete, Phys. Rev. Lett. 76,
    4548, 1996), ell the smaller of L and Tc / |T - Tc|.
    """
    if not local:
        return 16
    away = abs(temperature / critical - 1.0)
    ell = side if away * side < 1.0 else max(1.0, 1.0 / away)
    return math.ceil(math.pow(ell, 2.17))
