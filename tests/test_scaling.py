"""Reweighting against exact energies; finite-size scaling against exact exponents."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TC, Call
from store_helpers import simulate

import skild_phys as sp
from skild_phys.errors import BadInput
from skild_phys.measurement import curves, fits
from skild_phys.measurement.compare import compare
from skild_phys.measurement.curves import _effective_share, _free_energies, _log_weights
from skild_phys.measurement.fits import Number, Quality
from skild_phys.measurement.scaling import Scaling, scaling
from skild_phys.models import MODELS
from skild_phys.models.exact import kaufman_energy, kaufman_specific_heat
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.store import LatticeStore, create_store, open_lattices, open_store


@pytest.fixture(scope="module")
def energies() -> np.ndarray:
    """Total energies of all 4x4 lattices."""
    bits = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    return 16 * MODELS["ising2d"].energy((2 * bits - 1).astype(np.int8).reshape(-1, 4, 4))


def drawn(energies: np.ndarray, temperature: float, n: int, seed: int) -> np.ndarray:
    weight = np.exp(-(energies - energies.min()) / temperature)
    return np.random.default_rng(seed).choice(energies, n, p=weight / weight.sum())


@pytest.mark.statistical
@pytest.mark.parametrize("temperatures", [(2.3,), (2.0, 2.6), (1.8, 2.3, 3.0)])
def test_energies_at_other_temperatures(
    energies: np.ndarray, temperatures: tuple[float, ...]
) -> None:
    """H0: the reweighted energy is Kaufman's; error from 50 repeats; |z| < 4.5 of 3 tests."""
    targets = np.array([2.1, 2.4, 2.5])
    count = np.array([400.0, 1600.0, 900.0])[: len(temperatures)]
    beta = 1 / np.array(temperatures)
    found = []
    for repeat in range(50):
        energy = np.concatenate([
            drawn(energies, t, int(n), 100 * repeat + i)
            for i, (t, n) in enumerate(zip(temperatures, count, strict=True))
        ])  # fmt: skip
        free = _free_energies(energy, beta, count)
        weight = np.exp(_log_weights(energy, beta, count, free, 1 / targets))
        found.append((weight @ energy) / weight.sum(axis=1) / 16)
    exact = [kaufman_energy(4, t) for t in targets]
    z = (np.mean(found, axis=0) - exact) / (np.std(found, axis=0, ddof=1) / np.sqrt(50))
    assert np.abs(z).max() < 4.5


def test_free_energies_are_ratios_of_partition_functions(energies: np.ndarray) -> None:
    """Reference: ln Z over all 4x4 lattices; 2% of kT at 20,000 samples a run."""
    temperatures = np.array([2.0, 2.4, 3.0])
    energy = np.concatenate([drawn(energies, t, 20000, i) for i, t in enumerate(temperatures)])
    free = _free_energies(energy, 1 / temperatures, np.full(3, 20000.0))
    exact = [-np.log(np.exp(-energies / t).sum()) for t in temperatures]
    assert free - free[0] == pytest.approx(np.array(exact) - exact[0], abs=0.02)


def test_weights_of_the_simulated_temperature_are_equal() -> None:
    energy = np.random.default_rng(1).normal(size=100)
    beta, count = np.array([0.4]), np.array([100.0])
    logs = _log_weights(energy, beta, count, np.zeros(1), np.array([0.4, 0.9]))
    assert np.ptp(logs[0]) == pytest.approx(0.0, abs=1e-12)
    share = _effective_share(np.exp(logs))
    assert share[0] == pytest.approx(1.0)
    assert share[1] < 1.0


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, LatticeStore]:
    folder = tmp_path_factory.mktemp("scaling")
    found = {}
    for side in (16, 32, 64):
        spec = SimulationSpec(side, TC, 4000, model="ising2d", seed=70)
        simulate(spec, folder / f"L{side}.zarr")
        found[side] = open_store(folder / f"L{side}.zarr")
    return found


EXACT = {"nu": 1.0, "eta": 0.25, "beta/nu": 0.125, "gamma/nu": 1.75, "alpha/nu": 0.0}


def qualities(found: Scaling) -> list[Quality]:
    return [f.quality for f in (*found.exponents, *found.collapses) if f.quality.dof]


def z(number: Number, exact: float) -> float:
    return (number.value - exact) / number.error


