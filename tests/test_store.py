from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import files_of, random_samples, store_options

from skild_phys.errors import BadInput, StoreError
from skild_phys.store import (
    LatticeStore,
    create_store,
    open_array,
    open_store,
    read_timing,
    write_timing,
)

Make = Callable[..., LatticeStore]


def test_what_is_written_is_read(make_store: Make) -> None:
    store = make_store(10)
    wanted = random_samples(0, 10)
    assert (store.field, store.n_samples, store.shape, store.chunk) == ("spins", 10, (4, 4), 4)
    assert store.scale == 1.0
    assert store.complete
    np.testing.assert_array_equal(store.read(3, 9), wanted["spins"][3:9])
    np.testing.assert_array_equal(store.variable("energy"), wanted["energy"])
    np.testing.assert_array_equal(store.variable("chain"), wanted["chain"])
    assert store.read(3, 9).dtype == np.int8
    assert store.has("energy")
    assert not store.has("parent")
    assert list(store.batches()) == [(0, 4), (4, 8), (8, 10)]
    assert list(store.batches(9)) == [(0, 8), (8, 10)]
    assert list(store.batches(1)) == [(0, 4), (4, 8), (8, 10)]


def test_reading_beyond_the_end(make_store: Make) -> None:
    store = make_store(10)
    with pytest.raises(IndexError):
        store.read(5, 11)
    with pytest.raises(StoreError, match="has no variable 'parent'"):
        store.variable("parent")


def test_xarray_opens_it_as_it_is(make_store: Make) -> None:
    store = make_store(10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xr.open_zarr(store.path) as data:
            assert data.spins.dims == ("sample", "y", "x")
            assert data.spins.dtype == np.int8
            assert data.spins.attrs["flag_values"] == [-1, 1]
            assert data.spins.attrs["flag_meanings"] == "down up"
            assert set(data.variables) == {"spins", "energy", "chain"}
            for variable in data.variables.values():
                assert variable.attrs["long_name"]
                assert variable.attrs["units"] in ("1", "J")
            np.testing.assert_array_equal(data.spins, random_samples(0, 10)["spins"])
            np.testing.assert_array_equal(data.chain, random_samples(0, 10)["chain"])
            assert data.attrs["temperature"] == 2.25


def test_plain_zarr_opens_it_without_the_consolidated_copy(make_store: Make) -> None:
    group = zarr.open_group(make_store(10).path, mode="r", use_consolidated=False)
    assert {name: array.shape for name, array in group.arrays()} == {
        "spins": (10, 4, 4),
        "energy": (10,),
        "chain": (10,),
    }


def test_block_sums_decode_to_exact_means(tmp_path: Path) -> None:
    sums = np.array([[[-16, 16], [0, 2]]], dtype=np.int64)
    options = store_options(1, 2, field="block_sum", scale=1 / 16, variables=())
    with create_store(tmp_path / "b.zarr", **options) as writer:
        with pytest.raises(StoreError, match="no sum of 16 spins"):
            writer.commit({"block_sum": sums + 1})
        with pytest.raises(StoreError, match="no sum of 16 spins"):
            writer.commit({"block_sum": 2 * sums})
        writer.commit({"block_sum": sums})
    store = open_store(tmp_path / "b.zarr")
    assert (store.field, store.scale) == ("block_sum", 1 / 16)
    assert store.read(0, 1).dtype == np.int16
    with xr.open_zarr(tmp_path / "b.zarr") as data:
        np.testing.assert_array_equal(data.block_sum, sums / 16)


def test_real_fields_and_scalars_beyond_the_schema(tmp_path: Path) -> None:
    field = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)
    options = store_options(3, field="field", variables=("misfit", "parent"))
    arrays = {"field": field, "misfit": np.arange(3.0), "parent": np.arange(3)}
    with create_store(tmp_path / "f.zarr", **options) as writer:
        writer.commit(arrays)
    store = open_store(tmp_path / "f.zarr")
    np.testing.assert_array_equal(store.read(0, 3), field)
    np.testing.assert_array_equal(store.variable("misfit"), np.arange(3.0))


def test_an_unfinished_store_reads_as_what_is_committed(tmp_path: Path) -> None:
    with create_store(tmp_path / "a.zarr", **store_options(10)) as writer:
        writer.commit(random_samples(0, 6))
        store = open_store(tmp_path / "a.zarr")
        assert (store.n_samples, store.complete) == (6, False)
        assert store.read(0, 6).shape == (6, 4, 4)
        with xr.open_zarr(tmp_path / "a.zarr") as data:
            assert data.sizes["sample"] == 6


