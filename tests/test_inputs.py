"""One door: every command and function takes every input, as CF and the axes' names mean it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import exit_code
from numpy.typing import NDArray
from PIL import Image

import skild_phys as sp
from skild_phys.errors import BadInput, SkildPhysError, StoreError
from skild_phys.rules import get_rule
from skild_phys.skild.coarse import open_coarse
from skild_phys.skild.recipe import Recipe, read_recipe
from skild_phys.store import LatticeStore, open_lattices, open_store

Spins = NDArray[np.int8]
Said = Callable[..., tuple[int, str]]
N, SHAPE = 12, (8, 16)


@pytest.fixture(scope="module")
def fine() -> xr.Dataset:
    """Lattices that are not square, so that no two axes can be taken for one another."""
    return sp.simulate(L=SHAPE, T="Tc", samples=N, every=2, burn_in=20, seed=3, threads=1)


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Said:
    """Return what gives the exit code of a command, and its stderr."""

    return lambda *words: (exit_code(*words), capfd.readouterr().err)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_packed_arrays_mean_what_cf_says(tmp_path: Path, version: Any, offset: float) -> None:
    """On disk and in memory. Planted, seen to fail: `scale_factor` not applied; offset left out."""
    x = np.random.default_rng(0).normal(size=(40, 8, 8)) * 0.01 + offset
    cf = {"scale_factor": 1e-5, "add_offset": offset, "_FillValue": -32768}
    data = xr.Dataset({"phi": (("sample", "y", "x"), x)})
    encoding = {"phi": {"dtype": "int16", **cf}}
    data.to_zarr(tmp_path / "a.zarr", encoding=encoding, zarr_format=version)
    whole = np.rint((x - offset) * 1e5)
    packed = xr.Dataset({"phi": (("sample", "y", "x"), whole.astype(np.int16), cf)})
    for source in (tmp_path / "a.zarr", packed):
        found = open_lattices(source).read(3, 40)
        assert np.abs(found - (whole[3:] * 1e-5 + offset)).max() < 1e-6  # float32
        variance = float(sp.measure(source, only="two_point_axis")["two_point_axis"][0])
        assert variance == pytest.approx((x**2).mean(), rel=1e-3)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_missing_values_are_refused_with_their_number(
    tmp_path: Path, version: Any, dtype: str
) -> None:
    """Planted, seen to fail: the text that Zarr 3 keeps of a floating-point _FillValue, and
    Zarr 2's fill_value, ignored; masks dropped.
    """
    x = np.random.default_rng(0).integers(-50, 50, (6, 8, 8)).astype(float)
    x[4, 1, :3] = np.nan
    data = xr.Dataset({"phi": (("sample", "y", "x"), x)})
    encoding = {"phi": {"dtype": dtype, "_FillValue": -999, "chunks": (2, 8, 8)}}
    data.to_zarr(tmp_path / "a.zarr", encoding=encoding, zarr_format=version)
    found = open_lattices(tmp_path / "a.zarr")
    assert np.array_equal(found.read(0, 4), x[:4])
    with pytest.raises(StoreError, match=r"a.zarr.*'phi': samples 4\.\.5 hold 3 missing values"):
        found.read(4, 6)
    masked = np.ma.masked_where(np.isnan(x), np.nan_to_num(x))
    for use in (sp.measure, lambda m: sp.coarsen(m, 2), open_lattices(data).read):
        with pytest.raises(StoreError, match="hold 3 missing values"):
            use(masked) if use.__name__ != "read" else use(0, 6)  # type: ignore[call-arg, arg-type]


ORDERS = [("y", "x", "sample"), ("config", "y", "x"), ("y", "config", "x"), ("x", "y", "sample")]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_axes_go_by_the_names_that_a_file_gives(
    fine: xr.Dataset, tmp_path: Path, order: tuple[str, ...], version: Any
) -> None:
    """Planted, seen to fail: the first axis taken for the samples; y and x in the file's order."""
    spins = fine[["spins"]].drop_attrs().drop_encoding()
    if "sample" not in order:
        spins = spins.rename(sample="config")
    turned = spins.transpose(*order)
    turned.to_zarr(tmp_path / "a.zarr", zarr_format=version)
    with pytest.raises(StoreError, match=r"a\.zarr: not a store: 'skild_phys\.save' makes"):
        sp.open_dataset(tmp_path / "a.zarr")
    for source in (tmp_path / "a.zarr", turned, turned["spins"]):
        found = open_lattices(source)
        assert np.array_equal(found.read(2, N), fine["spins"][2:])
    made = sp.refine(tmp_path / "a.zarr", 2, rule="majority", method="fill", threads=1)
    assert made["spins"].shape == (N, 16, 32)


