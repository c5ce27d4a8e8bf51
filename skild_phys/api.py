"""What the commands do, from Python: lattices go in and come out as xarray Datasets.

>>> import skild_phys as sp
>>> fine = sp.simulate("ising2d", L=16, T="Tc", samples=8, seed=1)
>>> coarse = sp.coarsen(fine, 2)
>>> coarse["block_sum"].shape
(8, 8, 8)

Each function but `measure` runs the command of its name: further keywords are its options, with `_`
for `-` (`burn_in=100` is `--burn-in 100`), and what it raises says what the command would say. What
goes in is a Dataset, an array, or the path of a store, `.npy` file or Zarr array; what comes out
lies in memory or, with `output`, in a store that the Dataset reads as it is asked for. A long run
with `output` resumes where it stopped.
"""

from __future__ import annotations

import contextlib
import html
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skild_phys.errors import Interrupted, as_in_python, check_whole
from skild_phys.files import AnyPath

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from numpy.typing import NDArray

    from skild_phys.errorbars import ErrorMethod
    from skild_phys.measurement.compare import Comparison
    from skild_phys.store import Source

    Lattices = xr.Dataset | AnyPath
    Arrays = xr.DataArray | NDArray[Any]


def open_dataset(path: AnyPath) -> xr.Dataset:
    """Open a store as a Dataset that reads lattices as they are asked for.

    All of it is read once here, to see that it is as it was written. Raises StoreError for what
    is no store of this program, or one that is damaged.
    """
    import xarray as xr

    from skild_phys.errors import StoreError
    from skild_phys.store import is_store, open_lattices, open_store, zarr_folder
    from skild_phys.store.dataset import as_text

    if not is_store(path) and open_lattices(path).n_samples:
        raise StoreError(f"{path}: not a store: 'skild_phys.save' makes one of it")
    open_store(path).verify()
    data: xr.Dataset = xr.open_zarr(zarr_folder(path, read_only=True), chunks=None)
    data.encoding["source"] = str(path)
    return data.assign_attrs(as_text(data.attrs))


def save(lattices: Source, path: AnyPath, **attrs: Any) -> xr.Dataset:
    """Write lattices of any origin to a store, which every command takes, and open it.

    Parameters
    ----------
    lattices : a Dataset, or a part of one; an array (n, y, x) or (n, z, y, x); the path of a
        `.npy` file or a Zarr array of any make.
    path : of the new store. One that lies there is left alone: refused, or what this would write.
    attrs : what is known of lattices that do not say it: `model`, `temperature`.

    Examples
    --------
    >>> import numpy as np
    >>> spins = np.random.default_rng(1).choice([-1, 1], (100, 8, 8))
    >>> save(spins, "mine.zarr", model="ising2d", temperature="1.5Tc")["spins"].shape
    (100, 8, 8)
    """
    from skild_phys.store import open_lattices
    from skild_phys.store.dataset import write_lattices

    write_lattices(open_lattices(lattices, **attrs), path)
    return open_dataset(path)


def simulate(
    model: str = "ising2d",
    *,
    L: int | str | Sequence[int],
    T: float | str,
    samples: int = 100,
    seed: int = 0,
    output: AnyPath | None = None,
    **options: object,
) -> xr.Dataset:
    """Simulate a model exactly.

    Parameters
    ----------
    model : ising2d, ising3d, potts3, ... (`skild_phys.models.MODELS`).
    L : side, or sides such as (256, 128), "256x128".
    T : temperature in J / k_B, "Tc", or a multiple such as "1.05Tc".
    samples : number of lattices.
    seed : of every stream.
    output : store to write; None keeps the lattices in memory.
    options : of `skild-phys simulate`: algorithm, chains, every, burn_in, start, threads, ...

    Returns
    -------
    Dataset with `spins` (sample, y, x) int8 of -1 and +1 (or `states`), `energy` and
    `magnetization` (sample) per site, `chain` and `draw`.

    Examples
    --------
    >>> warm = simulate("potts3", L=(8, 16), T="1.05Tc", samples=4, seed=1)
    >>> warm["states"].shape
    (4, 8, 16)
    """
    sides = "x".join(map(str, L)) if isinstance(L, Sequence) and not isinstance(L, str) else L
    given = {"model": model, "L": sides, "T": T, "samples": samples, "seed": seed}
    return _made("simulate", [], output, given | options)


