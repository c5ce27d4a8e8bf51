"""Which sample is which: numbers that are missing, and samples that are there twice.

`xarray.concat` leaves NaN where a part has no `chain`, `draw` or `parent`, and joins what overlaps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skild_phys.errors import StoreError
from skild_phys.store.lattices import Lattices
from skild_phys.store.layout import SCALARS

_Whole = NDArray[np.int64]

WITHOUT_PARENT = 2**62
"""Samples without a parent are their own ancestors: their places, numbered from here on."""

_ENOUGH = 8
_MOST_LAGS = 64


def whole_numbers(path: Path, scalars: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the scalars that count something as whole numbers, with a place for what is missing.

    Samples in a row whose chain or draw is missing are a chain of their own. One whose parent is
    missing has that of the samples of its chain and draw, and without such none: it is its own
    ancestor. Raises StoreError for a number that is not whole, or missing elsewhere.
    """
    found, missing = {}, {}
    for name, values in scalars.items():
        kind = np.dtype(SCALARS[name][0]) if name in SCALARS else np.dtype("f8")
        if kind.kind != "i" or values.dtype.kind not in "iuf":
            continue
        lost = missing[name] = ~np.isfinite(values)
        if name in ("label", "split") and lost.any():
            raise StoreError(f"{path}: variable '{name}': {lost.sum()} samples have none")
        kept = values[~lost]
        wrong = (kept != np.floor(kept)) | (kept < 0) | (kept > np.iinfo(kind).max)
        if wrong.any():
            raise StoreError(f"{path}: variable '{name}': {kept[wrong][0]} is no whole number")
        found[name] = np.where(lost, 0, values).astype(np.int64)
    if of_chain := [name for name in ("chain", "draw") if name in found]:
        lost = np.any([missing[name] for name in of_chain], axis=0)
        place = np.flatnonzero(lost)
        begins = np.diff(place, prepend=-2) != 1  # a stretch of samples is a chain
        stretch = np.cumsum(begins) - 1
        if "chain" in found:
            found["chain"][place] = found["chain"].max(initial=-1, where=~lost) + 1 + stretch
        if "draw" in found:
            found["draw"][place] = place - place[begins][stretch]
    if "parent" in found:
        parent = pd.Series(found["parent"], dtype="Int64").mask(missing["parent"])
        if len(of_chain) == 2:
            shared = parent.groupby([found["chain"], found["draw"]]).transform("last")
            parent = parent.fillna(shared)
        alone = WITHOUT_PARENT + np.arange(len(parent))
        found["parent"] = parent.fillna(pd.Series(alone)).to_numpy(np.int64)
    return found


def copied(lattices: Lattices) -> NDArray[np.bool_]:
    """Return which samples are copies of earlier ones; of refinements, which parents name, none."""
    if "parent" in lattices.variables or lattices.channels or lattices.n_samples < 2 * _ENOUGH:
        return np.zeros(lattices.n_samples, dtype=np.bool_)
    return _copies(_digests(lattices), *_chains(lattices))


def shared(one: Lattices, other: Lattices) -> int:
    """Return how many samples of `other` are samples of `one`."""
    if (one.field, one.shape) != (other.field, other.shape):
        return 0
    both = [_chains(lattices) for lattices in (one, other)]
    chains = [np.concatenate(pair) for pair in zip(*both)] if all(both) else []
    digest = np.concatenate([_digests(one), _digests(other)])
    return int(_copies(digest, *chains)[one.n_samples :].sum())


def _chains(lattices: Lattices) -> tuple[_Whole, ...]:
    known = "chain" in lattices.variables and "draw" in lattices.variables
    return tuple(lattices.variable(name) for name in ("chain", "draw")) if known else ()


def _digests(lattices: Lattices) -> NDArray[np.uint64]:
    """Return what names the numbers of each sample, (n_samples,): 8 bytes of BLAKE2b."""
    found = [
        hashlib.blake2b(sample.tobytes(), digest_size=8).digest()
        for start, stop in lattices.batches()
        for sample in lattices.read(start, stop)
    ]
    return np.frombuffer(b"".join(found), dtype=np.uint64)


def _copies(
    digest: NDArray[np.uint64], chain: _Whole | None = None, draw: _Whole | None = None
) -> NDArray[np.bool_]:
    """Return which samples are copies of earlier ones, (n,) bool.

    Small lattices and frozen chains repeat by chance; copies are known by where they lie: at the
    same chain and draw, or one behind the other as an earlier stretch is (of other chains, where
    these are known). What counts are states whose samples all lie so. A state that was drawn
    twice does by chance with probability 1 / (n - 1) for one place, so that of at most n / 2 such
    states `_ENOUGH` = 8 do with probability 0.5^8 / 8! = 1e-7; in a stretch without a gap it
    is less.
    """
    found = np.zeros(len(digest), dtype=np.bool_)
    _, state, count = np.unique(digest, return_inverse=True, return_counts=True)
    if chain is not None and draw is not None:
        _, place = np.unique(np.stack([chain, draw]), axis=1, return_inverse=True)
        place = place.ravel()
        order = np.lexsort((state, place))
        again = (np.diff(place[order]) == 0) & (np.diff(state[order]) == 0)
        _add(found, order[1:][again], state, count)
    order = np.argsort(state, kind="stable")
    lags, times = np.unique(np.diff(order)[np.diff(state[order]) == 0], return_counts=True)
    often = np.argsort(-times, kind="stable")[:_MOST_LAGS]
    for lag in lags[often][times[often] >= _ENOUGH]:
        same = state[lag:] == state[:-lag]
        if chain is not None:
            same &= chain[lag:] != chain[:-lag]
        ends = np.flatnonzero(np.diff(same.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
        for start, stop in ends[ends[:, 1] - ends[:, 0] >= _ENOUGH]:
            _add(found, np.arange(start + lag, stop + lag), state, count)
    return found


def _add(found: NDArray[np.bool_], again: _Whole, state: _Whole, count: _Whole) -> None:
    """Mark samples as copies, if enough of their states are there and in the originals alone."""
    states, times = np.unique(state[again], return_counts=True)
    if (times == count[states] - 1).sum() >= _ENOUGH:
        found[again] = True