def test_axes_that_nothing_tells_are_refused() -> None:
    """Planted, seen to fail: axes of other names taken in their order without an axis `sample`."""
    spins = np.random.default_rng(1).choice([-1, 1], (2, 3, 4, 6))
    for names in ("chain draw y x", "n i j", "z y x", "sample x i"):
        values = spins if names.count(" ") == 3 else spins[0]
        with pytest.raises(StoreError, match=r"its axes are .* name them"):
            open_lattices(xr.DataArray(values, dims=names.split()))
    stacked = xr.DataArray(spins, dims=("chain", "draw", "y", "x")).stack(sample=("chain", "draw"))
    assert np.array_equal(open_lattices(stacked).read(0, 6), spins.reshape(6, 4, 6))
    unnamed = xr.DataArray(spins[0])
    assert open_lattices(unnamed).shape == (4, 6)


def forms(fine: xr.Dataset, folder: Path) -> dict[str, Any]:
    """Return the same lattices in every form that is taken."""
    spins = fine["spins"].values
    sp.save(fine, folder / "store.zarr")
    opened = sp.open_dataset(folder / "store.zarr")
    opened.to_zarr(folder / "copy.zarr")
    opened[["spins"]].drop_attrs().to_zarr(folder / "bare.zarr")
    fine.drop_encoding().to_zarr(folder / "v2.zarr", zarr_format=2)
    np.save(folder / "array.npy", spins)
    np.save(folder / "floats.npy", spins.astype(np.float64))
    zarr.save_array(folder / "array.zarr", spins)
    (folder / "array.zarr").rename(folder / "a::b.zarr")
    zarr.save_group(folder / "group.zarr", mine=spins, beta=np.ones(3))
    names = ("store.zarr", "copy.zarr", "bare.zarr", "v2.zarr", "array.npy", "floats.npy",
             "a::b.zarr", "group.zarr", "group.zarr/mine", "store.zarr/spins")  # fmt: skip
    return {name: folder / name for name in names} | {
        "Dataset": fine,
        "DataArray": fine["spins"],
        "NumPy": spins,
    }


def test_every_function_takes_every_input(fine: xr.Dataset, tmp_path: Path) -> None:
    """The numbers are those of the store. Planted, seen to fail: copies opened as stores."""
    whole = sp.coarsen(fine, 2)["block_sum"]
    moments = ["magnetization_squared", "two_point_axis"]
    measured = sp.measure(fine, only=moments)
    made = {}
    for name, source in forms(fine, tmp_path).items():
        assert np.array_equal(sp.coarsen(source, 2)["block_sum"], whole), name
        found = sp.measure(source, only=moments)
        for moment in moments:
            assert np.array_equal(found[moment], measured[moment]), name
        made[name] = sp.refine(source, 2, rule="majority", method="fill", seed=1, threads=1)
        report = sp.compare(fine, source, no_figures=True).comparison.stores[0]
        assert float(report.data["magnetization_squared_residual"]) == 0, name
        again = sp.save(source, tmp_path / f"s-{len(made)}")
        assert np.array_equal(again["spins"], fine["spins"]), name
    first = made.pop("store.zarr")["spins"]
    parents = {"store.zarr", "copy.zarr", "v2.zarr", "Dataset"}
    for name, refined in made.items():
        if name not in parents:
            assert np.array_equal(refined["spins"], made["array.npy"]["spins"]), name
        assert refined["spins"].shape == first.shape


