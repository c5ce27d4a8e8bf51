"""One set of weights, every factor: where do refinements become wrong?

Reads the campaigns `simulations/factors.toml` (block means, majorities and decimated spins, factors
2 to 12, by SKILD and the exact Monte Carlo) and `simulations/modes.toml` (the low-pass field).

    skild-phys run simulations/factors.toml
    skild-phys run simulations/modes.toml
    python analysis/factors_ising2d.py runs/factors --modes runs/modes
"""

# %% What is read
from pathlib import Path

import pandas as pd
from study import RESIDUALS, Study, agreement, campaign_results, residuals


# %% Conclusions
def verdict(table: pd.DataFrame) -> list[str]:
    """Return the conclusions, one paragraph each."""
    groups = table[table["method"] == "skild"].groupby(["rule", "factor"], sort=False)
    lines = [f"{rule}, factor {factor}: {agreement(part)}." for (rule, factor), part in groups]
    return [*lines, residuals(table, ["L", "rule", "factor", "method"])]


study = Study(__file__, __doc__, verdict, "runs/factors", modes="runs/modes")
fine = study.options.folder / "fine.zarr"
if fine.exists():  # a campaign of one size
    places = {f"{store}_{place.name}": place / f"{store}.zarr"
              for place in sorted(study.options.folder.glob("*-block_mean"))
              for store in ("coarse", "skild")}  # fmt: skip
    study.sample(fine=fine, **places)
folders = (study.options.folder, Path(study.options.modes))
study.finish(pd.concat([campaign_results(folder, RESIDUALS) for folder in folders]))
