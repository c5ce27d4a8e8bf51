"""Are configurations that SKILD generates from noise critical Ising configurations?

At each size: energy, U4, chi, xi and specific heat beside their values in theory (Kaufman's torus
for energy and specific heat, the torus in the scaling limit for chi and xi, the limit of large
squares for U4), S(k) beside simulated configurations, as is U4 where the torus is no square. The
conclusions say which of the goals are reached: deviations of at most 0.003 in the energy, 0.01 in
U4, 2% in chi, 3% in xi, 10% in the specific heat, and in each shell of S(k) 3% or 3 standard
errors.

    python analysis/generation_ising2d.py runs/generation --checkpoint my.safetensors
        -> generation_ising2d.csv, .md

SIZES are the lattices, LATTICES the configurations of each; there are REFERENCES times as many
simulated ones. Without CHECKPOINT it is of the shipped weights. The table keeps the rows of other
weights; those named `version 0.1` are of the weights of that version, which have one grid.
"""

# %% What is run
import math
from collections import Counter
from pathlib import Path

import pandas as pd
from study import Study, kept, signed, skild_phys

import skild_phys as sp
from skild_phys.methods import weights_of
from skild_phys.skild.chain import Chain
from skild_phys.skild.equations import level_at
from skild_phys.skild.skild import Skild

GOALS = {
    "energy": 0.003,
    "binder_cumulant": 0.01,
    "susceptibility": 0.02,
    "correlation_length": 0.03,
    "specific_heat": 0.1,
    "structure_factor": 0.03,
}
"""Largest deviation: of energy and U4 the difference, of the others relative."""
DIFFERENCES = ("energy", "binder_cumulant")
NAMES = ("energy", "U4", "chi", "xi", "C", "S(k)")
SIGMAS = 3.0
"""Standard errors by which a shell of S(k) may be off, whatever the goal."""
SEED = 20270107


# %% Conclusions
def reached(own: pd.DataFrame) -> pd.Series:
    """Return which deviations are within their goals."""
    within = own["deviation"].abs() <= own["goal"]
    shells = own["observable"] == "structure_factor"
    return within | (shells & (own["deviation"].abs() <= SIGMAS * own["deviation_err"]))


def said_of(own: pd.DataFrame) -> str:
    """Return at which sizes the goal of one observable is reached."""
    shells, error = own["observable"] == "structure_factor", own["deviation_err"]
    far = own["deviation"].abs() > own["goal"] + 2.0 * error
    table = own.assign(ok=reached(own), blurred=~shells & ~far & (error > own["goal"]))
    by_size = table.groupby("L", sort=False)
    ok, unknown = by_size["ok"].all(), by_size["blurred"].any()
    told = {
        "reached": ok & ~unknown,
        "missed": ~ok & ~unknown,
        "not told apart, the error being larger,": unknown,
    }
    sizes = {how: [str(size) for size in which.index[which]] for how, which in told.items()}
    return "; ".join(f"{how} at L = {', '.join(those)}" for how, those in sizes.items() if those)


def line(own: pd.DataFrame) -> list[str]:
    """Return the cells of one size: deviations, the worst shell of S(k), the cost."""
    by = own.set_index("observable")
    cells = [str(own["L"].iloc[0]), f"{own['lattices'].iloc[0]:g}"]
    for name in list(GOALS)[:-1]:
        cells.append(signed(*by.loc[name, ["deviation", "deviation_err"]]))
    shells = own[own["observable"] == "structure_factor"]
    if len(shells):
        missed = shells[~reached(shells)]
        worst = (missed if len(missed) else shells).sort_values("deviation", key=abs).iloc[-1]
        said = signed(worst["deviation"], worst["deviation_err"])
        cells.append(f"{said} at k = {worst['at']:.2g} ({len(missed)} of {len(shells)} beyond)")
    else:
        cells.append("")
    cells.append(f"{by.loc['seconds', 'value']:.3g}")
    grids = own[own["observable"] == "evaluations"].sort_values("at", ascending=False)
    cells.append(", ".join(f"{n:g}" for n in grids["value"]))
    return cells


def verdict(table: pd.DataFrame) -> list[str]:
    """Return a table of deviations for each set of weights, and which goals are reached."""
    head = ["L", "configurations", "energy", "U4", "chi, relative", "xi, relative"]
    head += ["C, relative", "S(k), relative, largest", "s per configuration", "evaluations by grid"]
    said = []
    for name, rows in table.groupby("weights", sort=False):
        sizes = [own for _, own in rows.groupby("L", sort=False)]
        lines = [head, ["---"] * len(head), *map(line, sizes)]
        said.append(f"Weights: {name}. Generated from noise, minus theory or simulation:")
        said.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
        goals = []
        for observable, short in zip(GOALS, NAMES):
            own = rows[rows["observable"] == observable]
            if own.empty:
                continue
            goal = f"{own['goal'].iloc[0]:g}" + ("" if observable in DIFFERENCES else ", relative")
            goal += f", or {SIGMAS:g} sigma" if observable == "structure_factor" else ""
            goals.append(f"- {short} ({goal}): {said_of(own)}.")
        said.append("\n".join(goals))
    said.append(
        "Evaluations are counted from the coarsest grid to the lattice; an evaluation on a grid of"
        " spacing s costs about 1 / s^2 of one on the lattice."
    )
    return said


