"""Are SKILD's refinements samples of p(fine | coarse)?

For each coarse configuration the exact conditional Monte Carlo gives 63 independent samples of
p(fine | coarse). If the truth and SKILD's refinement are two more such samples, their ranks among
the 63 are uniform on 0 .. 63. The ranks are counted in 8 bins of 8; of 500 ranks a bin holds
62.5(7.4) on average, and all 8 counts of a case lie within the band in the table with probability
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


# %% Conclusions
def verdict(table: pd.DataFrame) -> list[str]:
    """Return the conclusions, one paragraph each."""
    lines = []
    for (rule, factor, who), own in table.groupby(["rule", "factor", "lattice"], sort=False):
        name = "the truth" if who == "truth" else "SKILD"
        outside = ", ".join(own.loc[~own["inside"], "quantity"])
        said = f"ranks are uniform for {own['inside'].sum()} of {len(own)} quantities (99% bands)"
        but = f"; not for {outside}" if outside else ""
        lines.append(f"{rule}, factor {factor}, {name}: {said}{but}.")
    return lines


study = Study(__file__, __doc__, verdict, "runs/calibration", lattices=500, side=64, copies=63)
FOLDER, N = study.options.folder, study.options.lattices
SIDE, COPIES, BINS, SEED = study.options.side, study.options.copies, 8, 20261201
CASES = (("block_mean", 4), ("majority", 4), ("decimate", 4), ("block_mean", 8))


# %% Quantities of one configuration
def quantities(spins: np.ndarray) -> dict[str, np.ndarray]:
    """Return the ranked quantities of each configuration, for spins (n, L, L)."""
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
        # <s1 s2 s3 s4> of one configuration; the connected function needs ensemble averages.
        found[f"G4(r = {r})"] = terms[..., 0].reshape(len(spins))
    return found


# %% Stores and ranks
def ranked() -> pd.DataFrame:
    """Return the counts of ranks, one line per rule, configuration and quantity."""
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
        conditional = open_store(exact)
        samples: dict[str, list[np.ndarray]] = {}
        for start in range(0, N, 20):
            stop = min(start + 20, N)
            spins = conditional.read(start * COPIES, stop * COPIES)
            for key, values in quantities(spins).items():
                samples.setdefault(key, []).append(values.reshape(-1, COPIES))
        for who, path in (("truth", truth), ("skild", skild)):
            own = quantities(open_store(path).read(0, N))
            for key, values in own.items():
                among = np.concatenate(samples[key])
                # Ties (of discrete quantities) are broken at random.
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
