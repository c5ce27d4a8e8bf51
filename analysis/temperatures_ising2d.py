"""Away from Tc: where do weights trained at Tc become wrong?

Reads the campaign `simulations/temperatures.toml`: configurations at temperatures around Tc,
refined by a factor of 4 with the shipped weights all the same (`--any-system`; without it the
command refuses a temperature more than half a percent from Tc), and by the exact Monte Carlo at
their own temperature.

    skild-phys run simulations/temperatures.toml
    python analysis/temperatures_ising2d.py runs/temperatures    -> temperatures_ising2d.csv, .md
"""

# %% What is read
import pandas as pd
from study import RESIDUALS, Study, campaign_results, residuals, signed

from skild_phys.models import MODELS


# %% Conclusions
def verdict(table: pd.DataFrame) -> list[str]:
    """Return where the energy is right to 0.01, and all residuals."""
    lines = []
    energy = table[(table["observable"] == "energy") & (table["method"] == "skild")]
    for rule, own in energy.groupby("rule", sort=False):
        good = own.loc[own["residual"].abs() <= 0.01, "relative"]
        worst = own.loc[own["residual"].abs().idxmax()]
        largest = signed(*worst[["residual", "residual_err"]])
        within = ", ".join(f"{relative:g}" for relative in good) or "none of them"
        lines.append(
            f"{rule}: the energy of SKILD's refinements is within 0.01 of the true one at T / Tc = "
            f"{within}; the largest difference is {largest} at T / Tc = {worst['relative']:g}."
        )
    return [*lines, residuals(table, ["L", "rule", "relative", "method"])]


study = Study(__file__, __doc__, verdict, "runs/temperatures")
TC = MODELS["ising2d"].critical_temperature


def compared() -> pd.DataFrame:
    """Return all comparisons, by T / Tc."""
    found = campaign_results(study.options.folder, RESIDUALS)
    return found.assign(relative=(found["T"] / TC).round(6)).sort_values("relative", kind="stable")


study.finish(compared())
