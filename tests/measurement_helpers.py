"""Configurations of an array as statistics take them."""

from __future__ import annotations

from typing import Any

import numpy as np

from skild_phys.measurement.observables import STATISTICS
from skild_phys.measurement.system import Slice, System


def slice_of(values: np.ndarray, **known: Any) -> Slice:
    field = "spins" if values.dtype == np.int8 and "q" not in known else "field"
    system = System(values.shape[1:], known.pop("field", field), **known)
    return Slice(system, values, np.arange(len(values)))


def statistic(name: str, values: np.ndarray, **known: Any) -> np.ndarray:
    return STATISTICS[name](slice_of(values, **known))
