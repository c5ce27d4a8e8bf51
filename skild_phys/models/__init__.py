"""Lattice models: the Hamiltonian and where it is critical, one model (family) a file.

A further model is a subclass of `Model` in a file of its own: here, in a package that names it
under the entry point group `skild_phys.models`, or in a notebook. Its updates draw from `uniform`
and `normal`, and find neighbours by `neighbour_sites`.
"""

from skild_phys.models.base import (
    MODELS,
    Bond,
    Model,
    Update,
    find_model,
    get_model,
    neighbour_sites,
    parse_temperature,
)
from skild_phys.models.ising import ISING_2D, ISING_3D
from skild_phys.models.potts import POTTS
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

MODELS |= {model.name: model for model in (ISING_2D, ISING_3D, *POTTS)}
