"""The commands, from Python: configurations go in and come out as xarray Datasets.

>>> import skild_phys as sp
>>> fine = sp.simulate("ising2d", L=16, T="Tc", samples=8, seed=1)
>>> coarse = sp.coarsen(fine, 2)
>>> coarse["block_sum"].shape
(8, 8, 8)

What goes in is a Dataset, an array, or the path of a store, `.npy` file or Zarr array; what comes
out lies in memory or, with `output`, in a store that the Dataset reads as it is asked for. A run
with `output` that was stopped resumes when it is called again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from skild_phys.errors import BadInput, SkildPhysError, StoreError, check_whole
from skild_phys.files import AnyPath, printable

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from numpy.typing import NDArray

    from skild_phys.errorbars import ErrorMethod
    from skild_phys.measurement.observables import Observable
    from skild_phys.measurement.report import Report
    from skild_phys.measurement.scaling import Scaling
    from skild_phys.methods import Method, Own
    from skild_phys.models import Model
    from skild_phys.rules import Rule
    from skild_phys.runner import Run
    from skild_phys.skild.equations import Step
    from skild_phys.skild.weights import Weights
    from skild_phys.store import Lattices as Opened
    from skild_phys.store import Source

    Lattices = xr.Dataset | AnyPath
    Arrays = xr.DataArray | NDArray[Any]


def _as_called(function: _F) -> _F:
    """Show no frame below the function that was called for what the user can mend."""

    @functools.wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except SkildPhysError as error:
            raise error.with_traceback(None) from None

    return called  # type: ignore[return-value]


def open_dataset(path: AnyPath) -> xr.Dataset:
    """Open a store as a Dataset that reads configurations as they are asked for.

    All of it is read once here, to see that it is as it was written. Raises StoreError for what
    is no store of this program, or one that is damaged.
    """
    from skild_phys.store import is_store, open_lattices, open_store, store_dataset

    if not is_store(path) and open_lattices(path).n_samples:
        raise StoreError(f"{path}: not a store: 'skild_phys.save' makes one of it")
    open_store(path).verify()
    return store_dataset(path)


def save(lattices: Source, path: AnyPath, **attrs: Any) -> xr.Dataset:
    """Write configurations of any origin to a store, which every command takes, and open it.

    Parameters
    ----------
    lattices : a Dataset, or a part of one; an array (n, y, x) or (n, z, y, x); the path of a
        `.npy` file or a Zarr array of any make.
    path : of the new store. One that lies there is left alone: refused, or what this would write.
    attrs : `model` and `temperature`, if `lattices` has none.

    Examples
    --------
    >>> import numpy as np
    >>> spins = np.random.default_rng(1).choice([-1, 1], (100, 8, 8))
    >>> save(spins, "mine.zarr", model="ising2d", temperature="1.5Tc")["spins"].shape
    (100, 8, 8)
    """
    from skild_phys.store import open_lattices, store_dataset, write_lattices

    write_lattices(open_lattices(lattices, **attrs), path)
    return store_dataset(path)


@_as_called
def simulate(
    model: str | Model = "ising2d", *, L: int | str | Sequence[int], T: float | str,
    samples: int = 100, algorithm: str = "auto", chains: int | None = None,
    every: int | None = None, burn_in: int | None = None, start: str = "cold", seed: int = 0,
    output: AnyPath | None = None, threads: int | None = None, chunk: int | None = None,
    dask: str | None = None, overwrite: bool = False,
) -> xr.Dataset:  # fmt: skip
    """Simulate a model exactly.

    Parameters
    ----------
    model : ising2d, ising3d, potts3, ... (`skild_phys.models.MODELS`), or a `Model` of your own.
    L : side, or sides such as (256, 128), "256x128".
    T : temperature in J / k_B, "Tc", or a multiple such as "1.05Tc".
    samples : of all chains together.
    algorithm : an update of the model (wolff, swendsen-wang, metropolis, multispin for Ising and
        Potts models); auto is the fastest.
    chains : independent chains; None: 4 (multispin: 64).
    every : updates between two samples of a chain; None: two autocorrelation times, measured.
    burn_in : updates before the first; None: 20 autocorrelation times.
    start : cold or hot.
    seed : of every stream.
    output : store to write; None keeps the samples in memory.
    threads, dask : threads of this process (None: one per core), or the address of a dask
        scheduler (`local:N`: N processes). They change no number.
    chunk : samples in a chunk of the store; None: about half a MiB.
    overwrite : replace what lies at `output`.

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
    from skild_phys.simulation.ensemble import simulate as made
    from skild_phys.simulation.spec import SimulationSpec

    spec = SimulationSpec(
        L, T, samples, model, algorithm, chains, every, burn_in, seed=seed, start=start
    )
    run = _run(output, None, "numba", threads, "cpu", chunk, overwrite, dask)
    return _dataset(made(spec, output, run))