def test_every_command_takes_every_file(fine: xr.Dataset, tmp_path: Path, said: Said) -> None:
    """One more for each command: coarsen, measure, compare, spectrum, scaling, train, refine."""
    network = "[network]\npatch = 2\nchannels = [4]\nblocks = [1]\n"
    recipe = f"steps = 1\nbatch = 2\nspectrum_batches = 2\n{network}"
    (tmp_path / "run.toml").write_text(recipe)
    paths = [p for p in forms(fine, tmp_path).values() if isinstance(p, Path)]
    for i, path in enumerate(paths):
        out = tmp_path / f"out-{i}"
        for words in (
            ("coarsen", path, "--factor", 2, "-o", f"{out}.zarr"),
            ("measure", path, "--only", "U4"),
            ("spectrum", path),
            ("refine", path, "--factor", 2, "--rule", "decimate", "--method", "fill",
             "-o", f"{out}.fine.zarr"),
        ):  # fmt: skip
            assert said(*words)[0] == 0, words
    words = ("--config", tmp_path / "run.toml", "--threads", 1, "-o")
    for path in (tmp_path / "copy.zarr", tmp_path / "bare.zarr"):
        code, err = said("train", path, *words, path.with_suffix(".safetensors"))
        assert code == 0, err
    code, err = said("compare", *paths, "-o", tmp_path / "report", "--no-figures")
    assert code == 0, err


def test_parts_of_coarse_stores_are_refined(fine: xr.Dataset, tmp_path: Path) -> None:
    """With rule, factor and parents. Planted, seen to fail: block means taken as sums."""
    sp.coarsen(fine, 2, output=tmp_path / "c.zarr")
    coarse = sp.open_dataset(tmp_path / "c.zarr").isel(sample=slice(5, 9))
    coarse.to_zarr(tmp_path / "part.zarr")
    coarse[["block_sum"]].drop_attrs().to_zarr(tmp_path / "bare.zarr")
    coarse[["block_sum"]].drop_attrs().drop_encoding().to_zarr(tmp_path / "means.zarr")
    made = sp.refine(tmp_path / "part.zarr", method="fill", threads=1)
    assert made["parent"].values.tolist() == [5, 6, 7, 8]
    known = {"rule": "block_mean", "method": "fill", "threads": 1}
    for refined in (
        made, sp.refine(coarse, method="fill", threads=1),
        *(sp.refine(tmp_path / f"{n}.zarr", 2, **known) for n in ("bare", "means")),
    ):  # fmt: skip
        means = refined["spins"].coarsen(y=2, x=2).mean()
        assert np.array_equal(means, coarse["block_sum"])
    with pytest.raises(BadInput, match="block means of 4 sites"):
        open_coarse(tmp_path / "bare.zarr", 4, "block_mean")
    measured = [
        sp.measure(tmp_path / f"{n}.zarr", only="two_point_axis") for n in ("bare", "means")
    ]
    assert measured[0]["two_point_axis"].equals(measured[1]["two_point_axis"])


def test_a_store_that_is_damaged_is_not_taken_for_a_copy(fine: xr.Dataset, tmp_path: Path) -> None:
    """Planted, seen to fail: `is_store` by the key `schema_version` alone."""
    sp.save(fine, tmp_path / "a.zarr")
    record = tmp_path / "a.zarr" / "zarr.json"
    whole = record.read_text()
    for damage in (
        ("schema_version", "schema_versioo"),
        ('"energy"', '"energi"'),
        ("2.269", "2.268"),
    ):
        record.write_text(whole.replace(*damage))
        with pytest.raises(StoreError):
            open_lattices(tmp_path / "a.zarr")


def test_a_store_is_saved_with_what_is_known(fine: xr.Dataset, tmp_path: Path) -> None:
    spins = fine["spins"].values
    made = sp.save(spins, tmp_path / "a.zarr", model="ising2d", temperature="Tc")
    assert isinstance(open_lattices(tmp_path / "a.zarr"), LatticeStore)
    assert open_store(tmp_path / "a.zarr").attrs["temperature"] == pytest.approx(2.269, abs=1e-3)
    assert float(sp.measure(made, only="energy")["energy"]) == pytest.approx(
        float(fine.energy.mean())
    )
    sp.save(spins, tmp_path / "a.zarr", model="ising2d", temperature="Tc")  # is there already
    with pytest.raises(BadInput, match="temperature"):
        sp.save(spins, tmp_path / "a.zarr", model="ising2d", temperature=2.0)
    with pytest.raises(BadInput, match="a store has its own"):
        sp.save(tmp_path / "a.zarr", tmp_path / "b.zarr", temperature=2.0)


