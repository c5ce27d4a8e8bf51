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
    """Return seconds until the error is within half again of the least that was reached."""
    lines = []
    tv = table[table["observable"] == "patterns_tv"]
    for (side, factor), own in tv.groupby(["L", "factor"]):
        enough = own[own["value"] <= 1.5 * own["value"].min()]
        cheapest = enough.loc[enough.groupby("method")["seconds_per_lattice"].idxmin()]
        said = [
            f"{line.method} {line.seconds_per_lattice:.2g} s a lattice "
            f"({line.steps if line.method == 'skild' else line.sweeps:g} "
            f"{'calls' if line.method == 'skild' else 'sweeps'})"
            for line in cheapest.itertuples()
        ]
        lines.append(
            f"{side}^2 by {factor}, 3x3 patterns within {1.5 * own['value'].min():.4f}: "
            f"{', '.join(said)}."
        )
    return lines


study = Study(__file__, __doc__, verdict, "runs/steps")
study.finish(campaign_results(study.options.folder, RESIDUALS))