def coarsen(
    fine: Lattices | Arrays,
    factor: int = 4,
    *,
    rule: str = "block_mean",
    output: AnyPath | None = None,
    **options: object,
) -> xr.Dataset:
    """Coarse-grain lattices by `factor`.

    Parameters
    ----------
    fine : spins, Potts states or a real field; an array (n, y, x) of -1 and +1 is of spins.
    factor : side of a block; divides the lattice.
    rule : block_mean, majority (not of fields), decimate or spectral.
    output : store to write; None keeps the lattices in memory.
    options : of `skild-phys coarsen`: tie_seed, overwrite.

    Returns
    -------
    Dataset with `block_sum` (block means, multiples of 1 / factor^d), `spins` or `field`
    (sample, y / factor, x / factor), and `parent`, the lattice that each came from.

    Examples
    --------
    >>> fine = simulate(L=16, T="Tc", samples=4, seed=1)
    >>> coarsen(fine, 4, rule="majority")["spins"].shape
    (4, 4, 4)
    """
    given = {"factor": factor, "rule": rule}
    return _made("coarsen", [("fine", fine)], output, given | options)


def refine(
    coarse: Lattices | Arrays,
    factor: int | None = None,
    *,
    method: str = "skild",
    seed: int = 0,
    output: AnyPath | None = None,
    **options: object,
) -> xr.Dataset:
    """Make fine lattices from coarse ones alone; coarsened again they give `coarse` back.

    Parameters
    ----------
    coarse : what `coarsen` returned, or its store; or an array (n, y, x), or its file, with
        `rule` and `factor`.
    factor : how much finer; None is what `coarse` says.
    method : skild, exact (constrained Monte Carlo) or fill (each block at random).
    seed : of every stream.
    output : store to write; None keeps the lattices in memory.
    options : of `skild-phys refine`: checkpoint, steps, sampler, samples_per_input, threads, ...

    Returns
    -------
    Dataset with `spins` (sample, y, x) int8, energies, and `parent`.

    Examples
    --------
    >>> coarse = coarsen(simulate(L=16, T="Tc", samples=4, seed=1), 4)
    >>> refined = refine(coarse, seed=2)
    >>> refined["spins"].shape
    (4, 16, 16)
    >>> again = refined["spins"].coarsen(y=4, x=4).mean()
    >>> bool((again == coarse["block_sum"]).all())
    True
    """
    given = {"factor": factor, "method": method, "seed": seed}
    return _made("refine", [("coarse", coarse)], output, given | options)


def generate(
    *,
    L: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    output: AnyPath | None = None,
    **options: object,
) -> xr.Dataset:
    """Make `samples` lattices of side L from noise; options are those of `skild-phys generate`.

    Examples
    --------
    >>> generate(L=16, samples=2, seed=1)["spins"].shape
    (2, 16, 16)
    """
    given = {"L": L, "n": samples, "seed": seed}
    return _made("generate", [], output, given | options)


def train(lattices: Lattices | Arrays | None = None, *, output: AnyPath, **options: object) -> Path:
    """Train weights on lattices, or on a running simulation; return their path.

    Options are those of `skild-phys train`: preset, config, steps, batch, seed, side, ...
    The run goes on from its checkpoint when it is called again.
    """
    from skild_phys.cli import call

    inputs = [] if lattices is None else [("lattices", lattices)]
    with _on_disk(inputs, options, repeats=True) as (paths, told):
        call("train", paths, {"output": output} | told)
    return Path(output)


