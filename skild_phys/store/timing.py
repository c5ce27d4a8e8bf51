"""How long a store took to make, in a small file beside it.

Not inside: equal runs give equal stores, byte for byte, and no two runs take equally long.
"""

from __future__ import annotations

import json
from pathlib import Path

from skild_phys.files import AnyPath, parse_json, read_bytes, write_error, write_text_atomically


def _beside(path: AnyPath) -> Path:
    path = Path(path)
    return path.with_name(path.name + ".timing.json")


def write_timing(path: AnyPath, seconds_per_lattice: float) -> None:
    """Record the wall time (s) a lattice of the store at `path` took to make."""
    text = json.dumps({"seconds_per_lattice": seconds_per_lattice})
    write_text_atomically(_beside(path), f"{text}\n")


def remove_timing(path: AnyPath) -> None:
    """Forget what was recorded: the store is about to be made anew."""
    record = _beside(path)
    try:
        record.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(record, error) from error


def read_timing(path: AnyPath) -> float | None:
    """Return the wall time (s) a lattice, None where no readable record lies beside the store."""
    try:
        return float(parse_json(read_bytes(_beside(path)))["seconds_per_lattice"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
