"""Inverse renormalisation: configurations at Tc are refined repeatedly. Do they stay critical?

Configurations of 16^2 (or START), simulated at Tc, are treated as majorities of 2 x 2 blocks and
refined by a factor of 2, four times. Each step should double the correlation length and change
nothing else: energy, U4 and xi / L stay those of the critical torus, and chi grows by a factor of
2^(7/4), so that eta = 1/4.

- skild: the shipped weights, majority, factor 2;
- exact: Monte Carlo with the nearest-neighbour Hamiltonian given the majorities;
- local_rule: three parameters, fitted to configurations of 64^2 and their majorities (arXiv
  2506.04016).

These first configurations (`plain`) are not majorities of critical ones: the renormalised
Hamiltonian has more than nearest-neighbour couplings. This affects all three methods. `blocked`
starts from majorities of configurations of twice the side instead, where refinement by the exact
conditional distribution stays exact for one step. `simulated` is the Monte Carlo at each side.
Standard errors are those of independent configurations.

    python analysis/inverse_renormalisation.py runs/inverse --lattices 400 --start 16 --steps 4
        -> inverse_renormalisation.csv, .md
"""

# %% What is needed
import math
from pathlib import Path

import numpy as np
import pandas as pd
from local_rule import LocalRule
from study import Study, signed

import skild_phys as sp
from skild_phys.measurement.tables import with_error
from skild_phys.models import MODELS
from skild_phys.models.exact import BINDER, XI_OVER_L, kaufman_energy
from skild_phys.rng import generator

BEGUN = {"plain": "simulated configurations", "blocked": "majorities"}
"""The coarse configurations of the first step."""


# %% Conclusions
def verdict(table: pd.DataFrame) -> list[str]:
    """Return the observables of each method after the last step, and the exact values."""
    last = table[table["step"] == table["step"].max()]
    exact = last.iloc[0]
    lines = [
        f"After {exact['step']:g} steps, {exact['side']:g}^2, {exact['n']:g} configurations. Exact "
        f"values: energy {exact['energy_exact']:.4f}, U4 {exact['U4_exact']:.4f}, xi / L "
        f"{exact['xi_over_L_exact']:.4f}, eta 1/4 (from chi of the first and the last step)."
    ]
    for (method, begun), own in table.fillna({"begun": ""}).groupby(
        ["method", "begun"], sort=False
    ):
        first, end = own.iloc[0], own.iloc[-1]
        doublings = math.log2(end["side"] / first["side"])
        errors = [row["chi_err"] / row["chi"] for row in (first, end)]
        eta = 2.0 - math.log2(end["chi"] / first["chi"]) / doublings
        eta_err = math.hypot(*errors) / math.log(2.0) / doublings
        said = [f"{name.replace('_over_', ' / ')} {with_error(end[name], end[name + '_err'])}"
                for name in ("energy", "U4", "xi_over_L")]  # fmt: skip
        off = signed(end["energy"] - end["energy_exact"], end["energy_err"])
        where = f"{method}, from {BEGUN[begun]}" if begun else method
        lines.append(
            f"{where}: {', '.join(said)}, eta {with_error(eta, eta_err)}; energy off by {off}."
        )
    return lines


# %% What is run
study = Study(
    __file__, __doc__, verdict, "runs/inverse", lattices=400, start=16, steps=4, fitted=64
)
FOLDER, N = study.options.folder, study.options.lattices
START, STEPS = study.options.start, study.options.steps
SEED, FITTED, FITTED_ON = 20270301, 64, study.options.fitted
TC = MODELS["ising2d"].critical_temperature
OBSERVABLES = {
    "energy": "energy", "U4": "binder_cumulant", "xi_over_L": "correlation_length_ratio",
    "chi": "susceptibility",
}  # fmt: skip
rows = []


def measured(name: str, begun: str, step: int, samples: Path | np.ndarray, side: int) -> None:
    """Measure these configurations and add a line to the table."""
    known = {} if isinstance(samples, Path) else {"model": "ising2d", "temperature": TC}
    found = sp.measure(samples, only=list(OBSERVABLES.values()), **known)
    row = {"method": name, "begun": begun, "step": step, "side": side, "n": N}
    for short, full in OBSERVABLES.items():
        row[short], row[f"{short}_err"] = float(found[full]), float(found[f"{full}_err"])
    exact = {"energy": kaufman_energy(side, TC), "U4": BINDER, "xi_over_L": XI_OVER_L}
    rows.append(row | {f"{key}_exact": value for key, value in exact.items()})
    study.save(pd.DataFrame(rows))


# %% The first coarse configurations, and simulations at each side
def simulated(side: int, seed: int) -> Path:
    """Return the path of simulated configurations."""
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
            # From here on these configurations are treated as majorities.
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
study.finish(pd.DataFrame(rows))
