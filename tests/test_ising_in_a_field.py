"""A model added as CONTRIBUTING says, an Ising model in a field: nothing of H = 0 is assumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sampler_helpers import configurations
from store_helpers import coarsen_store, simulate

import skild_phys as sp
from skild_phys.errors import BadInput
from skild_phys.measurement.measure import measure
from skild_phys.models import MODELS
from skild_phys.models.base import Array, Model
from skild_phys.models.ising import ISING_2D, Ising
from skild_phys.rng import uniform
from skild_phys.simulation.conditional import Conditional
from skild_phys.simulation.spec import SimulationSpec, get_update
from skild_phys.skild.measured import _check_sign as check_sign
from skild_phys.store import LatticeStore

H, T, L = 0.35, 2.5, 4


class IsingInField(Model):
    """H = -J sum_<ij> s_i s_j - 0.35 J sum_i s_i."""

    def energy(self, lattices: NDArray[np.int8]) -> Array:
        return ISING_2D.energy(lattices) - H * self.order_parameter(lattices)

    def order_parameter(self, lattices: NDArray[np.int8]) -> Array:
        return ISING_2D.order_parameter(lattices)


def heat_bath(
    s: NDArray[np.int8], model: Model, t: float, state: NDArray[np.uint64], sweeps: int
) -> None:
    """Make sweeps of heat-bath updates: P(+1) = 1 / (1 + exp(-2 (sum of neighbours + H) / T))."""
    p = 1.0 / (1.0 + np.exp(-2.0 * (np.arange(-4, 5) + H) / t))
    near = [[(y + dy) % L * L + (x + dx) % L for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))]
            for y in range(L) for x in range(L)]  # fmt: skip
    values = s.ravel().tolist()
    for _ in range(sweeps):
        for site, (a, b, c, d) in enumerate(near):
            up = p[values[a] + values[b] + values[c] + values[d] + 4]
            values[site] = 1 if uniform(state) < up else -1
    s[:] = np.array(values, dtype=np.int8).reshape(s.shape)


FIELD = IsingInField(
    "ising-in-field", 2, (-1, 1), "spins", ISING_2D.critical_temperature,
    updates={"heat-bath": heat_bath},
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LatticeStore:
    """Return a store of 400 samples of the model, which is known while the test runs."""
    monkeypatch.setitem(MODELS, FIELD.name, FIELD)
    spec = SimulationSpec(
        L, T, 400, model=FIELD.name, algorithm="heat_bath", every=8, burn_in=100, seed=1
    )
    return simulate(spec, tmp_path / "a.zarr", threads=1)


@pytest.mark.statistical
def test_the_magnetization_is_that_of_enumeration(store: LatticeStore) -> None:
    """H0: samples are independent, <m> and <e> those of all 2^16 configurations; |z| < 4 each.

    False alarms 1.3e-4. Planted, seen to fail: every sample under a sign of its own, as for H = 0,
    m = -0.01(4) for 0.82.
    """
    every = configurations(ISING_2D, (L, L))
    weight = np.exp(-16 * (FIELD.energy(every) - FIELD.energy(every).min()) / T)
    for name, values in (("magnetization", FIELD.order_parameter), ("energy", FIELD.energy)):
        exact = float(np.average(values(every), weights=weight))
        found = store.variable(name)
        z = (found.mean() - exact) / (found.std(ddof=1) / np.sqrt(len(found)))
        assert abs(z) < 4, (name, exact, found.mean(), z)
        if name == "magnetization":
            assert 0.8 < exact < 0.84
            turned = found * np.random.default_rng(0).choice((-1, 1), len(found))
            assert abs(turned.mean() - exact) / (turned.std(ddof=1) / np.sqrt(len(found))) > 15


def test_fk_clusters_are_measured_of_bonds_alone(store: LatticeStore) -> None:
    """Planted, seen to fail: bonds of 2 J for every model of spins."""
    found = measure(store.path)
    assert "energy" in found
    assert not [name for name in found if str(name).startswith("fk_")]


def test_the_exact_method_is_refused(store: LatticeStore, tmp_path: Path) -> None:
    """Planted, seen to fail: refined as if there were no field."""
    coarse = coarsen_store(store, tmp_path / "c.zarr", "block_mean", 2)
    out = tmp_path / "r.zarr"
    with pytest.raises(BadInput, match="not a sum over nearest-neighbour bonds alone"):
        sp.refine(coarse.path, method="exact", sweeps=2, output=out)
    assert not out.exists()
    sp.refine(coarse.path, method="fill", output=out, threads=1)
    with pytest.raises(ValueError, match="not a sum over bonds"):
        Conditional(FIELD, "block_mean", 2, T, (2, 2))


def test_training_does_not_change_its_sign(store: LatticeStore, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    with pytest.raises(BadInput, match="ising-in-field declares no change of sign"):
        sp.train(store.path, preset="ising2d", output=out)
    up = [np.abs(np.random.default_rng(0).normal(size=(64, 4, 4)))]
    check_sign(up, ["flip"])
    check_sign([up[0] * np.resize([1, -1], (64, 1, 1))], ["sign"])
    with pytest.warns(UserWarning, match=r"the mean of the lattices is 0\.77"):
        check_sign(up, ["flip", "sign"])


def test_a_subclass_gets_no_kernel_of_its_parent() -> None:
    """Planted, seen to fail: `isinstance` in place of the class itself."""

    class Tilted(Ising):
        pass

    tilted = Tilted("tilted", 2, (-1, 1), "spins", 2.0)
    with pytest.raises(BadInput, match="a model with updates"):
        get_update("wolff", tilted)
    assert not tilted.even
    assert tilted.bond is None
    assert ISING_2D.even
    assert MODELS["potts3"].symmetries == ((0, 1, 2), (1, 2, 0), (2, 0, 1))


@pytest.mark.usefixtures("store")
def test_auto_is_an_update_that_the_model_has() -> None:
    """Planted, seen to fail: "'auto' is not accepted; expected heat-bath, or auto"."""
    assert get_update("auto", FIELD).name == "heat-bath"
    assert get_update("auto", ISING_2D).name == "swendsen-wang"