@pytest.mark.statistical
def test_exponents_and_tc_of_simulated_stores(stores: dict[int, LatticeStore]) -> None:
    """H0: Tc and exponents are exact; about thirty numbers, |z| < 4 fails by chance in 2e-3.

    Corrections to scaling are below the errors at these sizes: of R in 1/L^1.75.
    """
    found = scaling([*stores.values()])
    numbers = [
        *((c.temperature, TC) for c in found.crossings),
        *((e.number, EXACT[e.name]) for e in found.exponents if e.source != "C = a + b ln L"),
        *((c.temperature, TC) for c in found.collapses),
        *((c.nu, 1.0) for c in found.collapses),
    ]
    assert all(n.error > 0 for n, _ in numbers)
    assert max(abs(z(n, exact)) for n, exact in numbers) < 4
    assert {e.name for e in found.exponents} == set(EXACT)
    assert all(q.p > 1e-4 for q in qualities(found))
    assert found.warnings() == []
    assert found.best("nu").number.error < 0.04
    assert found.best("eta").number.error < 0.01
    assert found.temperature.error < 0.004


@pytest.mark.statistical
def test_the_classic_scan(tmp_path: Path) -> None:
    """H0: as above, of three sizes at seven temperatures 2.1 .. 2.5; about 30 numbers, |z| < 4.5.

    Planted, seen to fail: roots sought 20% beyond the curves (refused); all points in a collapse,
    which is poor and gets a warning here.
    """
    stores = []
    for side in (16, 32, 64):
        for i, t in enumerate(np.linspace(2.1, 2.5, 7)):
            path = tmp_path / f"{side}-{i}.zarr"
            simulate(SimulationSpec(side, float(t), 500, model="ising2d", seed=100 + i), path)
            stores.append(open_store(path))
    found = scaling(stores)
    numbers = [
        *((c.temperature, TC) for c in (*found.crossings, *found.collapses)),
        *((c.nu, 1.0) for c in found.collapses),
        *((e.number, EXACT[e.name]) for e in found.exponents if e.source != "C = a + b ln L"),
    ]
    assert len(found.collapses) == 3
    assert max(abs(z(n, exact)) for n, exact in numbers) < 4.5
    assert all(q.p > 1e-4 for q in qualities(found))
    assert all(c.window in fits.WINDOWS for c in found.collapses)
    wide = scaling(stores, window=8.0)
    assert any(c.quality.p < 1e-3 for c in wide.collapses)
    assert any(w.startswith("collapse of") for w in wide.warnings())


def rows_of_size(values: np.ndarray, error: float, seed: int = 1) -> list[np.ndarray]:
    """Return exact values with jackknife rows (1 + 40,) of the given error, one array a size."""
    rng = np.random.default_rng(seed)
    found = []
    for value in values:
        moved = rng.normal(size=40)
        moved = (moved - moved.mean()) / moved.std() * error / np.sqrt(39)
        found.append(np.append(value, value + moved))
    return found


def test_corrections_to_scaling_are_fitted() -> None:
    """y = 1 + 1.75 ln L + 0.8 L^-1.5 without noise: the exponent and omega come back.

    Planted, seen to fail: the line alone, whose p is below 1e-6 and whose slope is 10 errors off.
    """
    sides = np.array([8.0, 16, 32, 64, 128, 256])
    values = rows_of_size(1.0 + 1.75 * np.log(sides) + 0.8 * sides**-1.5, 5e-4)
    plain = fits._fit(fits._line, (0.0, 1.0), sides, values)
    assert plain.quality.p < 1e-6
    assert abs(z(plain.number(1), 1.75)) > 10
    for omega in (1.5, "fit"):
        found = fits._corrected("gamma/nu", "chi", sides, values, omega)
        assert found.number.value == pytest.approx(1.75, abs=1e-5)
        assert found.omega is not None
        assert found.omega.value == pytest.approx(1.5, abs=1e-3)
        assert found.number.error < 0.01
        assert found.quality.p > 0.99
        assert found.quality.dof == (3 if omega == 1.5 else 2)


def test_the_specific_heat_grows_like_a_logarithm() -> None:
    """Kaufman's C at Tc of L = 32 .. 256, errors of 0.002: alpha / nu = 0, exactly a logarithm."""
    sides = np.array([32.0, 64, 128, 256])
    exact = np.array([kaufman_specific_heat(int(side), TC) for side in sides])
    power, logarithm = fits._heat(sides, rows_of_size(exact, 0.002))
    assert abs(power.number.value) < 0.01
    assert 0.005 < power.number.error < 0.05
    assert logarithm.quality.p > 0.5
    steeper = rows_of_size(2.0 + sides**0.4, 0.002)
    power, logarithm = fits._heat(sides, steeper)
    assert power.number.value == pytest.approx(0.4, abs=1e-4)
    assert logarithm.quality.p < 1e-6


