"""A comparison as a table, as JSON, as sentences, and as one HTML page."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from skild_phys.measurement.agreement import Agreement
from skild_phys.measurement.compare import RATIOS, Compared, Comparison
from skild_phys.models import MODELS

SIGNIFICANT = 3.0
"""Residuals beyond so many standard errors are called off; below, in agreement."""

_COLUMNS = (
    "model", "observable", "at", "unit", "truth", "truth_err", "value", "err",
    "residual", "residual_err", "sigmas", "theory",
)  # fmt: skip
_FREQUENCY = "pattern_frequency_residual"
_OF_BOTH = (
    "patterns_tv", "patterns_tv_noise", "patterns_kl", "site_agreement", "coarse_agreement",
    *(f"{name}_ratio" for name in RATIOS),
)  # fmt: skip


def table(comparison: Comparison) -> pd.DataFrame:
    """Return one line per store, observable and distance: values, errors, residual, theory.

    Columns as in `_COLUMNS`; `at` is the side, distance, wave number or size (NaN for scalars).
    Pattern frequencies are left out: their distances are in the table, all 512 in the datasets.
    """
    lines, truth = [], comparison.truth
    for store in comparison.stores:
        columns = {
            "truth": (truth, ""), "truth_err": (truth, "_err"), "theory": (truth, "_theory"),
            "value": (store.data, ""), "err": (store.data, "_err"),
            **{end: (store.data, f"_{end}") for end in ("residual", "residual_err")},
        }  # fmt: skip
        residuals = [n for n in map(str, store.data) if n.endswith("_residual")]
        names = [n.removesuffix("_residual") for n in residuals if n != _FREQUENCY]
        for name in (*names, *(n for n in _OF_BOTH if n in store.data)):
            lines += [{"model": store.name} | r for r in _records(store.data, name, columns)]
    frame = pd.DataFrame(lines, columns=list(_COLUMNS))
    error = frame["residual_err"]
    frame["sigmas"] = (frame["residual"] / error).where(error > 0)
    return frame


def _records(
    data: xr.Dataset, name: str, columns: Mapping[str, tuple[xr.Dataset, str]]
) -> list[dict[str, Any]]:
    """Return one line for each distance; `columns` are variables NAME and an end of some data."""
    at, unit = _positions(data, name), data[name].attrs["units"]
    values = [_column(of, f"{name}{end}", len(at)) for of, end in columns.values()]
    return [
        {"observable": name, "at": place, "unit": unit} | dict(zip(columns, map(float, row)))
        for place, *row in zip(at, *values)
    ]


def estimated(data: xr.Dataset) -> list[str]:
    """Return the names of the observables of a measurement, in their order."""
    return [str(name) for name in data.data_vars if f"{name}_n_eff" in data]


def label(data: xr.Dataset, name: str) -> str:
    """Return the symbol of an observable, or else its name in words."""
    symbol = data[name].attrs.get("symbol") if name in data else None
    return str(symbol or name.replace("_", " "))


def estimates_table(data: xr.Dataset) -> pd.DataFrame:
    """Return a measurement as a tidy table: one line per observable and distance.

    Columns: observable, at (side, distance, wave number or size; NaN for scalars), unit, value,
    err, tau_int, tau_int_err, n_eff, theory. S(k) mode by mode and energies of single
    configurations stay in the Dataset.
    """
    ends = {"value": "", **{e: f"_{e}" for e in ("err", "tau_int", "tau_int_err", "n_eff")}}
    columns = {key: (data, end) for key, end in (ends | {"theory": "_theory"}).items()}
    return pd.DataFrame([r for name in estimated(data) for r in _records(data, name, columns)])


def position(data: xr.Dataset, name: str) -> xr.DataArray:
    """Return the coordinate that an observable with a dimension is over."""
    (dim,) = data[name].dims
    there = [dim] if dim in data.coords else data.coords
    return next(data[c] for c in there if data[c].dims == (dim,))


def _positions(data: xr.Dataset, name: str) -> list[Any]:
    return position(data, name).values.tolist() if data[name].dims else [math.nan]


def _column(data: xr.Dataset, name: str, n: int) -> NDArray[np.float64]:
    """Return one number for each of `n` distances, NaN for what was not estimated."""
    if name not in data:
        return np.full(n, np.nan)
    return np.atleast_1d(np.asarray(data[name].values, dtype=np.float64))


def _at(data: xr.Dataset, name: str, i: int = 0) -> float:
    return float(_column(data, name, i + 1)[i])


def _shown(data: xr.Dataset, name: str, i: int = 0) -> str:
    return with_error(_at(data, name, i), _at(data, f"{name}_err", i))


def scalar_lines(data: xr.Dataset, names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return headings and lines of the table of scalars."""
    lines = []
    for name in names:
        tau, unsure = (_at(data, f"{name}_tau_int{end}") for end in ("", "_err"))
        shown = f"{tau:.2g}" if math.isnan(unsure) else with_error(tau, unsure)
        about = data[name].attrs
        lines.append([
            name.replace("_", " "), about.get("symbol", ""), about["units"], _shown(data, name),
            _theory(data, name, 0), "unknown" if math.isnan(tau) else shown,
            f"{_at(data, f'{name}_n_eff'):.0f}",
        ])  # fmt: skip
    return ["observable", "", "unit", "value", "theory", "tau", "n_eff"], lines


