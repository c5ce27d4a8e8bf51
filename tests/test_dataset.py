"""`measure`: of stores, Datasets and arrays alike; choice, errors, threads, chunks; values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import TC

from skild_phys.errorbars import ErrorMethod
from skild_phys.errors import BadInput, StoreError
from skild_phys.measurement import observables
from skild_phys.measurement.measure import measure
from skild_phys.measurement.observables import OBSERVABLES, patterns
from skild_phys.measurement.observables import observable as own_observable
from skild_phys.measurement.system import Slice, System
from skild_phys.models import MODELS
from skild_phys.store import create_store, open_store

N, SHAPE = 30, (12, 16)
PLACES = {"chain": np.arange(N) % 3, "draw": np.arange(N) // 3}


def lattices(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(60)
    order = rng.uniform(0.2, 0.9, (N, *[1] * len(shape)))
    return np.where(rng.random((N, *shape)) < order, 1, -1).astype(np.int8)


def save(path: Path, spins: np.ndarray, chunk: int = 8) -> Path:
    attrs = {"model": "ising2d", "temperature": TC}
    with create_store(
        path, field="spins", n_samples=N, shape=SHAPE, chunk=chunk, attrs=attrs,
        variables=tuple(PLACES),
    ) as writer:  # fmt: skip
        writer.commit({"spins": spins, **PLACES})
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("measure") / "a.zarr", lattices())


def equal(a: xr.Dataset, b: xr.Dataset) -> bool:
    return all(np.array_equal(a[n], b[n], equal_nan=True) for n in a.data_vars) and set(
        a.data_vars
    ) == set(b.data_vars)


def test_a_store_its_dataset_and_its_array_give_the_same(store: Path) -> None:
    found = measure(store)
    assert equal(found, measure(open_store(store)))
    with xr.open_zarr(store) as data:
        assert equal(found, measure(data))
        known = {"model": "ising2d", "temperature": TC}
        alone = measure(data["spins"], **known)
    array = measure(lattices(), **known)
    assert equal(alone, array)
    assert np.array_equal(array["energy"], found["energy"])
    assert "taken as independent" in array.attrs["errors"]
    assert "Gamma method" in found.attrs["errors"]


def test_threads_and_chunks_change_no_bit(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skild_phys.measurement.rows._SLICE_SITES", 4 * 12 * 16)
    found = measure(store)
    assert equal(found, measure(store, threads=3))
    for chunk in (1, 3, N):
        path = save(tmp_path / f"{chunk}.zarr", lattices(), chunk)
        assert equal(found, measure(path, threads=2))


def test_only_what_is_asked_for(store: Path) -> None:
    everything = measure(store)
    found = measure(store, only=["binder_cumulant", "two_point_radial"])
    named = {str(n) for n in found.data_vars if f"{n}_err" in found}
    assert {n for n in named if "tau" not in n} == {"binder_cumulant", "two_point_radial"}
    assert np.array_equal(found["two_point_radial"], everything["two_point_radial"])
    assert set(found.coords) == {"radius", "pairs"}
    with pytest.raises(BadInput, match=r"only.*bindr"):
        measure(store, only=["bindr"])
    with pytest.raises(BadInput, match="what these samples have"):
        measure(lattices(), only=["energy"])
    with pytest.raises(BadInput, match="offsets= beside it"):
        measure(store, only="connected_four_point_offsets")
    for short in ("U4", "Binder cumulant", ["u4"]):
        assert "binder_cumulant" in measure(store, only=short)


@pytest.mark.parametrize("shape", [SHAPE, (5, 7), (4, 6, 8)])
def test_values_are_averages_over_the_lattices(shape: tuple[int, ...]) -> None:
    """Each observable is its function of plain means of the statistics, whatever the slices."""
    spins = lattices(shape)
    name = "ising2d" if len(shape) == 2 else "ising3d"
    offsets = tuple(tuple(int(i == a) * 2 for a in range(len(shape))) for i in range(3))
    offsets = (offsets[0], offsets[1], (1,) * len(shape), (0,) * (len(shape) - 1) + (3,))
    found = measure(spins, model=name, temperature=2.5, offsets=[offsets])
    system = System(shape, "spins", 0, MODELS[name], 2.5, (offsets,))
    one = [Slice(system, spins[i : i + 1], np.array([i])) for i in range(N)]
    for observable in OBSERVABLES.values():
        if not observable.applies(system):
            assert observable.name not in found
            continue
        means = {s.name: np.mean([s(part)[0] for part in one], axis=0) for s in observable.needs}
        value = observable(means, system)
        assert np.allclose(found[observable.name], value, rtol=1e-10, atol=1e-13), observable.name


def test_a_decorated_function_in_a_file_of_observables_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside the file's tuple, without a line elsewhere; in the order of definition."""
    up = own_observable("up")(lambda part: (part.values > 0).mean(axis=(1, 2)))
    before = [one.name for one in observables._defined_in(patterns)]
    monkeypatch.setattr(patterns, "_up", up, raising=False)
    assert [one.name for one in observables._defined_in(patterns)] == [*before, "up"]


