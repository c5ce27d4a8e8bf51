"""The four-point benchmark: how well do the shipped weights refine critical configurations?

Reads the campaign `simulations/headline.toml`: configurations refined from block means, majorities
or decimated spins alone, by SKILD, by the exact conditional Monte Carlo, and by a random fill. The
paper's protocol (rule `marginal`) is run here on the same true configurations: its chains start
from the forward marginal of the truth.

    skild-phys run simulations/headline.toml
    python analysis/refinement_ising2d.py runs/headline    -> refinement_ising2d.csv, .md
"""

# %% What is read
import pandas as pd
from study import RESIDUALS, Study, agreement, campaign_results, residuals, skild_phys

from skild_phys.measurement import TABLE
from skild_phys.store import open_store


# %% Conclusions
def verdict(table: pd.DataFrame) -> list[str]:
    """Return the conclusions, one paragraph each."""
    groups = table[table["method"] == "skild"].groupby(["L", "rule", "factor"], sort=False)
    lines = [
        f"{rule}, factor {factor}, {side}^2: {agreement(part)}."
        for (side, rule, factor), part in groups
    ]
    return [*lines, residuals(table, ["L", "rule", "factor", "method"])]


study = Study(__file__, __doc__, verdict, "runs/headline")
KEPT = (*RESIDUALS, "abs_magnetization", "binder_cumulant", "patterns_kl", "site_agreement",
        "coarse_agreement")  # fmt: skip


# %% The campaign's comparisons and the paper's protocol
def compared() -> pd.DataFrame:
    """Return all comparisons."""
    folder = study.options.folder
    found = campaign_results(folder, KEPT)
    tables = [found]
    for fine in sorted(folder.rglob("fine.zarr")):
        store = open_store(fine)
        for factor in sorted({*found.loc[found["L"] == store.shape[0], "factor"]}):
            made = fine.with_name(f"marginal{factor}.zarr")
            words = ("generate", "--truth", fine, "--factor", factor, "-o", made)
            seconds = skild_phys(*words)["seconds_per_lattice"]
            report = fine.with_name(f"marginal{factor}")
            skild_phys("compare", fine, made, "-o", report, "--overwrite", "--no-figures")
            table = pd.read_csv(report / TABLE)
            table = table[table["observable"].isin(KEPT)]
            of = {"L": store.shape[0], "rule": "marginal", "factor": factor, "method": "skild"}
            of |= {"steps": open_store(made).attrs["steps"], "seconds_per_lattice": seconds}
            tables.append(table.assign(**of, lattices=store.n_samples))
    return pd.concat(tables, ignore_index=True)[found.columns]


place = study.options.folder / "block_mean"
if place.exists():  # a campaign of one size
    stores = {name: place / f"{name}.zarr" for name in ("coarse", "skild", "exact")}
    study.sample(fine=place.with_name("fine.zarr"), **stores)
study.finish(compared())
