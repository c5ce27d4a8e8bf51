"""How well do the shipped weights refine critical Ising lattices, and what does it cost?

Simulated truths (new seeds) are coarsened by each rule and factor and refined from the coarse
store alone: by SKILD, by a random fill of each block, and by the exact conditional Monte Carlo for
as many sweeps as twenty measured autocorrelation times take.
Everything is made in the folder given (25 minutes on two cores); an interrupted run goes on
where it stopped.

    python analysis/refinement_ising2d.py runs/refinement     -> analysis/refinement_ising2d.csv
"""

# %% What is run
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/refinement")
CSV = Path(__file__).with_suffix(".csv")
LATTICES = {128: 512, 256: 48, 512: 12}
SEED = 20260726
RULES, FACTORS = ("block_mean", "majority", "decimate"), (2, 4, 8)
MAIN = (128, "block_mean", 4)
CASES = [(128, rule, factor) for rule in RULES for factor in FACTORS]
CASES += [(side, "block_mean", 4) for side in (256, 512)]
CASES = [case for case in CASES if case != MAIN] + [MAIN]
OTHERS = 96  # lattices of 128^2 for the cases that are only reported


def skild_phys(*words: object) -> dict:
    """Run a command of the package and return what it prints as JSON."""
    command = [sys.executable, "-c", "from skild_phys.cli import run; run()", *map(str, words)]
    print("skild-phys", *words, flush=True)
    done = subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def kept(path: Path, *words: object) -> dict:
    """Like `skild_phys`, but a result that lies at `path` already is read instead."""
    if not path.exists():
        path.write_text(json.dumps(skild_phys(*words)))
    return json.loads(path.read_text())


# %% Truths
FOLDER.mkdir(parents=True, exist_ok=True)
for side, n in LATTICES.items():
    skild_phys("simulate", "--L", side, "--T", "Tc", "-n", n, "--algorithm", "wolff", "--chains", 8,
               "--seed", SEED, "-o", FOLDER / f"fine{side}.zarr")  # fmt: skip
skild_phys("simulate", "--L", 128, "--T", "Tc", "-n", OTHERS, "--algorithm", "wolff", "--chains", 8,
           "--seed", SEED, "-o", FOLDER / "few128.zarr")  # fmt: skip

# %% Refinements and comparisons
rows = []
for side, rule, factor in CASES:
    truth = FOLDER / (
        f"fine{side}.zarr" if side > 128 or (side, rule, factor) == MAIN else "few128.zarr"
    )
    name = f"{side}-{rule}-{factor}x"
    coarse = FOLDER / f"coarse-{name}.zarr"
    skild_phys("coarsen", truth, "--rule", rule, "--factor", factor, "-o", coarse)
    seconds, sweeps, stores = {}, {"fill": 0}, []
    for method in ("skild", "fill", "exact"):
        store = FOLDER / f"{method}-{name}.zarr"
        made = kept(store.with_suffix(".json"), "refine", coarse, "-o", store, "--method", method)
        seconds[method] = made["seconds_per_lattice"]
        sweeps.setdefault(method, made.get("sweeps"))
        stores.append(store)
    report = FOLDER / f"report-{name}"
    skild_phys("compare", truth, *stores, "--coarse", coarse, "-o", report, "--overwrite")
    table = pd.read_csv(report / "comparison.csv")
    table["method"] = table["model"].str.split("-").str[0]
    table["sweeps"] = table["method"].map(sweeps)
    table["seconds"] = table["method"].map(seconds)
    rows.append(table.assign(L=side, rule=rule, factor=factor))

# %% One table
table = pd.concat(rows)
KEPT = ("connected_four_point", "energy", "abs_magnetization", "binder_cumulant", "patterns_tv",
        "patterns_kl", "site_agreement", "coarse_agreement")  # fmt: skip
table[table["observable"].isin(KEPT)].to_csv(CSV, index=False, float_format="%.6g")
print(CSV)
