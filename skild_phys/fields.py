"""What a site of a stored configuration can hold: the variables of a store that are fields.

A rule whose coarse sites hold something else registers it: `FIELDS["mine"] = Field(...)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Fault = Callable[[NDArray[Any], int, int], "str | None"]
"""(values, q, sites of a block) -> what is wrong with the values of a field, if anything is."""


def _real(values: NDArray[Any], q: int, sites: int) -> str | None:
    return None if np.isfinite(values).all() else "NaN or infinity"


def _spins(values: NDArray[Any], q: int, sites: int) -> str | None:
    return None if ((values == 1) | (values == -1)).all() else "spins other than -1 and +1"


def _states(values: NDArray[Any], q: int, sites: int) -> str | None:
    return f"a state outside 0 .. {q - 1}" if ((values < 0) | (values >= q)).any() else None


@dataclass(frozen=True)
class Field:
    """A variable of configurations.

    Attributes
    ----------
    dtype : of the numbers on disk; a real field may have another real type.
    fill : a value that no sample has, so that a gap is never data.
    long_name : CF's.
    fault : finds what is wrong with values.
    plane : name of the axis between samples and sites, if there is one.
    scaled : whether whole numbers are kept, to be multiplied by 1 over the sites in a block.
    of_states : whether it depends on a number of states q.
    """

    dtype: str
    fill: int | str
    long_name: str
    fault: _Fault = _real
    plane: str = ""
    scaled: bool = False
    of_states: bool = False


FIELDS: dict[str, Field] = {
    "spins": Field("int8", 0, "spin", _spins),
    "field": Field("float32", "NaN", "real field", plane="component"),
    "states": Field("int8", -1, "Potts state", _states, of_states=True),
    "image": Field("uint8", 0, "intensity, 0 to 255", plane="channel"),
}
