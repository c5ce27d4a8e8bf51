"""What the studies share: options, commands of the package, a table (NAME.csv), its conclusions.

A study is a script in cells (`# %%`). It reads stores and tables that a campaign left (`skild-phys
run`), or makes its own. It writes a table, `NAME.csv`, and beside it the conclusions in words,
`NAME.md`. With `--table` it measures nothing and only derives NAME.md again from NAME.csv.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skild_phys.campaign import RESULTS
from skild_phys.cli import FROM_PYTHON, main
from skild_phys.errors import SkildPhysError
from skild_phys.measurement.report import SIGNIFICANT
from skild_phys.measurement.tables import with_error
from skild_phys.store import open_store

Verdict = Callable[[pd.DataFrame], Sequence[str]]
"""Returns the conclusions from a table, one paragraph each."""


class Study:
    """One study: its options (`options.folder`, and those that `sizes` names) and its table."""

    def __init__(
        self, script: str, text: str | None, verdict: Verdict, folder: str, **sizes: float | str
    ) -> None:
        self.csv, self._verdict = Path(script).with_suffix(".csv"), verdict
        form = argparse.RawDescriptionHelpFormatter
        parser = argparse.ArgumentParser(description=text, formatter_class=form)
        parser.add_argument("folder", nargs="?", type=Path, default=Path(folder))
        parser.add_argument(
            "--table", action="store_true", help="only derive NAME.md from the table"
        )
        for name, value in sizes.items():
            shown = f"default: {value}"
            parser.add_argument(f"--{name}", type=type(value), default=value, help=shown)
        self.options = parser.parse_args()
        if self.options.table:
            self._conclude()
            raise SystemExit
        self.options.folder.mkdir(parents=True, exist_ok=True)

    def save(self, found: pd.DataFrame, digits: int = 6) -> None:
        """Write the table, also an unfinished one."""
        found.to_csv(self.csv, index=False, float_format=f"%.{digits}g")

    def sample(self, **stores: Path) -> None:
        """Write the first configurations of stores to NAME.npz, for figures."""
        opened = {name: open_store(path) for name, path in stores.items()}
        first = {name: store.read(0, 1)[0] * store.scale for name, store in opened.items()}
        np.savez_compressed(self.csv.with_suffix(".npz"), **first)

    def finish(self, found: pd.DataFrame, digits: int = 6) -> None:
        """Write the table and the conclusions."""
        self.save(found, digits)
        self._conclude()

    def _conclude(self) -> None:
        text = "\n\n".join(self._verdict(pd.read_csv(self.csv))) + "\n"
        self.csv.with_suffix(".md").write_text(text)
        print(text)


def skild_phys(*words: object) -> Any:
    """Run a command of the package and return what it would print as JSON."""
    print("skild-phys", *words, file=sys.stderr, flush=True)
    try:
        return main.main([*map(str, words)], standalone_mode=False, obj=FROM_PYTHON)
    except SkildPhysError as error:
        raise SystemExit(f"error: {error}") from None


def kept(path: Path, make: Callable[..., dict], *words: object) -> dict:
    """Return what `make(*words)` returned when it was first called for `path`, kept as JSON.

    It is not checked that `path` was made by the same `words`: a folder belongs to one study with
    one set of weights.
    """
    if not path.exists():
        made = make(*words)
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(made))
        part.replace(path)
    return json.loads(path.read_text())


def campaign_results(folder: Path, observables: Sequence[str]) -> pd.DataFrame:
    """Return the comparisons of a campaign for these observables."""
    if not (folder / RESULTS).exists():
        raise SystemExit(f"error: {folder / RESULTS}: is missing; run the campaign of this study")
    found = pd.read_csv(folder / RESULTS)
    return found[found["observable"].isin(observables)].reset_index(drop=True)


# %% Residuals, refined minus truth
SIDES = (1, 2, 4, 8, 32)
RESIDUALS = ("energy", "connected_four_point", "patterns_tv", "patterns_tv_noise")
"""The observables in the table of `residuals`."""
HEADS = {
    "relative": "T / Tc",
    "model": "method",
    "network_calls": "denoiser evaluations",
    "seconds": "seconds per configuration",
}
"""Headings of columns whose name in NAME.csv is another."""


def signed(value: float, error: float) -> str:
    """Return `value(error)` with its sign."""
    return ("+" if value > 0 else "") + with_error(value, error)


def residuals(table: pd.DataFrame, by: Sequence[str]) -> str:
    """Return a Markdown table of residuals, one line per group of `by`."""
    head = [HEADS.get(name, name) for name in by]
    head += ["configurations", *(f"G4c r = {r}" for r in SIDES), "energy per site", "TV"]
    lines = [head, ["---"] * len(head)]
    for values, own in table.groupby(list(by), sort=False, dropna=False):
        at = own[own["observable"] == "connected_four_point"].set_index("at")
        scalar = own.set_index("observable")
        cells = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values]
        cells.append(f"{own['lattices'].iloc[0]:g}")
        at.index = at.index.astype(float)
        cells += [
            signed(*at.loc[r, ["residual", "residual_err"]]) if r in at.index else "" for r in SIDES
        ]
        cells.append(signed(*scalar.loc["energy", ["residual", "residual_err"]]))
        cells.append(f"{scalar.loc['patterns_tv', 'value']:.4f}")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def agreement(table: pd.DataFrame) -> str:
    """Return at how many distances G4c agrees with the truth, and the largest residual."""
    own = table[table["observable"] == "connected_four_point"].dropna(subset=["sigmas"])
    good = (own["sigmas"].abs() <= SIGNIFICANT).sum()
    worst = own.loc[own["residual"].abs().idxmax()]
    largest = signed(*worst[["residual", "residual_err"]])
    return (
        f"{good} of {len(own)} residuals of G4c are within {SIGNIFICANT:g} standard "
        f"errors; the largest is {largest} at r = {worst['at']:g}"
    )
