"""Away from Tc: where do weights that were trained at Tc stop being right?

Lattices of 64^2 (or SIDE) at temperatures around Tc, coarse-grained by 4 and refined with the
shipped weights all the same (`--any-system`; without it the command refuses another temperature,
which is how the package warns). Beside them the exact Monte Carlo at the lattices' own
temperature. What is given is refined minus truth, with paired errors.

    python analysis/temperatures_ising2d.py runs/temperatures 200 64 0.8,0.9,0.95,0.98,0.99,1,...
        -> analysis/temperatures_ising2d.csv
"""

# %% What is run
import sys
from pathlib import Path

import pandas as pd

import skild_phys as sp

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/temperatures")
N, SIDE = map(int, sys.argv[2:4]) if len(sys.argv) > 2 else (200, 64)
CSV = Path(__file__).with_suffix(".csv")
SEED, FACTOR = 20270311, 4
RELATIVE = (
    sys.argv[4] if len(sys.argv) > 4 else "0.8,0.9,0.95,0.98,0.99,1,1.01,1.02,1.05,1.1,1.2,1.5"
)
KEPT = ("energy", "connected_four_point", "patterns_tv")
FOLDER.mkdir(parents=True, exist_ok=True)

# %% One temperature after the other
tables = []
for relative in map(float, RELATIVE.split(",")):
    fine = FOLDER / f"fine{relative}.zarr"
    sp.simulate("ising2d", L=SIDE, T=f"{relative}Tc", samples=N, seed=SEED, output=fine)
    for rule in ("block_mean", "majority"):
        coarse = FOLDER / f"{rule}{relative}.zarr"
        sp.coarsen(fine, FACTOR, rule=rule, output=coarse)
        models = []
        for method in ("skild", "exact"):
            models.append(FOLDER / f"{method}-{rule}{relative}.zarr")
            beyond = {"any_system": True} if method == "skild" else {}
            sp.refine(coarse, FACTOR, method=method, seed=SEED, output=models[-1], **beyond)
        table = sp.compare(fine, *models, coarse=coarse).table
        table = table[table["observable"].isin(KEPT)]
        method = table["model"].str.split("-").str[0]
        tables.append(table.assign(model=method, rule=rule, relative=relative, n=N))
        pd.concat(tables).to_csv(CSV, index=False, float_format="%.6g")

# %% Where the error passes three of its own
energy = pd.concat(tables).query("observable == 'energy'")
print(energy[["relative", "rule", "model", "residual", "residual_err", "sigmas"]].to_string())
