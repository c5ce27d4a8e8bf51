from __future__ import annotations

import itertools
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from conftest import files_of, random_samples, store_options
from numpy.typing import NDArray

import skild_phys as sp
from skild_phys.errors import BadInput, OutputTaken, StoreError, WriteError
from skild_phys.store import (
    LatticeStore,
    MemoryWriter,
    Plan,
    create_store,
    open_lattices,
    open_store,
    read_timing,
    write_timing,
)
from skild_phys.store.reader import read_root, root_record

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
    assert "energy" in store.variables
    assert "parent" not in store.variables
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
        with pytest.raises(OutputTaken):
            create_store(tmp_path / name, **store_options(4))
        with pytest.raises(kind):
            create_store(tmp_path / name, **store_options(4), overwrite=True)
    assert files_of(tmp_path) == before


def test_second_writer_is_refused(tmp_path: Path) -> None:
    with (
        create_store(tmp_path / "a.zarr", **store_options(4)),
        pytest.raises(StoreError, match="is being written by another process"),
    ):
        create_store(tmp_path / "a.zarr", **store_options(4))


def test_a_temperature_that_is_none_is_refused(tmp_path: Path) -> None:
    """When it is written, and when it is read: older releases wrote it."""
    path = tmp_path / "a.zarr"
    with pytest.raises(BadInput, match="attribute temperature: 'zzz' is not accepted"):
        create_store(path, **store_options(4, attrs={"temperature": "zzz"}))
    with create_store(path, **store_options(4)) as writer:
        writer.commit(random_samples(0, 4))
    attributes, nodes, _ = read_root(path)
    record = root_record(attributes | {"temperature": "zzz"}, nodes)
    (path / "zarr.json").write_text(json.dumps(record))
    with pytest.raises(StoreError, match=r"a\.zarr: attribute 'temperature' is 'zzz'"):
        open_store(tmp_path / "a.zarr")


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
        {"field": "state_count", "scale": 1e-9, "q": 3},
        {"field": "states"},
        {"field": "states", "q": 1},
        {"field": "states", "q": 128},
        {"q": 3},
        {"shape": (4,)},
        {"shape": (4, 4, 4, 4)},
        {"shape": (4, 4, 0)},
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
    zarr.save_array(tmp_path / "array.zarr", spins)
    zarr.save_group(tmp_path / "group.zarr", lattices=spins, beta=np.ones(6))
    for name in ("three.npy", "array.zarr", "group.zarr"):
        array = open_lattices(tmp_path / name)
        assert (array.field, array.n_samples, array.shape) == ("spins", 6, (4, 4))
        np.testing.assert_array_equal(array.read(2, 4), spins[2:4])
    assert open_lattices(make_store(10).path).n_samples == 10


def test_arrays_of_others_that_are_refused(tmp_path: Path) -> None:
    spins = random_samples(0, 6)["spins"]
    np.save(tmp_path / "flat.npy", spins.ravel())
    np.save(tmp_path / "one.npy", spins[0])
    np.save(tmp_path / "pickle.npy", np.array([{}, None]), allow_pickle=True)
    np.savez(tmp_path / "several.npz", a=spins)
    np.save(tmp_path / "text.npy", np.full((2, 2, 2), "x"))
    (tmp_path / "noise.npy").write_bytes(b"noise")
    (tmp_path / "empty").mkdir()
    zarr.save_group(tmp_path / "two.zarr", a=spins, b=spins)
    for path in [*tmp_path.iterdir(), tmp_path / "missing"]:
        with pytest.raises(StoreError) as refused:
            open_lattices(path)
        assert path.name in str(refused.value)
    assert open_lattices(tmp_path / "two.zarr" / "b").n_samples == 6


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


def lattices(field: str, n: int, shape: tuple[int, ...], q: int = 3) -> NDArray[Any]:
    """Return `n` random lattices that the field allows; blocks have 8 sites."""
    rng = np.random.default_rng(5)
    if field == "states":
        return rng.integers(0, q, (n, *shape)).astype(np.int8)
    if field == "state_count":
        counts = rng.multinomial(8, np.full(q, 1 / q), (n, *shape))
        return np.moveaxis(counts, -1, 1).astype(np.int16)
    if field == "block_sum":
        return (2 * rng.integers(-4, 5, (n, *shape))).astype(np.int16)
    if field == "field":
        return rng.normal(size=(n, *shape)).astype(np.float32)
    return (2 * rng.integers(0, 2, (n, *shape)) - 1).astype(np.int8)


ALL_FIELDS = ("spins", "states", "block_sum", "state_count", "field")


def field_options(field: str, n: int, shape: tuple[int, ...], **changed: Any) -> dict[str, Any]:
    scale = 1 / 8 if field in ("block_sum", "state_count") else 1.0
    q = 3 if field.startswith("state") else 0
    options = store_options(n, field=field, shape=shape, scale=scale, q=q, variables=(), attrs={})
    return options | changed


