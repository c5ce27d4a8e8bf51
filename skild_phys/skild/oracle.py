"""Constrained Monte Carlo for a coarse input: the methods `exact` and `fill`, and the polish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from skild_phys.errors import BadInput, Interrupted
from skild_phys.models import MODELS, Model
from skild_phys.models.ising import ISING_2D, ISING_3D
from skild_phys.models.potts import potts
from skild_phys.simulation.conditional import (
    Conditional,
    Pilot,
    measure_sweeps,
    pilot_chains,
    relax,
    sample,
)
from skild_phys.skild.coarse import CoarseInput

Lattices = NDArray[Any]
Method = Callable[[Lattices, Sequence[int], Lattices | None], Lattices]
"""(raw coarse lattices, output indices, coins or priorities) -> fine lattices (n, *shape)."""

Stop = Callable[[], bool]


def model_of_values(coarse: CoarseInput) -> Model:
    """Return a model of lattices such as these, by which their magnetization is defined."""
    if coarse.q:
        return potts(coarse.q)
    return ISING_2D if len(coarse.shape) == 2 else ISING_3D


def model_of(coarse: CoarseInput) -> Model | None:
    """Return the model that the input names; for 2D spins without a name it is Ising's.

    None if there is no name, or none that is known here.
    """
    like = model_of_values(coarse)
    return MODELS.get(str(coarse.attrs.get("model", ISING_2D.name if like is ISING_2D else None)))


def hamiltonian_of(coarse: CoarseInput, option: str, value: object) -> Model:
    """Return the model; raises BadInput, naming what asked for it, if it is not known.

    It must be a sum over nearest-neighbour bonds: the moves know no other energy.
    """
    model = model_of(coarse)
    if model is None:
        named = coarse.attrs.get("model")
        what = "says no model" if named is None else f"is of model {named}, which is not known here"
        raise BadInput(option, value, f"fill, or a known Hamiltonian: {coarse.path} {what}")
    if model.bond is None:
        what = f"is of model {model.name}, not a sum over nearest-neighbour bonds alone"
        raise BadInput(option, value, f"fill or skild: {coarse.path} {what}")
    return model


def measured_sweeps(
    coarse: CoarseInput, temperature: float, seed: int, stop: Stop = lambda: False
) -> Pilot:
    """Return tau of the first lattices of `coarse`, and how many sweeps method `exact` makes.

    The same for the same input, temperature and seed. Raises Interrupted once `stop` says so.
    """
    model = hamiltonian_of(coarse, "--method", "exact")
    target = Conditional(model, coarse.rule, coarse.factor, temperature, coarse.shape)
    first = pilot_chains(coarse.n, target)
    ties = coarse.ties(slice(first))
    try:
        return measure_sweeps(target, target.read(coarse.read(0, first), ties), seed, stop)
    except Interrupted:
        raise Interrupted("interrupted before the first lattice; nothing was changed") from None


def monte_carlo(
    coarse: CoarseInput,
    method: str,
    temperature: float,
    seed: int,
    sweeps: int,
    stop: Stop,
) -> Method:
    """Return the method `exact`, of so many sweeps, or `fill`, of none."""
    if method == "fill":
        model, sweeps = model_of_values(coarse), 0
    else:
        model = hamiltonian_of(coarse, "--method", method)

    target = Conditional(model, coarse.rule, coarse.factor, temperature, coarse.shape)
    return lambda raw, index, ties: sample(target, raw, seed, index, sweeps, ties, stop)


def polished(
    coarse: CoarseInput,
    method: Method,
    temperature: float,
    seed: int,
    sweeps: int,
    stop: Stop,
) -> Method:
    """Return `method` followed by constrained sweeps."""
    model = hamiltonian_of(coarse, "--polish", sweeps)

    target = Conditional(model, coarse.rule, coarse.factor, temperature, coarse.shape)

    def moved(raw: Lattices, index: Sequence[int], ties: Lattices | None) -> Lattices:
        return relax(target, method(raw, index, ties), raw, seed, index, sweeps, ties, stop)

    return moved
