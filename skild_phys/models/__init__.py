"""Lattice models: the Hamiltonian and where it is critical, one model (family) a file.

A further model is a subclass of `Model` in a file of its own: here, in a package that names it
under the entry point group `skild_phys.models`, or in a notebook. Its updates draw from `uniform`
and `normal`, and find neighbours by `neighbour_sites`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from skild_phys.errors import BadInput
from skild_phys.models.base import Bond, Model, Update, neighbour_sites
from skild_phys.models.ising import ISING_2D, ISING_3D
from skild_phys.models.potts import POTTS
from skild_phys.plugins import load_plugins
from skild_phys.rng import normal, uniform

__all__ = [
    "MODELS",
    "Bond",
    "Model",
    "Update",
    "find_model",
    "get_model",
    "neighbour_sites",
    "normal",
    "parse_temperature",
    "uniform",
]

MODELS: dict[str, Model] = {model.name: model for model in (ISING_2D, ISING_3D, *POTTS)}
"""Every model by its name; `MODELS["mine"] = model` adds one."""


def find_model(attrs: Mapping[str, Any]) -> Model | None:
    """Return the model that attributes of lattices name, with its parameters; None if unknown."""
    name = str(attrs.get("model"))
    if name not in MODELS:
        load_plugins(MODELS, "skild_phys.models")
    model = MODELS.get(name)
    known = attrs.get("couplings")
    if model is None or not model.parameters or not isinstance(known, Mapping):
        return model
    return dataclasses.replace(model, **{k: v for k, v in known.items() if k in model.parameters})


def get_model(name: str) -> Model:
    """Return the model called `name`; raises BadInput naming the known ones."""
    model = find_model({"model": name})
    if model is None:
        raise BadInput("model", name, ", ".join(MODELS))
    return model


def parse_temperature(text: str | float, model: Model) -> float:
    """Return a temperature in J / k_B from a number, `Tc`, or a multiple such as `1.05Tc`."""
    match = re.fullmatch(r"\s*([0-9.eE+-]*?)\s*\*?\s*(T_?c)?\s*", str(text))
    tc = model.critical_temperature
    accepted = "a positive number"
    if math.isfinite(tc):
        accepted += ", Tc, or a multiple such as 1.05Tc"
    try:
        if match is None or not (match[1] or match[2]):
            raise ValueError
        value = (float(match[1]) if match[1] else 1.0) * (tc if match[2] else 1.0)
        if not (math.isfinite(value) and value > 0):
            raise ValueError
    except ValueError:
        raise BadInput("T", str(text), accepted) from None
    return value