def measure(
    lattices: Source,
    *,
    only: str | Sequence[str] | None = None,
    errors: str | ErrorMethod = "gamma",
    seed: int = 0,
    threads: int = 1,
    **attrs: Any,
) -> xr.Dataset:
    """Measure correlations, structure factor and moments.

    Parameters
    ----------
    lattices : a Dataset, an array (n, y, x) or (n, z, y, x), or the path of either, or of a store.
    only : names of observables, in a list or with commas between; by default all.
    errors : 'gamma', 'jackknife', 'bootstrap', or an `ErrorMethod` with its number of bins.
    seed : of the bootstrap, and of the bonds of Fortuin-Kasteleyn clusters.
    threads : change no number.
    attrs : `model` and `temperature` of an array.

    Returns
    -------
    Dataset in float64, see `skild_phys.measurement.measure.measure`; `to_netcdf` writes it.

    Examples
    --------
    >>> found = measure(simulate(L=16, T="Tc", samples=8, seed=1), only="energy,U4")
    >>> abs(float(found["energy"] - found["energy_theory"])) < 5 * float(found["energy_err"])
    True
    """
    from skild_phys.errorbars import ErrorMethod
    from skild_phys.measurement.measure import measure as measured

    with as_in_python():
        threads, seed = check_whole("threads", threads), check_whole("seed", seed, 0)
        names = [name.strip() for name in only.split(",")] if isinstance(only, str) else only
        method = errors if isinstance(errors, ErrorMethod) else ErrorMethod(errors, seed=seed)
        return measured(lattices, only=names, errors=method, seed=seed, threads=threads, **attrs)


