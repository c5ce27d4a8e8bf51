"""What the commands do, from Python: lattices go in and come out as xarray Datasets.

>>> import skild_phys as sp
>>> fine = sp.simulate("ising2d", L=16, T="Tc", samples=8, seed=1)
>>> coarse = sp.coarsen(fine, 2)
>>> coarse["block_sum"].shape
(8, 8, 8)

Each function runs the command of its name: further keywords are the command's options, with `_`
for `-` (`burn_in=100` is `--burn-in 100`), and what it raises says what the command would say. What
goes in is a Dataset, or the path of a store; what comes out lies in memory or, with `output`, in a
store that the Dataset reads as it is asked for. A long run with `output` goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skild_phys.errors import BadInput
from skild_phys.files import AnyPath

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from skild_phys.errorbars import ErrorMethod
    from skild_phys.measurement.compare import Comparison
    from skild_phys.measurement.lattices import Source

    Lattices = xr.Dataset | AnyPath


def open_dataset(path: AnyPath) -> xr.Dataset:
    """Open a store as a Dataset that reads lattices as they are asked for.

    Raises StoreError for what is no store of this program, or one that is damaged.
    """
    import xarray as xr

    from skild_phys.store import open_store

    open_store(path)
    data: xr.Dataset = xr.open_zarr(path, chunks=None)
    return data


def simulate(
    model: str = "ising2d",
    *,
    L: int | str | Sequence[int],
    T: float | str,
    samples: int,
    seed: int = 0,
    output: AnyPath | None = None,
    **options: object,
) -> xr.Dataset:
    """Simulate a model exactly.

    Parameters
    ----------
    model : ising2d, ising3d, potts3, ... (`skild_phys.lattice.models.MODELS`).
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
    """
    sides = "x".join(map(str, L)) if isinstance(L, Sequence) and not isinstance(L, str) else L
    given = {"model": model, "L": sides, "T": T, "samples": samples, "seed": seed}
    return _made("simulate", {}, output, given | options)


def coarsen(
    fine: Lattices,
    factor: int,
    *,
    rule: str = "block_mean",
    output: AnyPath | None = None,
    **options: object,
) -> xr.Dataset:
    """Coarse-grain lattices by `factor`.

    Parameters
    ----------
    fine : lattices of spins, Potts states, or for the rule `spectral` a real field.
    factor : side of a block; divides the lattice.
    rule : block_mean, majority, decimate or spectral.
    output : store to write; None keeps the lattices in memory.
    options : of `skild-phys coarsen`: tie_seed, overwrite.

    Returns
    -------
    Dataset with `block_sum` (block means, multiples of 1 / factor^d), `spins` or `field`
    (sample, y / factor, x / factor), and `parent`, the lattice that each came from.
    """
    given = {"factor": factor, "rule": rule}
    return _made("coarsen", {"fine": fine}, output, given | options)


def refine(
    coarse: Lattices,
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
    coarse : what `coarsen` returned, or the path of a store or an array.
    factor : how much finer; None is what `coarse` says.
    method : skild, exact (constrained Monte Carlo) or fill (each block at random).
    seed : of every stream.
    output : store to write; None keeps the lattices in memory.
    options : of `skild-phys refine`: checkpoint, steps, sampler, samples_per_input, threads, ...

    Returns
    -------
    Dataset with `spins` (sample, y, x) int8, energies, and `parent`.
    """
    given = {"factor": factor, "method": method, "seed": seed}
    return _made("refine", {"coarse": coarse}, output, given | options)


def generate(
    *,
    L: int,
    samples: int,
    seed: int = 0,
    output: AnyPath | None = None,
    **options: object,
) -> xr.Dataset:
    """Make lattices from noise; options are those of `skild-phys generate`."""
    given = {"L": L, "n": samples, "seed": seed}
    return _made("generate", {}, output, given | options)


