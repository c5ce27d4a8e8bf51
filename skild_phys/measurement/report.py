"""A comparison as a table, as JSON, as sentences, and as one HTML page."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
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

COLUMNS = (
    "model", "observable", "at", "unit", "truth", "truth_err", "value", "err",
    "residual", "residual_err", "sigmas", "theory",
)  # fmt: skip
_PER_MODEL = (
    "patterns_tv",
    "patterns_tv_noise",
    "patterns_kl",
    "site_agreement",
    "coarse_agreement",
)
_RATIOS = tuple(f"{name}_ratio" for name in RATIOS)


def table(comparison: Comparison) -> pd.DataFrame:
    """Return one line a model, observable and place: values, errors, residual, theory.

    Columns as in `COLUMNS`; `at` is the side, distance, wave number or size (NaN for scalars).
    Pattern frequencies are left out: their distances are in the table, all 512 in the datasets.
    """
    lines = [
        line
        for model in comparison.stores
        for name in (*_compared(model), *(n for n in (*_PER_MODEL, *_RATIOS) if n in model.data))
        for line in _lines(comparison, model, name)
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def estimated(data: xr.Dataset) -> list[str]:
    """Return the names of the observables of a measurement, in their order."""
    return [str(name) for name in data.data_vars if f"{name}_n_eff" in data]


def label(data: xr.Dataset, name: str) -> str:
    """Return the symbol of an observable, or else its name in words."""
    symbol = data[name].attrs.get("symbol") if name in data else None
    return str(symbol or name.replace("_", " "))


def estimates_table(data: xr.Dataset) -> pd.DataFrame:
    """Return a measurement as a tidy table: one line an observable and place.

    Columns: observable, at (side, distance, wave number or size; NaN for scalars), unit, value,
    err, tau_int, tau_int_err, n_eff, theory. S(k) mode by mode and energies of single
    configurations stay in the Dataset.
    """
    lines = []
    for name in estimated(data):
        for i, at in enumerate(_places(data, name)):
            lines.append(
                {
                    "observable": name,
                    "at": at,
                    "unit": data[name].attrs["units"],
                    "value": _at(data, name, i),
                    "err": _at(data, f"{name}_err", i),
                    "tau_int": _at(data, f"{name}_tau_int", i),
                    "tau_int_err": _at(data, f"{name}_tau_int_err", i),
                    "n_eff": _at(data, f"{name}_n_eff", i),
                    "theory": _at(data, f"{name}_theory", i),
                }
            )
    return pd.DataFrame(lines)


def no_formula(value: Any) -> Any:
    """Return a cell of a table; before text that spreadsheets would execute stands a '."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {*"=+-@\t\r"} else value


def csv_text(frame: pd.DataFrame) -> str:
    """Return a table as CSV, without formulas."""
    return frame.map(no_formula).to_csv(index=False)


