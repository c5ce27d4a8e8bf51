"""Are SKILD's lattices draws from p(fine | coarse)?

For each coarse lattice the exact conditional Monte Carlo gives 63 fine lattices, independent draws
from p(fine | coarse). If the truth and SKILD's lattice are two more such draws, their ranks among
the 63 are uniform on 0 .. 63. The ranks are counted in 8 bins of 8; a bin of 500 holds 62.5(7.4) on
average, and the band in the table is where all 8 counts of a case lie together with probability
0.99.

    python analysis/calibration_ising2d.py runs/calibration --lattices 500
        -> calibration_ising2d.csv, .md
"""

# %% What is run
import numpy as np
import pandas as pd
from study import Study, skild_phys

from skild_phys.measurement.observables.four_point import four_point_terms
from skild_phys.models import MODELS
from skild_phys.store import open_store


# %% What the table says
def verdict(table: pd.DataFrame) -> list[str]:
    """Return it in words."""
    lines = []
    for (rule, factor, who), own in table.groupby(["rule", "factor", "lattice"], sort=False):
        name = "the truth" if who == "truth" else "SKILD"
        outside = ", ".join(own.loc[~own["inside"], "quantity"])
        said = f"{own['inside'].sum()} of {len(own)} quantities are ranked uniformly (99% bands)"
        lines.append(f"{rule} by {factor}, {name}: {said}{f'; not {outside}' if outside else ''}.")
    return lines


study = Study(__file__, __doc__, verdict, "runs/calibration", lattices=500, side=64, copies=63)
FOLDER, N = study.options.folder, study.options.lattices
SIDE, COPIES, BINS, SEED = study.options.side, study.options.copies, 8, 20261201
CASES = (("block_mean", 4), ("majority", 4), ("decimate", 4), ("block_mean", 8))


# %% Quantities of one lattice
def quantities(spins: np.ndarray) -> dict[str, np.ndarray]:
    """Return numbers of each lattice (n, L, L) whose ranks are taken."""
    model = MODELS["ising2d"]
    power = np.abs(np.fft.fft2(spins.astype(float), norm="ortho")) ** 2
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIDE) * SIDE] * 2))
    shells = {1: (0.5, 1.5), 4: (3.5, 4.5), 12: (11, 13), 24: (22, 26)}
    shells = {name: ends for name, ends in shells.items() if name < SIDE / 2}
    found = {"energy": model.energy(spins), "m2": model.order_parameter(spins) ** 2}
    for name, (low, high) in shells.items():
        found[f"S(k = {name} 2 pi / L)"] = power[:, (k >= low) & (k < high)].mean(axis=1)
    for r in (1, 2, 4):
        terms = np.stack([four_point_terms(one[None], [r])[0] for one in spins])
        # <s1 s2 s3 s4> of one lattice; the connected function is of an ensemble's averages.
        found[f"G4(r = {r})"] = terms[..., 0].reshape(len(spins))
    return found


# %% Stores and ranks
def ranked() -> pd.DataFrame:
    """Return the counts of ranks, a line for each rule, lattice and quantity."""
    truth = FOLDER / "truth.zarr"
    skild_phys(
        "simulate", "--L", SIDE, "--T", "Tc", "-n", N, "--chains", 8, "--seed", SEED, "-o", truth
    )
    random = np.random.default_rng(SEED)
    rows = []
    for rule, factor in CASES:
        name = f"{rule}-{factor}x"
        coarse, skild, exact = (
            FOLDER / f"{kind}-{name}.zarr" for kind in ("coarse", "skild", "exact")
        )
        skild_phys("coarsen", truth, "--rule", rule, "--factor", factor, "-o", coarse)
        skild_phys("refine", coarse, "-o", skild)
        skild_phys(
            "refine", coarse, "--method", "exact", "--samples-per-input", COPIES, "-o", exact
        )
        oracle = open_store(exact)
        draws: dict[str, list[np.ndarray]] = {}
        for start in range(0, N, 20):
            stop = min(start + 20, N)
            lattices = oracle.read(start * COPIES, stop * COPIES)
            for key, values in quantities(lattices).items():
                draws.setdefault(key, []).append(values.reshape(-1, COPIES))
        for who, path in (("truth", truth), ("skild", skild)):
            own = quantities(open_store(path).read(0, N))
            for key, values in own.items():
                among = np.concatenate(draws[key])
                # Equal numbers (discrete quantities) take their places by chance.
                tied = random.uniform(size=among.shape) < random.uniform(size=(N, 1))
                rank = ((among < values[:, None]) | ((among == values[:, None]) & tied)).sum(axis=1)
                counts = np.bincount(rank * BINS // (COPIES + 1), minlength=BINS)
                simulated = random.multinomial(N, [1 / BINS] * BINS, size=20000)
                low = np.quantile(simulated.min(axis=1), 0.005)
                high = np.quantile(simulated.max(axis=1), 0.995)
                row = {"rule": rule, "factor": factor, "lattice": who, "quantity": key}
                row |= {
                    "low": low,
                    "high": high,
                    "inside": low <= counts.min() <= counts.max() <= high,
                }
                row |= {"mean_rank": rank.mean() / COPIES}
                rows.append(row | {f"bin{i}": count for i, count in enumerate(counts)})
    return pd.DataFrame(rows)


study.finish(ranked(), digits=4)
