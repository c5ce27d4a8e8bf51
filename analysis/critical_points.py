"""Do the simulators find the critical points of the literature?

Binder cumulants U4 = 1 - <m^4> / (3 <m^2>^2) of two sizes cross near Tc. Both sizes of a pair are
simulated at five temperatures within a relative distance 0.4 L^(-1/nu) of the published one, where
U4 is a parabola in T; the crossing is where the two parabolas meet. Standard errors are from 50
jackknife bins in the order of the chains. Corrections to scaling move the crossings of finite
sizes (with logarithms for the 4-state Potts model), which is why this is a study and not a test.

    nice python analysis/critical_points.py runs/critical     -> critical_points.csv, .md
"""

# %% What is needed
import numpy as np
import pandas as pd
from study import Study

from skild_phys.measurement.tables import with_error
from skild_phys.models import get_model
from skild_phys.simulation.ensemble import simulate
from skild_phys.simulation.spec import SimulationSpec
from skild_phys.store import open_store


# %% Conclusions
def verdict(table: pd.DataFrame) -> list[str]:
    """Return how far each crossing is from the published critical point."""
    return [
        f"{row.model}, {row.L1} and {row.L2}: U4 crosses at T = "
        f"{with_error(row.T_crossing, row.error)}, published {row.Tc_published:.6f} ({row.z:+.1f} "
        "sigma)."
        for row in table.itertuples()
    ]


# %% What is run
study = Study(__file__, __doc__, verdict, "runs/critical", samples=8000, bins=50, smaller=1)
FOLDER, SAMPLES, BINS = (getattr(study.options, key) for key in ("folder", "samples", "bins"))
SEED = 20261124
CASES = {  # pairs of sizes, and 1 / nu (Potts: Wu, Rev. Mod. Phys. 54, 235, 1982)
    "ising2d": (((16, 32), (32, 64)), 1.0),
    "ising3d": (((8, 16), (16, 32)), 1.587),
    "potts2": (((16, 32), (32, 64)), 1.0),
    "potts3": (((16, 32), (32, 64)), 1.2),
    "potts4": (((16, 32), (32, 64)), 1.5),
}
STEPS = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])


# %% Simulate
def moments(model: str, side: int, temperature: float) -> np.ndarray:
    """Return m^2 and m^4 of every sample, (2, samples), in the order of the chains."""
    path = FOLDER / f"{model}-L{side}-T{temperature:.6f}.zarr"
    spec = SimulationSpec(side, temperature, SAMPLES, model=model, seed=SEED)
    simulate(spec, path)
    store = open_store(path)
    order = np.lexsort((store.variable("draw"), store.variable("chain")))
    m = store.variable("magnetization")[order]
    return np.stack([m**2, m**4])


# %% Cross
def crossing(temperatures: np.ndarray, cumulants: np.ndarray) -> float:
    """Return where the parabolas through (T, U4) of two sizes meet, nearest to the middle."""
    fits = [np.polynomial.Polynomial.fit(temperatures, u, 2).convert() for u in cumulants]
    roots = (fits[0] - fits[1]).roots()
    real = roots[np.abs(roots.imag) < 1e-9].real
    return float(min(real, key=lambda t: abs(t - temperatures.mean()), default=np.nan))


rows = []
for name, (pairs, exponent) in CASES.items():
    published = get_model(name).critical_temperature
    for pair in pairs:
        sides = tuple(side // study.options.smaller for side in pair)
        temperatures = published * (1.0 + 0.4 * sides[1] ** -exponent * STEPS)
        data = np.array([[moments(name, side, t) for t in temperatures] for side in sides])
        bins = data.reshape(*data.shape[:3], BINS, -1).mean(axis=-1)
        left_out = (bins.sum(axis=-1, keepdims=True) - bins) / (BINS - 1)
        means = np.concatenate([bins.mean(axis=-1, keepdims=True), left_out], axis=-1)
        m2, m4 = np.moveaxis(means, 2, 0)
        cumulants = 1 - m4 / (3 * m2**2)
        found, *each = (crossing(temperatures, cumulants[..., k]) for k in range(BINS + 1))
        error = np.sqrt((BINS - 1) * np.var(each))
        rows.append(
            {
                "model": name,
                "L1": sides[0],
                "L2": sides[1],
                "Tc_published": published,
                "T_crossing": found,
                "error": error,
                "relative": found / published - 1.0,
                "z": (found - published) / error,
            }
        )
study.finish(pd.DataFrame(rows), digits=7)