@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 5)])
@pytest.mark.parametrize("field", ALL_FIELDS)
def test_every_field_in_two_and_three_dimensions(
    tmp_path: Path, field: str, shape: tuple[int, ...]
) -> None:
    values = lattices(field, 7, shape)
    for name, cuts in (("a.zarr", (0, 7)), ("b.zarr", (0, 3, 4, 7))):
        for start, stop in itertools.pairwise(cuts):
            with create_store(tmp_path / name, **field_options(field, 7, shape)) as writer:
                assert writer.committed == start
                writer.commit({field: values[start:stop]})
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")
    store = open_store(tmp_path / "a.zarr")
    potts = field.startswith("state")
    assert (store.field, store.shape, store.q) == (field, shape, 3 if potts else 0)
    np.testing.assert_array_equal(store.read(2, 6), values[2:6])
    assert store.read(2, 6).dtype == values.dtype
    axes = ("y", "x") if len(shape) == 2 else ("z", "y", "x")
    with xr.open_zarr(store.path) as data:
        state = ("state",) if field == "state_count" else ()
        assert data[field].dims == ("sample", *state, *axes)
        np.testing.assert_array_equal(data[field], values * np.float32(store.scale))
        if field == "states":
            assert data[field].attrs["flag_values"] == [0, 1, 2]
            assert data[field].attrs["flag_meanings"] == "0 1 2"
            assert data[field].attrs["long_name"] == "Potts state"


def test_a_gap_is_no_state(tmp_path: Path) -> None:
    for field in ("states", "state_count"):
        path = tmp_path / field
        with create_store(path, **field_options(field, 5, (2, 2))) as writer:
            writer.commit({field: lattices(field, 5, (2, 2))})
        array = zarr.open_array(path / field, mode="r+")
        assert array.fill_value == -1
        array[1] = array.fill_value
        with pytest.raises(StoreError, match=rf"'{field}': chunk .* is not the one"):
            open_store(path).read(1, 2)


def test_states_and_counts_that_are_refused(tmp_path: Path) -> None:
    states, counts = (lattices(field, 2, (2, 2)) for field in ("states", "state_count"))
    extra, moved = counts.copy(), counts.copy()
    extra[1, 0, 1, 1] += 1
    moved[1, :, 1, 1] = (-1, 9, 0)
    for field, wrong, words in (
        ("states", states - 1, r"refused a state outside 0 \.\. 2"),
        ("states", states + 1, r"refused a state outside 0 \.\. 2"),
        ("state_count", extra, "refused counts that are not those of 8 sites"),
        ("state_count", moved, "refused counts that are not those of 8 sites"),
    ):
        with create_store(tmp_path / field, **field_options(field, 2, (2, 2))) as writer:
            with pytest.raises(StoreError, match=words):
                writer.commit({field: wrong})
            with pytest.raises(ValueError, match="has shape"):
                writer.commit({field: wrong[:, :1]})
            assert writer.committed == 0
    with pytest.raises(BadInput, match="there 'q' is 3, here 4"):
        create_store(tmp_path / "states", **field_options("states", 2, (2, 2), q=4))


def test_settled_attributes_come_with_the_first_commit(tmp_path: Path) -> None:
    options = store_options(10, unsettled=("every", "burn_in"))
    found = {"every": np.int64(7), "burn_in": 140}
    with create_store(tmp_path / "a.zarr", **options) as writer:
        with pytest.raises(ValueError, match="seed"):
            writer.settle({"seed": 1})
        writer.settle(found)
        assert writer.attributes == options["attrs"] | found
        assert "every" not in open_store(tmp_path / "a.zarr").attrs
        writer.commit(random_samples(0, 6))
        assert open_store(tmp_path / "a.zarr").attrs["every"] == 7
        with pytest.raises(ValueError, match="6 samples are committed"):
            writer.settle(found)
        writer.attributes["every"] = 9
        writer.attributes["model"] = "?"
    with create_store(tmp_path / "a.zarr", **options) as writer:
        assert writer.attributes == options["attrs"] | found
        writer.commit(random_samples(6, 10))
    with create_store(tmp_path / "b.zarr", **options) as writer:
        writer.settle(found)
        writer.commit(random_samples(0, 10))
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "b.zarr")
    with pytest.raises(BadInput, match="'every'"):
        create_store(tmp_path / "a.zarr", **store_options(10))
    wrong = options | {"attrs": options["attrs"] | {"seed": 1}}
    with pytest.raises(BadInput, match="'seed'"):
        create_store(tmp_path / "a.zarr", **wrong)