def test_files_are_read_piece_by_piece(tmp_path: Path) -> None:
    """What is not asked for is not touched; what is damaged is named. Planted: read whole."""
    spins = np.random.default_rng(1).choice(np.array([-1, 1], dtype=np.int8), (6, 4, 4))
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=spins.shape, chunks=(2, 4, 4), dtype="int8"
    )
    array[:] = spins
    (tmp_path / "a.zarr" / "c" / "2" / "0" / "0").write_bytes(b"noise")
    found = open_lattices(tmp_path / "a.zarr")
    assert found.chunk == 2
    assert np.array_equal(found.read(0, 4), spins[:4])
    with pytest.raises(StoreError, match=r"a\.zarr.* damaged"):
        found.read(4, 6)


def test_a_comparison_reads_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted, seen to fail: each piece as often as it is asked for (five times)."""
    rng, read = np.random.default_rng(2), []
    for name in ("a", "b"):
        spins = rng.choice(np.array([-1, 1], dtype=np.int8), (20, 4, 4))
        array = zarr.create_array(
            tmp_path / f"{name}.zarr", shape=spins.shape, chunks=(5, 4, 4), dtype="int8"
        )
        array[:] = spins
    piece = zarr.Array.__getitem__

    def counted(self: Any, key: Any) -> Any:
        read.extend(range(key[0].start, key[0].stop))
        return piece(self, key)

    monkeypatch.setattr(zarr.Array, "__getitem__", counted)
    sp.compare(tmp_path / "a.zarr", tmp_path / "b.zarr", no_figures=True, threads=1)
    assert sorted(read) == sorted([*range(20)] * 2)


@pytest.mark.parametrize("rule", ["block_mean", "decimate", "spectral"])
def test_fields_are_coarse_grained_and_refined_again(tmp_path: Path, rule: str) -> None:
    """As `refine` takes them. Planted, seen to fail: block means of fields divided twice."""
    phi = np.random.default_rng(1).normal(size=(4, 16, 24))
    phi[0, 0, 0] = 70_000.0  # no block sum of spins
    np.save(tmp_path / "phi.npy", phi)
    coarse = sp.coarsen(tmp_path / "phi.npy", 4, rule=rule, output=tmp_path / "c.zarr")
    exact = get_rule(rule).operator((16, 24), 4).apply(phi)
    assert coarse["field"].dtype == np.float32
    assert np.abs(coarse["field"] - exact).max() <= 1e-7 * np.abs(exact).max()
    cube = np.random.default_rng(1).normal(size=(2, 4, 4, 8))
    if rule != "spectral":
        means = cube.reshape(2, 2, 2, 2, 2, 4, 2).mean(axis=(2, 4, 6))
        wanted = means if rule == "block_mean" else cube[:, ::2, ::2, ::2]
        assert np.allclose(sp.coarsen(cube, 2, rule=rule)["field"], wanted, rtol=1e-6, atol=1e-7)
    refined = open_coarse(tmp_path / "c.zarr", None, None, spins=False)
    assert (refined.rule.name, refined.fine_shape) == (rule, (16, 24))
    assert np.array_equal(refined.read(1, 3), coarse["field"][1:3])


def test_fields_have_no_majority(tmp_path: Path) -> None:
    phi = np.random.default_rng(1).normal(size=(4, 16, 24))
    with pytest.raises(
        BadInput, match="'majority' is not accepted; expected block_mean, decimate or"
    ):
        sp.coarsen(phi, 4, rule="majority", output=tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()
    heights = np.random.default_rng(1).integers(-9, 9, (4, 8, 8))  # integers can be a field
    means = heights.reshape(4, 4, 2, 4, 2).mean(axis=(2, 4))
    assert np.array_equal(sp.coarsen(heights, 2)["field"], means)


def test_what_spins_are_asked_for_names_the_way_out(tmp_path: Path, said: Said) -> None:
    """And the page of recipes has a line for every key. Planted: a key without a description."""
    np.save(tmp_path / "phi.npy", np.random.default_rng(1).normal(size=(4, 16, 16)))
    words = ("train", tmp_path / "phi.npy", "-o", tmp_path / "w.safetensors")
    code, err = said(*words, "--preset", "ising2d")
    assert (code, err.count("\n")) == (2, 1)
    assert 'a recipe (--config) with output = "v"' in err
    page = (Path(sp.__file__).parent / "docs" / "recipes.md").read_text()
    (tmp_path / "r.toml").write_text(page.split("```toml")[1].split("```")[0])
    assert read_recipe(tmp_path / "r.toml").output == "v"
    for field in dataclasses.fields(Recipe):
        assert f"\n{field.name} : {field.metadata['help']}." in str(Recipe.__doc__)


def _png(path: Path, spins: Spins) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(((spins > 0) * 255).astype(np.uint8)).save(path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.npz", lambda p, s: np.savez(p, spins=s), r"\.npz .*numpy.load\('a.npz'\)\['spins'\]"),
        ("a.txt", lambda p, s: np.savetxt(p, s[0]), "text is not read.*numpy.loadtxt"),
        ("a.h5", lambda p, s: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5.*h5py"),
        ("a.png", lambda p, s: _png(p, s[0]), "PNG is not read.*PIL.Image.open"),
        ("pngs", lambda p, s: _png(p / "0.png", s[0]), "a folder of PNG is not read.*iterdir"),
        ("a.npy", lambda p, s: p.write_bytes(b"\x80\x04noise"), "a pickle is not read"),
        ("o.npy", lambda p, s: np.save(p, np.array([{}]), allow_pickle=True), "Python objects"),
        ("one.npy", lambda p, s: np.save(p, s[0]), r"a single configuration is x\[None\]"),
        ("bits.npy", lambda p, s: np.save(p, (s > 0).astype("u1")), r"0 and 1.* 2\*s\.astype"),
        ("real.npy", lambda p, s: np.save(p, (s > 0) * 1.0), r"0 and 1.*'field'"),
        ("grey.npy", lambda p, s: np.save(p, (s > 0) * np.uint8(255)), "0 and 255"),
        ("bool.npy", lambda p, s: np.save(p, s > 0), "is bool, not -1 and"),
        ("cut.npy", lambda p, s: p.write_bytes(b"\x93NUMPY\x01"), r"damaged \.npy"),
        ("noise.npy", lambda p, s: p.write_bytes(b"\x00noise"), r"neither \.npy nor Zarr"),
        ("fifo", lambda p, s: os.mkfifo(p), "neither a file nor a directory"),
        ("empty", lambda p, s: p.mkdir(), "zarr.json is missing"),
        ("runs", lambda p, s: (p.mkdir(), np.save(p / "a.npy", s)), "a folder with files such as"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named_in_one_line(
    tmp_path: Path,
    said: Said,
    name: str,
    write: Callable[[Path, Spins], object],
    message: str,
) -> None:
    """With how to convert it, and never NumPy's advice to allow pickles."""
    spins = np.random.default_rng(1).choice(np.array([-1, 1], dtype=np.int8), (4, 8, 8))
    write(tmp_path / name, spins)
    for words in (
        ("measure",), ("coarsen", "--factor", 2, "-o", tmp_path / "o.zarr"),
        ("compare", tmp_path / name, "-o", tmp_path / "report"),
    ):  # fmt: skip
        code, err = said(words[0], tmp_path / name, *words[1:])
        assert (code, err.count("\n")) == (2, 1), err
        assert "allow_pickle" not in err
    with pytest.raises(SkildPhysError, match=message):
        open_lattices(tmp_path / name)


def test_what_a_line_says_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of a NetCDF file, run as it is."""
    monkeypatch.chdir(tmp_path)
    spins = np.random.default_rng(1).choice(np.array([-1, 1], dtype=np.int8), (4, 8, 8))
    xr.Dataset({"spins": (("sample", "y", "x"), spins)}).to_netcdf("a.nc", engine="scipy")
    with pytest.raises(StoreError) as refused:
        open_lattices(tmp_path / "a.nc")
    lines = str(refused.value).split("in Python: ")[1].replace("; ", "\n")
    exec(f"import xarray, skild_phys\n{lines}")
    assert np.array_equal(open_lattices("NAME.zarr").read(0, 4), spins)