@dataclass(frozen=True)
class Report:
    """A comparison as a notebook shows it.

    Attributes
    ----------
    comparison : all that was found.
    html : the page, which needs no other file.
    """

    comparison: Comparison
    html: str

    @property
    def table(self) -> pd.DataFrame:
        """One line a model, observable and place: values, errors, residuals, theory."""
        from skild_phys.measurement.report import table

        return table(self.comparison)

    def _repr_html_(self) -> str:
        """Return the page in a frame, so that its style stays its own."""
        return (
            f'<iframe srcdoc="{html.escape(self.html, quote=True)}" width="100%" height="720" '
            'style="border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        from skild_phys.measurement.report import ranking, verdict

        found = self.comparison
        lines = []
        for model in found.stores:
            lines.append(f"{model.name}: {verdict(found, model)}")
            lines += [f"  note: {note}" for note in model.notes]
        return "\n".join(lines + ranking(found))


def compare(
    truth: Lattices | Arrays,
    *models: Lattices | Arrays,
    names: Sequence[str] | None = None,
    coarse: Lattices | None = None,
    output: AnyPath | None = None,
    **options: object,
) -> Report:
    """Compare lattices with a truth and with exact theory.

    Parameters
    ----------
    truth, models : lattices, or arrays (n, y, x) of them, whose integers are spins; models that
        descend from the truth's are compared one by one.
    names : of the models, without commas; by default of their files, or how they were made.
    coarse : what the models were refined from.
    output : directory for report, tables and figures.
    options : of `skild-phys compare`: errors, bins, resamples, seed, no_figures, threads,
        overwrite.

    Examples
    --------
    >>> fine = simulate(L=16, T="Tc", samples=8, seed=1)
    >>> coarse = coarsen(fine, 4)
    >>> report = compare(fine, refine(coarse, method="exact"), coarse=coarse, no_figures=True)
    >>> report.table[report.table["observable"] == "coarse_agreement"]["value"].tolist()
    [1.0]
    """
    from skild_phys.cli import call
    from skild_phys.measurement import REPORT

    inputs = [*zip(_names([truth, *models]), [truth, *models])]
    told_of = options | {"coarse": coarse}
    with _on_disk(inputs, told_of) as (paths, told), tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "report" if output is None else output
        called = {} if names is None else {"names": ",".join(names)}
        found = call("compare", paths, {"output": where} | called | told)
        where = Path(where)
        return Report(found, (where / REPORT).read_text())


def table(found: xr.Dataset | Report) -> pd.DataFrame:
    """Return a measurement or a comparison as a tidy table.

    Parameters
    ----------
    found : what `measure` or `compare` returned.

    Returns
    -------
    Of a measurement one line an observable and place: observable, at, unit, value, err, tau_int,
    tau_int_err, n_eff, theory (`Dataset.to_dataframe` would make the product of all dimensions).
    Of a comparison `Report.table`.

    Examples
    --------
    >>> found = table(measure(simulate(L=16, T="Tc", samples=8, seed=1)))
    >>> found.set_index("observable").loc["energy", "unit"]
    'J'
    """
    from skild_phys.measurement.report import estimates_table

    return found.table if isinstance(found, Report) else estimates_table(found)


def _names(inputs: Sequence[Lattices | Arrays]) -> list[str]:
    """Return names of the truth and of its models: of their files, or how they were made."""
    from skild_phys.measurement.compare import numbered

    made: list[str] = []
    for data in inputs:
        attrs = getattr(data, "attrs", {})
        default = str(attrs.get("method") or attrs.get("algorithm") or "model") if made else "truth"
        source = getattr(data, "encoding", {}).get("source")
        made.append(Path(source).stem if source else default)
    return numbered(made)


def _made(
    command: str,
    inputs: Sequence[tuple[str, Lattices | Arrays]],
    output: AnyPath | None,
    options: dict[str, object],
) -> xr.Dataset:
    """Run a command that writes a store; return what it wrote."""
    from skild_phys.cli import call

    kept = _on_disk(inputs, options, repeats=command == "refine")
    with kept as (paths, told), tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / f"{command}.zarr" if output is None else output
        try:
            call(command, paths, {"output": where} | told)
        except Interrupted:
            if output is not None:
                raise
            raise Interrupted("interrupted: nothing is kept without output=") from None
        data = open_dataset(where)
        if output is not None:
            return data
        data.encoding.pop("source", None)
        return data.load()


@contextlib.contextmanager
def _on_disk(
    inputs: Sequence[tuple[str, object]],
    options: Mapping[str, object],
    *,
    repeats: bool = False,
) -> Iterator[tuple[list[Path], dict[str, object]]]:
    """Yield paths of `inputs`, and `options` with paths in place of data and weights.

    With `repeats` samples of the inputs that are there twice stay.
    """
    import numpy as np
    import xarray as xr

    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        paths = [
            _path_of(name, data, where / str(i), repeats) for i, (name, data) in enumerate(inputs)
        ]
        told = {
            name: _path_of(name, value, where, True)
            if isinstance(value, xr.Dataset | xr.DataArray | np.ndarray)
            or (name in _WEIGHTS and value is not None)
            else value
            for name, value in options.items()
        }
        yield paths, told


_WEIGHTS = ("checkpoint", "from")
"""Options that take weights."""


def _path_of(name: str, data: object, folder: Path, repeats: bool) -> Path:
    """Return the path of what is given: Datasets and DataArrays become Zarr, arrays `.npy`.

    An unchanged Dataset is the store that it was opened from, as far as digests tell.
    """
    import numpy as np
    import xarray as xr

    from skild_phys.store import FIELDS, open_lattices
    from skild_phys.store.dataset import write_lattices, write_numbers

    if isinstance(data, str | os.PathLike):
        return Path(data)
    folder.mkdir(exist_ok=True)
    if isinstance(data, xr.DataArray):
        data = data.to_dataset(name=data.name or "array")
    if isinstance(data, xr.Dataset):
        path = folder / f"{name}.zarr"
        if FIELDS.keys() & data.data_vars.keys():
            write_lattices(open_lattices(data, repeats=repeats), path)
        else:  # the command knows what numbers are whose name does not say it
            write_numbers(open_lattices(data, "field", repeats=True), path)
    elif isinstance(data, np.ndarray):
        path = folder / f"{name}.npy"
        opened = open_lattices(data, "field", repeats=True)
        np.save(path, opened.read(0, opened.n_samples))
    else:
        from skild_phys.skild.weights import Weights, save_weights

        path = folder / f"{name}.safetensors"
        if name not in _WEIGHTS or not isinstance(data, Weights):
            accepted = "weights" if name in _WEIGHTS else "a Dataset, an array"
            raise TypeError(f"{name}: expected {accepted} or a path, not {type(data).__name__}")
        save_weights(path, data)
    return path