@_as_called
def coarsen(
    fine: Lattices | Arrays, factor: int = 4, *, rule: str | Rule | None = None,
    tie_seed: int | None = None,
    output: AnyPath | None = None, threads: int | None = None, chunk: int | None = None,
    dask: str | None = None, overwrite: bool = False,
) -> xr.Dataset:  # fmt: skip
    """Coarse-grain configurations by `factor`.

    Parameters
    ----------
    fine : spins, Potts states or a real field; an array (n, y, x) of -1 and +1 holds spins.
    factor : side of a block; divides the sides of the lattice.
    rule : block_mean (None), majority (no fields), decimate, spectral, or one of your own, by its
        name in `skild_phys.rules.RULES` or itself.
    tie_seed : names the tie-breaks of majority; None: those of `fine`, or 0.
    output, threads, chunk, dask, overwrite : as for `simulate`.

    Returns
    -------
    Dataset with `block_sum` (block means, multiples of 1 / factor^d), `spins` or `field`
    (sample, y / factor, x / factor), and `parent`, the configuration that each came from.

    Examples
    --------
    >>> fine = simulate(L=16, T="Tc", samples=4, seed=1)
    >>> coarsen(fine, 4, rule='majority')["spins"].shape
    (4, 4, 4)
    """
    from skild_phys.simulation.coarsening import coarsen as made
    from skild_phys.store import open_lattices

    fine = _checked("fine", fine)
    opened = open_lattices(fine)
    run = _run(output, fine, "", threads, "cpu", chunk, overwrite, dask)
    return _dataset(made(opened, output, rule, factor, run, tie_seed=tie_seed).lattices)