def curve_lines(data: xr.Dataset, names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return headings and lines of the table of curves over one dimension.

    A dense one with symbols shows 1, 2, 4 .. steps.
    """
    over = position(data, names[0])
    columns: list[tuple[str, Callable[[xr.Dataset, str, int], str], str]] = []
    for name in names:
        columns.append((label(data, name), _shown, name))
        columns += [("theory", _theory, name)] if f"{name}_theory" in data else []
    few = over.attrs["dense"] and "symbol" in data[names[0]].attrs
    lines = [
        [
            str(at) if isinstance(at, str) else f"{at:.4g}",
            *(cell(data, name, i) for _, cell, name in columns),
        ]
        for i, at in enumerate(over.values.tolist())
        if not few or (i and i & (i - 1) == 0)
    ]
    return [str(over.attrs["symbol"]), *(head for head, *_ in columns)], lines


def _theory(data: xr.Dataset, name: str, i: int) -> str:
    """Return a value in theory: six digits where it is exact, else four after a ~."""
    value = _at(data, f"{name}_theory", i)
    if not math.isfinite(value):
        return ""
    return f"{value:.6g}" if data[f"{name}_theory"].attrs["exact"] else f"~{value:.4g}"


def residual_lines(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return headings and lines of scalars and G4c of all stores beside the truth."""
    frame, lines, stores = table(found), [], [s.name for s in found.stores]
    wanted = frame[frame["at"].isna() | (frame["observable"] == "connected_four_point")]
    for (name, at), group in wanted.groupby(["observable", "at"], sort=False, dropna=False):
        cells = {str(line["model"]): _cell(line) for line in group.to_dict("records")}
        first = group.iloc[0]
        lines.append([
            label(found.truth, str(name)), "" if at != at else f"{at:g}",
            with_error(first["truth"], first["truth_err"]),
            *(cells.get(name, "") for name in stores), with_error(first["theory"], 0.0),
        ])  # fmt: skip
    return ["observable", "r", "truth", *(f"{n} - truth" for n in stores), "theory"], lines


def _cell(line: dict[Any, Any]) -> str:
    """Return a residual with the number of errors it amounts to, or a value of its own."""
    if math.isnan(line["residual"]):
        return with_error(line["value"], line["err"])
    text = with_error(line["residual"], line["residual_err"])
    return text if math.isnan(line["sigmas"]) else f"{text} {line['sigmas']:+.1f}\u03c3"


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
        value = {**value.attrs, "observables": estimates_table(value).to_dict("records")}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [to_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary(comparison: Comparison) -> dict[str, Any]:
    """Return the whole comparison in plain types, ready for JSON."""
    frame, attrs, models = table(comparison), comparison.truth.attrs, []
    for store in comparison.stores:
        together = {
            name: {"chi2": a.chi2, "dof": a.dof, "p": a.p, "independent_lattices": a.n_eff}
            for name, a in store.together.items()
        }
        residuals = frame[frame["model"] == store.name].drop(columns="model")
        models.append({
            "name": store.name, "paired": store.paired, "lattices": store.lattices,
            "truth_lattices": store.parents, "notes": store.notes, "cost": store.cost,
            "verdict": verdict(comparison, store), "together": together,
            "residuals": residuals.to_dict("records"),
        })  # fmt: skip
    found: dict[str, Any] = to_plain({
        "truth": comparison.name, "lattices": attrs["lattices"], "errors": attrs["errors"],
        "patterns_floor": comparison.patterns_floor, "models": models,
        "ranking": ranking(comparison),
    })  # fmt: skip
    return found


@dataclass(frozen=True)
class Report:
    """A comparison as a notebook shows it.

    Attributes
    ----------
    comparison : all that was found.
    html : the page, which needs no other file.
    """

    comparison: Comparison
    html: str

    @property
    def table(self) -> pd.DataFrame:
        """One line per store, observable and distance: values, errors, residuals, theory."""
        return table(self.comparison)

    def _repr_html_(self) -> str:
        """Return the page in a frame, so that its style stays its own."""
        style = 'width="100%" height="720" style="border: 0"'
        return f'<iframe srcdoc="{_e(self.html)}" {style}></iframe>'

    def __repr__(self) -> str:
        found, lines = self.comparison, []
        for store in found.stores:
            lines.append(f"{store.name}: {verdict(found, store)}")
            lines += [f"  note: {note}" for note in store.notes]
        return "\n".join(lines + ranking(found))


def verdict(comparison: Comparison, store: Compared) -> str:
    """Return in plain words where a store agrees with the truth and where it does not."""
    data = store.data
    kind = "paired errors" if store.paired else "errors of two independent ensembles"
    if not np.isfinite(data["abs_magnetization_residual_err"]).all():
        return "Too few lattices for error bars: nothing can be said."
    sentences = [f"{store.lattices} lattices against {store.parents} of the truth, {kind}."]
    if "connected_four_point_residual" in data:
        sentences.append(_four_point_sentence(store))
    for name, subject in (("energy", "The energy"), ("abs_magnetization", "|m|")):
        if f"{name}_residual" in data:
            sentences.append(_scalar_sentence(store, name, subject))
    sentences += [_ratio_sentence(store), _together_sentence(store)]
    if "patterns_tv" in data:
        tv, noise = (_at(data, name) for name in ("patterns_tv", "patterns_tv_noise"))
        sentences.append(
            f"Frequencies of 3x3 patterns differ by {tv:.2g} in total variation; "
            f"noise alone would give {noise:.2g}, and two independent halves of the truth differ "
            f"by {comparison.patterns_floor:.2g}."
        )
    if "site_agreement" in data:
        share = _at(data, "site_agreement")
        sentences.append(f"It shares {share:.1%} of its spins with the truth.")
    if store.cost:
        cost = ", ".join(f"{k.replace('_', ' ')} {_short(v)}" for k, v in store.cost.items())
        sentences.append(f"How it was made: {cost}.")
    if store.cost.get("method") == "skild" and str(comparison.truth.attrs.get("model")) in MODELS:
        sentences.append(
            "The Hamiltonian is known here: refine --method exact draws exactly, and is cheaper."
        )
    return " ".join(s for s in sentences if s)


def _off(store: Compared, name: str, i: int = 0) -> bool:
    """Return whether a residual is beyond its error, or one of the two is not known."""
    residual, error = (_at(store.data, f"{name}_residual{end}", i) for end in ("", "_err"))
    return not abs(residual) <= SIGNIFICANT * error


def _residual(store: Compared, name: str, i: int = 0) -> str:
    value, error = (_at(store.data, f"{name}_residual{end}", i) for end in ("", "_err"))
    return ("+" if value > 0 else "") + with_error(value, error)


def _four_point_sentence(store: Compared) -> str:
    name = "connected_four_point"
    sides = _positions(store.data, name)
    off = [i for i in range(len(sides)) if _off(store, name, i)]
    within = ", ".join(f"{r:g}" for i, r in enumerate(sides) if i not in off)
    parts = [f"G4c agrees within {SIGNIFICANT:g} errors at r = {within}"] if within else []
    if off:
        by = ", ".join(f"{_residual(store, name, i)} at r = {sides[i]:g}" for i in off)
        parts.append(f"{'it' if within else 'G4c'} is off by {by}")
    return "; ".join(parts) + "."


def _scalar_sentence(store: Compared, name: str, subject: str) -> str:
    if _at(store.data, f"{name}_residual") == _at(store.data, f"{name}_residual_err") == 0:
        return f"{subject} is equal, lattice by lattice."
    if _off(store, name):
        return f"{subject} is off by {_residual(store, name)}."
    return f"{subject} agrees ({_residual(store, name)})."


def _ratio_sentence(store: Compared) -> str:
    ratio, error, residual, spread = (
        store.data[f"structure_factor_{end}"].values
        for end in ("ratio", "ratio_err", "residual", "residual_err")
    )
    off = np.flatnonzero(~(np.abs(residual) <= SIGNIFICANT * spread))
    if not len(off):
        return f"S(k) agrees within {SIGNIFICANT:g} errors in every shell."
    shells = f"{len(off)} of {len(ratio)} shells"
    chance = len(ratio) * 2 * float(stats.t.sf(SIGNIFICANT, store.parents - 1))
    if stats.poisson.sf(len(off) - 1, chance) > 0.01:
        return (
            f"S(k) agrees: {shells} are beyond {SIGNIFICANT:g} errors, where chance makes "
            f"{chance:.1f}."
        )
    if not np.isfinite(ratio[off]).all():
        return f"S(k) is off in {shells}, without bound where it is 0."
    worst = int(off[np.argmax(np.abs(np.log(np.maximum(ratio[off], 1e-300))))])
    k = float(store.data["k"].values[worst])
    shown = with_error(float(ratio[worst]), float(error[worst]))
    return f"S(k) is off in {shells}, at most by the factor {shown} at k = {k:.2f}."


def _together_sentence(store: Compared) -> str:
    parts = [
        f"{label(store.data, name)} {a.chi2:.3g} for {a.dof} ({_probability(a)})"
        for name, a in store.together.items()
        if math.isfinite(a.chi2)
    ]
    return f"All places together, chi^2: {', '.join(parts)}." if parts else ""


def _probability(found: Agreement) -> str:
    return "p < 1e-4" if found.p < 1e-4 else f"p = {found.p:.2g}"


def ranking(comparison: Comparison) -> list[str]:
    """Return for each observable and distance which store is closest; empty for a single store.

    Stores whose residual is within `SIGNIFICANT` errors count as agreeing, and are not ranked
    among themselves.
    """
    stores = comparison.stores
    errors = [s.data["abs_magnetization_residual_err"] for s in stores]
    if len(stores) < 2 or not all(np.isfinite(e).all() for e in errors):
        return []
    lines = []
    for name in ("energy", "abs_magnetization", "connected_four_point"):
        having = [s for s in stores if f"{name}_residual" in s.data]
        for i, at in enumerate(_positions(having[0].data, name) if having else ()):
            place = "" if math.isnan(at) else f" at r = {at:g}"
            lines.append(f"{label(having[0].data, name)}{place}: {_closest(having, name, i)}")
    if having := [s for s in stores if "patterns_tv" in s.data]:
        best = min(having, key=lambda s: _at(s.data, "patterns_tv"))
        lines.append(f"3x3 patterns: {best.name} is closest")
    time = "seconds_per_lattice"
    timed = {s.name: s.cost[time] for s in stores if time in s.cost}
    if len(timed) > 1:
        shown = ", ".join(f"{n} {timed[n]:.2g} s" for n in sorted(timed, key=timed.__getitem__))
        lines.append(f"wall time a lattice, as measured when they were made: {shown}")
    return lines


def _closest(stores: Sequence[Compared], name: str, i: int) -> str:
    if agreeing := [s.name for s in stores if not _off(s, name, i)]:
        agree = "agrees" if len(agreeing) == 1 else "agree"
        return f"{', '.join(agreeing)} {agree} within {SIGNIFICANT:g} errors"
    best = min(stores, key=lambda s: abs(_at(s.data, f"{name}_residual", i)))
    return f"{best.name} is closest ({_residual(best, name, i)})"


def html_report(
    comparison: Comparison, figures: Sequence[tuple[str, bytes]], command: str = ""
) -> str:
    """Return one page that needs no other file: verdicts, figures (PNG bytes), tables."""
    frame, attrs = table(comparison), comparison.truth.attrs
    facts = [f"truth: {attrs['lattices']} lattices of {'x'.join(map(str, attrs['shape']))}"]
    facts += [f"{k} {_short(attrs[k])}" for k in ("model", "temperature") if k in attrs]
    body = [
        f"<h1>{_e(comparison.name)} and what is compared with it</h1>",
        f"<p>{_e(', '.join(facts))}. Errors: {_e(attrs['errors'])}.</p>",
    ]
    for store in comparison.stores:
        body.append(f"<h2>{_e(store.name)}</h2><p>{_e(verdict(comparison, store))}</p>")
        body += [f"<p class='note'>{_e(note)}</p>" for note in store.notes]
    if ranks := ranking(comparison):
        items = "".join(f"<li>{_e(line)}</li>" for line in ranks)
        body.append(f"<h2>Which is closest</h2><ul>{items}</ul>")
    for caption, png in figures:
        data = base64.b64encode(png).decode()
        image = f"<img alt='{_e(caption)}' src='data:image/png;base64,{data}'>"
        body.append(f"<figure>{image}<figcaption>{_e(caption)}</figcaption></figure>")
    body += [f"<h2>All distances together</h2><p>{_CHI2}</p>", _together_table(comparison)]
    scalars, lines = frame[frame["at"].isna()], frame[frame["observable"] == "connected_four_point"]
    body += ["<h2>Scalars</h2>", _residual_table(scalars)]
    if len(lines):
        body += ["<h2>Connected four-point function</h2>", _residual_table(lines)]
    rest = frame.drop(index=[*scalars.index, *lines.index])
    for name, part in rest.groupby("observable", sort=False):
        title = _e(str(name).replace("_", " "))
        body.append(f"<details><summary>{title}</summary>{_residual_table(part)}</details>")
    if command:
        body.append(f"<p class='note'><code>{_e(command)}</code></p>")
    title = f"<title>{_e(comparison.name)}: comparison</title>"
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'>{title}"
    return (
        f"<!doctype html><html lang='en'><head>{head}<style>{_STYLE}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


_CHI2 = """chi^2 of the residuals with their full covariance (of Markov chains by bins in time),
over all sides of G4c and over 1, 2, 4 .. steps of the others; the probability of more is
Hotelling's."""
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2rem }
img { max-width: 100% } figure { margin: 2rem 0 } figcaption, .note { color: #555 }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums;
  display: block; overflow-x: auto }
th, td { padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd;
  white-space: nowrap }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left }
td.off { color: #a33d00; font-weight: 600 } summary { cursor: pointer; margin: 0.5rem 0 }
"""
_DIGITS = 6


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


def _e(text: object) -> str:
    return html.escape(str(text), quote=True)


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _html_table(head: Sequence[str], lines: Iterable[tuple[Sequence[str], int | None]]) -> str:
    """Return a table of (cells, which of them is off)."""
    rows = []
    for cells, off in lines:
        row = (f"<td{' class=off' * (i == off)}>{_e(cell)}</td>" for i, cell in enumerate(cells))
        rows.append(f"<tr>{''.join(row)}</tr>")
    header = "".join(f"<th>{h}</th>" for h in head)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _residual_table(frame: pd.DataFrame) -> str:
    head = ("store", "observable", "at", "truth", "value", "residual", "in errors", "theory")
    lines = []
    for line in frame.to_dict("records"):
        sigmas, at = line["sigmas"], line["at"]
        pairs = (("truth", "truth_err"), ("value", "err"), ("residual", "residual_err"))
        cells = [
            line["model"], line["observable"].replace("_", " "),
            at if isinstance(at, str) else "" if math.isnan(at) else f"{at:.4g}",
            *(with_error(line[value], line[error]) for value, error in pairs),
            "" if math.isnan(sigmas) else f"{sigmas:+.1f}", with_error(line["theory"], 0),
        ]  # fmt: skip
        lines.append((cells, 6 if abs(sigmas) > SIGNIFICANT else None))
    return _html_table(head, lines)


def _together_table(comparison: Comparison) -> str:
    head = ("store", "observable", "chi^2", "degrees of freedom", "probability")
    lines = []
    for store in comparison.stores:
        for name, a in store.together.items():
            judged = [f"{a.chi2:.4g}", str(a.dof), _probability(a)]
            few = [f"too few lattices ({a.n_eff:.0f}) for {a.dof}", "", ""]
            cells = [store.name, label(store.data, name)]
            cells += judged if math.isfinite(a.chi2) else few
            lines.append((cells, 4 if a.p < 2.7e-3 else None))
    return _html_table(head, lines)
