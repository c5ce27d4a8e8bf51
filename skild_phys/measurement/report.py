"""A comparison as a table, as JSON, as sentences, and as one HTML page."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from skild_phys.measurement.agreement import Agreement
from skild_phys.measurement.compare import RATIOS, Compared, Comparison
from skild_phys.measurement.tables import Estimates, Table, to_plain, with_error
from skild_phys.models import MODELS

SIGNIFICANT = 3.0
"""Residuals beyond so many standard errors are called off; below, in agreement."""

_COLUMNS = (
    "model", "observable", "at", "unit", "truth", "truth_err", "value", "err",
    "residual", "residual_err", "sigmas", "theory",
)  # fmt: skip
_OF_BOTH = (
    "patterns_tv", "patterns_tv_noise", "patterns_kl", "site_agreement", "coarse_agreement",
    *(f"{name}_ratio" for name in RATIOS),
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """A comparison in words and tables, and as a notebook shows it.

    Attributes
    ----------
    comparison : all that was found.
    figures : caption and PNG bytes of each.
    command : what made it.
    """

    comparison: Comparison
    figures: Sequence[tuple[str, bytes]] = ()
    command: str = ""

    @property
    def table(self) -> pd.DataFrame:
        """One line per store, observable and distance: values, errors, residuals, theory.

        `at` is the side, distance, wave number or size (NaN for scalars). Pattern frequencies are
        left out: their distances are in the table, all 512 in the datasets.
        """
        return self._table.copy()

    @cached_property
    def _table(self) -> pd.DataFrame:
        lines, truth = [], Estimates(self.comparison.truth)
        for store in self.comparison.stores:
            data = Estimates(store.data)
            residuals = [n for n in map(str, store.data) if n.endswith("_residual")]
            names = [n.removesuffix("_residual") for n in residuals]
            for name in (*names, *_OF_BOTH):
                if name in store.data and name != "pattern_frequency":
                    found = data.records(
                        name, truth=(truth, ""), truth_err=(truth, "_err"), value=(data, ""),
                        err=(data, "_err"), residual=(data, "_residual"),
                        residual_err=(data, "_residual_err"), theory=(truth, "_theory"),
                    )  # fmt: skip
                    lines += [{"model": store.name} | line for line in found]
        frame = pd.DataFrame(lines, columns=list(_COLUMNS))
        error = frame["residual_err"]
        frame["sigmas"] = (frame["residual"] / error).where(error > 0)
        return frame

    def lines(self) -> Table:
        """Return the table of scalars and G4c of all stores beside the truth."""
        lines, stores = [], [s.name for s in self.comparison.stores]
        wanted = self._table["at"].isna() | (self._table["observable"] == "connected_four_point")
        groups = self._table[wanted].groupby(["observable", "at"], sort=False, dropna=False)
        for (name, at), group in groups:
            cells = {str(line["model"]): _cell(line) for line in group.to_dict("records")}
            first = group.iloc[0]
            lines.append([
                Estimates(self.comparison.truth).label(str(name)), "" if at != at else f"{at:g}",
                with_error(first["truth"], first["truth_err"]),
                *(cells.get(name, "") for name in stores), with_error(first["theory"], 0.0),
            ])  # fmt: skip
        return ["observable", "r", "truth", *(f"{n} - truth" for n in stores), "theory"], lines

    def summary(self) -> dict[str, Any]:
        """Return the whole comparison in plain types, ready for JSON."""
        found, models = self.comparison, []
        for store in found.stores:
            together = {
                name: {"chi2": a.chi2, "dof": a.dof, "p": a.p, "independent_lattices": a.n_eff}
                for name, a in store.together.items()
            }
            residuals = self._table[self._table["model"] == store.name].drop(columns="model")
            models.append({
                "name": store.name, "paired": store.paired, "lattices": store.lattices,
                "truth_lattices": store.parents, "notes": store.notes, "cost": store.cost,
                "verdict": self.verdict(store), "together": together,
                "residuals": residuals.to_dict("records"),
            })  # fmt: skip
        plain: dict[str, Any] = to_plain({
            "truth": found.name, "lattices": found.truth.attrs["lattices"],
            "errors": found.truth.attrs["errors"], "patterns_floor": found.patterns_floor,
            "models": models, "ranking": self.ranking(),
        })  # fmt: skip
        return plain

    def verdict(self, store: Compared) -> str:
        """Return in plain words where a store agrees with the truth and where it does not."""
        data, truth = store.data, self.comparison.truth
        kind = "paired standard errors" if store.paired else "two independent ensembles"
        if not np.isfinite(data["abs_magnetization_residual_err"]).all():
            return "Too few samples for error bars: no verdict."
        sentences = [f"{store.lattices} samples against {store.parents} of the truth, {kind}."]
        if "connected_four_point_residual" in data:
            sentences.append(_four_point_sentence(store))
        for name, subject in (("energy", "The energy"), ("abs_magnetization", "|m|")):
            if f"{name}_residual" in data:
                sentences.append(_scalar_sentence(store, name, subject))
        sentences += [_ratio_sentence(store), _together_sentence(store)]
        if "patterns_tv" in data:
            tv, noise = (float(data[name]) for name in ("patterns_tv", "patterns_tv_noise"))
            sentences.append(
                f"Frequencies of 3x3 patterns differ by {tv:.2g} in total variation; noise alone "
                f"would give {noise:.2g}, and two independent halves of the truth differ by "
                f"{self.comparison.patterns_floor:.2g}."
            )
        if "site_agreement" in data:
            share = float(data["site_agreement"])
            sentences.append(f"It shares {share:.1%} of its spins with the truth.")
        if store.cost:
            cost = ", ".join(f"{k.replace('_', ' ')} {_short(v)}" for k, v in store.cost.items())
            sentences.append(f"How it was made: {cost}.")
        if store.cost.get("method") == "skild" and str(truth.attrs.get("model")) in MODELS:
            sentences.append(
                "The Hamiltonian is known here: refine --method exact samples exactly, and is "
                "cheaper."
            )
        return " ".join(s for s in sentences if s)

    def ranking(self) -> list[str]:
        """Return for each observable and distance which store is closest; empty for one store.

        Stores whose residual is within `SIGNIFICANT` standard errors count as agreeing, and are not
        ranked among themselves.
        """
        stores, lines = self.comparison.stores, []
        errors = [s.data["abs_magnetization_residual_err"] for s in stores]
        if len(stores) < 2 or not all(np.isfinite(e).all() for e in errors):
            return []
        for name in ("energy", "abs_magnetization", "connected_four_point"):
            having = [s for s in stores if f"{name}_residual" in s.data]
            data = Estimates(having[0].data if having else self.comparison.truth)
            for i, at in enumerate(data.positions(name) if having else ()):
                where = "" if math.isnan(at) else f" at r = {at:g}"
                lines.append(f"{data.label(name)}{where}: {_closest(having, name, i)}")
        if having := [s for s in stores if "patterns_tv" in s.data]:
            best = min(having, key=lambda s: float(s.data["patterns_tv"]))
            lines.append(f"3x3 patterns: {best.name} is closest")
        time = "seconds_per_lattice"
        timed = {s.name: s.cost[time] for s in stores if time in s.cost}
        if len(timed) > 1:
            shown = ", ".join(f"{n} {timed[n]:.2g} s" for n in sorted(timed, key=timed.__getitem__))
            lines.append(f"wall time per configuration, as measured when they were made: {shown}")
        return lines

    @cached_property
    def html(self) -> str:
        """One page that needs no other file: verdicts, figures, tables."""
        found, attrs, frame = self.comparison, self.comparison.truth.attrs, self._table
        facts = [f"truth: {attrs['lattices']} samples of {'x'.join(map(str, attrs['shape']))}"]
        facts += [f"{k} {_short(attrs[k])}" for k in ("model", "temperature") if k in attrs]
        body = [
            f"<h1>{_e(found.name)} and what is compared with it</h1>",
            f"<p>{_e(', '.join(facts))}. Standard errors: {_e(attrs['errors'])}.</p>",
        ]
        for store in found.stores:
            body.append(f"<h2>{_e(store.name)}</h2><p>{_e(self.verdict(store))}</p>")
            body += [f"<p class='note'>{_e(note)}</p>" for note in store.notes]
        if ranks := self.ranking():
            items = "".join(f"<li>{_e(line)}</li>" for line in ranks)
            body.append(f"<h2>Which is closest</h2><ul>{items}</ul>")
        for caption, png in self.figures:
            data = base64.b64encode(png).decode()
            image = f"<img alt='{_e(caption)}' src='data:image/png;base64,{data}'>"
            body.append(f"<figure>{image}<figcaption>{_e(caption)}</figcaption></figure>")
        body += [f"<h2>All distances together</h2><p>{_CHI2}</p>", _together_table(found)]
        scalar, four = frame["at"].isna(), frame["observable"] == "connected_four_point"
        body += ["<h2>Scalars</h2>", _residual_table(frame[scalar])]
        if four.any():
            body += ["<h2>Connected four-point function</h2>", _residual_table(frame[four])]
        for name, part in frame[~(scalar | four)].groupby("observable", sort=False):
            title = f"<summary>{_e(str(name).replace('_', ' '))}</summary>"
            body.append(f"<details>{title}{_residual_table(part)}</details>")
        if self.command:
            body.append(f"<p class='note'><code>{_e(self.command)}</code></p>")
        title = f"<title>{_e(found.name)}: comparison</title>"
        head = f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'>{title}"
        return (
            f"<!doctype html><html lang='en'><head>{head}<style>{_STYLE}</style></head>"
            f"<body>{''.join(body)}</body></html>\n"
        )

    def _repr_html_(self) -> str:
        """Return the page in a frame, so that its style stays its own."""
        style = 'width="100%" height="720" style="border: 0"'
        return f'<iframe srcdoc="{_e(self.html)}" {style}></iframe>'

    def __repr__(self) -> str:
        lines = []
        for store in self.comparison.stores:
            lines.append(f"{store.name}: {self.verdict(store)}")
            lines += [f"  note: {note}" for note in store.notes]
        return "\n".join(lines + self.ranking())


def _residuals(store: Compared, name: str) -> list[tuple[float, float, bool]]:
    """Return each residual, its error, and whether it is off: beyond its error, or not known."""
    pairs = zip(*(np.ravel(store.data[f"{name}_residual{end}"]).tolist() for end in ("", "_err")))
    return [(value, error, not abs(value) <= SIGNIFICANT * error) for value, error in pairs]


def _signed(value: float, error: float, off: bool = False) -> str:
    return ("+" if value > 0 else "") + with_error(value, error)


def _four_point_sentence(store: Compared) -> str:
    name = "connected_four_point"
    found = [*zip(Estimates(store.data).positions(name), _residuals(store, name))]
    within = ", ".join(f"{r:g}" for r, (*_, off) in found if not off)
    by = ", ".join(f"{_signed(*residual)} at r = {r:g}" for r, residual in found if residual[2])
    parts = [f"G4c agrees within {SIGNIFICANT:g} sigma at r = {within}"] if within else []
    parts += [f"{'it' if within else 'G4c'} is off by {by}"] if by else []
    return "; ".join(parts) + "."


def _scalar_sentence(store: Compared, name: str, subject: str) -> str:
    value, error, off = _residuals(store, name)[0]
    if value == error == 0:
        return f"{subject} is equal in every configuration."
    shown = _signed(value, error)
    return f"{subject} is off by {shown}." if off else f"{subject} agrees ({shown})."


def _ratio_sentence(store: Compared) -> str:
    ratio, error, residual, spread = (
        store.data[f"structure_factor_{end}"].values
        for end in ("ratio", "ratio_err", "residual", "residual_err")
    )
    off = np.flatnonzero(~(np.abs(residual) <= SIGNIFICANT * spread))
    if not len(off):
        return f"S(k) agrees within {SIGNIFICANT:g} sigma in every shell."
    shells = f"{len(off)} of {len(ratio)} shells"
    chance = len(ratio) * 2 * float(stats.t.sf(SIGNIFICANT, store.parents - 1))
    if stats.poisson.sf(len(off) - 1, chance) > 0.01:
        return (
            f"S(k) agrees: {shells} are beyond {SIGNIFICANT:g} sigma, where chance makes "
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
        f"{Estimates(store.data).label(name)} {a.chi2:.3g} for {a.dof} ({_probability(a)})"
        for name, a in store.together.items()
        if math.isfinite(a.chi2)
    ]
    return f"All distances together, chi^2: {', '.join(parts)}." if parts else ""


def _probability(found: Agreement) -> str:
    return "p < 1e-4" if found.p < 1e-4 else f"p = {found.p:.2g}"


def _closest(stores: Sequence[Compared], name: str, i: int) -> str:
    if agreeing := [s.name for s in stores if not _residuals(s, name)[i][2]]:
        agree = "agrees" if len(agreeing) == 1 else "agree"
        return f"{', '.join(agreeing)} {agree} within {SIGNIFICANT:g} sigma"
    best = min(stores, key=lambda s: abs(_residuals(s, name)[i][0]))
    return f"{best.name} is closest ({_signed(*_residuals(best, name)[i])})"


def _cell(line: dict[Any, Any]) -> str:
    """Return a residual with its size in standard errors, or a value of its own."""
    if math.isnan(line["residual"]):
        return with_error(line["value"], line["err"])
    text = with_error(line["residual"], line["residual_err"])
    return text if math.isnan(line["sigmas"]) else f"{text} {line['sigmas']:+.1f}\u03c3"


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
b { color: #a33d00; font-weight: 600 } summary { cursor: pointer; margin: 0.5rem 0 }
"""


