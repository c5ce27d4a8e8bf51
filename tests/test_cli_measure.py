"""`skild-phys measure` and `skild-phys compare` as a user meets them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import Call

from skild_phys import plugins
from skild_phys.measurement import observables
from skild_phys.models import MODELS
from skild_phys.models.exact import kaufman_energy
from skild_phys.store import create_store

SIDE, N = 8, 20


def save(path: Path, spins: np.ndarray, **scalars: np.ndarray) -> Path:
    attrs = {"model": "ising2d", "L": SIDE, "temperature": 2.269185314213022}
    if "parent" in scalars:
        attrs |= {"rule": "block_mean", "factor": 2, "method": "exact", "sweeps": 7}
    options = {"field": "spins", "n_samples": len(spins), "shape": (SIDE, SIDE), "chunk": 8}
    with create_store(path, attrs=attrs, variables=tuple(scalars), **options) as writer:
        writer.commit({"spins": spins, **scalars})
    return path


@pytest.fixture
def fine(tmp_path: Path) -> Path:
    rng = np.random.default_rng(40)
    smooth = np.cumsum(rng.normal(size=(N, SIDE, SIDE)), axis=1)
    spins = np.where(smooth > 0, 1, -1).astype(np.int8)
    return save(tmp_path / "fine.zarr", spins, chain=np.arange(N) % 2, draw=np.arange(N) // 2)


@pytest.fixture
def refined(tmp_path: Path, fine: Path) -> Path:
    from skild_phys.store import open_store

    spins = open_store(fine).read(0, N)
    swapped = spins.copy()
    swapped[:, ::2], swapped[:, 1::2] = spins[:, 1::2], spins[:, ::2]
    return save(tmp_path / "refined.zarr", swapped, parent=np.arange(N))


def test_measure_prints_values_beside_theory(call: Call, fine: Path) -> None:
    code, out, err = call("measure", fine)
    assert code == 0
    assert re.search(r"energy +J +-?\d\.\d+\(\d+\) +-1\.49159", out)
    for text in ("G4c", "G(r, 0)", "S(k)", "n(s) FK", "tau", "n_eff", "Gamma method", "Kaufman"):
        assert text in out
    assert "Traceback" not in err


def test_an_observable_of_an_installed_package_is_printed_and_compared(
    call: Call, fine: Path, refined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its entry point. Planted, seen to fail: a list of names in the command."""
    package = tmp_path / "mine-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    points = "[skild_phys.observables]\nskew = mine:skew\ndouble_axis = mine:double\n"
    (package / "entry_points.txt").write_text(points)
    (tmp_path / "mine.py").write_text(
        "import skild_phys as sp\n"
        "skew = sp.observable('skew', 'J', 'energy')(lambda e, s: 3 * e[..., 0])\n"
        "double = sp.observable('double_axis', '1', 'axis', '2 G', axis='distance')"
        "(lambda g, s: 2 * g)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(observables, "OBSERVABLES", {**observables.OBSERVABLES})
    # Entry points are looked for once: without this an earlier test has found none.
    monkeypatch.setattr(plugins, "_points", plugins._points.__wrapped__)
    _, out, _ = call("measure", fine)
    assert re.search(r"^ *r +G\(r, 0\).* 2 G *$", out, re.M)
    energy, skew = (re.search(rf"^{n} +J +(-\S+?)\(", out, re.M) for n in ("energy", "skew"))
    assert energy
    assert skew
    assert float(skew[1]) == pytest.approx(3 * float(energy[1]), abs=0.01)
    assert "2 G" in call("measure", fine, "--only", "2 G,skew")[1]
    _, out, _ = call("compare", fine, refined, "-o", tmp_path / "r", "--no-figures")
    assert re.search(r"^skew ", out, re.M)


def test_every_scalar_is_printed(call: Call, fine: Path) -> None:
    lines = json.loads(call("measure", fine, "--json")[1])["observables"]
    scalars = [o["observable"].replace("_", " ") for o in lines if o["at"] is None]
    _, out, _ = call("measure", fine)
    assert len(scalars) > 15
    assert all(re.search(rf"^{name} ", out, re.M) for name in scalars)


def test_tau_of_a_few_samples_is_unknown(call: Call, tmp_path: Path) -> None:
    """+ and - in turn: tau is 0.05, which is noise of 10 samples and no time.

    Planted, seen to fail: FEWEST = 0.
    """
    spins = np.ones((10, SIDE, SIDE), dtype=np.int8)
    spins[::2, :3] = -1
    path = save(tmp_path / "a.zarr", spins, chain=np.zeros(10, int), draw=np.arange(10))
    _, out, _ = call("measure", path, "--only", "m^2")
    assert re.search(r"magnetization squared.* unknown +10$", out, re.M)
    record = json.loads(call("measure", path, "--only", "m^2", "--json")[1])["observables"][0]
    assert (record["tau_int"], record["tau_int_err"], record["n_eff"]) == (None, None, 10.0)


def test_compare_takes_names(call: Call, fine: Path, refined: Path, tmp_path: Path) -> None:
    words = ("compare", fine, refined, fine, "-o", tmp_path / "r", "--no-figures", "--json")
    _, out, _ = call(*words, "--names", "a b, c")
    assert [m["name"] for m in json.loads(out)["models"]] == ["a b", "c"]
    for bad in ("one", "a,a", "a,<b>", ""):
        code, _, err = call(*words, "--overwrite", "--names", bad)
        assert (code, err.count("\n")) == (2, 1), err
        assert "--names" in err


def test_measure_prints_json(call: Call, fine: Path) -> None:
    _, out, _ = call("measure", fine, "--json")
    found = json.loads(out)
    energy = next(o for o in found["observables"] if o["observable"] == "energy")
    assert energy["theory"] == pytest.approx(-1.4915891074)
    assert energy["at"] is None
    assert found["lattices"] == N


def test_measure_writes_netcdf_csv_and_both(call: Call, fine: Path, tmp_path: Path) -> None:
    assert call("measure", fine, "-o", tmp_path / "m.nc")[0] == 0
    with xr.open_dataset(tmp_path / "m.nc", engine="scipy") as data:
        assert data["connected_four_point"].attrs["units"] == "1"
        energy = float(data["energy"])
    assert call("measure", fine, "-o", tmp_path / "m.csv")[0] == 0
    frame = pd.read_csv(tmp_path / "m.csv").set_index("observable")
    assert frame.loc["energy", "value"] == pytest.approx(energy)
    assert call("measure", fine, "-o", tmp_path / "both")[0] == 0
    written = sorted(p.name for p in (tmp_path / "both").iterdir())
    assert written == ["measure.csv", "measure.nc", "measure.pdf", "measure.png"]
    for _ in range(2):
        assert call("measure", fine, "-o", tmp_path / "m.zarr", "--overwrite")[0] == 0
    with xr.open_zarr(tmp_path / "m.zarr", consolidated=False) as data:
        assert float(data["energy"]) == pytest.approx(energy)
        assert data["two_point_axis_n_eff"].dims == ("distance",)


def test_equal_measurements_give_equal_bytes(call: Call, fine: Path, tmp_path: Path) -> None:
    for name in ("a.nc", "b.nc"):
        call("measure", fine, "-o", tmp_path / name)
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


def test_bins_replace_the_gamma_method(call: Call, fine: Path) -> None:
    _, out, _ = call("measure", fine, "--bins", 5)
    assert "5 bins" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bins", "1"], "--bins: 1 is not accepted; expected 2 to 20"),
        (["--bins", "21"], "--bins: 21"),
        (["-o", "m.txt"], "-o: 'm.txt'"),
        (["-o", "fine.zarr", "--overwrite"], "-o: 'fine.zarr'"),
        (["--seed", "-1"], "--seed: -1"),
        (["--errors", "guess"], "--errors: 'guess'"),
        (["--resamples", "9"], "--resamples: 9"),
        (["--errors", "bootstrap", "--resamples", "999999999"], "--resamples: 999999999"),
        (["--only", "u5"], "--only: 'u5'"),
        (["--offsets", "0,0 0,1 1,1"], "--offsets: '0,0 0,1 1,1'"),
        (["--offsets", f"0,0 0,1 1,1 1,{10**22}"], "--offsets: "),
        (["-o", "no/such/m.nc"], "-o: 'no/such/m.nc'"),
    ],
)
def test_bad_options_end_in_one_line(
    call: Call, fine: Path, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fine.parent)
    code, out, err = call("measure", fine, *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_outputs_are_not_overwritten_unasked(
    call: Call, fine: Path, refined: Path, tmp_path: Path
) -> None:
    output = tmp_path / "m.nc"
    output.write_text("mine")
    assert call("measure", fine, "-o", output)[0] == 2
    assert output.read_text() == "mine"
    assert call("measure", fine, "-o", output, "--overwrite")[0] == 0
    report = tmp_path / "report"
    report.mkdir()
    assert call("compare", fine, refined, "-o", report)[0] == 2
    assert not list(report.iterdir())
    assert call("compare", fine, refined, "-o", fine / "report")[0] == 2


def test_missing_and_damaged_stores_end_in_one_line(call: Call, fine: Path, tmp_path: Path) -> None:
    code, _, err = call("measure", tmp_path / "none.zarr")
    assert (code, err.count("\n")) == (2, 1)
    assert "none.zarr" in err
    chunk = next(p for p in (fine / "spins").iterdir() if p.name.startswith("c"))
    damaged = bytearray(chunk.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    chunk.write_bytes(damaged)
    code, _, err = call("measure", fine)
    assert code == 2
    assert "fine.zarr: variable 'spins'" in err


def test_compare_writes_a_report_and_ends_with_its_path(
    call: Call, fine: Path, refined: Path, tmp_path: Path
) -> None:
    output = tmp_path / "report"
    code, out, _ = call("compare", fine, refined, "-o", output)
    assert code == 0
    assert out.splitlines()[-1] == str(output / "report.html")
    assert "method exact, sweeps 7" in out
    names = {p.name for p in output.iterdir()}
    assert {"report.html", "comparison.csv", "comparison.json", "four_point.pdf"} <= names
    page = (output / "report.html").read_text()
    assert page.count("src='data:image/png;base64,") == 7
    assert not re.search(r"(src|href)=(?!'data:)", page)
    frame = pd.read_csv(output / "comparison.csv")
    line = frame[frame["observable"] == "energy"].iloc[0]
    assert line["residual"] == pytest.approx(line["value"] - line["truth"])
    known = frame[frame["residual_err"] > 0]
    expected = known["residual"] / known["residual_err"]
    assert known["sigmas"].to_numpy() == pytest.approx(expected.to_numpy())
    assert frame.loc[~(frame["residual_err"] > 0), "sigmas"].isna().all()
    found = json.loads((output / "comparison.json").read_text())
    assert found["models"][0]["paired"] is True


def test_tables_alone_leave_no_figure_of_before(
    call: Call, fine: Path, refined: Path, tmp_path: Path
) -> None:
    output = tmp_path / "report"
    words = ("compare", fine, refined, "-o", output, "--overwrite")
    assert call(*words)[0] == 0
    table, page = ((output / name).read_bytes() for name in ("comparison.csv", "report.html"))
    assert list(output.glob("*.png"))
    assert call(*words, "--no-figures")[0] == 0
    assert {p.name for p in output.iterdir()} == {
        "comparison.csv",
        "comparison.json",
        "report.html",
    }
    assert (output / "comparison.csv").read_bytes() == table
    assert b"<img" in page
    assert b"<img" not in (output / "report.html").read_bytes()


def test_compare_prints_json(call: Call, fine: Path, refined: Path, tmp_path: Path) -> None:
    code, out, _ = call(
        "compare", fine, refined, fine, "-o", tmp_path / "r", "--json", "--no-figures"
    )
    assert code == 0
    assert [m["name"] for m in json.loads(out)["models"]] == ["refined", "fine"]


def test_workers_of_dask_compare_as_threads_do(
    call: Call, fine: Path, refined: Path, tmp_path: Path
) -> None:
    """Also samples with their parents, which the workers read from the truth."""
    pytest.importorskip("distributed")
    words = ("compare", fine, refined, fine, "-o", tmp_path / "r", "--json", "--no-figures")
    _, out, _ = call(*words)
    code, by_dask, err = call(*words, "--overwrite", "--dask", "local:1")
    assert code == 0, err
    assert json.loads(by_dask) == json.loads(out)
    code, _, err = call(*words, "--overwrite", "--dask", "local:1", "--threads", 2)
    assert (code, err.count("\n")) == (2, 1)


def test_compare_needs_a_store(call: Call, fine: Path, tmp_path: Path) -> None:
    code, _, err = call("compare", fine, "-o", tmp_path / "r")
    assert code == 2
    assert "STORES" in err


def test_paths_and_output_that_fail_take_one_line(
    call: Call, fine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    for path in ("loop", "dangling", "x" * 300):
        for args in (["measure", tmp_path / path], ["compare", fine, tmp_path / path, "-o", "r"]):
            code, _, err = call(*args)
            assert (code, err.count("\n")) == (2, 1), err
        code, _, err = call("coarsen", fine, "--factor", 2, "-o", tmp_path / path)
        assert code == (3 if path == "dangling" else 2)
        assert err.count("\n") == 1

    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("click.echo", lambda *a, file=None, **k: print(*a) if file else full())
    code, out, _ = call("measure", fine, "--json")
    assert (code, out) == (3, "error: output: No space left on device\n")


def test_standard_output_on_a_full_device(fine: Path) -> None:
    command = [sys.executable, "-c", "from skild_phys.cli import run; run()", "measure", str(fine)]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 3
    assert ended.stderr.endswith("error: output: No space left on device\n")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("rule", ["block_mean", "majority"])
def test_a_coarse_lattice_of_one_site(call: Call, fine: Path, tmp_path: Path, rule: str) -> None:
    coarse = tmp_path / "coarse.zarr"
    assert call("coarsen", fine, "--factor", SIDE, "--rule", rule, "-o", coarse)[0] == 0
    code, out, err = call("measure", coarse, "--json")
    assert code == 0, err
    names = {record["observable"] for record in json.loads(out)["observables"]}
    assert "magnetization_squared" in names
    assert not names & {"correlation_length", "energy", "specific_heat"}
    assert call("measure", coarse)[0] == 0
    code, _, err = call("compare", coarse, coarse, "-o", tmp_path / "report")
    assert code == 0, err
    assert "Warning" not in err


@pytest.mark.parametrize("rule", ["majority", "decimate"])
def test_coarse_spins_have_no_energy(call: Call, fine: Path, tmp_path: Path, rule: str) -> None:
    coarse = tmp_path / "coarse.zarr"
    assert call("coarsen", fine, "--factor", 2, "--rule", rule, "-o", coarse)[0] == 0
    found = json.loads(call("measure", coarse, "--json")[1])
    assert not {"energy", "specific_heat"} & {r["observable"] for r in found["observables"]}


@pytest.mark.filterwarnings("error")
def test_lattices_without_spread_raise_no_warning(call: Call, tmp_path: Path) -> None:
    striped = np.ones((6, SIDE, SIDE), dtype=np.int8)
    striped[:, ::2] = -1
    places = {"chain": np.arange(6) % 2, "draw": np.arange(6) // 2}
    for name, spins in (("equal", np.ones_like(striped)), ("zero", striped)):
        path = save(tmp_path / f"{name}.zarr", spins, **places)
        code, _, err = call("measure", path, "--json")
        assert (code, err) == (0, "")
    pair = save(tmp_path / "two.zarr", striped[:2], chain=np.zeros(2, int), draw=np.arange(2))
    assert call("measure", pair)[::2] == (0, "")


def test_a_lattice_store_is_not_replaced_by_a_measurement(
    call: Call, fine: Path, refined: Path
) -> None:
    code, _, err = call("measure", fine, "-o", refined, "--overwrite")
    assert (code, err.count("\n")) == (2, 1)
    assert "no store of lattices" in err
    assert call("measure", refined, "--json")[0] == 0


def test_only_a_zarr_group_is_replaced_by_a_measurement(
    call: Call, fine: Path, tmp_path: Path
) -> None:
    """Planted, seen to fail: any folder of that name (the thesis was gone)."""
    output = tmp_path / "my.zarr"
    command = ("measure", fine, "--only", "energy", "-o", output, "--overwrite")
    output.mkdir()
    for _ in range(2):  # an empty folder, then the measurement before
        assert call(*command)[0] == 0
        assert "energy" in xr.open_zarr(output, consolidated=False)
    (output / "thesis.tex").write_text("mine")
    code, _, err = call(*command)
    assert (code, err.count("\n")) == (2, 1)
    assert "a Zarr group with nothing else" in err
    assert (output / "thesis.tex").read_text() == "mine"


@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_is_no_agreement(call: Call, fine: Path, tmp_path: Path) -> None:
    """For equal configurations S(k) is 0, and ratios to it are infinite."""
    equal = save(tmp_path / "equal.zarr", np.ones((N, SIDE, SIDE), np.int8))
    assert call("measure", equal, "-o", tmp_path / "m")[0] == 0
    code, out, err = call("compare", equal, fine, "-o", tmp_path / "r", "--json")
    assert code == 0, err
    said = json.loads(out)["models"][0]["verdict"]
    assert "S(k) is off in" in said
    assert "S(k) agrees" not in said


def test_a_truth_beside_itself_and_at_another_temperature(
    call: Call, fine: Path, tmp_path: Path
) -> None:
    warm = tmp_path / "warm.zarr"
    save_model(warm, "ising2d", (SIDE, SIDE))
    code, out, _ = call("compare", fine, fine, warm, "-o", tmp_path / "r", "--json", "--no-figures")
    assert code == 0
    same, other = json.loads(out)["models"]
    assert same["paired"]
    assert same["notes"] == ["this is the truth itself"]
    assert "its temperature is 1.5, the truth's 2.269185" in other["notes"][-1]


def test_names_are_no_markup(call: Call, fine: Path, tmp_path: Path) -> None:
    odd = tmp_path / "m$\\foo$[red].zarr"
    shutil.copytree(fine, odd)
    code, out, err = call("compare", fine, odd, "-o", tmp_path / "report")
    assert code == 0, err
    assert "m$\\foo$[red] - truth" in out
    assert "m$\\foo$[red].zarr" in call("measure", odd)[1]


def save_model(path: Path, name: str, shape: tuple[int, ...], **attrs: object) -> np.ndarray:
    """Write lattices of a model that differ in order from sample to sample; return them."""
    model, rng = MODELS[name], np.random.default_rng(41)
    order = rng.uniform(0.2, 0.9, (N, *[1] * len(shape)))
    index = np.where(rng.random((N, *shape)) < order, 0, rng.integers(0, len(model.values), shape))
    lattices = np.array(model.values, dtype=np.int8)[index]
    places = {"chain": np.arange(N) % 2, "draw": np.arange(N) // 2}
    with create_store(
        path, field=model.field, n_samples=N, shape=shape, chunk=8, variables=tuple(places),
        attrs={"model": name, "temperature": 1.5, **attrs},
        q=len(model.values) if model.field == "states" else 0,
    ) as writer:  # fmt: skip
        writer.commit({model.field: lattices, **places})
    return lattices


@pytest.mark.parametrize(
    ("name", "shape"), [("ising3d", (4, 6, 5)), ("potts3", (6, 8)), ("potts2", (8, 8))]
)
def test_measure_other_models(
    call: Call, tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    path = tmp_path / "a.zarr"
    lattices = save_model(path, name, shape)
    model, sites = MODELS[name], int(np.prod(shape))
    e, m = model.energy(lattices), model.order_parameter(lattices)
    code, out, err = call("measure", path, "--json")
    assert code == 0, err
    found = {o["observable"]: o for o in json.loads(out)["observables"]}
    wanted = {
        "energy": e.mean(),
        "specific_heat": sites * e.var() / 1.5**2,
        "magnetization": m.mean(),
        "abs_magnetization": np.abs(m).mean(),
        "magnetization_squared": (m**2).mean(),
        "magnetization_fourth": (m**4).mean(),
        "binder_cumulant": 1 - (m**4).mean() / (3 * (m**2).mean() ** 2),
    }
    if model.field == "spins":
        wanted["susceptibility"] = sites * (m**2).mean()
    else:  # of the vector of shares, as S(0) and the mean size of FK clusters
        shares = np.stack([(lattices == a).mean((1, 2)) for a in model.values])
        q = len(model.values)
        wanted["susceptibility"] = sites * ((q * (shares**2).sum(0) - 1) / (q - 1)).mean()
    first = next(o for o in json.loads(out)["observables"] if o["observable"] == "structure_factor")
    assert first["value"] == pytest.approx(wanted["susceptibility"])
    assert {k: found[k]["value"] for k in wanted} == pytest.approx(wanted)
    assert all(found[k]["err"] > 0 for k in wanted)
    for k in wanted:  # tau below 1/2 of so few is unknown
        assert found[k]["n_eff"] <= N
        assert found[k]["tau_int"] is None or found[k]["tau_int"] >= 0.5
    assert {"two_point_radial", "structure_factor", "fk_cluster_density"} <= set(found)
    assert ("connected_four_point" in found) == (model.field == "spins")
    code, out, err = call("measure", path)
    assert code == 0, err
    assert f"{N} configurations of {'x'.join(map(str, shape))}" in out
    for text in ("energy", "binder cumulant", "G(r, 0)", "S(k)", "Gamma method"):
        assert text in out
    for output in ("m.nc", "m.csv"):
        assert call("measure", path, "-o", tmp_path / output)[0] == 0
    with xr.open_dataset(tmp_path / "m.nc", engine="scipy") as data:
        assert float(data["energy"]) == pytest.approx(e.mean())
        assert data["structure_factor_full"].dims == ("kz", "ky", "kx")[-len(shape) :]


def test_potts2_has_isings_energy_in_theory(call: Call, tmp_path: Path) -> None:
    """e = (e_Ising(2 T) - 2) / 2; other q have no theory."""
    for name, shape in (("potts2", (8, 8)), ("potts2", (8, 6)), ("potts3", (8, 8))):
        path = tmp_path / f"{name}-{shape[1]}.zarr"
        save_model(path, name, shape)
        records = json.loads(call("measure", path, "--json")[1])["observables"]
        known = {r["observable"]: r["theory"] for r in records if r["theory"] is not None}
        assert bool(known) == (name == "potts2")
        if known:
            assert known["energy"] == pytest.approx((kaufman_energy(shape, 3.0) - 2.0) / 2.0)
    assert "Kaufman, of the Ising model at 2 T" in call("measure", tmp_path / "potts2-8.zarr")[1]
    assert "Kaufman" not in call("measure", tmp_path / "potts3-8.zarr")[1]


@pytest.mark.parametrize(("name", "shape"), [("ising3d", (4, 4, 4)), ("potts3", (8, 8))])
def test_coarse_stores_of_other_models(
    call: Call, tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    fine = tmp_path / "fine.zarr"
    save_model(fine, name, shape)
    for rule in ("block_mean", "majority", "decimate"):
        coarse = tmp_path / f"{rule}.zarr"
        assert call("coarsen", fine, "--factor", 2, "--rule", rule, "-o", coarse)[0] == 0
        code, out, err = call("measure", coarse, "--json")
        if (name, rule) == ("potts3", "block_mean"):
            assert code == 2
            assert err.count("\n") == 1
            assert "variable 'state_count': only spins" in err
            continue
        assert code == 0, err
        names = {record["observable"] for record in json.loads(out)["observables"]}
        assert "magnetization_squared" in names
        assert not names & {"energy", "specific_heat"}
    if name == "ising3d":
        fine_m, coarse_m = (
            next(
                r["value"]
                for r in json.loads(call("measure", path, "--json")[1])["observables"]
                if r["observable"] == "magnetization"
            )
            for path in (fine, tmp_path / "block_mean.zarr")
        )
        assert coarse_m == pytest.approx(fine_m, abs=1e-14)


@pytest.mark.parametrize(("name", "shape"), [("ising3d", (4, 4, 4)), ("potts3", (8, 8))])
@pytest.mark.parametrize("rule", ["block_mean", "majority"])
def test_compare_other_models(
    call: Call, tmp_path: Path, name: str, shape: tuple[int, ...], rule: str
) -> None:
    """A fill agrees with the coarse lattice; the report has no figure that does not apply."""
    fine, coarse, filled = (tmp_path / f"{n}.zarr" for n in ("fine", "coarse", "filled"))
    save_model(fine, name, shape)
    assert call("coarsen", fine, "--factor", 2, "--rule", rule, "-o", coarse)[0] == 0
    assert call("refine", coarse, "--method", "exact", "--sweeps", 1, "-o", filled)[0] == 0
    report = tmp_path / "report"
    words = ("compare", fine, filled, "--coarse", coarse, "-o", report, "--json")
    drawn = rule == "block_mean"
    code, out, err = call(*words, *([] if drawn else ["--no-figures"]))
    assert code == 0, err
    model = json.loads(out)["models"][0]
    assert model["paired"] is True
    found = {r["observable"]: r for r in model["residuals"]}
    assert found["coarse_agreement"]["value"] == 1.0
    assert 0 < found["site_agreement"]["value"] < 1
    assert (report / "four_point.png").exists() == (drawn and name == "ising3d")
    assert (report / "clusters.png").exists() == drawn


def test_compare_refuses_what_does_not_fit(call: Call, fine: Path, tmp_path: Path) -> None:
    output = tmp_path / "report"
    for name, shape in (("ising3d", (4, 4, 4)), ("potts3", (SIDE, SIDE))):
        other = tmp_path / f"{name}.zarr"
        save_model(other, name, shape)
        code, out, err = call("compare", fine, other, "-o", output)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        assert f"{name}.zarr' is not accepted; expected lattices of 8x8" in err
    assert not output.exists()


def test_measure_refuses_lattices_that_are_not_of_their_model(call: Call, tmp_path: Path) -> None:
    path = save(tmp_path / "a.zarr", np.ones((2, SIDE, SIDE), np.int8))
    with create_store(
        path, field="spins", n_samples=1, shape=(4, 4), chunk=1, attrs={"model": "ising3d"},
        variables=(), overwrite=True,
    ) as writer:  # fmt: skip
        writer.commit({"spins": np.ones((1, 4, 4), np.int8)})
    code, out, err = call("measure", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "variable 'spins': 2D, which ising3d is not" in err
