"""An observable of one's own: the energy of next-nearest neighbours, and its curve by distance."""

from __future__ import annotations

import numpy as np
import pytest

import skild_phys as sp

MODEL = {"model": "ising2d", "temperature": 2.0}


@sp.observable("diagonal_bonds", "J", label="e2")
def diagonal_bonds(part):
    """Energy per site of bonds along both diagonals."""
    s = part.values.astype(float)
    near = [np.roll(s, (1, step), (1, 2)) for step in (1, -1)]
    return -(s * sum(near)).mean(axis=(1, 2))


@sp.observable("order_ratio", needs="moments", label="Q")
def order_ratio(moments, system):
    """Ratio <m^2>^2 / <m^4>, a nonlinear function of two means."""
    return moments[..., 2] ** 2 / moments[..., 3]


@sp.observable("rows", label="G(0, r)", axis="distance", judged=True)
def rows(part):
    """Two-point function along x alone."""
    s = part.values.astype(float)
    steps = range(min(part.system.shape) // 2 + 1)
    return np.stack([(s * np.roll(s, r, 2)).mean(axis=(1, 2)) for r in steps], axis=1)


OWN = [diagonal_bonds, order_ratio, rows]


def test_exact_values_in_the_table_and_in_the_comparison() -> None:
    """4x4 at T = 2 enumerated; |z| < 4.5 of 20,000 configurations drawn from it."""
    bits = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    spins = (2 * bits - 1).astype(np.int8).reshape(-1, 4, 4)
    bonds = sum((spins * np.roll(spins, 1, a)).sum(axis=(1, 2)) for a in (1, 2))
    weight = np.exp(bonds / 2.0) / np.exp(bonds / 2.0).sum()
    s = spins.astype(float)
    each = -sum((s * np.roll(s, (1, d), (1, 2))).mean(axis=(1, 2)) for d in (1, -1))
    m = s.mean(axis=(1, 2))
    exact = {"diagonal_bonds": weight @ each, "order_ratio": (weight @ m**2) ** 2 / (weight @ m**4)}
    drawn = spins[np.random.default_rng(1).choice(2**16, 20000, p=weight)]
    found = sp.table(sp.measure(drawn, extra=OWN, **MODEL)).set_index("observable")
    for name, value in exact.items():
        assert abs(found.loc[name, "value"] - value) < 4.5 * found.loc[name, "err"] < 0.1
    assert found.loc["rows", "value"].iloc[0] == pytest.approx(1.0)
    report = sp.compare(drawn[:500], drawn[500:1000], extra=OWN, no_figures=True)
    assert {o.name for o in OWN} <= set(report.table["observable"])
    assert "rows" in report.comparison.stores[0].together
