"""Which updates a model has: its own, and those that what it declares makes exact for it."""

from __future__ import annotations

from collections.abc import Callable

from skild_phys.errors import BadInput
from skild_phys.models import Model, Update
from skild_phys.rng import lane_state
from skild_phys.simulation.metropolis import REPLICAS, metropolis, multispin
from skild_phys.simulation.swendsen_wang import swendsen_wang
from skild_phys.simulation.wolff import wolff


def _is_ising(model: Model) -> bool:
    return model.values == (-1, 1) and model.bond == 2.0 and model.nearest


def _is_potts(model: Model) -> bool:
    return model.q > 1 and model.bond == 1.0 and model.nearest


def _has_clusters(model: Model) -> bool:
    return _is_ising(model) or _is_potts(model)


def _is_flat_potts(model: Model) -> bool:
    return _is_potts(model) and model.dimension == 2


ALGORITHMS: list[tuple[Callable[[Model], bool], Update]] = [
    (
        _has_clusters,
        Update(
            lambda x, model, t, state, n: wolff(x[0], t, state, n, model.q),
            "wolff", "cluster", local=False,
        ),
    ),
    (
        _has_clusters,
        Update(
            lambda x, model, t, state, n: swendsen_wang(x[0], t, state, n, model.q),
            "swendsen-wang", stream=lane_state, local=False,
        ),
    ),
    (
        _is_ising,
        Update(
            lambda x, model, t, state, n: metropolis(x[0], t, state, n),
            "metropolis", stream=lane_state, even_sides=True, pace=1.0,
        ),
    ),
    (
        _is_flat_potts,
        Update(
            lambda x, model, t, state, n: metropolis(x[0], t, state, n, model.q),
            "metropolis", stream=lane_state, even_sides=True, pace=1.0,
        ),
    ),
    (
        _is_ising,
        Update(
            lambda x, model, t, state, n: multispin(x, t, state, n),
            "multispin", stream=lane_state, replicas=REPLICAS, even_sides=True, pace=0.1,
        ),
    ),
]  # fmt: skip
"""Updates for every model of which the function before it holds."""


def updates_of(model: Model) -> dict[str, Update]:
    """Return the updates of a model by name, its own first."""
    general = {update.name: update for fits, update in ALGORITHMS if fits(model)}
    return {**model.updates, **{n: u for n, u in general.items() if n not in model.updates}}


def get_update(name: str, model: Model) -> Update:
    """Return the update called `name` of a model; raises BadInput naming those that it has.

    `auto` is Swendsen-Wang, which makes the most independent configurations per second at Tc
    (`skild-phys bench simulate`), or else the first of the model's own.
    """
    known = updates_of(model)
    if not known:
        raise BadInput("model", model.name, "a model with updates")
    if name == "auto":
        return known.get("swendsen-wang") or next(iter(known.values()))
    if name.replace("_", "-") not in known:
        raise BadInput("algorithm", name, f"{', '.join(known)} (for {model.name}), or auto")
    return known[name.replace("_", "-")]