def train(lattices: Lattices | None = None, *, output: AnyPath, **options: object) -> Path:
    """Train weights on lattices, or on a running simulation; return their path.

    Options are those of `skild-phys train`: preset, config, steps, batch, seed, side, ...
    The run goes on from its checkpoint when it is called again.
    """
    from skild_phys.cli import call

    with _stores({} if lattices is None else {"lattices": lattices}) as paths:
        call("train", paths, {"output": output} | options)
    return Path(output)


def measure(
    lattices: Source,
    *,
    only: str | Sequence[str] | None = None,
    errors: ErrorMethod | None = None,
    seed: int = 0,
    threads: int = 1,
    **attrs: Any,
) -> xr.Dataset:
    """Measure correlations, structure factor and moments; see `skild_phys.measurement.dataset`.

    Takes arrays too, with `model` and `temperature` beside them.
    """
    from skild_phys.measurement.dataset import GAMMA
    from skild_phys.measurement.dataset import measure as measured

    return measured(
        lattices, only=only, errors=errors or GAMMA, seed=seed, threads=threads, **attrs
    )


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
        return self.html

    def __repr__(self) -> str:
        from skild_phys.measurement.report import ranking, verdict

        found = self.comparison
        lines = [f"{model.name}: {verdict(found, model)}" for model in found.models]
        return "\n".join(lines + ranking(found))


def compare(
    truth: Lattices,
    *models: Lattices,
    names: Sequence[str] | None = None,
    coarse: Lattices | None = None,
    output: AnyPath | None = None,
    **options: object,
) -> Report:
    """Compare lattices with a truth and with exact theory.

    Parameters
    ----------
    truth, models : lattices; models that descend from the truth's are compared one by one.
    names : of the models; by default how they were made.
    coarse : what the models were refined from.
    output : directory for report, tables and figures.
    options : of `skild-phys compare`: errors, bins, resamples, seed, threads, overwrite.
    """
    from skild_phys.cli import call
    from skild_phys.cli.compare import REPORT

    if names is not None and len({*names, "truth", "coarse"}) != len(models) + 2:
        raise BadInput("names", names, f"{len(models)} different names, one a model")
    inputs = {"truth": truth} | dict(zip(names or _names(models), models))
    inputs |= {} if coarse is None else {"coarse": coarse}
    with _stores(inputs) as paths, tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "report" if output is None else Path(output)
        beside = {} if coarse is None else {"coarse": paths.pop()}
        found = call("compare", paths, {"output": where} | beside | options)
        return Report(found, (where / REPORT).read_text())


def _names(models: Sequence[Lattices]) -> list[str]:
    """Return how each model was made, numbered where two were made alike."""
    made: list[str] = []
    for model in models:
        attrs = getattr(model, "attrs", {})
        name = str(attrs.get("method") or attrs.get("algorithm") or "model")
        same = sum(other.split(" ")[0] == name for other in made)
        made.append(f"{name} {same + 1}" if same else name)
    return made


def _made(
    command: str, inputs: Mapping[str, Lattices], output: AnyPath | None, options: dict[str, object]
) -> xr.Dataset:
    """Run a command that writes a store; return what it wrote."""
    from skild_phys.cli import call

    with _stores(inputs) as paths, tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / f"{command}.zarr" if output is None else Path(output)
        call(command, paths, {"output": where} | options)
        data = open_dataset(where)
        return data.load() if output is None else data


@contextlib.contextmanager
def _stores(inputs: Mapping[str, Lattices]) -> Iterator[list[Path]]:
    """Yield paths of stores with the lattices of `inputs`; a Dataset is written to one of its name.

    An unchanged Dataset is the store that it was opened from, as far as digests tell.
    """
    import xarray as xr

    from skild_phys.store.dataset import write_dataset

    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, data in inputs.items():
            if not isinstance(data, xr.Dataset):
                paths.append(Path(data))
                continue
            paths.append(Path(folder) / f"{name}.zarr")
            write_dataset(data, paths[-1])
        yield paths
