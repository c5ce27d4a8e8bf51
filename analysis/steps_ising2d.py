"""How many network evaluations does a given accuracy need?

Reads the campaign `simulations/steps.toml`: block means at factors 2, 4 and 8 with 2 to 16 denoiser
evaluations on the lattice. Below lambda = 0.9 the shipped weights use the mean field without the
network; what the network does is counted in evaluations on the lattice (`evaluations`), those of
coarser grids by their sites. The paper's protocol (from the forward marginal of the
truth, with the paper's ancestral steps and with this package's own sampler) is run here at FACTOR,
with the same numbers of evaluations on the same true configurations.

    skild-phys run simulations/steps.toml --threads 1
    python analysis/steps_ising2d.py runs/steps    -> steps_ising2d.csv, .md
"""

# %% What is read
from pathlib import Path

import pandas as pd
from study import RESIDUALS, Study, campaign_results, signed, skild_phys

from skild_phys.measurement import TABLE
from skild_phys.store import open_store


# %% Conclusions
def verdict(table: pd.DataFrame) -> list[str]:
    """Return G4c at r = 1 by the number of evaluations."""
    lines = []
    own = table[
        (table["observable"] == "connected_four_point") & (table["at"].astype(float) == 1.0)
    ]
    for (side, factor, protocol), part in own.groupby(["L", "factor", "protocol"], sort=False):
        part = part.sort_values("steps")
        said = [
            f"{line.steps:g} ({line.evaluations:.3g}): {signed(line.residual, line.residual_err)}"
            for line in part.itertuples()
        ]
        lines.append(f"{side}^2, factor {factor}, {protocol}: {', '.join(said)}.")
    head = "G4c at r = 1, refined minus truth, by denoiser (network) evaluations:"
    return [head, *lines]


study = Study(__file__, __doc__, verdict, "runs/steps", factor=4)


# %% The campaign's comparisons and the paper's protocol
def compared() -> pd.DataFrame:
    """Return all comparisons of SKILD's refinements, with their network evaluations."""
    found = campaign_results(study.options.folder, RESIDUALS)
    found = found[found["method"] == "skild"].assign(protocol="refine")
    tables = []
    for place, own in found.groupby("folder", sort=False):
        here = study.options.folder / str(place)
        tables.append(own)
        if own["factor"].iloc[0] == study.options.factor:
            tables += [
                marginal(here, own, sampler, int(steps))
                for sampler in ("ancestral", "mixed")
                for steps in own["steps"].unique()
            ]
    return pd.concat(tables, ignore_index=True)[[*found.columns]]


def marginal(here: Path, own: pd.DataFrame, sampler: str, steps: int) -> pd.DataFrame:
    """Return the paper's protocol compared with the truth in `here` or the nearest folder above."""
    fine = next(p / "fine.zarr" for p in (here, *here.parents) if (p / "fine.zarr").exists())
    made = here / f"{sampler}{steps}.zarr"
    words = ("generate", "--truth", fine, "--factor", study.options.factor)
    skild_phys(*words, "--steps", steps, "--sampler", sampler, "-o", made)
    report = made.with_suffix("")
    skild_phys("compare", fine, made, "-o", report, "--overwrite", "--no-figures")
    table = pd.read_csv(report / TABLE)
    same = own.iloc[0][["folder", "system", "L", "T", "factor", "lattices", "method"]].to_dict()
    attrs = open_store(made).attrs
    of = same | {"protocol": sampler} | {key: attrs[key] for key in ("steps", "evaluations")}
    return table[table["observable"].isin(RESIDUALS)].assign(**of)


study.finish(compared())