def test_an_attribute_given_as_unsettled_yields_to_the_stores(tmp_path: Path) -> None:
    options = store_options(10, unsettled=("every",))
    for every in (3, 5):
        options["attrs"] = options["attrs"] | {"every": every}
        with create_store(tmp_path / "a.zarr", **options) as writer:
            assert writer.attributes["every"] == 3
            writer.commit(random_samples(writer.committed, writer.committed + 5))
    assert open_store(tmp_path / "a.zarr").attrs["every"] == 3


def test_a_commit_leaves_the_settings_of_the_process_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zarr's settings are no thread's own: one commit would undo them under another."""

    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("zarr.config was set")

    monkeypatch.setattr(type(zarr.config), "set", refuse)
    with create_store(tmp_path / "a.zarr", **store_options(4)) as writer:
        writer.commit(random_samples(0, 4), {"rng": np.zeros(2)})
    assert open_store(tmp_path / "a.zarr").n_samples == 4


def test_commits_from_threads_of_their_own(tmp_path: Path) -> None:
    """Two stores at once, states of zeros (all fill value): the bytes of one thread."""

    def write(name: str) -> None:
        with create_store(tmp_path / name, **store_options(40)) as writer:
            for start in range(0, 40, 2):
                state = {"rng": np.zeros(2), "spins": np.zeros((2, 2), np.int8)}
                with ThreadPoolExecutor(1) as other:
                    other.submit(writer.commit, random_samples(start, start + 2), state).result()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, ("a.zarr", "b.zarr")))
    with create_store(tmp_path / "c.zarr", **store_options(40)) as writer:
        state = {"rng": np.zeros(2), "spins": np.zeros((2, 2), np.int8)}
        writer.commit(random_samples(0, 40), state)
    assert files_of(tmp_path / "a.zarr") == files_of(tmp_path / "c.zarr")
    assert files_of(tmp_path / "b.zarr") == files_of(tmp_path / "c.zarr")


@pytest.mark.parametrize(("components", "axes"), [(1, ()), (3, ("component",))])
def test_real_fields_of_any_type_and_components(
    tmp_path: Path, components: int, axes: tuple[str, ...]
) -> None:
    """Planted, seen to fail: fields that are float32 whatever their plan is."""
    plan = Plan(
        field="field", dtype="float64", components=components, n_samples=5, shape=(2, 3, 4),
        chunk=2, attrs={"seed": 1}, variables=(),
    )  # fmt: skip
    values = np.random.default_rng(1).normal(size=(5, *plan.sample_shape))
    with create_store(tmp_path / "a.zarr", plan) as writer:
        writer.commit({"field": values[:3]})
        writer.commit({"field": values[3:]})
    store = open_store(tmp_path / "a.zarr")
    assert (store.layout.components, store.shape) == (components, (2, 3, 4))
    np.testing.assert_array_equal(store.read(0, 5), values)
    data = sp.open_dataset(tmp_path / "a.zarr")
    assert data["field"].dims == ("sample", *axes, "z", "y", "x")
    sp.save(data, tmp_path / "b.zarr")
    assert open_store(tmp_path / "b.zarr").digest() == store.digest()
    memory = MemoryWriter(plan)
    memory.commit({"field": values})
    held = memory.lattices()
    np.testing.assert_array_equal(held.read(0, 5), values)
    assert held.dataset()["field"].dims == data["field"].dims


def test_chunks_have_the_same_bytes_without_zarr(tmp_path: Path) -> None:
    """Blosc's threads, which importing Zarr ends, write blocks in the order in which they finish.

    A chunk of 512 KiB has two blocks; with threads 100 stores had two digests, each time.
    """
    code = """if True:
        import hashlib, sys
        import numpy as np
        from skild_phys.store.layout import Plan
        from skild_phys.store.writer import create_store

        spins = np.random.default_rng(1).choice([-1, 1], (32, 128, 128)).astype(np.int8)
        plan = Plan(
            field="spins", shape=(128, 128), chunk=32, variables=(), n_samples=32, attrs={}
        )
        found = set()
        for number in range(100):
            with create_store(f"{sys.argv[1]}/{number}.zarr", plan) as writer:
                writer.commit({"spins": spins})
            found.add(writer.lattices().digest())
        assert "zarr" not in sys.modules
        print(len(found))
    """
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_what_was_made_in_memory_is_saved(tmp_path: Path) -> None:
    samples = random_samples(0, 10)
    plan = Plan(**store_options(10))
    writer = MemoryWriter(plan)
    writer.commit(samples)
    sp.save(writer.lattices(), tmp_path / "a.zarr")
    np.testing.assert_array_equal(open_store(tmp_path / "a.zarr").read(0, 10), samples["spins"])


def test_a_folder_named_as_the_record_of_times_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.zarr.timing.json").mkdir()
    (tmp_path / "a.zarr.timing.json" / "mine").touch()
    with pytest.raises(WriteError):
        create_store(tmp_path / "a.zarr", Plan(**store_options(10)))
    assert (tmp_path / "a.zarr.timing.json" / "mine").exists()
