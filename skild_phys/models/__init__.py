"""Lattice models: what the Hamiltonian is and where it is critical, a model (family) a file.

A further model is a file here, with an instance in `MODELS`, and samplers of its own in
`simulation`; nothing of another model changes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from skild_phys.errors import BadInput
from skild_phys.models.base import Model
from skild_phys.models.ising import ISING_2D, ISING_3D
from skild_phys.models.potts import POTTS

__all__ = ["MODELS", "Model", "get_model", "parse_temperature"]

MODELS: Mapping[str, Model] = {model.name: model for model in (ISING_2D, ISING_3D, *POTTS)}


def get_model(name: str) -> Model:
    """Return the model called `name`; raises BadInput naming the known ones."""
    if name not in MODELS:
        raise BadInput("--model", name, ", ".join(MODELS))
    return MODELS[name]


def parse_temperature(text: str | float, model: Model) -> float:
    """Return a temperature in J / k_B from a number, `Tc`, or a multiple such as `1.05Tc`."""
    match = re.fullmatch(r"\s*([0-9.eE+-]*?)\s*\*?\s*(T_?c)?\s*", str(text))
    accepted = "a positive number, Tc, or a multiple such as 1.05Tc"
    if match is None or not (match[1] or match[2]):
        raise BadInput("--T", str(text), accepted)
    try:
        value = float(match[1]) if match[1] else 1.0
    except ValueError:
        raise BadInput("--T", str(text), accepted) from None
    if match[2]:
        value *= model.critical_temperature
    if not (math.isfinite(value) and value > 0):
        raise BadInput("--T", str(text), accepted)
    return value