study = Study(
    __file__,
    __doc__,
    verdict,
    "runs/generation",
    checkpoint="",
    sizes="32,64,128,256,512,96x192",
    lattices="4000,3000,2000,1000,1000,2000",
    references=4,
)


# %% Configurations
def stores(size: str, n: int) -> tuple[Path, Path, float]:
    """Return simulated and generated configurations, and the seconds of one of these."""
    folder, checkpoint = study.options.folder, study.options.checkpoint
    own = Path(checkpoint).stem or "shipped"
    many = n * study.options.references
    truth, made = folder / f"simulated{size}-{many}.zarr", folder / f"{own}{size}-{n}.zarr"
    skild_phys("simulate", "--L", size, "--T", "Tc", "-n", many, "--chains", 8, "--seed", SEED,
               "-o", truth)  # fmt: skip
    words = ["generate", "--shape" if "x" in size else "--L", size, "-n", n, "--seed", SEED]
    words += ["-o", made]
    words += ["--checkpoint", checkpoint] if checkpoint else []
    seconds = kept(made.with_suffix(".json"), skild_phys, *words)["seconds_per_lattice"]
    return truth, made, seconds


# %% What they are off by
def evaluations(shape: tuple[int, int]) -> list[dict]:
    """Return how many evaluations a chain has on each grid, by its spacing."""
    weights = weights_of(study.options.checkpoint or None)
    scales = Skild.of(weights, shape).scales
    lambdas = Chain().generating(weights, shape, None).tolist()
    found = Counter(level_at(scales, lam).process.spacing for lam in lambdas)
    return [{"observable": "evaluations", "at": at, "value": n} for at, n in found.items()]


def row(observable: str, value: float, err: float, exact: float, exact_err: float) -> dict:
    """Return a deviation from theory, or from a simulation with an error of its own."""
    plain = observable in DIFFERENCES
    unit, slope = (1.0, 1.0) if plain else (exact, value / exact)
    return {
        "observable": observable,
        "value": value,
        "err": err,
        "exact": exact,
        "exact_err": exact_err,
        "deviation": (value - exact) / unit,
        "deviation_err": math.hypot(err, slope * exact_err) / abs(unit),
        "goal": GOALS[observable],
    }


def deviations(truth: Path, made: Path) -> list[dict]:
    """Return the deviations of generated configurations."""
    true, found = (sp.measure(path, only=list(GOALS)) for path in (truth, made))
    rows = []
    for name in list(GOALS)[:-1]:
        values = float(found[name]), float(found[f"{name}_err"])
        if (theory := f"{name}_theory") in found:
            against = float(found[theory]), 0.0
        else:
            against = float(true[name]), float(true[f"{name}_err"])
        rows.append(row(name, *values, *against))
    name = "structure_factor"
    columns = [data[key].values for data in (found, true) for key in (name, f"{name}_err")]
    for at, *values in zip(found[name]["k"].values, *columns):
        rows.append(row(name, *map(float, values)) | {"at": float(at)})
    return rows


# %% One table
def before(name: str) -> pd.DataFrame:
    """Return the rows of other weights that the table has already."""
    if not study.csv.exists():
        return pd.DataFrame()
    table = pd.read_csv(study.csv)
    return table[table["weights"] != name]


name = Path(study.options.checkpoint).stem or "shipped"
tables = [before(name)]
for size, n in zip(study.options.sizes.split(","), study.options.lattices.split(",")):
    truth, made, seconds = stores(size, int(n))
    sides = tuple(int(side) for side in size.split("x")) * (1 if "x" in size else 2)
    rows = [*deviations(truth, made), {"observable": "seconds", "value": seconds}]
    rows += evaluations((sides[0], sides[1]))
    own = pd.DataFrame(rows).assign(weights=name, L=size, lattices=int(n))
    tables.append(own)
    study.save(pd.concat(tables))
    print(size, " ".join(line(own)), flush=True)
columns = ["weights", "L", "lattices", "observable", "at", "value", "err", "exact", "exact_err"]
columns += ["deviation", "deviation_err", "goal"]
study.finish(pd.concat(tables)[columns])
