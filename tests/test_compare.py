"""Comparisons: pairing, paired residuals, several refinements of a parent, shorter stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_helpers import coarsen_store

from skild_phys.errorbars import ErrorMethod
from skild_phys.errors import BadInput, StoreError
from skild_phys.measurement.compare import Comparison, _numbered, compare
from skild_phys.measurement.measure import measure
from skild_phys.measurement.report import Report
from skild_phys.measurement.rows import Rows, read_samples
from skild_phys.measurement.tables import with_error
from skild_phys.models import MODELS
from skild_phys.plots.comparison import FIGURES, _caption
from skild_phys.rng import kernel_state
from skild_phys.rules import coarsen
from skild_phys.simulation.wolff import wolff
from skild_phys.store import LatticeStore, create_store, open_store

SIDE, N, FACTOR = 16, 48, 4
Make = Callable[..., LatticeStore]


def critical_lattices(n: int, side: int, seed: int) -> np.ndarray:
    temperature = MODELS["ising2d"].critical_temperature
    state, spins = kernel_state(seed), np.ones((side, side), dtype=np.int8)
    wolff(spins, temperature, state, 200)
    found = np.empty((n, side, side), dtype=np.int8)
    for i in range(n):
        wolff(spins, temperature, state, 8)
        found[i] = spins
    return found


def fill(spins: np.ndarray, seed: int, factor: int = FACTOR) -> np.ndarray:
    """Return each block with its own spins in random order: exact block means, no physics."""
    n, height, width = spins.shape
    shape = (n, height // factor, factor, width // factor, factor)
    blocks = spins.reshape(shape).transpose(0, 1, 3, 2, 4)
    mixed = np.random.default_rng(seed).permuted(blocks.reshape(-1, factor**2), axis=1)
    return np.ascontiguousarray(
        mixed.reshape(blocks.shape).transpose(0, 1, 3, 2, 4).reshape(spins.shape)
    )


def save(path: Path, spins: np.ndarray, attrs: dict[str, Any], **scalars: Any) -> LatticeStore:
    model = MODELS["ising2d"]
    base = {"model": model.name, "L": spins.shape[2], "temperature": model.critical_temperature}
    arrays = {
        "energy": model.energy(spins),
        "magnetization": model.order_parameter(spins),
        **scalars,
    }
    with create_store(
        path,
        field="spins",
        n_samples=len(spins),
        shape=spins.shape[1:],
        chunk=10,
        attrs=base | attrs,
        variables=tuple(arrays),
    ) as writer:
        writer.commit({"spins": spins, **arrays})
    return open_store(path)


@pytest.fixture(scope="module")
def lattices() -> np.ndarray:
    return critical_lattices(N, SIDE, 30)


@pytest.fixture(scope="module")
def truth(lattices: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> LatticeStore:
    path = tmp_path_factory.mktemp("truth") / "truth.zarr"
    return save(path, lattices, {}, chain=np.arange(N) % 2, draw=np.arange(N) // 2)


@pytest.fixture
def refined(tmp_path: Path) -> Make:
    def make(spins: np.ndarray, parent: np.ndarray, name: str = "model", **attrs: Any) -> Any:
        known = {"rule": "block_mean", "factor": FACTOR, "method": "fill"}
        return save(tmp_path / f"{name}.zarr", spins, known | attrs, parent=parent)

    return make


def scalar(comparison: Comparison, name: str) -> float:
    return float(comparison.stores[0].data[name])


def test_a_copy_of_the_truth_has_no_residual(
    truth: LatticeStore, lattices: np.ndarray, refined: Make
) -> None:
    found = compare(truth, [refined(lattices, np.arange(N))])
    data = found.stores[0].data
    assert found.stores[0].paired
    for name in data:
        if str(name).endswith(("_residual", "_residual_err")):
            assert np.abs(data[name].values).max() < 1e-9
    assert scalar(found, "patterns_tv") == scalar(found, "patterns_kl") == 0.0
    assert scalar(found, "site_agreement") == scalar(found, "coarse_agreement") == 1.0


def test_residuals_are_the_differences_of_the_measurements(
    truth: LatticeStore, lattices: np.ndarray, refined: Make
) -> None:
    model = refined(fill(lattices, 31), np.arange(N))
    found = compare(truth, [model])
    data, own, exact = found.stores[0].data, measure(model), measure(truth)
    for name in ("energy", "connected_four_point", "two_point_diagonal", "pattern_frequency"):
        difference = own[name].values - exact[name].values
        assert data[f"{name}_residual"].values == pytest.approx(difference, abs=1e-12)
    ratio = own["structure_factor"].values / exact["structure_factor"].values
    assert data["structure_factor_ratio"].values == pytest.approx(ratio)
    share = (model.read(0, N) == lattices).mean()
    assert scalar(found, "site_agreement") == pytest.approx(share)
    assert scalar(found, "coarse_agreement") == 1.0
    assert scalar(found, "patterns_tv") > 2 * found.patterns_floor > 0
    assert scalar(found, "patterns_tv") > 3 * scalar(found, "patterns_tv_noise") > 0


def test_rounding_is_no_finding(tmp_path: Path) -> None:
    """A field, and the same to the last bit of its float32 numbers, times 1 + 1e-7.

    Planted, seen to fail: without the limit |m|, G4c and S(k) are "off by" 1e-9 and 1e-7. A
    difference of 1e-3 is still one.
    """
    rng = np.random.default_rng(63)
    field = (rng.normal(size=(N, 16, 16)) + rng.normal(size=(N, 1, 1))).astype(np.float32)
    noise = 1 + 6e-8 * rng.choice([-1.0, 1.0], size=field.shape)
    stores = []
    for name, values in (
        ("truth", field),
        ("same", (field * noise + 3e-9).astype(np.float32)),
        ("other", field * np.float32(1.001)),
    ):
        attrs = {"rule": "spectral", "factor": FACTOR, "parent_sha256": "x"}
        with create_store(
            tmp_path / f"{name}.zarr", field="field", n_samples=N, shape=(16, 16), chunk=10,
            attrs=attrs, variables=("parent",),
        ) as writer:  # fmt: skip
            writer.commit({"field": values, "parent": np.arange(N)})
        stores.append(open_store(tmp_path / f"{name}.zarr"))
    found = compare(stores[0], stores[1:])
    assert all(m.paired for m in found.stores)
    assert not np.array_equal(stores[1].read(0, N), field)
    same, other = (Report(found).verdict(m) for m in found.stores)
    assert "|m| is equal in every configuration." in same
    assert "off by" not in same
    assert "S(k) agrees" in same
    assert "chi^2" not in same
    assert "|m| is off by" in other
    assert found.stores[0].data["connected_four_point_residual"].values.any() == 0


def test_pairs_remove_the_shared_fluctuation(
    truth: LatticeStore, lattices: np.ndarray, refined: Make, tmp_path: Path
) -> None:
    filled = fill(lattices, 31)
    paired = compare(truth, [refined(filled, np.arange(N))])
    alone = compare(truth, [save(tmp_path / "alone.zarr", filled, {})])
    assert paired.stores[0].paired
    assert not alone.stores[0].paired
    assert "names no parents" in alone.stores[0].notes[0]
    assert scalar(alone, "energy_residual") == pytest.approx(scalar(paired, "energy_residual"))
    errors = [c.stores[0].data["connected_four_point_residual_err"].values for c in (paired, alone)]
    assert (errors[1][2:] > 4 * errors[0][2:]).all()


@pytest.mark.parametrize(
    "errors", [ErrorMethod(), ErrorMethod("jackknife", 8), ErrorMethod("bootstrap", 8)]
)
def test_several_refinements_of_a_parent_are_averaged_first(
    truth: LatticeStore, lattices: np.ndarray, refined: Make, errors: ErrorMethod
) -> None:
    """Storing every refinement twice must not shorten the error."""
    filled = fill(lattices, 31)
    one = refined(filled, np.arange(N), "one")
    two = refined(np.repeat(filled, 2, 0), np.repeat(np.arange(N), 2), "two")
    once, twice = compare(truth, [one], errors=errors), compare(truth, [two], errors=errors)
    assert twice.stores[0].lattices == 2 * N
    assert twice.stores[0].parents == N
    for name in ("energy_residual", "energy_residual_err", "patterns_tv", "site_agreement_err"):
        assert scalar(twice, name) == pytest.approx(scalar(once, name))
    errors = [float(measure(s)["energy_err"]) for s in (one, two)]
    assert errors[0] == pytest.approx(errors[1])


def test_a_shorter_model_is_compared_with_its_own_parents(
    truth: LatticeStore, lattices: np.ndarray, refined: Make
) -> None:
    parent = np.array([41, 7, 3, 12, 30])
    found = compare(truth, [refined(lattices[parent], parent)])
    assert found.stores[0].parents == 5
    assert scalar(found, "energy_residual") == 0.0
    assert scalar(found, "site_agreement") == 1.0
    assert np.array_equal(found.pictures.stores[0], found.pictures.truth)


def test_wrong_parents_are_not_believed(
    truth: LatticeStore, lattices: np.ndarray, refined: Make
) -> None:
    """A planted fault: parents moved on by one."""
    found = compare(truth, [refined(fill(lattices, 31), (np.arange(N) + 1) % N)])
    assert not found.stores[0].paired
    assert "coarse values are not the truth's" in found.stores[0].notes[0]


def test_parents_outside_the_truth_are_left_out(
    truth: LatticeStore, lattices: np.ndarray, refined: Make
) -> None:
    parent = np.where(np.arange(N) < 10, np.arange(N), 1000 + np.arange(N))
    found = compare(truth, [refined(lattices, parent)])
    assert found.stores[0].lattices == 10
    assert "38 samples without a parent" in found.stores[0].notes[0]
    gone = compare(truth, [refined(lattices, 1000 + np.arange(N), "gone")])
    assert not gone.stores[0].paired


def test_two_refined_stores_are_paired_by_their_common_parent(
    lattices: np.ndarray, refined: Make
) -> None:
    order = np.arange(N)[::-1]
    oracle = refined(fill(lattices, 32), np.arange(N), "oracle", parent_sha256="same")
    model = refined(fill(lattices, 33)[order], order, "model", parent_sha256="same")
    found = compare(oracle, [model])
    assert found.stores[0].paired
    assert scalar(found, "coarse_agreement") == 1.0


@pytest.mark.parametrize("rule", ["block_mean", "majority", "decimate", "spectral"])
def test_the_coarse_store_proves_the_lineage_and_gives_the_picture(
    truth: LatticeStore, lattices: np.ndarray, refined: Make, tmp_path: Path, rule: str
) -> None:
    coarse = coarsen_store(truth, tmp_path / "coarse.zarr", rule, FACTOR, tie_seed=5)
    seed = {"tie_seed": 5} if rule == "majority" else {}
    model = refined(lattices, np.arange(N), rule=rule, parent_sha256=coarse.digest(), **seed)
    found = compare(truth, [model], coarse=coarse)
    assert found.stores[0].paired
    assert found.stores[0].notes == ()
    assert found.pictures.coarse is not None
    assert np.array_equal(found.pictures.coarse, coarse.read(0, 1)[0] * coarse.scale)
    derived = compare(truth, [model]).pictures.coarse
    assert derived is not None
    assert np.array_equal(derived, found.pictures.coarse)


def test_grouped_rows_leave_the_values_as_they_are(
    truth: LatticeStore, lattices: np.ndarray, refined: Make
) -> None:
    model = refined(fill(lattices, 31), np.arange(N))
    plain, grouped = compare(truth, [model]), compare(truth, [model], max_rows=12)
    assert len(Rows.of(truth, 12).members) == 12
    for name in ("energy_residual", "patterns_tv", "site_agreement"):
        assert scalar(grouped, name) == pytest.approx(scalar(plain, name))
    assert scalar(grouped, "energy_residual_err") == pytest.approx(
        scalar(plain, "energy_residual_err"), rel=0.5
    )


def test_incomplete_groups_are_left_out(
    truth: LatticeStore, lattices: np.ndarray, refined: Make
) -> None:
    parent = np.arange(N - 3)
    found = compare(truth, [refined(lattices[parent], parent)], max_rows=12)
    assert scalar(found, "energy_residual") == 0.0
    assert found.stores[0].parents == 40


def test_errors_name_the_store(truth: LatticeStore, refined: Make, tmp_path: Path) -> None:
    small = save(tmp_path / "small.zarr", np.ones((3, 8, 8), dtype=np.int8), {})
    with pytest.raises(BadInput, match=r"small\.zarr.*16x16"):
        compare(truth, [small])
    with create_store(
        tmp_path / "empty.zarr", field="spins", n_samples=4, shape=(16, 16), chunk=4, attrs={}
    ):
        pass
    with pytest.raises(StoreError, match=r"empty\.zarr"):
        compare(truth, [open_store(tmp_path / "empty.zarr")])


def test_captions_tell_of_theory_where_there_is_one(
    truth: LatticeStore, lattices: np.ndarray, refined: Make, tmp_path: Path
) -> None:
    """Planted, seen to fail: one caption for all, "over its theory" without one."""
    known = compare(truth, [truth])
    bare = save(tmp_path / "bare.zarr", lattices, {"temperature": 2.0})
    unknown = compare(bare, [bare])
    assert "over its theory" in _caption("two_point", known)
    for name in FIGURES:
        assert "theory" not in _caption(name, unknown)


def test_a_single_lattice_claims_nothing(tmp_path: Path) -> None:
    one = save(tmp_path / "one.zarr", np.ones((1, 8, 8), dtype=np.int8), {})
    found = compare(one, [one])
    assert "no verdict" in Report(found).verdict(found.stores[0])


def test_one_configuration_against_many_has_no_p(tmp_path: Path) -> None:
    """A single configuration has no error, so nothing is judged, whichever side it is on.

    Planted, seen to fail: the covariance of the other ensemble alone (p near 0).
    """
    many = save(tmp_path / "many.zarr", critical_lattices(60, 8, 1), {})
    one = save(tmp_path / "one.zarr", critical_lattices(1, 8, 2), {})
    for truth, model in ((many, one), (one, many)):
        found = compare(truth, [model])
        assert all(np.isnan(a.p) for a in found.stores[0].together.values())
        assert "no verdict" in Report(found).verdict(found.stores[0])


@pytest.mark.parametrize(
    ("names", "numbers"),
    [(["a", "a", "a"], ["a", "a 2", "a 3"]), (["a", "a 2", "a"], ["a", "a 2", "a 3"])],
)
def test_alike_names_get_a_number_that_is_free(names: list[str], numbers: list[str]) -> None:
    """Planted, seen to fail: the count of equal names, which gives "a 2" twice."""
    assert _numbered(names) == numbers


def test_lattices_are_read_in_any_order(truth: LatticeStore, lattices: np.ndarray) -> None:
    index = np.array([40, 3, 3, 25, 11, 0])
    assert np.array_equal(read_samples(truth, index), lattices[index])


def test_coarse_stores_are_measured_in_physical_units(
    truth: LatticeStore, lattices: np.ndarray, tmp_path: Path
) -> None:
    coarse = coarsen_store(truth, tmp_path / "coarse.zarr", "block_mean", FACTOR)
    found = measure(coarse)
    means = coarsen(lattices, "block_mean", FACTOR) / FACTOR**2
    assert float(found["two_point_axis"][0]) == pytest.approx((means**2).mean())
    exact = measure(truth)
    assert float(found["magnetization_squared"]) == pytest.approx(
        float(exact["magnetization_squared"])
    )
    assert "energy" not in found
    assert not [n for n in found if str(n).endswith("_theory")]
    assert "energy_theory" in exact


def test_every_variable_has_units_and_a_name(truth: LatticeStore) -> None:
    found = measure(truth)
    for name in [*found.data_vars, *found.coords]:
        assert set(found[name].attrs) >= {"units", "long_name"}, name
    assert all(found[name].dtype == np.float64 for name in found.data_vars)
    for name in [n for n in found.data_vars if f"{n}_err" in found and f"{n}_n_eff" in found]:
        for end in ("_tau_int", "_tau_int_err"):
            assert found[f"{name}{end}"].dims == found[name].dims


@pytest.fixture
def comparison(truth: LatticeStore, lattices: np.ndarray, refined: Make) -> Comparison:
    near = np.where(np.arange(N)[:, None, None] < 44, lattices, fill(lattices, 34))
    models = [
        refined(fill(lattices, 31), np.arange(N), "filled", steps=3),
        refined(near, np.arange(N), "near"),
    ]
    return compare(truth, models)


def test_report_says_what_was_found(comparison: Comparison) -> None:
    filled, near = comparison.stores
    assert filled.cost == {"method": "fill", "steps": 3}
    assert "The energy is off by +0." in Report(comparison).verdict(filled)
    assert "it is off by +0." in Report(comparison).verdict(filled)
    assert "|m| is equal" in Report(comparison).verdict(near)
    assert "Hamiltonian" not in Report(comparison).verdict(near)
    skild = replace(near, cost={"method": "skild"})
    assert "refine --method exact samples exactly" in Report(comparison).verdict(skild)
    assert "3x3 patterns: near is closest" in Report(comparison).ranking()
    frame = Report(comparison).table
    line = frame[(frame["model"] == "filled") & (frame["observable"] == "energy")].iloc[0]
    assert line["residual"] == pytest.approx(line["value"] - line["truth"])
    assert line["sigmas"] > 5
    report = Report(comparison)
    mine = report.table
    mine["value"] = 0.0
    assert report.table.equals(frame)
    assert Report(comparison).summary()["models"][1]["name"] == "near"


def test_report_is_one_file_and_escapes_names(comparison: Comparison) -> None:
    page = Report(comparison, [("a <caption>", b"\x89PNG")], "compare '<x>'").html
    assert "<x>" not in page
    assert "a &lt;caption&gt;" in page
    assert "data:image/png;base64," in page
    assert "http" not in page
    assert "<script" not in page


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (-1.41421, 0.0011, "-1.4142(11)"),
        (0.5, 0.0, "0.5"),
        (1513.2, 54.3, "1513(54)"),
        (0.123456, 0.0996, "0.12(10)"),
        (float("nan"), 1.0, ""),
        (2.0, float("nan"), "2"),
        (9.876, 1.26, "9.9(13)"),
        (36049.0, 1109.0, "36000(1100)"),
        (2.434e-7, 4.3e-8, "2.43(43)e-7"),
        (0.0, 4.3e-8, "0.0(43)e-8"),
        (-1.25, 3e-16, "-1.250000"),
    ],
)
def test_values_are_shown_with_two_digits_of_error(value: float, error: float, shown: str) -> None:
    assert with_error(value, error) == shown


def test_groups_refined_in_part_are_said_and_none_is_an_error(
    truth: LatticeStore, lattices: np.ndarray, refined: Make
) -> None:
    parent = np.arange(N - 1)  # chain 1 lacks its last lattice: its last group has one of two
    model = refined(fill(lattices[parent], 3), parent)
    found = compare(truth, [model], max_rows=N // 2).stores[0]
    assert found.paired
    assert (found.lattices, found.parents) == (N - 2, N - 2)
    assert any(note.startswith("1 samples are left out") for note in found.notes)
    sparse = np.arange(0, N, 4)
    with pytest.raises(StoreError, match="variable 'parent': no group of 2"):
        compare(truth, [refined(fill(lattices[sparse], 3), sparse, "few")], max_rows=N // 2)
