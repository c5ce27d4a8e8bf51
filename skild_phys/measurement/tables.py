"""A measurement as tables: tidy ones, those of the terminal, CSV and JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

Table = tuple[list[str], list[list[str]]]
"""Headings, and the cells of each line, as text."""

_DIGITS = 6


class Estimates:
    """Estimates of a measurement, or of a store in a comparison, by the names of observables."""

    def __init__(self, data: xr.Dataset) -> None:
        self.data = data

    @property
    def names(self) -> list[str]:
        """Names of the observables, in their order."""
        return [str(name) for name in self.data.data_vars if f"{name}_n_eff" in self.data]

    def label(self, name: str) -> str:
        """Return the symbol of an observable, or else its name in words."""
        symbol = self.data[name].attrs.get("symbol") if name in self.data else None
        return str(symbol or name.replace("_", " "))

    def over(self, name: str) -> xr.DataArray:
        """Return the coordinate that an observable with a dimension is over."""
        (dim,) = self.data[name].dims
        there = [dim] if dim in self.data.coords else self.data.coords
        return next(self.data[c] for c in there if self.data[c].dims == (dim,))

    def positions(self, name: str) -> list[Any]:
        """Return the distances, wave numbers .. of an observable; one NaN for a scalar."""
        return self.over(name).values.tolist() if self.data[name].dims else [math.nan]

    def column(self, name: str, n: int = 1) -> NDArray[np.float64]:
        """Return one number for each of `n` distances, NaN for what was not estimated."""
        if name not in self.data:
            return np.full(n, np.nan)
        return np.atleast_1d(np.asarray(self.data[name].values, dtype=np.float64))

    def records(self, name: str, **columns: tuple[Estimates, str]) -> list[dict[str, Any]]:
        """Return one line for each distance; `columns` are variables NAME and an end."""
        at, unit = self.positions(name), self.data[name].attrs["units"]
        values = [of.column(f"{name}{end}", len(at)) for of, end in columns.values()]
        return [
            {"observable": name, "at": r, "unit": unit} | dict(zip(columns, map(float, row)))
            for r, *row in zip(at, *values)
        ]

    def table(self) -> pd.DataFrame:
        """Return a tidy table: one line per observable and distance.

        Columns: observable, at (side, distance, wave number or size; NaN for scalars), unit,
        value, err, tau_int, tau_int_err, n_eff, theory. S(k) mode by mode and energies of single
        configurations stay in the Dataset.
        """
        ends = ("err", "tau_int", "tau_int_err", "n_eff", "theory")
        columns = {"value": (self, "")} | {end: (self, f"_{end}") for end in ends}
        return pd.DataFrame([r for name in self.names for r in self.records(name, **columns)])

    def texts(self, everything: bool) -> Iterator[Table]:
        """Yield the table of scalars, and one for the curves over each dimension with a symbol.

        `everything` adds a table of each other curve. A dense curve with a symbol is shown at
        1, 2, 4 .. steps.
        """
        data = self.data
        names = [name for name in self.names if data[name].size]
        if scalars := [name for name in names if not data[name].dims]:
            headings = ["observable", "", "unit", "value", "theory", "tau", "n_eff"]
            yield headings, [self._scalar(name) for name in scalars]
        groups: dict[str, list[str]] = {}
        for name in (name for name in names if data[name].dims):
            if "symbol" in data[name].attrs:
                groups.setdefault(str(data[name].dims[0]), []).append(name)
            elif everything:
                groups[name] = [name]
        for group in groups.values():
            over, headings, cells = self.over(group[0]), [], []
            for name in group:
                headings.append(self.label(name))
                cells.append(self._shown(name))
                if f"{name}_theory" in data:
                    headings.append("theory")
                    cells.append(self._theory(name))
            few = over.attrs["dense"] and "symbol" in data[group[0]].attrs
            lines = [
                [at if isinstance(at, str) else f"{at:.4g}", *line]
                for i, (at, *line) in enumerate(zip(over.values.tolist(), *cells))
                if not few or (i and i & (i - 1) == 0)
            ]
            yield [str(over.attrs["symbol"]), *headings], lines

    def _scalar(self, name: str) -> list[str]:
        ends = ("tau_int", "tau_int_err", "n_eff")
        tau, unsure, n_eff = (self.column(f"{name}_{end}")[0] for end in ends)
        shown = f"{tau:.2g}" if math.isnan(unsure) else with_error(tau, unsure)
        about = self.data[name].attrs
        return [
            name.replace("_", " "), about.get("symbol", ""), about["units"], *self._shown(name),
            *self._theory(name), "unknown" if math.isnan(tau) else shown, f"{n_eff:.0f}",
        ]  # fmt: skip

    def _shown(self, name: str) -> list[str]:
        return [with_error(*pair) for pair in zip(self.column(name), self.column(f"{name}_err"))]

    def _theory(self, name: str) -> list[str]:
        """Return values in theory: six digits where they are exact, else four after a ~."""
        exact = f"{name}_theory" in self.data and self.data[f"{name}_theory"].attrs["exact"]
        form = "{:.6g}" if exact else "~{:.4g}"
        values = self.column(f"{name}_theory").tolist()
        return [form.format(value) if math.isfinite(value) else "" for value in values]


def with_error(value: float, error: float) -> str:
    """Return `value(error)` with two digits of error, as in -1.4142(11) or 2.43(43)e-7.

    Plain without an error, or with one too small to be shown.
    """
    if not math.isfinite(value):
        return ""
    if not (math.isfinite(error) and error > 0):
        return f"{value:.6g}"
    digits = 1 - math.floor(math.log10(error))
    scaled = round(error * 10.0**digits)
    if scaled >= 100:
        digits, scaled = digits - 1, round(scaled / 10)
    power = math.floor(math.log10(max(abs(value), error)))
    if digits > _DIGITS and power < 0:
        return f"{with_error(value / 10.0**power, error / 10.0**power)}e{power}"
    if digits > _DIGITS:
        return f"{value:.{_DIGITS}f}"
    if digits <= 0:
        return f"{round(value, digits):.0f}({round(error, digits):.0f})"
    return f"{value:.{digits}f}({scaled})"


def no_formula(value: Any) -> Any:
    """Return a cell of a table; before text that spreadsheets would execute stands a '."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {*"=+-@\t\r"} else value


def csv_text(frame: pd.DataFrame) -> str:
    """Return a table as CSV, without formulas."""
    return frame.map(no_formula).to_csv(index=False)


def to_plain(value: Any) -> Any:
    """Return what json can write: NaN and infinity become None, NumPy numbers plain ones.

    A measurement becomes its attributes, and one record per observable and distance.
    """
    if isinstance(value, xr.Dataset):
        value = {**value.attrs, "observables": Estimates(value).table().to_dict("records")}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [to_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