def _e(text: object) -> str:
    return html.escape(str(text), quote=True)


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _bold(text: str, off: bool) -> str:
    return f"<b>{text}</b>" if off else text


def _html_table(lines: list[dict[str, str]]) -> str:
    return pd.DataFrame(lines).to_html(index=False, border=0, escape=False) if lines else ""


def _residual_table(frame: pd.DataFrame) -> str:
    lines = []
    for line in frame.to_dict("records"):
        sigmas, at = line["sigmas"], line["at"]
        shown = "" if math.isnan(sigmas) else f"{sigmas:+.1f}"
        lines.append({
            "store": _e(line["model"]), "observable": _e(line["observable"].replace("_", " ")),
            "at": _e(at) if isinstance(at, str) else "" if math.isnan(at) else f"{at:.4g}",
            "truth": with_error(line["truth"], line["truth_err"]),
            "value": with_error(line["value"], line["err"]),
            "residual": with_error(line["residual"], line["residual_err"]),
            "in sigma": _bold(shown, abs(sigmas) > SIGNIFICANT),
            "theory": with_error(line["theory"], 0),
        })  # fmt: skip
    return _html_table(lines)


def _together_table(comparison: Comparison) -> str:
    lines = []
    for store in comparison.stores:
        for name, a in store.together.items():
            known = math.isfinite(a.chi2)
            few = f"too few samples ({a.n_eff:.0f}) for {a.dof}"
            lines.append({
                "store": _e(store.name), "observable": _e(Estimates(store.data).label(name)),
                "chi^2": f"{a.chi2:.4g}" if known else few,
                "degrees of freedom": str(a.dof) if known else "",
                "probability": _bold(_e(_probability(a)), a.p < 2.7e-3) if known else "",
            })  # fmt: skip
    return _html_table(lines)