@_as_called
def refine(
    coarse: Lattices | Arrays, factor: int | None = None, *,
    method: str | Own | Method = "skild", rule: str | Rule | None = None,
    samples_per_input: int = 1, seed: int = 0,
    checkpoint: AnyPath | Weights | None = None, steps: int | None = None,
    sampler: str | Step | None = None,
    lambda_start: float | None = None, lambda_end: float | None = None,
    polish: int = 0, any_system: bool = False,
    sweeps: int | None = None, T: float | str | None = None,
    output: AnyPath | None = None, threads: int | None = None, device: str = "cpu",
    chunk: int | None = None, dask: str | None = None, overwrite: bool = False,
) -> xr.Dataset:  # fmt: skip
    """Make fine configurations from coarse ones alone; coarsened again they give `coarse` back.

    Parameters
    ----------
    coarse : what `coarsen` returned, or its store; or an array (n, y, x), or its file, with
        `rule` and `factor`.
    factor : how much finer; None: as `coarse` says.
    method : skild, exact (constrained Monte Carlo), fill (each block at random), or a function of
        your own, `method(coarse, factor, rng) -> fine` (`skild_phys.methods.Own`), which makes one
        configuration and is checked against `coarse`.
    rule : how an array was coarsened.
    samples_per_input : fine configurations for each coarse one.
    seed : of every stream.
    checkpoint : skild's weights, or their path; None: the shipped ones.
    steps, sampler, lambda_start, lambda_end : skild's chain: network evaluations, a
        sampler by name or a step of your own (`equations.Step`), and where it goes
        (`skild_phys.skild.chain.Chain`).
    polish : Monte Carlo sweeps after skild.
    any_system : let skild refine what the weights were not made for.
    sweeps : of exact; None: 20 autocorrelation times, measured.
    T : temperature for exact and polish; None: as `coarse` says.
    device : cpu or cuda.
    output, threads, chunk, dask, overwrite : as for `simulate`.

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
    from skild_phys import methods
    from skild_phys.skild.coarse import open_coarse

    how = methods.method_of(
        method, checkpoint=checkpoint, steps=steps, sampler=sampler,
        lambda_start=lambda_start, lambda_end=lambda_end, polish=polish,
        any_system=any_system, sweeps=sweeps, T=T,
    )  # fmt: skip
    coarse = _checked("coarse", coarse)
    run = _run(output, coarse, "torch", threads, device, chunk, overwrite, dask)
    opened = open_coarse(coarse, factor, rule, spins=how.spins)
    made = methods.refine(opened, output, how, run, seed=seed, samples_per_input=samples_per_input)
    return _dataset(made.filled.lattices)


@_as_called
def generate(
    *, L: int | Sequence[int] | None = None, samples: int | None = None, seed: int = 0,
    truth: Lattices | None = None, factor: int | None = None, split: str | None = None,
    checkpoint: AnyPath | Weights | None = None, steps: int | None = None,
    sampler: str | Step | None = None,
    lambda_start: float | None = None, lambda_end: float | None = None,
    output: AnyPath | None = None, threads: int | None = None, device: str = "cpu",
    chunk: int | None = None, dask: str | None = None, overwrite: bool = False,
) -> xr.Dataset:  # fmt: skip
    """Make configurations from noise, or by the paper's protocol from a truth.

    Parameters
    ----------
    L : side, or sides (Ly, Lx) or (Lz, Ly, Lx), from noise.
    samples : how many; None: 100, or all of `truth`.
    truth, factor : each chain starts from the forward marginal of a true configuration, where
        refinement by `factor` would start.
    split : train or test, for a `truth` of images.
    seed, checkpoint, ..., overwrite : as for `refine`.

    Examples
    --------
    >>> generate(L=16, samples=2, seed=1)["spins"].shape
    (2, 16, 16)
    """
    from skild_phys import methods
    from skild_phys.skild.chain import Chain
    from skild_phys.skild.generate import Generation

    truth = None if truth is None else _checked("truth", truth)
    made = Generation(
        methods.weights_of(checkpoint), Chain(steps, sampler, lambda_start, lambda_end),
        L=L, samples=samples, seed=seed, truth=truth, factor=factor, split=split,
    )  # fmt: skip
    run = _run(output, truth, "torch", threads, device, chunk, overwrite, dask)
    return _dataset(made.run(output, run)[0].lattices)


def _run(output: AnyPath | None, source: object, package: str, *how: Any) -> Run:
    """Return the `Run` of threads, device, ...; a store keeps which versions made it."""
    from skild_phys.files import check_output
    from skild_phys.runner import Run, versions

    run = Run(*how)
    if output is None:
        return run
    if not isinstance(output, str | os.PathLike):
        raise BadInput("output", type(output).__name__, "a path")
    inputs = [Path(source)] if isinstance(source, str | os.PathLike) else []
    check_output(Path(output), overwrite=True, inputs=inputs)
    names = ["numpy", "zarr", *filter(None, [package])]
    return dataclasses.replace(run, attrs={"versions": versions(*names)})


def _checked(name: str, data: _T) -> _T | str:
    """Return configurations that were handed in; a Dataset that is as its store is its path."""
    import numpy as np
    import xarray as xr

    from skild_phys.store import own_store

    if not isinstance(data, str | os.PathLike | xr.Dataset | xr.DataArray | np.ndarray):
        kind = type(data).__name__
        raise TypeError(f"{name}: expected a Dataset, an array or a path, not {kind}")
    return own_store(data)


def _dataset(lattices: Opened) -> xr.Dataset:
    """Return what was made as a Dataset; that of a store reads as it is asked for."""
    from skild_phys.store import MemoryLattices, store_dataset

    if isinstance(lattices, MemoryLattices):
        return lattices.dataset()
    return store_dataset(lattices.path)


@_as_called
def train(
    lattices: Lattices | Arrays | None = None,
    *,
    output: AnyPath,
    preset: str | None = None,
    config: AnyPath | None = None,
    initial: Weights | AnyPath | None = None,
    threads: int | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    **changes: Any,
) -> Path:
    """Train weights on samples, or on a running simulation; return their path.

    A run that was stopped resumes from the checkpoint beside `output`.

    Parameters
    ----------
    lattices : spins, or a field for a recipe with output = "v"; None: the simulation that the
        recipe names.
    output : of the weights; the curves of loss and quality lie beside it.
    preset, config : the recipe: one that comes with the package, such as ising2d, or a TOML file.
    initial : weights to start from, of the same network, or their path; 'shipped'.
    threads : of this process; another number may round otherwise. None: one per core.
    device, overwrite : as for `refine`.
    changes : keys of the recipe, such as steps, batch, seed, learning_rate, and what ends the run
        early: until = "refined_energy=0.002", plateau = 5 (`Recipe`).
    """
    from skild_phys.images.refine import sample_grid
    from skild_phys.skild.fit import Fit
    from skild_phys.skild.recipe import Recipe
    from skild_phys.skild.train import joined

    for name in changes:
        if name not in Recipe.__dataclass_fields__:
            raise TypeError(f"train() got an unexpected keyword argument '{name}'")
    fit = Fit.of(
        lattices, preset=preset, config=config, initial=initial, threads=threads, **changes
    )
    with joined(device) as ranks:
        fit.run(output, ranks, overwrite=overwrite, sample=sample_grid)
    return Path(output)


@_as_called
def measure(
    lattices: Source,
    *,
    only: str | Sequence[str] | None = None,
    extra: Sequence[Observable] = (),
    offsets: Sequence[Any] = (),
    errors: str | ErrorMethod = "gamma",
    seed: int = 0,
    threads: int = 1,
    dask: str | None = None,
    **attrs: Any,
) -> xr.Dataset:
    """Measure correlations, structure factor, moments, clusters, and observables of your own.

    Parameters
    ----------
    lattices : as for `save`, or the path of a store.
    only : names of observables, in a list or with commas between; by default all.
    extra : observables of your own: functions that `skild_phys.observable` decorates.
    offsets : sets of four sites, each (y, x) or (z, y, x), for the four-point function there.
    errors : gamma, jackknife, bootstrap, or an `ErrorMethod` with its number of bins.
    seed : of the bootstrap, and of the bonds of Fortuin-Kasteleyn clusters.
    threads, dask : as for `simulate`; dask's workers read a store.
    attrs : `model` and `temperature` of an array; `progress`, called with numbers of samples.

    Returns
    -------
    Dataset in float64: every observable NAME with its standard error NAME_err, the integrated
    autocorrelation time NAME_tau_int (and NAME_tau_int_err), the number of independent samples
    NAME_n_eff that it is worth, and, where known, NAME_theory. `to_netcdf` writes it.

    Examples
    --------
    >>> found = measure(simulate(L=16, T="Tc", samples=8, seed=1), only="energy,U4")
    >>> abs(float(found["energy"] - found["energy_theory"])) < 5 * float(found["energy_err"])
    True
    """
    from skild_phys.measurement.measure import measure as measured

    return measured(
        lattices, only=only, extra=extra, offsets=offsets, errors=_errors(errors, seed),
        threads=threads, dask=dask, **attrs,
    )  # fmt: skip


def _errors(errors: str | ErrorMethod, seed: int) -> ErrorMethod:
    from skild_phys.errorbars import ErrorMethod

    seed = check_whole("seed", seed, 0)
    return errors if isinstance(errors, ErrorMethod) else ErrorMethod(errors, seed=seed)


@_as_called
def compare(
    truth: Lattices | Arrays,
    *stores: Lattices | Arrays,
    names: Sequence[str] | None = None,
    coarse: Lattices | Arrays | None = None,
    extra: Sequence[Observable] = (),
    output: AnyPath | None = None,
    errors: str | ErrorMethod = "gamma",
    seed: int = 0,
    no_figures: bool = False,
    **run: Any,
) -> Report:
    """Compare samples with a truth and with exact theory.

    Parameters
    ----------
    truth, stores : Datasets, stores or arrays (n, y, x), whose integers are spins; samples that
        descend from the truth's are compared one by one.
    names : of the stores, without commas; by default of their files, or how they were made.
    coarse : what they were refined from.
    extra, errors, seed : as for `measure`.
    output : directory for report, tables and figures.
    no_figures : only the tables, and a report of these.
    run : threads, dask, overwrite, progress (`skild_phys.runner.Run`).

    Examples
    --------
    >>> fine = simulate(L=16, T="Tc", samples=8, seed=1)
    >>> coarse = coarsen(fine, 4)
    >>> report = compare(fine, refine(coarse, method="exact"), coarse=coarse, no_figures=True)
    >>> report.table[report.table["observable"] == "coarse_agreement"]["value"].tolist()
    [1.0]
    """
    from skild_phys.files import claimed
    from skild_phys.measurement.compare import compare as compared
    from skild_phys.measurement.rows import workers
    from skild_phys.plots.comparison import report_of
    from skild_phys.runner import Run

    with contextlib.ExitStack() as held:
        if not stores:
            raise BadInput("stores", None, "one or more beside the truth")
        how, method = Run(**run), _errors(errors, seed)
        names = [names] if isinstance(names, str) else names
        path = None if output is None else Path(output)
        first, *others = (_opened(data, _name(data, i)) for i, data in enumerate((truth, *stores)))
        if path is not None:
            paths = [Path(p) for p in (truth, *stores, coarse) if isinstance(p, str | os.PathLike)]
            held.enter_context(claimed(path, overwrite=how.overwrite, inputs=paths, directory=True))
        at_work = held.enter_context(workers(how.cores, how.dask))
        found = compared(
            first, others, names=names,
            coarse=None if coarse is None else _opened(coarse, "coarse"), extra=extra,
            errors=method, at_work=at_work, progress=how.progress,
        )  # fmt: skip
        return report_of(found, path, figures=not no_figures, command="skild_phys.compare")


@_as_called
def scaling(
    *stores: Lattices,
    bins: int = 40,
    window: float | None = None,
    omega: float | str | None = None,
    **run: Any,
) -> Scaling:
    """Find Tc and the exponents by finite-size scaling of two sizes or more.

    Parameters
    ----------
    stores : samples of one model on lattices with equal sides, at a known temperature; those of
        one size at several temperatures are joined. A few thousand of each size, near Tc, are
        needed.
    bins : of the jackknife, for each size.
    window : largest |T / Tc - 1| L^(1/nu) of the points of a collapse; by default the widest of
        1, 0.7, 0.5, 0.35 with p >= 0.1.
    omega : add fits with corrections L^-omega, or `fit` to fit it.
    run : threads, progress.

    Returns
    -------
    `Scaling`: crossings, exponents, collapses, each with its error and chi^2; `warnings()` says
    which fits are poor, `skild_phys.plots.measurement.scaling_figure` draws it.
    """
    from skild_phys.measurement.scaling import scaling as scaled

    opened = [_opened(data, _name(data, 1)) for data in stores]
    return scaled(opened, bins=bins, window=window, omega=omega, **run)


def table(found: xr.Dataset | Report) -> pd.DataFrame:
    """Return what `measure` or `compare` returned as a tidy table.

    A measurement has one line per observable and distance: observable, at, unit, value, err,
    tau_int, tau_int_err, n_eff, theory (`Dataset.to_dataframe` would make the product of all
    dimensions). For a comparison it is `Report.table`.

    Examples
    --------
    >>> found = table(measure(simulate(L=16, T="Tc", samples=8, seed=1)))
    >>> found.set_index("observable").loc["energy", "unit"]
    'J'
    """
    from skild_phys.measurement.report import Report
    from skild_phys.measurement.tables import Estimates

    return found.table if isinstance(found, Report) else Estimates(found).table()


def _name(data: object, i: int) -> str:
    """Return what the truth (0) or a store is called: as its file, or how it was made."""
    source = data if isinstance(data, str | os.PathLike) else None
    if source := source or getattr(data, "encoding", {}).get("source"):
        return printable(Path(str(source)).resolve().stem)
    attrs = getattr(data, "attrs", {})
    return str(attrs.get("method") or attrs.get("algorithm") or "store") if i else "truth"


def _opened(data: Lattices | Arrays, name: str) -> Opened:
    """Open samples of any origin; a Dataset that is as its store is that store."""
    from skild_phys.store import open_lattices, own_store

    data = own_store(data)
    opened = open_lattices(data)
    if not isinstance(data, str | os.PathLike):
        opened.path = Path(f"{name}.zarr")
    return opened
