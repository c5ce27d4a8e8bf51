"""Are configurations that SKILD generates from noise critical Ising configurations?

Generated configurations of 64^2 and 128^2 beside as many simulated ones and the exact theory:
energy and specific heat, |m|, chi, U4, xi / L, S(k), the connected four-point function and 3x3
patterns. The report of each size, with plots, is written to the given folder.

    python analysis/generation_ising2d.py runs/generation --lattices 500
        -> generation_ising2d.csv, .md

LATTICES is the number of the smaller configurations; there are half as many of the larger.
"""

# %% What is run
import pandas as pd
from study import Study, kept, signed, skild_phys

from skild_phys.measurement import TABLE


# %% Conclusions
def verdict(table: pd.DataFrame) -> list[str]:
    """Return the conclusions, one paragraph each."""
    SHOWN = ("energy", "specific_heat", "binder_cumulant", "susceptibility")
    lines = []
    for (side, n), own in table[table["at"].isna()].groupby(["L", "lattices"]):
        own = own.set_index("observable").loc[list(SHOWN)]
        said = [f"{name.replace('_', ' ')} {signed(line['residual'], line['residual_err'])}"
                for name, line in own.iterrows()]  # fmt: skip
        lines.append(
            f"{n} configurations of {side}^2, generated minus simulated: {', '.join(said)}."
        )
    return lines


study = Study(__file__, __doc__, verdict, "runs/generation", lattices=500, side=64)
SEED = 20270107


# %% Configurations and reports
def compared() -> pd.DataFrame:
    """Return generated configurations compared with simulated ones and with theory."""
    folder, many, small = study.options.folder, study.options.lattices, study.options.side
    rows = []
    for side, n in ((small, many), (2 * small, many // 2)):
        truth, made = folder / f"simulated{side}-{n}.zarr", folder / f"skild{side}-{n}.zarr"
        skild_phys("simulate", "--L", side, "--T", "Tc", "-n", n, "--chains", 8, "--seed", SEED,
                   "-o", truth)  # fmt: skip
        words = ("generate", "--L", side, "-n", n, "-o", made)
        seconds = kept(made.with_suffix(".json"), skild_phys, *words)["seconds_per_lattice"]
        report = folder / f"report{side}"
        skild_phys("compare", truth, made, "-o", report, "--overwrite", "--no-figures")
        rows.append(pd.read_csv(report / TABLE).assign(L=side, lattices=n, seconds=seconds))
    return pd.concat(rows)


study.finish(compared())
