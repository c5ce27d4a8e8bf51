"""Exact conditional Monte Carlo: a lattice model given its coarse lattice.

The target is p(fine | coarse), the Gibbs distribution exp(-H / T) restricted to the lattices
whose coarse-graining (`rules.coarsen`) is the given one. Each rule has a move that stays inside
that set and connects all of it: exchange within a block (the counts of its states stay), change of
the sites that decimation leaves free, change of single sites that refuses to break a block's
majority. Every elementary move leaves the target invariant, so that their sequence does.

Lattices are held as planes, a plane for each position inside a block (`blocks`), and a move is
made in all blocks at once. A sweep of block_mean pairs the positions at random and exchanges every
pair once (`exchange`); a sweep of decimate proposes a new state for every free site once, of
majority for every site (`flip`). From `CLUSTERS_FROM` on, every fourth of these sweeps is followed
by a redraw of the clusters of Swendsen and Wang (`clusters`).

Where several states tie for the commonest of a block, the one of largest priority is its coarse
value. If priorities are not known (all 0), a tie of k states has the weight 1 / k, the probability
that a fair draw shows the coarse value.
"""

from skild_phys.simulation.conditional.law import CONDITIONAL_RULES, Law
from skild_phys.simulation.conditional.sampler import (
    Chain,
    fill_chain,
    random_fill,
    relax,
    run,
    sample_conditional,
)

__all__ = [
    "CONDITIONAL_RULES",
    "Chain",
    "Law",
    "fill_chain",
    "random_fill",
    "relax",
    "run",
    "sample_conditional",
]