def to_plain(value: Any) -> Any:
    """Return what json can write: NaN and infinity become None, NumPy numbers plain ones."""
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [to_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary(comparison: Comparison) -> dict[str, Any]:
    """Return the whole comparison in plain types, ready for JSON."""
    frame = table(comparison)
    return {
        "truth": comparison.name,
        "lattices": comparison.truth.attrs["lattices"],
        "errors": comparison.truth.attrs["errors"],
        "patterns_floor": to_plain(comparison.patterns_floor),
        "models": [
            {
                "name": model.name,
                "paired": model.paired,
                "lattices": model.lattices,
                "truth_lattices": model.parents,
                "notes": list(model.notes),
                "cost": to_plain(model.cost),
                "verdict": verdict(comparison, model),
                "together": {
                    name: to_plain(
                        {"chi2": a.chi2, "dof": a.dof, "p": a.p, "independent_lattices": a.n_eff}
                    )
                    for name, a in model.together.items()
                },
                "residuals": to_plain(
                    frame[frame["model"] == model.name].drop(columns="model").to_dict("records")
                ),
            }
            for model in comparison.stores
        ],
        "ranking": ranking(comparison),
    }


def verdict(comparison: Comparison, model: Compared) -> str:
    """Return in plain words where a model agrees with the truth and where it does not."""
    kind = "paired errors" if model.paired else "errors of two independent ensembles"
    if not np.isfinite(model.data["abs_magnetization_residual_err"]).all():
        return "Too few lattices for error bars: nothing can be said."
    sentences = [f"{model.lattices} lattices against {model.parents} of the truth, {kind}."]
    if "connected_four_point_residual" in model.data:
        sentences.append(_four_point_sentence(model))
    if "energy_residual" in model.data:
        sentences.append(_scalar_sentence(model, "energy", "The energy"))
    sentences.append(_scalar_sentence(model, "abs_magnetization", "|m|"))
    sentences.append(_ratio_sentence(model))
    sentences.append(_together_sentence(model))
    if "patterns_tv" in model.data:
        tv = float(model.data["patterns_tv"])
        noise = float(model.data["patterns_tv_noise"])
        floor = comparison.patterns_floor
        sentences.append(
            f"Frequencies of 3x3 patterns differ by {tv:.2g} in total variation; "
            f"noise alone would give {noise:.2g}, "
            f"and two independent halves of the truth differ by {floor:.2g}."
        )
    if "site_agreement" in model.data:
        share = float(model.data["site_agreement"])
        sentences.append(f"It shares {share:.1%} of its spins with the truth.")
    if model.cost:
        cost = ", ".join(f"{k.replace('_', ' ')} {_short(v)}" for k, v in model.cost.items())
        sentences.append(f"How it was made: {cost}.")
    if model.cost.get("method") == "skild" and str(comparison.truth.attrs.get("model")) in MODELS:
        sentences.append(
            "The Hamiltonian is known here: refine --method exact draws exactly, and is cheaper."
        )
    return " ".join(s for s in sentences if s)


def ranking(comparison: Comparison) -> list[str]:
    """Return for each observable and place which model is closest; empty for a single model.

    Models whose residual is within `SIGNIFICANT` errors count as agreeing, and are not ranked
    among themselves.
    """
    errors = [m.data["abs_magnetization_residual_err"] for m in comparison.stores]
    if len(comparison.stores) < 2 or not all(np.isfinite(e).all() for e in errors):
        return []
    lines = []
    for name in ("energy", "abs_magnetization", "connected_four_point"):
        having = [m for m in comparison.stores if f"{name}_residual" in m.data]
        if not having:
            continue
        for i, at in enumerate(_places(having[0].data, name)):
            place = "" if math.isnan(at) else f" at r = {at:g}"
            lines.append(f"{label(having[0].data, name)}{place}: {_closest(having, name, i)}")
    having = [m for m in comparison.stores if "patterns_tv" in m.data]
    if having:
        best = min(having, key=lambda m: float(m.data["patterns_tv"]))
        lines.append(f"3x3 patterns: {best.name} is closest")
    timed = {m.name: float(m.cost["seconds_per_lattice"]) for m in comparison.stores
             if "seconds_per_lattice" in m.cost}  # fmt: skip
    if len(timed) > 1:
        cheap = sorted(timed, key=lambda name: timed[name])
        shown = ", ".join(f"{name} {timed[name]:.2g} s" for name in cheap)
        lines.append(f"wall time a lattice, as measured when they were made: {shown}")
    return lines


def html_report(
    comparison: Comparison, figures: Sequence[tuple[str, bytes]], command: str = ""
) -> str:
    """Return one page that needs no other file: verdicts, figures (PNG bytes), tables."""
    frame = table(comparison)
    body = [f"<h1>{_e(comparison.name)} and its models</h1>"]
    attrs = comparison.truth.attrs
    facts = [f"truth: {attrs['lattices']} lattices of {'x'.join(map(str, attrs['shape']))}"]
    facts += [f"{k} {_short(attrs[k])}" for k in ("model", "temperature") if k in attrs]
    body.append(f"<p>{_e(', '.join(facts))}. Errors: {_e(attrs['errors'])}.</p>")
    for model in comparison.stores:
        body.append(f"<h2>{_e(model.name)}</h2><p>{_e(verdict(comparison, model))}</p>")
        body += [f"<p class='note'>{_e(note)}</p>" for note in model.notes]
    if ranks := ranking(comparison):
        body.append("<h2>Which is closest</h2><ul>")
        body += [f"<li>{_e(line)}</li>" for line in ranks] + ["</ul>"]
    for caption, png in figures:
        data = base64.b64encode(png).decode()
        image = f"<img alt='{_e(caption)}' src='data:image/png;base64,{data}'>"
        body.append(f"<figure>{image}<figcaption>{_e(caption)}</figcaption></figure>")
    scalars, lines = frame[frame["at"].isna()], frame[frame["observable"] == "connected_four_point"]
    body.append(f"<h2>All places together</h2>{_together_table(comparison)}")
    body.append(f"<h2>Scalars</h2>{_html_table(scalars)}")
    if len(lines):
        body.append(f"<h2>Connected four-point function</h2>{_html_table(lines)}")
    rest = frame.drop(index=[*scalars.index, *lines.index])
    for name, part in rest.groupby("observable", sort=False):
        title = _e(str(name).replace("_", " "))
        body.append(f"<details><summary>{title}</summary>{_html_table(part)}</details>")
    if command:
        body.append(f"<p class='note'><code>{_e(command)}</code></p>")
    title = f"<title>{_e(comparison.name)}: comparison</title>"
    head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'>{title}"
    return (
        f"<!doctype html><html lang='en'><head>{head}<style>{_STYLE}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


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


def _e(text: str) -> str:
    return html.escape(str(text), quote=True)


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _html_table(frame: pd.DataFrame) -> str:
    head = ("model", "observable", "at", "truth", "value", "residual", "in errors", "theory")
    rows = []
    for line in frame.to_dict("records"):
        sigmas = line["sigmas"]
        off = " class='off'" if math.isfinite(sigmas) and abs(sigmas) > SIGNIFICANT else ""
        cells = [
            _e(line["model"]),
            _e(line["observable"].replace("_", " ")),
            "" if math.isnan(line["at"]) else f"{line['at']:.4g}",
            with_error(line["truth"], line["truth_err"]),
            with_error(line["value"], line["err"]),
            with_error(line["residual"], line["residual_err"]),
        ]
        theory = with_error(line["theory"], 0)
        marks = f"<td{off}>{sigmas:+.1f}</td>" if math.isfinite(sigmas) else "<td></td>"
        rows.append(
            "<tr>" + "".join(f"<td>{c}</td>" for c in cells) + f"{marks}<td>{theory}</td></tr>"
        )
    header = "".join(f"<th>{h}</th>" for h in head)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _compared(model: Compared) -> list[str]:
    names = [str(n)[: -len("_residual")] for n in model.data if str(n).endswith("_residual")]
    return [n for n in names if n != "pattern_frequency"]


def position(data: xr.Dataset, name: str) -> xr.DataArray:
    """Return the coordinate that an observable with a dimension is over."""
    (dim,) = data[name].dims
    there = [dim] if dim in data.coords else data.coords
    return next(data[c] for c in there if data[c].dims == (dim,))


def _places(data: xr.Dataset, name: str) -> list[Any]:
    if not data[name].dims:
        return [math.nan]
    values = position(data, name).values
    return [str(x) if values.dtype.kind == "U" else float(x) for x in values]


def _at(data: xr.Dataset, name: str, i: int) -> float:
    if name not in data:
        return math.nan
    values = data[name].values
    return float(values[i]) if values.ndim else float(values)


def _lines(comparison: Comparison, model: Compared, name: str) -> list[dict[str, Any]]:
    """Return the rows of one observable, one a place, with the columns of `COLUMNS`."""
    places = _places(model.data, name)
    columns = [
        _column(data, f"{name}{end}", len(places))
        for data, ends in (
            (comparison.truth, ("", "_err")),
            (model.data, ("", "_err", "_residual", "_residual_err")),
        )
        for end in ends
    ]
    *_, residual, error = columns
    sigmas = np.divide(residual, error, out=np.full(len(places), np.nan), where=error > 0)
    columns += [sigmas, _column(comparison.truth, f"{name}_theory", len(places))]
    unit = model.data[name].attrs["units"]
    return [
        dict(zip(COLUMNS, (model.name, name, at, unit, *map(float, values))))
        for at, *values in zip(places, *columns)
    ]


def _column(data: xr.Dataset, name: str, n: int) -> NDArray[np.float64]:
    """Return one number for each of `n` places, NaN for what was not estimated."""
    if name not in data:
        return np.full(n, np.nan)
    return np.atleast_1d(np.asarray(data[name].values, dtype=np.float64))


def _off(model: Compared, name: str, i: int) -> bool:
    """Return whether a residual is beyond its error, or one of the two is not known."""
    residual, error = (_at(model.data, f"{name}_residual{end}", i) for end in ("", "_err"))
    return not abs(residual) <= SIGNIFICANT * error


def _four_point_sentence(model: Compared) -> str:
    name = "connected_four_point"
    sides = _places(model.data, name)
    off = [i for i in range(len(sides)) if _off(model, name, i)]
    within = [f"{r:g}" for i, r in enumerate(sides) if i not in off]
    text = ""
    if within:
        text = f"G4c agrees within {SIGNIFICANT:g} errors at r = {', '.join(within)}"
    if off:
        parts = ", ".join(f"{_residual(model, name, i)} at r = {sides[i]:g}" for i in off)
        text += f"; it is off by {parts}" if text else f"G4c is off by {parts}"
    return text + "."


def _residual(model: Compared, name: str, i: int = 0) -> str:
    value, error = (_at(model.data, f"{name}_residual{end}", i) for end in ("", "_err"))
    return ("+" if value > 0 else "") + with_error(value, error)


def _scalar_sentence(model: Compared, name: str, label: str) -> str:
    if _at(model.data, f"{name}_residual", 0) == _at(model.data, f"{name}_residual_err", 0) == 0:
        return f"{label} is equal, lattice by lattice."
    if _off(model, name, 0):
        return f"{label} is off by {_residual(model, name)}."
    return f"{label} agrees ({_residual(model, name)})."


def _ratio_sentence(model: Compared) -> str:
    ratio, error = (model.data[f"structure_factor_ratio{end}"].values for end in ("", "_err"))
    residual, spread = (
        model.data[f"structure_factor_residual{end}"].values for end in ("", "_err")
    )
    off = np.flatnonzero(~(np.abs(residual) <= SIGNIFICANT * spread))
    if not len(off):
        return f"S(k) agrees within {SIGNIFICANT:g} errors in every shell."
    chance = len(ratio) * 2 * float(stats.t.sf(SIGNIFICANT, model.parents - 1))
    if stats.poisson.sf(len(off) - 1, chance) > 0.01:
        return (
            f"S(k) agrees: {len(off)} of {len(ratio)} shells are beyond {SIGNIFICANT:g} errors, "
            f"where chance makes {chance:.1f}."
        )
    if not np.isfinite(ratio[off]).all():
        return f"S(k) is off in {len(off)} of {len(ratio)} shells, without bound where it is 0."
    worst = int(off[np.argmax(np.abs(np.log(np.maximum(ratio[off], 1e-300))))])
    k = float(model.data["k"].values[worst])
    shown = with_error(float(ratio[worst]), float(error[worst]))
    shells = f"{len(off)} of {len(ratio)} shells"
    return f"S(k) is off in {shells}, at most by the factor {shown} at k = {k:.2f}."


def _together_sentence(model: Compared) -> str:
    judged = {name: a for name, a in model.together.items() if math.isfinite(a.chi2)}
    if not judged:
        return ""
    parts = [
        f"{label(model.data, name)} {a.chi2:.3g} for {a.dof} ({_probability(a)})"
        for name, a in judged.items()
    ]
    return f"All places together, chi^2: {', '.join(parts)}."


def _probability(found: Agreement) -> str:
    return "p < 1e-4" if found.p < 1e-4 else f"p = {found.p:.2g}"


def _together_table(comparison: Comparison) -> str:
    """Return chi^2 of the residuals of each model with their full covariance."""
    rows = []
    for model in comparison.stores:
        for name, a in model.together.items():
            known = math.isfinite(a.chi2)
            cells = [
                _e(model.name),
                _e(label(model.data, name)),
                f"{a.chi2:.4g}" if known else f"too few lattices ({a.n_eff:.0f}) for {a.dof}",
                str(a.dof) if known else "",
                _probability(a) if known else "",
            ]
            off = " class='off'" if known and a.p < 2.7e-3 else ""
            last = f"<td{off}>{_e(cells.pop())}</td>"
            rows.append(f"<tr>{''.join(f'<td>{c}</td>' for c in cells)}{last}</tr>")
    head = "".join(
        f"<th>{h}</th>" for h in ("model", "observable", "chi^2", "places", "probability")
    )
    return (
        "<p>chi^2 of model - truth with the full covariance (of Markov chains by bins in time), "
        "over all sides of G4c and over 1, 2, 4 .. steps of the others; the probability of more is "
        "Hotelling's.</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _closest(models: Sequence[Compared], name: str, i: int) -> str:
    agreeing = [m.name for m in models if not _off(m, name, i)]
    if agreeing:
        agree = "agrees" if len(agreeing) == 1 else "agree"
        return f"{', '.join(agreeing)} {agree} within {SIGNIFICANT:g} errors"
    best = min(models, key=lambda m: abs(_at(m.data, f"{name}_residual", i)))
    return f"{best.name} is closest ({_residual(best, name, i)})"
