"""One set of weights, every size: do weights trained on 64^2 refine to 1024^2?

Reads the campaign `simulations/sizes.toml`: block means, factor 4, SKILD and the exact Monte Carlo.

    skild-phys run simulations/sizes.toml
    python analysis/sizes_ising2d.py runs/sizes    -> sizes_ising2d.csv, .md
"""

# %% What is read
import pandas as pd
from study import RESIDUALS, Study, agreement, campaign_results, residuals


# %% Conclusions
def verdict(table: pd.DataFrame) -> list[str]:
    """Return the conclusions, one paragraph each."""
    own = table[table["method"] == "skild"]
    lines = [f"{side}^2: {agreement(part)}." for side, part in own.groupby("L")]
    return [*lines, residuals(table, ["L", "rule", "factor", "method"])]


study = Study(__file__, __doc__, verdict, "runs/sizes")
study.finish(campaign_results(study.options.folder, RESIDUALS))
