"""Which update is run for which model: the one place where kernels and models meet.

A further kernel is an entry here; the loop that runs chains knows nothing of models or kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skild_phys.errors import BadInput
from skild_phys.models import Model
from skild_phys.models.ising import Ising
from skild_phys.models.potts import Potts
from skild_phys.rng import kernel_state, lane_state
from skild_phys.simulation.metropolis import metropolis
from skild_phys.simulation.multispin import REPLICAS, multispin
from skild_phys.simulation.potts import potts_metropolis
from skild_phys.simulation.swendsen_wang import swendsen_wang
from skild_phys.simulation.wolff import wolff

Lattices = NDArray[np.int8]
State = NDArray[np.uint64]
Advance = Callable[[Lattices, Model, float, State, int], object]
"""(lattices (replicas, ...), model, T, generator state, updates): updates both in place."""


@dataclass(frozen=True)
class Algorithm:
    """A Markov chain update.

    Attributes
    ----------
    name : by which it is called.
    update : what one update is called: `cluster` or `sweep`.
    families : the classes of models it is made for; a subclass is another Hamiltonian.
    advance : the kernel.
    stream : (seed, *key) -> generator state.
    replicas : chains that advance together; they make up a unit.
    local : whether it updates site by site, in checkerboard order; sides must then be even.
    pace : nanoseconds an update takes a site, roughly; says only how often a run looks up.
    """

    name: str
    update: str
    families: tuple[type[Model], ...]
    advance: Advance
    stream: Callable[..., State] = lane_state
    replicas: int = 1
    local: bool = False
    pace: float = 10.0

    def fits(self, model: Model) -> bool:
        """Return whether this is an update of `model`."""
        return type(model) in self.families

    def start(self, seed: int, unit: int) -> State:
        """Return the generator state that unit `unit` of a simulation starts from."""
        return self.stream(seed, "chain", unit)


def _states(model: Model) -> int:
    return len(model.values) if isinstance(model, Potts) else 0


ALGORITHMS = (
    Algorithm(
        "wolff",
        "cluster",
        (Ising, Potts),
        lambda x, model, t, state, n: wolff(x[0], t, state, n, _states(model)),
        stream=kernel_state,
    ),
    Algorithm(
        "swendsen-wang",
        "sweep",
        (Ising, Potts),
        lambda x, model, t, state, n: swendsen_wang(x[0], t, state, n, _states(model)),
    ),
    Algorithm(
        "metropolis",
        "sweep",
        (Ising,),
        lambda x, model, t, state, n: metropolis(x[0], t, state, n),
        local=True,
        pace=1.0,
    ),
    Algorithm(
        "metropolis",
        "sweep",
        (Potts,),
        lambda x, model, t, state, n: potts_metropolis(x[0], _states(model), t, state, n),
        local=True,
        pace=1.0,
    ),
    Algorithm(
        "multispin",
        "sweep",
        (Ising,),
        lambda x, model, t, state, n: multispin(x, t, state, n),
        replicas=REPLICAS,
        local=True,
        pace=0.1,
    ),
)


def default_algorithm(model: Model) -> str:
    """Return the algorithm that makes the most independent configurations a second at Tc.

    As `skild-phys bench simulate` measures it; the first of those that fit a model without
    Swendsen-Wang clusters.
    """
    known = [a.name for a in ALGORITHMS if a.fits(model)]
    if not known:
        raise BadInput("--model", model.name, "a model with an algorithm")
    return "swendsen-wang" if "swendsen-wang" in known else known[0]


def get_algorithm(name: str, model: Model) -> Algorithm:
    """Return the algorithm called `name`, or `auto`, for a model.

    Raises BadInput naming the known ones.
    """
    known = {a.name: a for a in ALGORITHMS if a.fits(model)}
    wanted = default_algorithm(model) if name == "auto" else name.replace("_", "-")
    if wanted not in known:
        raise BadInput("--algorithm", name, f"{', '.join(known)} (for {model.name}), or auto")
    return known[wanted]
