"""Error bars of any function of averages: Gamma method, jackknife and bootstrap over bins.

A jackknife leaves out one row (a sample, or a bin of them) at a time; what the estimate moves
by is that row's influence. The influences form a time series for every chain, and the Gamma
method of U. Wolff (hep-lat/0306017) turns their autocorrelation into a factor 2 tau on the
variance. Without chains the rows are taken as independent. Over bins that are longer than the
autocorrelation time, jackknife and bootstrap need no such factor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from skild_phys.errors import BadInput, check_whole

Array = NDArray[np.float64]
Means = Mapping[str, Array]

_S_TAU = 1.5  # ratio of the exponential to the integrated time that the automatic window assumes
_KINDS = ("gamma", "jackknife", "bootstrap")
_MOST_RESAMPLES = 100_000
_BINS = 50  # of a jackknife or bootstrap; all rows where there are fewer
_FEWEST = 50
"""Rows below which an integrated autocorrelation time that comes out below 1/2 is unknown: that
of 50 independent rows scatters by 0.14."""

_COMPONENTS_AT_ONCE = 64
ROUNDING = 1e-13
"""Distance from the mean, relative to the values, below which there is no fluctuation."""


@dataclass(frozen=True)
class Chains:
    """Which Markov chain each row came from, and its place in that chain; both (rows,) integers."""

    chain: NDArray[np.int64]
    draw: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Chains:
        """Return the layout of a selection of rows."""
        return Chains(self.chain[rows], self.draw[rows])

    def grid(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for every row its chain 0, 1 .. and its time in units of the finest spacing.

        Times begin at 0 in every chain and keep their gaps. Draws of which few have another one
        spacing away, and so sparse ones that a dense table would be mostly gaps, are numbered in
        order instead.
        """
        _, chain = np.unique(self.chain, return_inverse=True)
        first = np.full(int(chain.max()) + 1, np.iinfo(np.int64).max)
        np.minimum.at(first, chain, self.draw)
        time = self.draw - first[chain]
        time = time // max(int(np.gcd.reduce(time)), 1)
        order = np.lexsort((time, chain))
        steps = np.diff(time[order])[np.diff(chain[order]) == 0]
        sparse = (chain.max() + 1) * (time.max() + 1) > 8 * len(time) + 1024
        if sparse or (len(steps) and (steps == 1).mean() < 0.25):
            begin = np.unique(chain[order], return_index=True)[1]
            time[order] = np.arange(len(time)) - begin[chain[order]]
        return chain, time


