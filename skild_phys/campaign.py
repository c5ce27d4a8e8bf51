"""A campaign: what is simulated, coarse-grained, trained, refined and measured, as one TOML.

    [simulate]                      # options of the commands, `_` for `-`; a list is swept over
    L = [64, 128]
    T = "Tc"
    samples = 64
    [coarsen]
    factor = 4
    [refine]
    method = ["skild", "exact"]
    [measure]
    [compare]

Every store of [simulate] is coarse-grained in every way of [coarsen], and refined in every
way of [refine]; [measure] measures the true and the refined ones, [compare] compares the
refinements of each coarse store with their truth. [train] comes first, and [refine] takes its
weights. A table may also be a list of tables, [[simulate]], each swept on its own.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skild_phys.errors import BadInput, StoreError, nearest
from skild_phys.files import (
    clear_partials,
    parse_json,
    read_bytes,
    read_toml,
    sha256_file,
    write_text_atomically,
)
from skild_phys.measurement import JSON, TABLE
from skild_phys.store import open_store

RESULTS = "results.csv"
"""All comparisons of a campaign."""
_NEEDS = {"simulate": "", "coarsen": "simulate", "train": "", "refine": "coarsen", "measure": "",
          "compare": "refine"}  # fmt: skip
_ONCE = ("measure", "compare")  # tables that are not swept over
_LISTS = ("only", "offsets")  # their options that take several values
_FILES = ("checkpoint", "config", "from")
_Options = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One command of a campaign: what it is called with, and the `output` that it makes.

    `key` is the SHA-256 of command, options, and the keys or contents of the inputs: equal keys,
    equal outputs.
    """

    command: str
    inputs: tuple[Path, ...]
    options: _Options
    output: Path
    key: str

    @property
    def record(self) -> Path:
        """The file that says how the output was made."""
        return self.output.with_name(self.output.name + ".step.json")

    def status(self) -> str:
        """Return 'done', 'begun', 'changed' (made otherwise than the campaign says) or 'to do'."""
        if not self.record.exists() or not self.output.exists():
            return "to do"
        try:
            found = parse_json(read_bytes(self.record))
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict) or found.get("key") != self.key:
            return "changed"
        if found.get("made") is None:
            return "begun"
        return "done" if found["made"] == _contents(self.output) else "changed"

    def note(self, *, finished: bool) -> None:
        """Record that the output is there, or what it will be, so that what is left resumes."""
        made = _contents(self.output) if finished else None
        record = {"key": self.key, "made": made, "command": self.words()}
        write_text_atomically(self.record, json.dumps(record, indent=1) + "\n")

    def words(self) -> str:
        """Return the command line of the step."""
        words = [self.command, *map(str, self.inputs), *option_words(self.options)]
        return shlex.join(["skild-phys", *words, "-o", str(self.output)])


def option_words(options: Mapping[str, Any]) -> list[str]:
    """Return options by name (`_` for `-`) as words: a list repeats one, True is a flag.

    None and False leave an option out.
    """
    words = []
    for name, value in options.items():
        option = f"-{name}" if name in ("n", "o") else "--" + name.replace("_", "-")
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is not None and one is not False:
                words += [option] if one is True else [option, str(one)]
    return words


def _contents(path: Path) -> str:
    """Return the SHA-256 of an output, "" if it is not whole: of a store's root, or of files.

    The root of a store has the digests of all that it holds, which is read here.
    """
    if (path / "zarr.json").exists():
        try:
            store = open_store(path)
            store.verify()
        except StoreError:
            return ""
        return sha256_file(path / "zarr.json") if store.complete else ""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    sums = [(str(p.relative_to(path)), sha256_file(p)) for p in files]
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()


def read_campaign(path: Path) -> dict[str, list[_Options]]:
    """Return the tables of a campaign, each a list; raises BadInput for what it cannot hold."""
    tables: dict[str, list[_Options]] = {}
    for name, value in read_toml(path, "CAMPAIGN").items():
        if value == []:
            raise BadInput(str(path), f"{name} = []", "a table or more")
        many = value if isinstance(value, list) else [value]
        if name not in _NEEDS or not all(isinstance(table, dict) for table in many):
            accepted = f"tables [{'], ['.join(_NEEDS)}]{nearest(name, _NEEDS, '[{}]')}"
            raise BadInput(str(path), name, accepted)
        if name in _ONCE and len(many) > 1:
            raise BadInput(str(path), f"{len(many)} tables [{name}]", "one")
        for key, one in (item for table in many for item in table.items()):
            where, several = f"{path}: [{name}] {key}", one if isinstance(one, list) else [one]
            if not several or not all(isinstance(each, str | int | float) for each in several):
                raise BadInput(where, str(one), "a text, a number or true, or a list of them")
            if isinstance(one, list) and name in _ONCE and key not in _LISTS:
                raise BadInput(where, str(one), "one value: no sweep in this table")
        if name in _ONCE and isinstance(only := many[0].get("only"), list):
            many[0]["only"] = ",".join(map(str, only))
        tables[name] = many
    for name, needs in _NEEDS.items():
        if name in tables and needs and needs not in tables:
            raise BadInput(str(path), f"[{name}]", f"a table [{needs}] too")
    if not tables.keys() & {"simulate", "train"}:
        raise BadInput(str(path), "no table", "[simulate] or [train]")
    return tables


