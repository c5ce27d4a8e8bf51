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

Every lattice store of [simulate] is coarse-grained in every way of [coarsen], and refined in every
way of [refine]; [measure] measures the true and the refined ones, [compare] compares the
refinements of each coarse store with their truth. [train] comes first, and [refine] takes its
weights. A table may also be a list of tables, [[simulate]], each swept on its own.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skild_phys.errors import BadInput
from skild_phys.files import sha256_file, write_bytes_atomically

TABLES = ("simulate", "coarsen", "train", "refine", "measure", "compare")
RECORD = ".step.json"
Options = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One command of a campaign.

    Attributes
    ----------
    command, inputs, options : what is called, as `skild_phys.cli.call` takes it.
    output : what it makes: a store, weights, or a folder.
    key : SHA-256 of command, options, and the keys or contents of the inputs: equal keys,
        equal outputs.
    """

    command: str
    inputs: tuple[Path, ...]
    options: Options
    output: Path
    key: str

    @property
    def record(self) -> Path:
        """Where the finished step says what it was."""
        return self.output.with_name(self.output.name + RECORD)

    def status(self) -> str:
        """Return 'done', 'changed' (made otherwise than the campaign says) or 'to do'."""
        if not self.record.exists() or not self.output.exists():
            return "to do"
        try:
            made = json.loads(self.record.read_text())
        except ValueError:
            return "changed"
        same = made.get("key") == self.key and made.get("made") == contents(self.output)
        return "done" if same else "changed"

    def finish(self) -> None:
        """Record that the output is there."""
        made = {"key": self.key, "made": contents(self.output), "command": self.words()}
        write_bytes_atomically(self.record, (json.dumps(made, indent=1) + "\n").encode())

    def words(self) -> str:
        """Return the command line of the step."""
        words = ["skild-phys", self.command, *map(str, self.inputs)]
        for name, value in self.options.items():
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return shlex.join([*words, "-o", str(self.output)])


def contents(path: Path) -> str:
    """Return what names the contents of an output: of a store or a file its SHA-256."""
    if path.is_file():
        return sha256_file(path)
    root = path / "zarr.json"
    return sha256_file(root) if root.exists() else ""


def read_campaign(path: Path) -> dict[str, list[Options]]:
    """Return the tables of a campaign, each a list; raises BadInput for what it cannot hold."""
    try:
        found = tomllib.loads(path.read_text())
    except OSError as error:
        raise BadInput("CAMPAIGN", str(path), f"a TOML file ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput("CAMPAIGN", str(path), f"a TOML file ({error})") from None
    tables: dict[str, list[Options]] = {}
    for name, value in found.items():
        many = value if isinstance(value, list) else [value]
        if name not in TABLES or not all(isinstance(table, dict) for table in many):
            near = difflib.get_close_matches(name, TABLES, 1)
            hint = f"; did you mean [{near[0]}]?" if near else ""
            raise BadInput(str(path), name, f"tables [{'], ['.join(TABLES)}]{hint}")
        tables[name] = many
    for name, needs in (("coarsen", "simulate"), ("refine", "coarsen"), ("compare", "refine")):
        if name in tables and needs not in tables:
            raise BadInput(str(path), f"[{name}]", f"a table [{needs}] too")
    if not tables.keys() & {"simulate", "train"}:
        raise BadInput(str(path), "no table", "[simulate] or [train]")
    return tables


def ways(tables: Sequence[Options]) -> Iterator[tuple[str, Options]]:
    """Yield a name and the options of every combination of what the tables sweep over."""
    for table in tables:
        swept = [k for k, v in table.items() if isinstance(v, list)]
        for values in itertools.product(*(table[k] for k in swept)):
            named = dict(zip(swept, values))
            name = "-".join(str(v) if isinstance(v, str) else f"{k}{v}" for k, v in named.items())
            yield name.replace("/", "_"), {k: named.get(k, v) for k, v in table.items()}


def plan(tables: Mapping[str, Sequence[Options]], folder: Path, home: Path) -> list[Step]:
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

    def add(command: str, inputs: Sequence[Path], options: Options, output: Path) -> Path:
        if output in keys:
            raise BadInput(f"[{command}]", str(output), "one step for each output: sweep a list")
        files = {k: home / v for k, v in options.items() if k in ("checkpoint", "config", "from")}
        for name, file in files.items():
            if file not in keys and not file.is_file():
                raise BadInput(f"[{command}] {name}", str(file), "a file")
        options = options | {k: str(v) for k, v in files.items()}
        described = {k: v for k, v in options.items() if k not in files}
        of = [keys.get(path) or sha256_file(path) for path in (*inputs, *files.values())]
        text = json.dumps([command, described, sorted(files), of], sort_keys=True)
        keys[output] = hashlib.sha256(text.encode()).hexdigest()
        steps.append(Step(command, tuple(inputs), options, output, keys[output]))
        return output

    trained: Path | None = None
    for name, options in ways(tables.get("train", [])):
        trained = add("train", [], options, folder / f"{name or 'weights'}.safetensors")
    for at, options in ways(tables.get("simulate", [])):
        here = folder / at
        fine = add("simulate", [], options, here / "fine.zarr")
        for measured in tables.get("measure", []):
            add("measure", [fine], measured, here / "fine")
        for how, coarsening in ways(tables.get("coarsen", [])):
            there = here / how
            coarse = add("coarsen", [fine], coarsening, there / "coarse.zarr")
            made = []
            for name, refining in ways(tables.get("refine", [])):
                if trained and refining.get("method", "skild") == "skild":
                    refining = {"checkpoint": str(trained.absolute())} | refining
                made.append(add("refine", [coarse], refining, there / f"{name or 'refined'}.zarr"))
                for measured in tables.get("measure", []):
                    add("measure", [made[-1]], measured, there / (name or "refined"))
            for comparing in tables.get("compare", []):
                add("compare", [fine, *made], comparing, there / "report")
    return steps
