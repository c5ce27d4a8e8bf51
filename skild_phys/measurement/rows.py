"""Which lattices are averaged into one row, and where rows stand in their Markov chains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skild_phys.errorbars import Chains
from skild_phys.errors import StoreError
from skild_phys.store import Lattices

MAX_ROWS = 8192


@dataclass(frozen=True)
class Rows:
    """Which row each lattice is averaged into.

    Attributes
    ----------
    label : (lattices,) int64, the row of a lattice.
    size : the number of rows.
    members : (size,) int64, how many different parents (or lattices) a row is made of.
    chains : where the rows stand in their Markov chains; None if that is not known.
    """

    label: NDArray[np.int64]
    size: int
    members: NDArray[np.int64]
    chains: Chains | None

    def of_parents(self, parent: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of lattices of the store, (n,) indices; -1 for the index -1."""
        return np.where(parent >= 0, self.label[parent], -1)


def chains_of(lattices: Lattices) -> Chains | None:
    """Return the chain and draw of every lattice, None if they are not recorded."""
    if not (lattices.has("chain") and lattices.has("draw")):
        return None
    chain, draw = (
        np.asarray(lattices.variable(name), dtype=np.int64) for name in ("chain", "draw")
    )
    return Chains(chain[: lattices.n_samples], draw[: lattices.n_samples])


def _separated(lattices: Lattices, chains: Chains) -> Chains:
    """Return chains of their own for runs that were joined: draws that begin again are another's.

    Raises StoreError where draws of equal numbers are in no order that tells them apart.
    """
    chain, draw = chains.chain, chains.draw
    _, count = np.unique(np.stack([chain, draw]), axis=1, return_counts=True)
    if count.max(initial=1) == 1:
        return chains
    order = np.argsort(chain, kind="stable")
    begins = (np.diff(chain[order]) != 0) | (np.diff(draw[order]) <= 0)
    label = np.empty_like(chain)
    label[order] = np.concatenate([[0], np.cumsum(begins)])
    if label.max() >= 2 * count.max() * len(np.unique(chain)):
        raise StoreError(
            f"{lattices.path}: variable 'draw': up to {count.max()} samples have the same chain and"
            " draw, and no order tells their runs apart; expected one run behind the other"
        )
    return Chains(label, draw)


def identities(lattices: Lattices) -> NDArray[np.int64]:
    """Return what names the ancestor of each lattice: `parent`, or else its own index."""
    if lattices.has("parent"):
        return np.asarray(lattices.variable("parent"), dtype=np.int64)
    return np.arange(lattices.n_samples)


def rows_of(lattices: Lattices, max_rows: int = MAX_ROWS) -> Rows:
    """Return a row for each lattice; refinements of one parent share theirs.

    Beyond `max_rows`, successive lattices of a chain are put into one row as well.
    """
    parents, first, label = np.unique(identities(lattices), return_index=True, return_inverse=True)
    n = len(parents)
    chains = chains_of(lattices)
    if chains is not None:
        chains = _separated(lattices, chains.take(first))
    group = -(-n // max_rows)
    if group <= 1:
        return Rows(label, n, np.ones(n, dtype=np.int64), chains)
    if chains is None:
        row = np.arange(n) // group
        return Rows(row[label], int(row[-1]) + 1, np.bincount(row), None)
    chain, time = chains.grid()
    kept, row = np.unique(np.stack([chain, time // group]), axis=1, return_inverse=True)
    if kept.shape[1] > 2 * max_rows:
        # Chains shorter than a group: they are independent, and go together by their number.
        row = np.argsort(np.lexsort((time, chain))) // group
        return Rows(row[label], int(row.max()) + 1, np.bincount(row), None)
    row = row.ravel()
    return Rows(row[label], kept.shape[1], np.bincount(row), Chains(kept[0], kept[1]))