@pytest.mark.statistical
def test_errors_are_the_scatter_of_repeats(tmp_path: Path) -> None:
    """H0: the variance over 16 repeats is the squared error: chi^2_15 / 15.

    0.3 .. 2.2 holds 99.4% of it; errors half as large, planted, were rejected.
    """
    numbers: dict[str, list[Number]] = {}
    for repeat in range(16):
        stores = []
        for side in (16, 32):
            path = tmp_path / f"{repeat}-{side}.zarr"
            simulate(SimulationSpec(side, TC, 1500, seed=900 + repeat), path)
            stores.append(open_store(path))
        found = scaling(stores, bins=20)
        for exponent in (e for e in found.exponents if e.name != "alpha/nu"):
            numbers.setdefault(f"{exponent.name}, {exponent.source}", []).append(exponent.number)
        numbers.setdefault("crossing", []).append(found.crossings[1].temperature)
        numbers.setdefault("collapse", []).append(found.collapses[1].nu)
    for name, of_name in numbers.items():
        values, errors = np.array([(n.value, n.error) for n in of_name]).T
        assert 0.3 < values.var(ddof=1) / (errors**2).mean() < 2.2, name


@pytest.mark.statistical
def test_planted_fault_temperatures_one_percent_off(
    stores: dict[int, LatticeStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples of Tc that claim to be of 1.01 Tc put the crossing there."""
    for store in stores.values():
        monkeypatch.setitem(store.attrs, "temperature", 1.01 * TC)
    assert z(scaling([*stores.values()]).temperature, TC) > 8


@pytest.mark.statistical
def test_planted_fault_weights_upside_down(
    stores: dict[int, LatticeStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """exp(+dbeta E) in place of exp(-dbeta E): U4 rises with T, no power of L fits."""

    def wrong(*arguments: np.ndarray) -> np.ndarray:
        energy, *others = arguments
        return _log_weights(-energy, *others)

    monkeypatch.setattr(curves, "_log_weights", wrong)
    found = scaling([*stores.values()])
    rising = [c.values["binder_cumulant"][0] for c in found.curves]
    assert all(np.diff(values).mean() > 0 for values in rising)


def test_refinements_of_one_parent_share_a_bin(
    tmp_path: Path, stores: dict[int, LatticeStore]
) -> None:
    """Each lattice stored four times, as children of one parent: the errors stay as they are."""
    store = stores[16]
    n, spins = 400, store.read(0, 400)
    attrs = {"model": "ising2d", "temperature": TC, "method": "exact"}
    with create_store(
        tmp_path / "four.zarr", field="spins", n_samples=4 * n, shape=(16, 16), chunk=64,
        attrs=attrs, variables=("parent",),
    ) as writer:  # fmt: skip
        writer.commit({"spins": np.tile(spins, (4, 1, 1)), "parent": np.tile(np.arange(n), 4)})
    with create_store(
        tmp_path / "one.zarr", field="spins", n_samples=n, shape=(16, 16), chunk=64,
        attrs=attrs, variables=("parent",),
    ) as writer:  # fmt: skip
        writer.commit({"spins": spins, "parent": np.arange(n)})
    errors = [
        scaling([open_store(tmp_path / f"{name}.zarr"), stores[32]], bins=n)
        .curves[0]
        .error("binder_cumulant")
        for name in ("one", "four")
    ]
    assert errors[1] == pytest.approx(errors[0], rel=1e-9)
    with pytest.raises(BadInput, match="bins"):
        scaling([open_store(tmp_path / "four.zarr"), stores[32]], bins=n + 1)


def test_runs_of_one_size_are_joined(tmp_path: Path, stores: dict[int, LatticeStore]) -> None:
    simulate(SimulationSpec(32, 1.02 * TC, 2000, seed=71), tmp_path / "warm.zarr")
    warm = open_store(tmp_path / "warm.zarr")
    alone = scaling([stores[16], stores[32]])
    joined = scaling([stores[16], stores[32], warm])
    curve, before = joined.curves[1], alone.curves[1]
    assert curve.samples == 6000
    assert curve.simulated == (TC, 1.02 * TC)
    assert curve.temperature[-1] > before.temperature[-1] + 0.01
    assert joined.curves[0].samples == 4000
    at = [c.spline("binder_cumulant")(1.01 * TC) for c in (curve, before)]
    assert at[0][0] == pytest.approx(at[1][0], abs=0.02)
    errors = [np.sqrt(39 * a[1:].var()) for a in at]
    assert errors[0] < errors[1]


def test_datasets_in_memory_differ_by_their_samples() -> None:
    """Planted, seen to fail: by their paths, which are "dataset" for all of them."""
    runs = [
        open_lattices(sp.simulate(L=L, T=T, samples=60, every=2, burn_in=20, seed=i, threads=1))
        for i, (L, T) in enumerate([(8, "Tc"), (8, "Tc"), (8, "1.02Tc"), (16, "Tc")])
    ]
    assert scaling(runs, bins=8).curves[0].samples == 180
    assert "truth itself" not in str(compare(runs[0], [runs[1]]).stores[0].notes)
    with pytest.raises(BadInput, match="every store once"):
        scaling([*runs, runs[0]], bins=8)


def test_what_cannot_be_scaled_is_refused(tmp_path: Path, stores: dict[int, LatticeStore]) -> None:
    with pytest.raises(BadInput, match="two sizes or more"):
        scaling([stores[16]])
    with pytest.raises(BadInput, match="bins"):
        scaling([*stores.values()], bins=1)
    with pytest.raises(BadInput, match="every store once"):
        scaling([stores[16], open_store(stores[16].path), stores[32]])
    shutil.copytree(stores[16].path, tmp_path / "copy.zarr")
    with pytest.raises(BadInput, match="every store once"):
        scaling([stores[16], open_store(tmp_path / "copy.zarr"), stores[32]])
    spins = np.ones((50, 8, 16), dtype=np.int8)
    for name, attrs, words in (
        ("wide", {"model": "ising2d", "temperature": TC}, "equal sides, not 8x16"),
        ("none", {}, "of a Hamiltonian at a temperature"),
    ):
        with create_store(
            tmp_path / name,
            field="spins",
            n_samples=50,
            shape=(8, 16),
            chunk=8,
            attrs=attrs,
            variables=(),
        ) as writer:
            writer.commit({"spins": spins})
        with pytest.raises(BadInput, match=words):
            scaling([stores[16], open_store(tmp_path / name)])
    simulate(SimulationSpec(32, 0.8 * TC, 200, seed=72), tmp_path / "cold.zarr")
    with pytest.raises(BadInput, match=r"L = 32 at T = 1\.8153 and 2\.2692.*overlap"):
        scaling([stores[16], stores[32], open_store(tmp_path / "cold.zarr")])
    for side in (8, 16):
        simulate(SimulationSpec(side, TC, 3, seed=73), tmp_path / f"few{side}.zarr")
    few = [open_store(tmp_path / f"few{side}.zarr") for side in (8, 16)]
    with pytest.raises(BadInput, match="stores"):
        scaling(few, bins=3)
    simulate(SimulationSpec(32, 4.0, 100, seed=72), tmp_path / "hot.zarr")
    with pytest.raises(BadInput, match="nearer to one another, and to Tc"):
        scaling([stores[16], open_store(tmp_path / "hot.zarr")])


def test_warnings_go_to_stderr_and_into_the_json(call: Call, tmp_path: Path) -> None:
    """Above Tc nothing crosses. Planted, seen to fail: the warning among the results."""
    paths = [tmp_path / f"L{side}.zarr" for side in (8, 16)]
    for side, path in zip((8, 16), paths):
        sp.simulate(L=side, T="1.15Tc", samples=200, every=4, burn_in=50, output=path)
    words = ("scaling", *paths, "--bins", 20, "--threads", 1)
    warning = "no curves cross: no Tc and no collapse"
    code, out, err = call(*words)
    assert (code, "warning" in out) == (0, False)
    assert f"warning: {warning}\n" in err
    code, out, err = call(*words, "--json")
    assert warning in json.loads(out)["warnings"]
    assert f"warning: {warning}\n" in err


def test_the_command_prints_writes_and_draws(
    call: Call, stores: dict[int, LatticeStore], tmp_path: Path
) -> None:
    paths = [store.path for store in stores.values()]
    output = tmp_path / "out"
    code, out, err = call("scaling", *paths, "-o", output)
    assert code == 0, err
    assert out.splitlines()[-1] == str(output / "scaling.png")
    for text in (
        "xi/L",
        "slope of U4",
        "combined",
        "chi^2 / dof",
        "window",
        "published: Tc = 2.269185, nu = 1, eta = 0.25, beta/nu = 0.125",
    ):
        assert text in out
    names = {"scaling.csv", "scaling.json", "scaling.png", "scaling.pdf"}
    assert {p.name for p in output.iterdir()} == names
    code, out, _ = call("scaling", *paths, "--json")
    assert json.loads(out) == json.loads((output / "scaling.json").read_text())
    assert {"window", "chi2", "dof", "p"} <= {*json.loads(out)["collapses"][0]}
    for words in (("--window", 0), ("--omega", -1), ("--omega", "x"), ("--omega", "fit")):
        code, _, err = call("scaling", *paths, *words)
        assert (code, err.count("\n")) == (2, 1)
        assert words[0] in err
    code, _, err = call("scaling", *paths, "-o", output)
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = call("scaling", paths[0])
    assert (code, err.count("\n")) == (2, 1)
    assert "two sizes or more" in err