def test_connected_correlation_length_against_enumeration() -> None:
    """All 4x4 lattices by their weights at T = 2; 4 errors of 20,000 of them, a chance of 6e-5.

    Planted, seen to fail: S(0) without N <|m|>^2, which gives 5.7.
    """
    bits = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    spins = (2 * bits - 1).astype(np.int8).reshape(-1, 4, 4)
    weight = np.exp(-16 * MODELS["ising2d"].energy(spins) / 2.0)
    weight /= weight.sum()
    power = np.tensordot(weight, np.abs(np.fft.fft2(spins)) ** 2 / 16, axes=1)
    zero = power[0, 0] - 16 * (weight @ np.abs(spins.mean(axis=(1, 2)))) ** 2
    exact = np.sqrt(zero / ((power[0, 1] + power[1, 0]) / 2) - 1) / (2 * np.sin(np.pi / 4))
    drawn = spins[np.random.default_rng(62).choice(2**16, 20000, p=weight)]
    found = measure(drawn, only=["xi_c"], model="ising2d", temperature=2.0)
    length, error = (float(found[f"connected_correlation_length{e}"]) for e in ("", "_err"))
    assert abs(length - exact) < 4 * error < 0.1


def test_large_lattices_are_cut_into_slices_of_one(tmp_path: Path) -> None:
    spins = np.random.default_rng(61).choice(np.array([-1, 1], dtype=np.int8), (3, 768, 768))
    found = measure(spins, only=["two_point_axis", "magnetization_squared"], threads=2)
    moved = np.mean([(spins * np.roll(spins, 5, a)).mean(dtype=float) for a in (1, 2)])
    assert float(found["two_point_axis"][5]) == pytest.approx(moved, abs=1e-12)


def test_each_lattice_has_bonds_of_its_own() -> None:
    """Equal configurations differ in FK clusters, not in geometric ones; a seed names the bonds."""
    same = np.repeat(lattices()[:1], N, axis=0)
    known = {"model": "ising2d", "temperature": TC}
    found = [measure(same, errors=ErrorMethod(seed=seed), **known) for seed in (0, 0, 1)]
    assert float(found[0]["fk_cluster_size_err"]) > 1e-3
    assert float(found[0]["geometric_cluster_size_err"]) == 0
    values = [float(f["fk_cluster_size"]) for f in found]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("kind", ["gamma", "jackknife", "bootstrap"])
def test_errors_tau_and_n_eff_belong_together(store: Path, kind: str) -> None:
    """error^2 n_eff is the variance of one lattice, and n_eff = n / (2 tau) at most n."""
    found = measure(store, errors=ErrorMethod(kind, None if kind == "gamma" else 10))
    energy = MODELS["ising2d"].energy(lattices())
    error, n_eff = (float(found[f"energy_{e}"]) for e in ("err", "n_eff"))
    tau = float(found["energy_tau_int"])
    assert n_eff == pytest.approx(N / max(2 * tau, 1))
    if kind == "gamma":
        assert error**2 * n_eff == pytest.approx(energy.var(ddof=1), rel=1e-9)
        assert float(found["energy_tau_int_err"]) > 0
    else:
        assert error**2 == pytest.approx(2 * tau * energy.var(ddof=1) / N, rel=1e-9)
    again = measure(store, errors=ErrorMethod(kind, None if kind == "gamma" else 10))
    assert equal(found, again)


