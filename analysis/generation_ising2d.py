"""Are lattices that SKILD makes from noise critical Ising lattices?

Generated lattices of 64^2 and 128^2 beside as many simulated ones and the exact theory: energy and
specific heat, |m|, chi, U4, xi / L, S(k), the connected four-point function and 3x3 patterns.
The report of each size, with plots, lies in the folder given.

    python analysis/generation_ising2d.py runs/generation 500    -> generation_ising2d.csv

The second argument is the number of lattices of 64^2; there are half as many of 128^2.
"""

# %% What is run
import sys
from pathlib import Path

import pandas as pd
from commands import kept, skild_phys

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/generation")
MANY = int(sys.argv[2]) if len(sys.argv) > 2 else 500
CSV = Path(__file__).with_suffix(".csv")
SEED = 20270107


# %% Lattices and reports
FOLDER.mkdir(parents=True, exist_ok=True)
rows = []
for side, n in ((64, MANY), (128, MANY // 2)):
    truth, made = FOLDER / f"simulated{side}-{n}.zarr", FOLDER / f"skild{side}-{n}.zarr"
    skild_phys("simulate", "--L", side, "--T", "Tc", "-n", n, "--chains", 8, "--seed", SEED,
               "-o", truth)  # fmt: skip
    words = ("generate", "--L", side, "-n", n, "-o", made)
    seconds = kept(made.with_suffix(".json"), skild_phys, *words)["seconds_per_lattice"]
    report = FOLDER / f"report{side}"
    skild_phys("compare", truth, made, "-o", report, "--overwrite")
    table = pd.read_csv(report / "comparison.csv")
    rows.append(table.assign(L=side, lattices=n, seconds=seconds))
    pd.concat(rows).to_csv(CSV, index=False, float_format="%.6g")
print(CSV)
