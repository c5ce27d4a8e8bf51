"""Can a linear classifier tell a refinement from the truth behind its coarse configuration?

Of each coarse configuration there are the truth and one refinement. A classifier is shown by how
much they differ in 50 observables (energy, G(r), products of four spins, S(k)) and in the
frequencies of 3x3 patterns in 102 classes (up to turns and reflections), and says which is which.
It is a linear discriminant, w = (C + RIDGE)^-1 mean(d) of the differences d in units of their rms,
found from nine tenths of the coarse configurations and tested on the rest, ten times. An accuracy
of 0.5 is chance. As a control the exact conditional Monte Carlo is judged by the same classifier,
and so is a random fill that keeps the coarse configuration.

    python analysis/classifier_ising2d.py runs/classifier --lattices 1000
        -> classifier_ising2d.csv, .md
"""

# %% What is run
import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
from study import Study, skild_phys

from skild_phys.measurement.tables import with_error
from skild_phys.store import open_store

FACTORS, METHODS = (4, 8), ("skild", "exact", "fill")
PARTS, SEED = 10, 20261202
GOAL = 0.53
BATCH = 50


# %% Conclusions
def verdict(table: pd.DataFrame) -> list[str]:
    """Return the conclusions, one paragraph each."""
    said = []
    for (side, factor), own in table.groupby(["L", "factor"]):
        each = (f"{line.method} {with_error(line.accuracy, line.error)}"
                for line in own.itertuples())  # fmt: skip
        many = own["lattices"].iloc[0]
        said.append(f"Block means by {factor}, {many} pairs of {side}^2: {', '.join(each)}.")
    return [f"Accuracy of the classifier (chance 0.5, goal {GOAL} at most):", *said]


study = Study(
    __file__, __doc__, verdict, "runs/classifier", lattices=1000, side=128, ridge=0.1
)  # fmt: skip
FOLDER, N, SIDE = study.options.folder, study.options.lattices, study.options.side


# %% What the classifier sees
def classes() -> np.ndarray:
    """Return the class of each of the 512 patterns of 3x3 spins, up to turns and reflections."""
    windows = (np.arange(512)[:, None] >> np.arange(9)[::-1] & 1).reshape(512, 3, 3)
    turned = [np.rot90(w, k, (1, 2)) for w in (windows, windows[..., ::-1]) for k in range(4)]
    numbers = np.stack([one.reshape(512, 9) @ (1 << np.arange(9)[::-1]) for one in turned])
    return np.unique(numbers.min(axis=0), return_inverse=True)[1]


CLASS = classes()


def features(spins: np.ndarray) -> np.ndarray:
    """Return the numbers that the classifier sees of each of `spins` (n, L, L)."""
    s, side = spins.astype(np.float64), spins.shape[-1]
    power = np.abs(np.fft.fft2(s, norm="ortho")) ** 2
    pairs = np.fft.ifft2(power).real  # <s s'> of sites so far apart
    reach = min(16, side // 2)
    found = [0.5 * (pairs[:, r, 0] + pairs[:, 0, r]) for r in range(1, reach + 1)]
    found += [0.5 * (pairs[:, r, r] + pairs[:, r, -r]) for r in range(1, min(8, reach) + 1)]
    for r in range(1, min(8, reach) + 1):
        corners = [np.roll(s, shift, (1, 2)) for shift in ((r, 0), (0, r), (r, r))]
        found.append((s * corners[0] * corners[1] * corners[2]).mean(axis=(1, 2)))
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side) * side] * 2))
    ends = np.geomspace(0.9, k.max() * 1.01, 19)
    shells = [(k >= low) & (k < high) for low, high in itertools.pairwise(ends)]
    found += [power[:, shell].mean(axis=1) for shell in shells if shell.any()]
    up = (spins > 0).astype(np.int64)
    numbers = sum(np.roll(up, (-y, -x), (1, 2)) << (8 - 3 * y - x)
                  for y in range(3) for x in range(3))  # fmt: skip
    of = CLASS[numbers].reshape(len(spins), -1)
    counts = np.stack([np.bincount(one, minlength=CLASS.max() + 1) for one in of])
    return np.concatenate([np.stack(found, axis=1), counts / of.shape[1]], axis=1)


def of_store(path: Path) -> np.ndarray:
    """Return the features of all configurations of a store."""
    store = open_store(path)
    parts = [store.read(i, min(i + BATCH, N)) for i in range(0, N, BATCH)]
    return np.concatenate([features(part) for part in parts])


# %% The classifier
def accuracy(differences: np.ndarray) -> float:
    """Return in how many of the pairs it is right that it was not found from."""
    part = np.random.default_rng(SEED).permutation(len(differences)) % PARTS
    right = 0
    for i in range(min(PARTS, len(differences))):
        own, rest = differences[part == i], differences[part != i]
        unit = np.sqrt((rest**2).mean(axis=0)).clip(min=1e-12)
        d = rest / unit
        covariance = d.T @ d / len(d)
        ridge = study.options.ridge * np.eye(len(covariance))
        w = np.linalg.solve(covariance + ridge, d.mean(axis=0))
        score = own / unit @ w
        right += (score > 0).sum() + 0.5 * (score == 0).sum()
    return float(right / len(differences))


# %% Pairs
def judged() -> pd.DataFrame:
    """Return the accuracy, one line for each factor and method."""
    truth = FOLDER / "truth.zarr"
    words = ("--L", SIDE, "--T", "Tc", "-n", N, "--chains", 8, "--seed", SEED, "-o", truth)
    skild_phys("simulate", *words)
    known, rows = of_store(truth), []
    for factor in FACTORS:
        coarse = FOLDER / f"coarse-{factor}x.zarr"
        skild_phys("coarsen", truth, "--factor", factor, "-o", coarse)
        for method in METHODS:
            fine = FOLDER / f"{method}-{factor}x.zarr"
            skild_phys("refine", coarse, "--method", method, "-o", fine)
            right = accuracy(of_store(fine) - known)
            error = math.sqrt(max(right * (1.0 - right), 1.0 / N) / N)
            rows.append({"L": SIDE, "factor": factor, "method": method, "lattices": N,
                         "accuracy": right, "error": error})  # fmt: skip
            study.save(pd.DataFrame(rows), digits=4)
    return pd.DataFrame(rows)


study.finish(judged(), digits=4)