def test_bootstrap_and_jackknife_agree() -> None:
    errors = [
        measure(lattices(), only=["binder_cumulant"], errors=ErrorMethod(kind, N, 4000))
        for kind in ("jackknife", "bootstrap")
    ]
    first, second = (float(e["binder_cumulant_err"]) for e in errors)
    assert second == pytest.approx(first, rel=0.15)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"kind": "bayes"}, "errors: 'bayes'"),
        ({"kind": "gamma", "bins": 5}, "bins: 5"),
        ({"kind": "bootstrap", "resamples": 1}, "resamples: 1"),
    ],
)
def test_methods_that_cannot_be_are_refused(method: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ErrorMethod(**method)


def test_datasets_say_what_is_wrong() -> None:
    axes = ("sample", "y", "x")
    bad = xr.Dataset({"spins": (axes, np.ones((4, 4, 4), dtype=np.int8))})
    bad["spins"][3, 0, 0] = 0
    with pytest.raises(StoreError, match=r"spins.*samples 0\.\.3.*-1 and \+1"):
        measure(bad)
    gap = xr.Dataset({"field": (axes, np.full((2, 4, 4), np.nan))})
    with pytest.raises(StoreError, match="32 missing values"):
        measure(gap)
    with pytest.raises(StoreError, match="expected one array"):
        measure(xr.Dataset({"a": (("x",), np.zeros(3))}))
    states = xr.Dataset({"states": (axes, np.zeros((2, 4, 4), dtype=np.int8))})
    with pytest.raises(BadInput, match="flag_values"):
        measure(states)
    with pytest.raises(StoreError, match="a single configuration"):
        measure(np.zeros((4, 4)))
    assert float(measure(states, model="potts3", temperature=1.0)["energy"]) == -2.0
    for model, array in (("ising3d", lattices()), ("ising2d", lattices((4, 4, 4)))):
        with pytest.raises(StoreError, match=f"which {model} is not"):
            measure(array, model=model, temperature=2.0)
    for known in ({"model": "ising4d"}, {"model": "ising2d", "temperature": -1.0}):
        with pytest.raises(BadInput):
            measure(lattices(), **known)
    floats = measure(lattices().astype(float), model="ising2d", temperature=2.0)
    assert float(floats["energy"]) == float(measure(lattices(), model="ising2d")["energy"])
    with pytest.raises(StoreError, match=r"hold 0, not -1 and"):
        measure((lattices() + 1) // 2, model="ising2d", temperature=2.0)
    named = measure(lattices(), model="ising2d", temperature="Tc", only=["specific_heat"])
    assert float(named.attrs["temperature"]) == TC


def test_a_store_has_attributes_of_its_own(store: Path) -> None:
    with pytest.raises(BadInput, match="temperature"):
        measure(store, temperature=2.0)


def test_real_fields_have_no_clusters_and_no_energy() -> None:
    field = np.random.default_rng(62).normal(size=(N, 8, 8))
    found = measure(field)
    assert "connected_four_point" in found
    for name in ("energy", "geometric_cluster_size", "domain_wall_density", "pattern_frequency"):
        assert name not in found
    assert float(found["two_point_axis"][0]) == pytest.approx((field**2).mean())


def test_fields_with_components_are_measured(tmp_path: Path) -> None:
    """Reference: sums over both components, written out. A square of sites needs one number."""
    field = np.random.default_rng(64).normal(size=(N, 2, 6, 8)).astype(np.float32)
    with create_store(
        tmp_path / "a.zarr", field="field", n_samples=N, shape=(6, 8), chunk=7, components=2,
        attrs={}, variables=(),
    ) as writer:  # fmt: skip
        writer.commit({"field": field})
    found, field = measure(tmp_path / "a.zarr"), field.astype(float)
    along = [(field * np.roll(field, 2, axis)).sum(axis=1).mean() for axis in (2, 3)]
    assert float(found["two_point_axis"][2]) == pytest.approx(np.mean(along), rel=1e-6)
    length = np.linalg.norm(field.mean(axis=(2, 3)), axis=1)
    assert float(found["magnetization_squared"]) == pytest.approx((length**2).mean())
    assert float(found["susceptibility"]) == pytest.approx(48 * (length**2).mean())
    assert "connected_four_point" not in found


def test_workers_of_dask_read_the_store_and_change_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three pieces of work for two processes; an observable that these cannot import.

    Planted, seen to fail: pieces that do not end where slices do. Arrays are refused.
    """
    pytest.importorskip("distributed")

    @own_observable("third", label="m3")
    def third(part: Slice) -> np.ndarray:
        return np.asarray(part.values.mean(axis=(1, 2)) ** 3)

    spins = np.random.default_rng(63).choice(np.array([-1, 1], dtype=np.int8), (40, 256, 256))
    path = tmp_path / "large.zarr"
    with create_store(
        path, field="spins", n_samples=40, shape=(256, 256), chunk=7, attrs={}, variables=()
    ) as writer:
        writer.commit({"spins": spins})
    monkeypatch.setattr("skild_phys.measurement.rows._PIECE", 1)
    only = ["m3", "G4c", "S(k)", "magnetization"]
    found = measure(path, only=only, extra=[third])
    assert equal(found, measure(path, only=only, extra=[third], dask="local:2"))
    with pytest.raises(BadInput, match=r"dask: .*a store: the workers read it"):
        measure(lattices(), dask="local:1")
