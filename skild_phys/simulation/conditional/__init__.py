"""Exact conditional Monte Carlo: a lattice model given its coarse lattice.

The target is p(fine | coarse), the Gibbs distribution exp(-H / T) restricted to the configurations
whose coarse-graining is the given one. The moves are the rule's (`rules.moves`). From
`CLUSTERS_FROM` on, every fourth sweep of single sites is followed by a redraw of the clusters of
Swendsen and Wang (`rules.clusters`).
"""

from skild_phys.simulation.conditional.chains import (
    Chain,
    Conditional,
    fill_chain,
    relax,
    sample,
)
from skild_phys.simulation.conditional.pilot import Pilot, measure_sweeps, pilot_chains

__all__ = [
    "Chain",
    "Conditional",
    "Pilot",
    "fill_chain",
    "measure_sweeps",
    "pilot_chains",
    "relax",
    "sample",
]