def _ways(tables: Sequence[_Options]) -> Iterator[tuple[str, _Options]]:
    """Yield a name and the options of every combination of what the tables sweep over."""
    for table in tables:
        swept = [k for k, v in table.items() if isinstance(v, list)]
        for values in itertools.product(*(table[k] for k in swept)):
            named = dict(zip(swept, values))
            name = "-".join(str(v) if isinstance(v, str) else f"{k}{v}" for k, v in named.items())
            name = name.replace("/", "_").replace("..", "_")
            yield name, {k: named.get(k, v) for k, v in table.items()}


def plan(tables: Mapping[str, Sequence[_Options]], folder: Path, home: Path) -> list[Step]:
    """Return the steps of a campaign in the order in which they can be done.

    Parameters
    ----------
    tables : as `read_campaign` returns them.
    folder : where the outputs go.
    home : folder of the TOML, to which paths in it are relative.

    Raises
    ------
    BadInput : two steps that would make the same output, or a file that is not there.
    """
    steps: list[Step] = []
    keys: dict[Path, str] = {}

    def add(command: str, inputs: Sequence[Path], options: _Options, output: Path) -> Path:
        if output in keys:
            accepted = "another output for every step: a sweep names it twice, or two tables do"
            raise BadInput(f"[{command}]", str(output), accepted)
        files = {
            name: value if isinstance(value, Path) else home / str(value)
            for name, value in options.items()
            if name in _FILES and value != "shipped"
        }
        for name, file in files.items():
            if file not in keys and not file.is_file():
                raise BadInput(f"[{command}] {name}", str(file), "a file")
        options = options | {k: str(v) for k, v in files.items()}
        described = {k: str(v) if isinstance(v, Path) else v for k, v in options.items()
                     if k not in files and k not in ("threads", "coarse")}  # fmt: skip
        if command == "refine" and options.get("method", "skild") == "skild" and not files:
            from skild_phys.skild.weights import shipped_weights

            files = {"checkpoint": shipped_weights()}
        of = [keys.get(path) or sha256_file(path) for path in (*inputs, *files.values())]
        text = json.dumps([command, described, sorted(files), of], sort_keys=True)
        keys[output] = hashlib.sha256(text.encode()).hexdigest()
        steps.append(Step(command, tuple(inputs), options, output, keys[output]))
        return output

    trained: Path | None = None
    for name, options in _ways(tables.get("train", [])):
        if trained is not None and "refine" in tables:
            raise BadInput("[train]", name, "one training where [refine] takes its weights")
        trained = add("train", [], options, folder / f"{name or 'weights'}.safetensors")
    for at, options in _ways(tables.get("simulate", [])):
        here = folder / at
        fine = add("simulate", [], options, here / "fine.zarr")
        for measured in tables.get("measure", []):
            add("measure", [fine], measured, here / "fine")
        for how, coarsening in _ways(tables.get("coarsen", [])):
            there = here / how
            coarse = add("coarsen", [fine], coarsening, there / "coarse.zarr")
            made = []
            for name, refining in _ways(tables.get("refine", [])):
                if trained and refining.get("method", "skild") == "skild":
                    refining = {"checkpoint": trained} | refining
                made.append(add("refine", [coarse], refining, there / f"{name or 'refined'}.zarr"))
                for measured in tables.get("measure", []):
                    add("measure", [made[-1]], measured, there / (name or "refined"))
            for comparing in tables.get("compare", []):
                add("compare", [fine, *made], {"coarse": coarse} | comparing, there / "report")
    return steps


def write_results(steps: Sequence[Step], folder: Path) -> Path:
    """Write all comparisons of a campaign whose steps are done as one table; return its path.

    Its rows are those of each `comparison.csv`. Before their columns stand `folder` (of the
    report, in the campaign's), `system`, `L` (`LyxLx` unless square), `T`, `rule`, `factor`,
    `lattices`, and how the refinement was made: `method`, `steps`, `evaluations`, `sweeps`,
    `seconds_per_lattice`.
    """
    import pandas as pd

    from skild_phys.measurement.tables import csv_text, no_formula

    tables = []
    for step in (step for step in steps if step.command == "compare"):
        coarse = open_store(step.options["coarse"])
        shape = open_store(step.inputs[0]).shape
        of = {
            "folder": step.output.parent.relative_to(folder),
            "system": coarse.attrs.get("model"),
            "L": shape[0] if len({*shape}) == 1 else "x".join(map(str, shape)),
            "T": coarse.attrs.get("temperature"),
            "rule": coarse.attrs["rule"],
            "factor": coarse.attrs["factor"],
        }
        models = json.loads((step.output / JSON).read_text())["models"]
        of_cost = ("method", "steps", "evaluations", "sweeps", "seconds_per_lattice")
        made = pd.DataFrame(
            {"model": no_formula(model["name"]), "lattices": model["lattices"]}
            | {key: model["cost"].get(key) for key in of_cost}
            for model in models
        )
        rows = pd.read_csv(step.output / TABLE).merge(made, on="model")
        others = [name for name in rows if name not in made]
        tables.append(rows[[*made, *others]].assign(**of)[[*of, *made, *others]])
    path = folder / RESULTS
    clear_partials(path)
    write_text_atomically(path, csv_text(pd.concat(tables, ignore_index=True)))
    return path
