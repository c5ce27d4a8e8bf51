"""Do configurations from noise follow theory far beyond the lattices of the training?

S(k) in shells and G(r) along the axes of large configurations, over their values in theory: the
torus in the scaling limit, with the infinite lattice's own factor at short distance. Errors are of
a jackknife over configurations; those of a few large ones are rough where waves are long.

    python analysis/large_ising2d.py runs/large --sizes 1024,2048 --lattices 16,4
        -> large_ising2d.csv, .md, and .npz: the first of the largest, as blocks

SIZES are the sides, LATTICES the configurations of each.
"""

# %% What is run
import itertools
import math

import numpy as np
import pandas as pd
from study import Study, kept, signed, skild_phys

import skild_phys as sp
from skild_phys.rules import coarsen
from skild_phys.store import open_store

SEED, SHOWN = 20270113, 512
"""Of the configurations; side of the picture, in blocks, at most."""
PARTS = (0.0, 0.02, 0.1, 0.5, 5.0)
"""Ends of the ranges of k of which the conclusions tell the mean."""


# %% Conclusions
def pooled(own: pd.DataFrame) -> tuple[float, float]:
    """Return the mean ratio of all modes, and its error as if shells were independent."""
    share = own["modes"] / own["modes"].sum()
    return float((share * own["ratio"]).sum()), math.hypot(*share * own["ratio_err"])


def verdict(table: pd.DataFrame) -> list[str]:
    """Return the energy, S(k) over theory in ranges of k, and G(r) over theory, of each size."""
    said = []
    for side, own in table.groupby("L"):
        n, seconds = own["lattices"].iloc[0], own["seconds"].iloc[0]
        of = dict([*own.groupby("observable")])
        energy = of["energy"].iloc[0]
        deviation = signed(energy["value"] - energy["theory"], energy["err"])
        shells, parts = of["structure_factor"], []
        for low, high in itertools.pairwise(PARTS):
            inside = shells[(shells["at"] > low) & (shells["at"] <= high)]
            if len(inside):
                mean, err = pooled(inside)
                parts.append(f"{signed(mean - 1.0, err)} at k = {low:g} to {high:g}")
        pairs = of["two_point_axis"].set_index("at")
        far = sorted({1, 4, 16, 64, side // 4} & {*pairs.index[pairs.index <= side // 4]})
        ratios = [
            f"{signed(pairs.loc[r, 'ratio'] - 1.0, pairs.loc[r, 'ratio_err'])} at r = {r:g}"
            for r in far
        ]
        said += [
            f"{side}^2, {n} configurations from noise, {seconds:.3g} s each: energy minus exact"
            f" {deviation}.",
            f"S(k) over theory, less 1: {', '.join(parts)}.",
            f"G(r) over theory, less 1: {', '.join(ratios)}.",
        ]
    return said


study = Study(__file__, __doc__, verdict, "runs/large", sizes="1024,2048", lattices="16,4")
FOLDER = study.options.folder


# %% One table
def compared(side: int, n: int) -> pd.DataFrame:
    """Return what `n` configurations of a size have, beside theory."""
    made = FOLDER / f"generated{side}-{n}.zarr"
    words = ("generate", "--L", side, "-n", n, "--seed", SEED, "-o", made)
    seconds = kept(made.with_suffix(".json"), skild_phys, *words)["seconds_per_lattice"]
    found = sp.measure(made, only=["energy", "structure_factor", "two_point_axis"])
    tables = []
    for name, along in (("energy", ""), ("structure_factor", "k"), ("two_point_axis", "distance")):
        at = found[along].values if along else [math.nan]
        ends = ("", "_err", "_theory")
        columns = [np.atleast_1d(found[f"{name}{end}"].values) for end in ends]
        own = pd.DataFrame({"at": at} | dict(zip(("value", "err", "theory"), columns)))
        own["modes"] = found["modes"].values if along == "k" else 1
        tables.append(own.assign(observable=name))
    table = pd.concat(tables)
    table["ratio"] = table["value"] / table["theory"]
    table["ratio_err"] = table["err"] / table["theory"].abs()
    return table.assign(L=side, lattices=n, seconds=seconds)


def picture(side: int, n: int) -> np.ndarray:
    """Return the means of blocks of the first configuration, at most SHOWN^2 of them."""
    spins = open_store(FOLDER / f"generated{side}-{n}.zarr").read(0, 1)
    b = side // SHOWN
    return (coarsen(spins, "block_mean", b) if b > 1 else spins)[0].astype(np.int8)


numbers = [[int(one) for one in text.split(",")]
           for text in (study.options.sizes, study.options.lattices)]  # fmt: skip
tables = []
for side, n in zip(*numbers, strict=True):
    tables.append(compared(side, n))
    study.save(pd.concat(tables))
np.savez_compressed(study.csv.with_suffix(".npz"), blocks=picture(side, n))
columns = ["L", "lattices", "seconds", "observable", "at", "value", "err", "theory", "modes"]
study.finish(pd.concat(tables)[[*columns, "ratio", "ratio_err"]])