@dataclass(frozen=True)
class Influence:
    """What each row moves an estimate by; of independent rows `rows.T @ rows` is its covariance.

    `rows` (n, size) float64 are of the flattened value; `chains` is their time order, None where
    they are independent.
    """

    rows: Array
    chains: Chains | None


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error (NaN for a single row), and how independent its rows are.

    Attributes
    ----------
    value, error : of the function's shape.
    tau, tau_error : integrated autocorrelation time in rows (1/2: independent; NaN: unknown, see
        `_FEWEST`) and its own error; with bins what the error over bins makes of it, its error NaN.
    n_eff : so many independent rows would have this error.
    influence : what its rows move it by, one for each independent ensemble; if asked for.
    """

    value: Array
    error: Array
    tau: Array
    tau_error: Array
    n_eff: Array
    influence: tuple[Influence, ...] = ()


@dataclass(frozen=True)
class ErrorMethod:
    """How errors are made: `gamma`, or `jackknife` or `bootstrap` over `bins`.

    Attributes
    ----------
    kind : gamma (row by row, with autocorrelation), jackknife or bootstrap.
    bins : bins in time order, taken as independent; None for 50, or all rows. Not with `gamma`.
    resamples, seed : of the bootstrap.
    """

    kind: str = "gamma"
    bins: int | None = None
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise BadInput("errors", self.kind, ", ".join(_KINDS))
        if self.kind == "gamma" and self.bins is not None:
            raise BadInput("bins", self.bins, "errors= jackknife or bootstrap")
        check_whole("resamples", self.resamples, 2, _MOST_RESAMPLES)
        check_whole("seed", self.seed, 0)

    def number_of_bins(self, rows: int) -> int:
        """Return the bins for so many rows."""
        return min(_BINS, rows) if self.bins is None else self.bins

    def __call__(
        self,
        function: Callable[..., Array],
        *rows: Means,
        chains: Chains | None = None,
        influence: bool = False,
    ) -> Estimate:
        """Estimate a function of averages, with its standard error.

        Parameters
        ----------
        function : called with one mapping of means for each of `rows`, arrays `(..., *trailing)`
            with any leading shape, which it must carry through to its result.
        rows : mappings name -> `(n, *trailing)` float64. Several mappings share their rows: row i
            of the first belongs to row i of the second. That is the PAIRED jackknife: what the
            two have in common cancels from the error of a difference. A bootstrap draws their
            bins together.
        chains : the time order of the rows; None takes them as independent.
        influence : also return what each row, or bin, moves the value by.

        Returns
        -------
        Value at the plain means, error and autocorrelation, all of the function's own shape.

        Raises
        ------
        BadInput : bins below 2 or above the number of rows; mappings of different length.
        """
        lengths = {len(a) for r in rows for a in r.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise BadInput("rows", str(sorted(lengths)), "arrays of one common length above 0")
        n = lengths.pop()
        value, moves = _influences(function, rows, n)
        unknown, half = np.full(value.shape, np.nan), np.full(value.shape, 0.5)
        if n < 2:
            return Estimate(value, unknown, half, unknown, np.ones(value.shape))
        plain = (moves**2).sum(axis=0) / (n * (n - 1.0))
        if self.kind == "gamma":
            tau, tau_error, known = half, unknown, np.full(value.shape, True)
            if chains is not None:
                tau, tau_error, _, known = integrated_autocorrelation_time(moves, chains)
            # A reversible chain has no negative tau - 1/2; an estimate below that is noise, and
            # would shorten the error bar.
            factor = np.maximum(2 * tau, 1)
            moved = moves / np.sqrt(n * (n - 1.0))
            error, n_eff = np.sqrt(plain * factor), n / factor
        else:
            bins, tau_error = self.number_of_bins(n), unknown
            binned = tuple(_binned(r, n, bins, chains) for r in rows)
            moved = _influences(function, binned, bins)[1] / np.sqrt(bins * (bins - 1.0))
            error, chains = np.sqrt((moved**2).sum(axis=0)), None
            if self.kind == "bootstrap":
                error = self._spread(function, binned, bins)
            with np.errstate(invalid="ignore", divide="ignore"):
                tau = np.where(plain > 0, 0.5 * error**2 / plain, 0.5)
                n_eff = n / np.maximum(2 * tau, 1)
            known = (tau >= 0.5) | (n >= _FEWEST)
        tau, tau_error = (np.where(known, a, np.nan) for a in (tau, tau_error))
        kept = (Influence(moved.reshape(len(moved), -1), chains),) if influence else ()
        return Estimate(value, error, tau, tau_error, n_eff, kept)

    def _spread(
        self, function: Callable[..., Array], binned: tuple[Means, ...], bins: int
    ) -> Array:
        """Return the standard deviation of the function over bins drawn with replacement."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed))
        shares = rng.multinomial(bins, np.full(bins, 1 / bins), size=self.resamples) / float(bins)
        drawn = [{k: np.tensordot(shares, a, axes=(1, 0)) for k, a in r.items()} for r in binned]
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            replicas = np.asarray(function(*drawn), dtype=np.float64)
            # The spread of means of bins drawn from themselves is that of a population of bins.
            return np.asarray(replicas.std(axis=0) * np.sqrt(bins / (bins - 1.0)))


def jackknife(
    function: Callable[..., Array],
    *rows: Means,
    chains: Chains | None = None,
    bins: int | None = None,
    influence: bool = False,
) -> Estimate:
    """Estimate as `ErrorMethod` does: over `bins`, or row by row with the Gamma method."""
    method = ErrorMethod() if bins is None else ErrorMethod("jackknife", bins)
    return method(function, *rows, chains=chains, influence=influence)


class _Autocorrelation(NamedTuple):
    tau: Array
    error: Array
    window: NDArray[np.int64]
    known: NDArray[np.bool_]


def integrated_autocorrelation_time(
    series: Array, chains: Chains | None = None, *, s_tau: float = _S_TAU
) -> _Autocorrelation:
    """Return tau_int = 1/2 + sum rho(t) with the automatic window of hep-lat/0306017.

    Parameters
    ----------
    series : (draws, ...) float64; every trailing component has its own tau and window.
    chains : where each draw stands; one chain in the order given if None. Chains may differ in
        length and have gaps: each lag is averaged over the pairs that exist.
    s_tau : eq. (51) there; larger sums further.

    Returns
    -------
    tau, its error, window : arrays of the trailing shape, in draws; independent ones have tau
        1/2, a constant series 1/2 and window 0. The window is eq. (52), the bias of order 1/N is
        removed as in eq. (49), the error is eq. (42).
    known : False for a tau below 1/2 of fewer than `_FEWEST` draws, which is noise.

    Examples
    --------
    A chain with correlations 0.8^t has tau = 1/2 + 0.8 / 0.2 = 4.5:

    >>> noise = np.random.default_rng(1).normal(size=4000)
    >>> series = np.zeros(4000)
    >>> for t in range(1, 4000):
    ...     series[t] = 0.8 * series[t - 1] + noise[t]
    >>> found = integrated_autocorrelation_time(series)
    >>> abs(float(found.tau) - 4.5) < 3 * float(found.error)
    True
    """
    values = np.asarray(series, dtype=np.float64)
    n = len(values)
    layout = chains or Chains(np.zeros(n, dtype=np.int64), np.arange(n))
    flat = values.reshape(n, -1)
    # What a constant is off its mean by is rounding, and no fluctuation.
    noise = ROUNDING * np.abs(flat).max(axis=0, initial=0.0)
    flat = flat - flat.mean(axis=0)
    flat[:, np.abs(flat).max(axis=0, initial=0.0) <= noise] = 0.0
    parts = [
        _window(_autocovariance(flat[:, i : i + _COMPONENTS_AT_ONCE], layout), n, s_tau)
        for i in range(0, max(flat.shape[1], 1), _COMPONENTS_AT_ONCE)
    ]
    tau, window = (np.concatenate(a).reshape(values.shape[1:]) for a in zip(*parts, strict=True))
    error = 2 * tau * np.sqrt(np.maximum(window + 0.5 - tau, 0) / n)
    return _Autocorrelation(tau, error, window, (tau >= 0.5) | (n >= _FEWEST))


