"""How well do the shipped weights refine critical Ising lattices, and what does it cost?

Simulated truths (new seeds) are coarsened by each rule and factor and refined from the coarse
store alone: by SKILD, by a random fill of each block, and by the exact conditional Monte Carlo for
as many sweeps as twenty measured autocorrelation times take. The paper's protocol, whose chains
start from the forward marginal of the truth, is the case `marginal`.
Everything is made in the folder given; an interrupted run goes on where it stopped.

    python analysis/refinement_ising2d.py runs/refinement 2000   -> analysis/refinement_ising2d.csv

The second argument is the number of lattices of 128^2 by block means and by the paper's protocol at
4x; majority and decimate have half as many, spectral, whose paired errors are small, a quarter,
the other factors a sixteenth, and other sizes as many sites as an eighth.
"""

# %% What is run
import sys
from pathlib import Path

import pandas as pd
from commands import kept, skild_phys

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/refinement")
MANY = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
CSV = Path(__file__).with_suffix(".csv")
SEED = 20270104
RULES = ("block_mean", "majority", "decimate", "spectral")
CASES = [(128, rule, 4, MANY) for rule in ("block_mean", "marginal")]
CASES += [(128, rule, 4, MANY // 2) for rule in ("majority", "decimate")]
CASES += [(128, "spectral", 4, MANY // 4)]
CASES += [(128, rule, factor, MANY // 16) for rule in RULES for factor in (2, 8)]
CASES += [(96, "spectral", 3, MANY // 16)]
CASES += [(side, "block_mean", 4, max(4, MANY * 2048 // side**2)) for side in (64, 256, 512, 1024)]
KEPT = ("connected_four_point", "energy", "abs_magnetization", "binder_cumulant", "patterns_tv",
        "patterns_kl", "site_agreement", "coarse_agreement")  # fmt: skip


# %% Truths, refinements and comparisons
FOLDER.mkdir(parents=True, exist_ok=True)
rows = []
for side, rule, factor, n in CASES:
    truth = FOLDER / f"fine{side}-{n}.zarr"
    skild_phys("simulate", "--L", side, "--T", "Tc", "-n", n, "--chains", 8, "--seed", SEED,
               "-o", truth)  # fmt: skip
    name = f"{side}-{rule}-{factor}x"
    made, sweeps, stores, extra = {}, {"fill": 0}, [], []
    if rule == "marginal":
        store = FOLDER / f"skild-{name}.zarr"
        words = ("generate", "--truth", truth, "--factor", factor, "-o", store)
        made["skild"] = kept(store.with_suffix(".json"), skild_phys, *words)
        stores.append(store)
    else:
        coarse = FOLDER / f"coarse-{name}.zarr"
        extra = ["--coarse", coarse]
        skild_phys("coarsen", truth, "--rule", rule, "--factor", factor, "-o", coarse)
        for method in ("skild",) if rule == "spectral" else ("skild", "fill", "exact"):
            store = FOLDER / f"{method}-{name}.zarr"
            words = ("refine", coarse, "-o", store, "--method", method)
            made[method] = kept(store.with_suffix(".json"), skild_phys, *words)
            sweeps.setdefault(method, made[method].get("sweeps"))
            stores.append(store)
    report = FOLDER / f"report-{name}"
    skild_phys("compare", truth, *stores, *extra, "-o", report, "--overwrite")
    table = pd.read_csv(report / "comparison.csv")
    table["method"] = table["model"].str.split("-").str[0]
    table["sweeps"] = table["method"].map(sweeps)
    for key, column in (("seconds_per_lattice", "seconds"), ("misfit", "misfit")):
        table[column] = table["method"].map({m: answer.get(key) for m, answer in made.items()})
    table = table[table["observable"].isin(KEPT)]
    rows.append(table.assign(L=side, rule=rule, factor=factor, lattices=n))
    pd.concat(rows).to_csv(CSV, index=False, float_format="%.6g")
print(CSV)
