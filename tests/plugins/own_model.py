"""A model of one's own: a Gaussian field with a heat bath, from simulation to measurement."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from numba import njit

import skild_phys as sp
from skild_phys.models import MODELS, Model, neighbour_sites, normal


@njit
def sweep(phi, beside, stiffness, width, state):  # type: ignore[no-untyped-def]
    for site in range(phi.size):
        phi[site] = phi[beside[site]].sum() / stiffness + width * normal(state)


def heat_bath(phi: Any, model: Any, temperature: float, state: Any, sweeps: int) -> None:
    a, beside = 2 * model.dimension + model.mass**2, neighbour_sites(phi.shape)
    for _ in range(sweeps):
        sweep(phi.reshape(-1), beside, a, np.sqrt(temperature / a), state)


@dataclass(frozen=True)
class Gaussian(Model):
    """H = 1/2 sum_x [sum_axis (phi_x - phi_{x + axis})^2 + m^2 phi_x^2]."""

    mass: float = 0.7

    def energy(self, phi: Any) -> Any:
        steps = sum((phi - np.roll(phi, 1, axis)) ** 2 for axis in self.axes)
        return 0.5 * np.mean(steps + self.mass**2 * phi**2, axis=self.axes)

    def order_parameter(self, phi: Any) -> Any:
        return phi.mean(axis=self.axes)


FREE = Gaussian("gaussian", 2, dtype="float64", symmetries=(np.positive, np.negative),
                updates={"heat-bath": heat_bath})  # fmt: skip


def test_a_gaussian_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H0: |phi_k|^2 is chi^2 around 1 / (m^2 + khat^2); false alarms 1e-4; m = 0.9 is seen."""
    monkeypatch.setitem(MODELS, "gaussian", FREE)
    data = sp.simulate(FREE, L=8, T=1.0, samples=1000, every=50, output=tmp_path / "a.zarr")
    phi, n, khat = data["field"].values, 1000, 4 * np.sin(np.pi * np.arange(8) / 8) ** 2
    power = (np.abs(np.fft.fft2(phi)) ** 2).sum(axis=0) / 64
    dof = n * (2 - np.outer(khat % 4 == 0, khat % 4 == 0))  # of real numbers, and of complex ones
    for mass, sound in ((FREE.mass, True), (0.9, False)):
        scaled = power * (mass**2 + khat[:, None] + khat) * dof / n
        p = 2 * np.minimum(scipy.stats.chi2.sf(scaled, dof), scipy.stats.chi2.cdf(scaled, dof))
        assert (p.min() > 1e-4 / 64) == sound
    coarse = sp.coarsen(data, 2)["field"].values
    np.testing.assert_allclose(coarse, phi.reshape(n, 4, 2, 4, 2).mean(axis=(2, 4)), atol=1e-6)
    found = sp.measure(data, only="energy")
    assert abs(float(found["energy"]) - 0.5) < 4 * float(found["energy_err"])
