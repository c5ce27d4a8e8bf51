"""Inverse renormalisation: lattices at Tc are made finer again and again. Do they stay critical?

Lattices of 16^2 (or START), simulated at Tc, are taken for majorities of 2 x 2 blocks, and refined
by 2, four times. Each step should double the correlation length and change nothing else: energy,
U4 and xi / L stay those of the critical torus, and chi grows by 2^(7/4), so that eta = 1/4.

- skild: the shipped weights, majority by 2;
- exact: Monte Carlo with the nearest-neighbour Hamiltonian given the majorities;
- local_rule: three parameters, fitted to lattices of 64^2 and their majorities (arXiv 2506.04016).

The first lattices are no majorities of critical ones: a renormalised lattice has other couplings
than nearest neighbours. What follows from that is in all three; `blocked` begins with majorities of
lattices of twice the side instead, where refining by an exact conditional law stays exact for one
step. `simulated` is the Monte Carlo at each side. Errors are those of independent lattices.

    python analysis/inverse_renormalisation.py runs/inverse 400 16 4
        -> analysis/inverse_renormalisation.csv
"""

# %% What is run
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import skild_phys as sp
from skild_phys.lattice.exact import BINDER, XI_OVER_L, kaufman_energy
from skild_phys.lattice.models import MODELS
from skild_phys.rng import generator
from skild_phys.skild.local_rule import LocalRule

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/inverse")
N, START, STEPS = map(int, sys.argv[2:5]) if len(sys.argv) > 2 else (400, 16, 4)
CSV = Path(__file__).with_suffix(".csv")
SEED, FITTED, FITTED_ON = 20270301, 64, 64
TC = MODELS["ising2d"].critical_temperature
OBSERVABLES = {
    "energy": "energy", "U4": "binder_cumulant", "xi_over_L": "correlation_length_ratio",
    "chi": "susceptibility",
}  # fmt: skip
FOLDER.mkdir(parents=True, exist_ok=True)
rows = []


def measured(name: str, begun: str, step: int, lattices: Path | np.ndarray, side: int) -> None:
    """Add a line to the table."""
    known = {} if isinstance(lattices, Path) else {"model": "ising2d", "temperature": TC}
    found = sp.measure(lattices, only=list(OBSERVABLES.values()), **known)
    row = {"method": name, "begun": begun, "step": step, "side": side, "n": N}
    for short, full in OBSERVABLES.items():
        row[short], row[f"{short}_err"] = float(found[full]), float(found[f"{full}_err"])
    exact = {"energy": kaufman_energy(side, TC), "U4": BINDER, "xi_over_L": XI_OVER_L}
    rows.append(row | {f"{key}_exact": value for key, value in exact.items()})
    print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(CSV, index=False, float_format="%.6g")


# %% Where the flows begin, and what they should be
def simulated(side: int, seed: int) -> Path:
    """Return the path of simulated lattices."""
    path = FOLDER / f"simulated{side}-{seed}.zarr"
    sp.simulate("ising2d", L=side, T="Tc", samples=N, seed=seed, output=path)
    return path


for step in range(STEPS + 1):
    side = START * 2**step
    measured("simulated", "", step, simulated(side, SEED + step), side)
plain = simulated(START, SEED)
blocked = FOLDER / f"blocked{START}.zarr"
sp.coarsen(simulated(2 * START, SEED + 100), 2, rule="majority", output=blocked)
begins = {"plain": plain, "blocked": blocked}

# %% SKILD and the Monte Carlo
for method in ("skild", "exact"):
    for begun, path in begins.items():
        coarse = path
        for step in range(1, STEPS + 1):
            side = START * 2**step
            # Whatever these lattices were before, here they are majorities.
            before = sp.open_dataset(coarse)
            known = {k: before.attrs[k] for k in ("model", "temperature", "couplings")}
            spins = before[["spins"]].load()
            spins.attrs = known | {"rule": "majority", "factor": 2, "tie_seed": SEED + step}
            fine = FOLDER / f"{method}-{begun}-{side}.zarr"
            sp.refine(spins, 2, method=method, seed=SEED + step, output=fine)
            measured(method, begun, step, fine, side)
            coarse = fine

# %% The local rule
fine = sp.simulate("ising2d", L=FITTED_ON, T="Tc", samples=FITTED, seed=SEED + 200)
seen = sp.coarsen(fine, 2, rule="majority")
rule = LocalRule.fit(fine["spins"].values, seen["spins"].values)
print(rule)
for begun, path in begins.items():
    spins = sp.open_dataset(path)["spins"].values
    for step in range(1, STEPS + 1):
        side = START * 2**step
        random = generator(SEED, step)
        spins = rule.draw(spins, random.random((len(spins), side, side)))
        measured("local_rule", begun, step, spins, side)