def _influences(
    function: Callable[..., Array], rows: tuple[Means, ...], n: int
) -> tuple[Array, Array]:
    """Return the function of the means, and what each of `n` rows moves it by, (n, *shape)."""
    means = [{name: a.mean(axis=0) for name, a in r.items()} for r in rows]
    # A function that is infinite or undefined for some rows has an error that is undefined.
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        value = np.asarray(function(*means), dtype=np.float64)
        if n < 2:
            return value, np.zeros((n, *value.shape))
        left_out = [
            {name: m[name] + (m[name] - a) / (n - 1) for name, a in r.items()}
            for r, m in zip(rows, means, strict=True)
        ]
        replicas = np.asarray(function(*left_out), dtype=np.float64)
        return value, (n - 1) * (replicas.mean(axis=0) - replicas)


def bins_in_time(n: int, bins: int, chains: Chains | None) -> NDArray[np.int64]:
    """Return the bin of each of `n` rows, in time order, chain after chain."""
    order = np.arange(n) if chains is None else np.lexsort((chains.draw, chains.chain))
    label = np.empty(n, dtype=np.int64)
    label[order] = np.arange(n) * bins // n
    return label


def bin_sums(values: Array, label: NDArray[np.int64], bins: int) -> Array:
    """Return the sums over the rows of each bin, (rows, ...) -> (bins, ...)."""
    total = np.zeros((bins, *np.shape(values)[1:]))
    np.add.at(total, label, values)
    return total


def _binned(rows: Means, n: int, bins: int, chains: Chains | None) -> dict[str, Array]:
    if not 2 <= bins <= n:
        raise BadInput("bins", bins, f"2 to {n}, the number of configurations")
    label = bins_in_time(n, bins, chains)
    count = np.bincount(label, minlength=bins)
    return {name: (bin_sums(a, label, bins).T / count).T for name, a in rows.items()}


def _autocovariance(centred: Array, chains: Chains) -> Array:
    """Return Gamma(t) for t = 0 .. half the longest chain, (lags, components)."""
    chain, time = chains.grid()
    length = int(time.max()) + 1
    lags = length // 2 + 1
    size = scipy.fft.next_fast_len(2 * length, real=True)
    table = np.zeros((int(chain.max()) + 1, length, centred.shape[1] + 1))
    np.add.at(table, (chain, time), np.pad(centred, ((0, 0), (0, 1)), constant_values=1.0))
    modes = scipy.fft.rfft(table, n=size, axis=1)
    power = (modes.real**2 + modes.imag**2).sum(axis=0)
    sums = scipy.fft.irfft(power, n=size, axis=0)[:lags]
    pairs = np.rint(sums[:, -1:])
    return np.asarray(
        np.divide(sums[:, :-1], pairs, out=np.zeros((lags, centred.shape[1])), where=pairs > 0)
    )


def _window(gamma: Array, n: int, s_tau: float) -> tuple[Array, NDArray[np.int64]]:
    """Return tau and the window, each (components,), from Gamma(t) of shape (lags, components)."""
    lags, components = gamma.shape
    alive = gamma[0] > 0
    rho = np.divide(gamma, gamma[0], out=np.zeros_like(gamma), where=alive)
    if lags < 2:
        return np.full(components, 0.5), np.zeros(components, dtype=np.int64)
    w = np.arange(1, lags)[:, None]
    excess = np.cumsum(rho[1:], axis=0)
    tail = s_tau / np.log1p(1 / np.maximum(excess, 1e-12))
    criterion = np.exp(-w / tail) - tail / np.sqrt(w * n)
    stop = np.where((criterion < 0).any(axis=0), (criterion < 0).argmax(axis=0), lags - 2)
    summed = excess[stop, np.arange(components)]
    window = np.where(alive, stop + 1, 0)
    # Subtracting the sample mean lowers every Gamma(t) by C / N, C = Gamma(0) (1 + 2 summed).
    shift = (1 + 2 * summed) / n
    tau = 0.5 + (summed + window * shift) / (1 + shift)
    return np.where(alive, tau, 0.5), window
