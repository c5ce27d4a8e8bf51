"""Who refines more cheaply to a given error: SKILD or the exact conditional Monte Carlo?

Critical lattices of 128^2, block means by 2, 4, 8 and 16; SKILD with 4 to 28 denoiser calls, Monte
Carlo with 1 to 256 sweeps after a random fill; one thread each. The error is the total variation
of 3x3 pattern frequencies, beside those of the energy and of G4c at r = 1 and 2.

    python analysis/cost_ising2d.py runs/cost 64    -> analysis/cost_ising2d.csv
"""

# %% What is run
import sys
from pathlib import Path

import pandas as pd
from commands import kept, skild_phys

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/cost")
N = int(sys.argv[2]) if len(sys.argv) > 2 else 64
CSV = Path(__file__).with_suffix(".csv")
SEED = 20270105
STEPS, SWEEPS = (4, 6, 8, 11, 13, 16, 20, 28), (1, 2, 4, 8, 16, 32, 64, 128, 256)


# %% Refinements
FOLDER.mkdir(parents=True, exist_ok=True)
truth = FOLDER / "truth.zarr"
skild_phys("simulate", "--L", 128, "--T", "Tc", "-n", N, "--seed", SEED, "-o", truth)
rows = []
for factor in (2, 4, 8, 16):
    coarse = FOLDER / f"coarse{factor}.zarr"
    skild_phys("coarsen", truth, "--factor", factor, "-o", coarse)
    settings = [("skild", "--steps", steps) for steps in STEPS]
    settings += [("exact", "--sweeps", sweeps) for sweeps in SWEEPS]
    stores, cost = [], {}
    for method, option, value in settings:
        store = FOLDER / f"{method}{value}-{factor}x.zarr"
        words = ("refine", coarse, "--method", method, option, value, "--threads", 1, "-o", store)
        seconds = kept(store.with_suffix(".json"), skild_phys, *words)["seconds_per_lattice"]
        cost[store.stem] = (method, value, seconds)
        stores.append(store)
    report = FOLDER / f"report{factor}"
    skild_phys("compare", truth, *stores, "--coarse", coarse, "-o", report, "--overwrite")
    table = pd.read_csv(report / "comparison.csv")
    for model, found in table.groupby("model"):
        method, value, seconds = cost[str(model)]
        row = {"factor": factor, "method": method, "calls_or_sweeps": value, "seconds": seconds}
        for name, observable, at in (
            ("patterns_tv", "patterns_tv", None), ("energy", "energy", None),
            ("g4c_1", "connected_four_point", 1), ("g4c_2", "connected_four_point", 2),
        ):  # fmt: skip
            own = found[found["observable"] == observable]
            own = own if at is None else own[own["at"].astype(float) == at]
            both = (
                ["value", "err"]
                if at is None and name != "energy"
                else ["residual", "residual_err"]
            )
            row[name], row[f"{name}_err"] = own[both].iloc[0]
        rows.append(row)

# %% One table
columns = ["factor", "method", "seconds"]
pd.DataFrame(rows).sort_values(columns).to_csv(CSV, index=False, float_format="%.4g")
print(CSV)
