"""Who refines more cheaply to a given error: SKILD or the exact conditional Monte Carlo?

Reads the campaign `simulations/steps.toml`, run on one thread: block means by 2, 4 and 8 with
4 to 28 calls of the denoiser, and with 1 to 256 sweeps after a random fill. The error is the total
variation of 3x3 pattern frequencies between refined and true lattices.

    skild-phys run simulations/steps.toml --threads 1
    python analysis/cost_ising2d.py runs/steps    -> cost_ising2d.csv, .md
"""

# %% What is read
import pandas as pd
from study import RESIDUALS, Study, campaign_results


# %% What the table says
def verdict(table: pd.DataFrame) -> list[str]:
    """Return seconds until 3x3 patterns are within half again of the least error of any method."""
    lines = []
    tv = table[table["observable"] == "patterns_tv"]
    for (side, factor), own in tv.groupby(["L", "factor"]):
        limit, said = 1.5 * own["value"].min(), []
        for method, unit in (("skild", "calls"), ("exact", "sweeps")):
            every = own[own["method"] == method]
            enough = every[every["value"] <= limit].sort_values("seconds_per_lattice")
            # Where it was never reached, the best there is.
            best = (enough if len(enough) else every.sort_values("value")).iloc[0]
            number = best["steps"] if method == "skild" else best["sweeps"]
            reached = "" if len(enough) else f"not reached, {best['value']:.4f} for "
            seconds = best["seconds_per_lattice"]
            said.append(f"{method} {reached}{seconds:.2g} s a lattice ({number:g} {unit})")
        lines.append(f"{side}^2 by {factor}, 3x3 patterns to {limit:.4f}: {', '.join(said)}.")
    return lines


study = Study(__file__, __doc__, verdict, "runs/steps")
study.finish(campaign_results(study.options.folder, RESIDUALS))
