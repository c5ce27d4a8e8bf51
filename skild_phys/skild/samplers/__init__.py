"""The reverse process's steps, each in a file of its own behind the one signature of `Step`."""

from __future__ import annotations

from collections.abc import Callable

from skild_phys.errors import BadInput
from skild_phys.skild.samplers.ancestral import Ancestral
from skild_phys.skild.samplers.angle import Angle1, Angle2
from skild_phys.skild.samplers.step import Noise, Posterior, Step
from skild_phys.skild.samplers.stochastic import Stochastic

SAMPLERS: dict[str, Callable[[], Step]] = {
    "stochastic": Stochastic,
    "ancestral": Ancestral,
    "angle1": Angle1,
    "angle2": Angle2,
}

__all__ = ["SAMPLERS", "Noise", "Posterior", "Step", "make_step"]


def make_step(name: str) -> Step:
    """Return a step of the sampler `name`, for one chain; raises BadInput."""
    if name not in SAMPLERS:
        raise BadInput("--sampler", name, " or ".join(SAMPLERS))
    return SAMPLERS[name]()
