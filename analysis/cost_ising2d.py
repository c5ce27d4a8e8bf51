"""Which is cheaper at equal accuracy: SKILD or the exact conditional Monte Carlo?

Reads the campaign `simulations/steps.toml`, run on one thread: block means at factors 2, 4 and 8,
refined with 4 to 28 denoiser evaluations, and with 1 to 256 sweeps after a random fill. The measure
is the total variation distance of 3x3 pattern frequencies between refined and true configurations.

    skild-phys run simulations/steps.toml --threads 1
    python analysis/cost_ising2d.py runs/steps    -> cost_ising2d.csv, .md
"""

# %% What is read
import pandas as pd
from study import RESIDUALS, Study, campaign_results


# %% Conclusions
def verdict(table: pd.DataFrame) -> list[str]:
    """Return the seconds until the distance is at most 1.5 times the least of any method."""
    lines = []
    tv = table[table["observable"] == "patterns_tv"]
    for (side, factor), own in tv.groupby(["L", "factor"]):
        limit, said = 1.5 * own["value"].min(), []
        for method, unit in (("skild", "denoiser evaluations"), ("exact", "sweeps")):
            every = own[own["method"] == method]
            enough = every[every["value"] <= limit].sort_values("seconds_per_lattice")
            # Where the limit is never reached, the smallest distance.
            best = (enough if len(enough) else every.sort_values("value")).iloc[0]
            number = best["steps"] if method == "skild" else best["sweeps"]
            reached = "" if len(enough) else f"not reached, {best['value']:.4f} in "
            seconds = best["seconds_per_lattice"]
            said.append(f"{method} {reached}{seconds:.2g} s per configuration ({number:g} {unit})")
        lines.append(f"{side}^2, factor {factor}, 3x3 patterns to {limit:.4f}: {'; '.join(said)}.")
    return lines


study = Study(__file__, __doc__, verdict, "runs/steps")
study.finish(campaign_results(study.options.folder, RESIDUALS))
