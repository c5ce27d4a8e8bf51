"""Are SKILD's refinements samples of p(fine | coarse)?

For each coarse configuration the exact conditional Monte Carlo gives 63 independent samples of
p(fine | coarse). If the truth and SKILD's refinement are two more such samples, their ranks among
the 63 are uniform on 0 .. 63. The ranks are counted in 8 bins of 8; of 500 ranks a bin holds
62.5(7.4) on average, and all 8 counts of a case lie within the band in the table with probability
0.99.

And is the spread right? DRAWS refinements of each coarse configuration have a variance; `spread` is
its mean over that of the exact samples, with a jackknife error over coarse configurations.

    python analysis/calibration_ising2d.py runs/calibration --lattices 500
        -> calibration_ising2d.csv, .md
"""

# %% What is run
import math
from pathlib import Path

import numpy as np
import pandas as pd
from study import Study, skild_phys

from skild_phys.measurement.observables.four_point import four_point_terms
from skild_phys.measurement.tables import with_error
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
        if who == "skild":
            each = ", ".join(
                f"{line.quantity} {with_error(line.spread, line.spread_err)}"
                for line in own.dropna(subset=["spread"]).itertuples()
            )
            lines.append(f"Variance over draws, over that of exact ones: {each}.")
    return lines


study = Study(
    __file__, __doc__, verdict, "runs/calibration", lattices=500, side=64, copies=63, draws=8
)
FOLDER, N, DRAWS = study.options.folder, study.options.lattices, study.options.draws
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
    pairs = np.fft.ifft2(power).real  # of sites so far apart, averaged over the lattice
    for r in (2, 8):
        found[f"G(r = {r})"] = 0.5 * (pairs[:, r % SIDE, 0] + pairs[:, 0, r % SIDE])
    for r in (1, 2, 4):
        terms = np.stack([four_point_terms(one[None], [r])[0] for one in spins])
        # <s1 s2 s3 s4> of one configuration; the connected function needs ensemble averages.
        found[f"G4(r = {r})"] = terms[..., 0].reshape(len(spins))
    return found


# %% Stores, ranks and spreads
def by_input(store: Path, copies: int) -> dict[str, np.ndarray]:
    """Return the quantities of a store with `copies` samples of each input, (inputs, copies)."""
    opened, parts = open_store(store), []
    for start in range(0, N, 20):
        parts.append(quantities(opened.read(start * copies, min(start + 20, N) * copies)))
    return {
        key: np.concatenate([part[key].reshape(-1, copies) for part in parts]) for key in parts[0]
    }


def spread(drawn: np.ndarray, exact: np.ndarray) -> tuple[float, float]:
    """Return the mean variance over draws, over that of exact ones, and its jackknife error."""
    if not exact.var(axis=1).any():  # the coarse configuration fixes it
        return math.nan, math.nan
    each = np.stack([values.var(axis=1, ddof=1) for values in (drawn, exact)])
    own, other = (each.sum(axis=1, keepdims=True) - each) if len(drawn) > 1 else each
    ratios = own / other
    error = np.sqrt((len(ratios) - 1) * ratios.var())
    return float(each[0].sum() / each[1].sum()), float(error)


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
        skild_phys("refine", coarse, "--samples-per-input", DRAWS, "-o", skild)
        skild_phys(
            "refine", coarse, "--method", "exact", "--samples-per-input", COPIES, "-o", exact
        )
        samples, drawn = by_input(exact, COPIES), by_input(skild, DRAWS)
        for who in ("truth", "skild"):
            first = {key: values[:, 0] for key, values in drawn.items()}
            own = quantities(open_store(truth).read(0, N)) if who == "truth" else first
            for key, values in own.items():
                among = samples[key]
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
                if who == "skild":
                    row |= dict(zip(("spread", "spread_err"), spread(drawn[key], among)))
                rows.append(row | {f"bin{i}": count for i, count in enumerate(counts)})
    return pd.DataFrame(rows)


study.finish(ranked(), digits=4)
