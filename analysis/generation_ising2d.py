"""Are lattices that SKILD makes from noise critical Ising lattices?

Generated lattices of 64^2 and 128^2 beside as many simulated ones and the exact theory: energy and
specific heat, |m|, chi, U4, xi / L, S(k), the connected four-point function and 3x3 patterns.
The report of each size, with plots, lies in the folder given.

    python analysis/generation_ising2d.py runs/generation 500    -> generation_ising2d.csv

The second argument is the number of lattices of 64^2; there are half as many of 128^2.
"""

# %% What is run
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/generation")
MANY = int(sys.argv[2]) if len(sys.argv) > 2 else 500
CSV = Path(__file__).with_suffix(".csv")
SEED = 20270107


def skild_phys(*words: object) -> dict:
    """Run a command of the package and return what it prints as JSON."""
    command = [sys.executable, "-c", "from skild_phys.cli import run; run()", *map(str, words)]
    print("skild-phys", *words, flush=True)
    done = subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


# %% Lattices and reports
FOLDER.mkdir(parents=True, exist_ok=True)
rows = []
for side, n in ((64, MANY), (128, MANY // 2)):
    truth, made = FOLDER / f"simulated{side}-{n}.zarr", FOLDER / f"skild{side}-{n}.zarr"
    skild_phys("simulate", "--L", side, "--T", "Tc", "-n", n, "--chains", 8, "--seed", SEED,
               "-o", truth)  # fmt: skip
    if not (kept := made.with_suffix(".json")).exists():
        kept.write_text(json.dumps(skild_phys("generate", "--L", side, "-n", n, "-o", made)))
    report = FOLDER / f"report{side}"
    skild_phys("compare", truth, made, "-o", report, "--overwrite")
    table = pd.read_csv(report / "comparison.csv")
    seconds = json.loads(kept.read_text())["seconds_per_lattice"]
    rows.append(table.assign(L=side, lattices=n, seconds=seconds))
    pd.concat(rows).to_csv(CSV, index=False, float_format="%.6g")
print(CSV)