@pytest.mark.parametrize("cuts", [(0, 20), (0, 7, 8, 20), (0, 1, 2, 3, 13, 20)])
def test_bytes_do_not_depend_on_commits(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    for name, points in (("a.zarr", (0, 20)), ("b.zarr", cuts)):
        with create_store(tmp_path / name, **store_options(20)) as writer:
            for start, stop in itertools.pairwise(points):
                writer.commit(random_samples(start, stop), {"rng": np.array([stop])})
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")


def test_resumed_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    for planned, start, stop in ((10, 0, 6), (10, 6, 10), (15, 10, 15)):
        with create_store(path, **store_options(planned)) as writer:
            assert writer.committed == start
            assert writer.state.get("rng", np.array([0])).tolist() == [start]
            writer.commit(random_samples(start, stop), {"rng": np.array([stop])})
    with create_store(tmp_path / "b.zarr", **store_options(15)) as writer:
        writer.commit(random_samples(0, 15), {"rng": np.array([15])})
    assert files_of(path) == files_of(tmp_path / "b.zarr")


def test_a_smaller_plan_ends_where_it_says(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    with create_store(path, **store_options(10)) as writer:
        writer.commit(random_samples(0, 6))
    with create_store(path, **store_options(6)):
        pass
    assert open_store(path).complete


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"attrs": {"model": "ising2d", "L": 4, "temperature": 2.3, "seed": 0}}, "temperature"),
        ({"attrs": {"model": "ising2d", "L": 4, "temperature": 2.25}}, "seed"),
        ({"chunk": 5}, "chunk"),
        ({"shape": (4, 8)}, "shape"),
        ({"variables": ("energy",)}, "variables"),
    ],
)
def test_resumed_only_if_every_parameter_agrees(
    tmp_path: Path, changed: dict[str, object], named: str
) -> None:
    with create_store(tmp_path / "a.zarr", **store_options(10)) as writer:
        writer.commit(random_samples(0, 6))
    before = files_of(tmp_path / "a.zarr")
    with pytest.raises(BadInput, match=f"there '{named}' is"):
        create_store(tmp_path / "a.zarr", **store_options(10, **changed))
    assert files_of(tmp_path / "a.zarr") == before


def test_provenance_is_kept_but_not_compared(tmp_path: Path) -> None:
    for command, stop in (("first", 6), ("second", 10)):
        options = store_options(10)
        options["attrs"] |= {"command": command}
        with create_store(tmp_path / "a.zarr", **options) as writer:
            writer.commit(random_samples(writer.committed, stop))
    assert open_store(tmp_path / "a.zarr").attrs["command"] == "second"


def test_a_complete_store_is_not_touched(make_store: Make) -> None:
    store = make_store(10)
    before = files_of(store.path)
    with pytest.raises(BadInput, match="has 10 samples, more than the 5"):
        create_store(store.path, **store_options(5))
    with create_store(store.path, **store_options(10)) as writer:
        assert writer.committed == 10
    assert files_of(store.path) == before


def test_overwrite_leaves_nothing_of_the_old(tmp_path: Path, make_store: Make) -> None:
    wanted = files_of(make_store(10).path)
    options = store_options(30, 8, field="field", variables=("magnetization",), chunk=2)
    arrays = {"field": np.ones((30, 8, 8), np.float32), "magnetization": np.zeros(30)}
    with create_store(tmp_path / "b.zarr", **options) as writer:
        writer.commit(arrays, {"x": np.zeros(3)})
    with create_store(tmp_path / "b.zarr", **store_options(10), overwrite=True) as writer:
        assert writer.committed == 0
        assert open_store(tmp_path / "b.zarr").n_samples == 0
        writer.commit(random_samples(0, 10), {"rng": np.arange(4, dtype=np.uint64)})
    assert files_of(tmp_path / "b.zarr") == wanted


def test_overwrite_never_removes_what_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    zarr.create_group(tmp_path / "other.zarr")
    (tmp_path / "file").write_text("x")
    before = files_of(tmp_path)
    for name, kind in (("home", StoreError), ("other.zarr", StoreError), ("file", BadInput)):
        for overwrite in (False, True):
            with pytest.raises(kind):
                create_store(tmp_path / name, **store_options(4), overwrite=overwrite)
    assert files_of(tmp_path) == before


def test_second_writer_is_refused(tmp_path: Path) -> None:
    with (
        create_store(tmp_path / "a.zarr", **store_options(4)),
        pytest.raises(StoreError, match="is being written by another process"),
    ):
        create_store(tmp_path / "a.zarr", **store_options(4))


def test_digest_names_the_samples(tmp_path: Path, make_store: Make) -> None:
    first, same, longer = (
        make_store(10),
        make_store(10, name="b.zarr"),
        make_store(11, name="c.zarr"),
    )
    assert first.digest() == same.digest()
    assert first.digest() != longer.digest()
    options = store_options(10)
    options["attrs"] |= {"command": "another way"}
    with create_store(tmp_path / "d.zarr", **options) as writer:
        writer.commit(random_samples(0, 10))
    assert open_store(tmp_path / "d.zarr").digest() == first.digest()
    samples = random_samples(0, 10)
    samples["spins"][9, 3, 3] *= -1
    with create_store(tmp_path / "e.zarr", **store_options(10)) as writer:
        writer.commit(samples)
    assert open_store(tmp_path / "e.zarr").digest() != first.digest()


def test_commits_that_are_refused(tmp_path: Path) -> None:
    good = random_samples(0, 4)
    with create_store(tmp_path / "a.zarr", **store_options(4)) as writer:
        for change, words in [
            ({"spins": good["spins"] * 0}, "spins other than"),
            ({"energy": good["energy"] * np.nan}, "NaN"),
            ({"chain": good["chain"] - 5}, "negative"),
        ]:
            with pytest.raises(StoreError, match=words):
                writer.commit(good | change)
        for wrong in (
            {"spins": good["spins"]},
            good | {"energy": good["energy"][1:]},
            good | {"spins": good["spins"].astype(float)},
            random_samples(0, 5),
            random_samples(0, 0),
        ):
            with pytest.raises(ValueError, match=r"variable|samples"):
                writer.commit(wrong)
        assert writer.committed == 0
        writer.commit(good)


def test_arguments_that_are_refused(tmp_path: Path) -> None:
    for changed in (
        {"field": "speed"},
        {"n_samples": 0},
        {"chunk": 0},
        {"shape": (0, 4)},
        {"field": "block_sum", "scale": 1e-9},
    ):
        with pytest.raises(BadInput):
            create_store(tmp_path / "a.zarr", **(store_options(4) | changed))
    assert not (tmp_path / "a.zarr").exists()


def test_root_is_readable_json_without_place_or_time(make_store: Make) -> None:
    store = make_store(10)
    text = (store.path / "zarr.json").read_text()
    assert json.loads(text)["attributes"]["samples_committed"] == 10
    assert str(store.path.parent) not in text


def test_arrays_of_others(tmp_path: Path, make_store: Make) -> None:
    spins = random_samples(0, 6)["spins"]
    np.save(tmp_path / "three.npy", spins)
    np.save(tmp_path / "two.npy", spins[0])
    zarr.save_array(tmp_path / "array.zarr", spins)
    zarr.save_group(tmp_path / "group.zarr", lattices=spins, beta=np.ones(6))
    for name in ("three.npy", "array.zarr", "group.zarr"):
        array = open_array(tmp_path / name)
        assert array.shape == (6, 4, 4)
        np.testing.assert_array_equal(array[2:4], spins[2:4])
    assert open_array(tmp_path / "two.npy").shape == (1, 4, 4)
    assert open_array(make_store(10).path).shape == (10, 4, 4)


def test_arrays_of_others_that_are_refused(tmp_path: Path) -> None:
    spins = random_samples(0, 6)["spins"]
    np.save(tmp_path / "flat.npy", spins.ravel())
    np.save(tmp_path / "pickle.npy", np.array([{}, None]), allow_pickle=True)
    np.savez(tmp_path / "several.npz", a=spins)
    np.save(tmp_path / "text.npy", np.full((2, 2, 2), "x"))
    (tmp_path / "noise.npy").write_bytes(b"noise")
    (tmp_path / "empty").mkdir()
    zarr.save_group(tmp_path / "two.zarr", a=spins, b=spins)
    for path in [*tmp_path.iterdir(), tmp_path / "missing"]:
        with pytest.raises(StoreError) as refused:
            open_array(path)
        assert path.name in str(refused.value)
    assert open_array(tmp_path / "two.zarr", "b").shape == (6, 4, 4)


def test_a_store_made_anew_forgets_how_long_the_old_one_took(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    options = {"field": "spins", "n_samples": 2, "shape": (2, 2), "chunk": 2, "variables": ()}
    for attrs, overwrite in (({"seed": 1}, False), ({"seed": 2}, True)):
        with create_store(path, attrs=attrs, overwrite=overwrite, **options) as writer:
            assert read_timing(path) is None
            writer.commit({"spins": np.ones((2, 2, 2), np.int8)})
        write_timing(path, 3.0)
    with create_store(path, attrs={"seed": 2}, **options):
        assert read_timing(path) == 3.0
