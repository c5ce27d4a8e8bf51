"""What is measured of the data before training: power spectrum, and pair couplings of spins.

Couplings are learned by maximum pseudo-likelihood. If p(s) ~ exp(sum over pairs of J_ij s_i s_j), a
spin given all others is up with odds exp(2 sum_j J_ij s_j): a logistic regression, convex and
consistent (Besag 1975; for spins Aurell and Ekeberg, arXiv 1107.3536). Where the data have more
than pair couplings, these are the best that pairs can say; the network corrects the rest.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import curve_fit

from skild_phys.errors import BadInput, warn
from skild_phys.skild.data import ImageLattices, Source
from skild_phys.skild.equations import Process
from skild_phys.skild.recipe import Recipe
from skild_phys.skild.response import Response
from skild_phys.skild.spectrum import (
    KINDS,
    WHITE,
    Basis,
    ChannelSpectra,
    ModeSpectrum,
    PowerLaw,
    RadialSpectrum,
    Spectrum,
    TorusSpectrum,
    make_basis,
)
from skild_phys.skild.spins import Couplings
from skild_phys.skild.weights import FAR, Weights

_Array = NDArray[np.float64]
_Batches = Iterable[NDArray[np.generic]]
_Samples = Sequence[NDArray[np.generic]]
_Offset = tuple[int, ...]

_FLOOR = 1e-4  # lowest P kept, as a fraction of the mean over all modes
_KNOTS = 48  # shells, uniform in log kappa; those without a mode are dropped
_GROUPS = 8  # of batches, for the jackknife error of couplings
_TOLD_APART, _SITES = 2**32, 2**15
SIGNIFICANT = 5.0
"""Couplings within so many standard errors of zero are set to zero."""
_RESPONSE_BATCHES = 16  # of each shape: gains to 1e-3
_MOST_BYTES = 2**31  # of the samples that spectrum and couplings are measured on

# -- power spectrum ----------------------------------------------------------------------------


class ShellPower(NamedTuple):
    """Measured mode powers, and their means over shells of equal log kappa.

    Attributes
    ----------
    basis : whose modes these are.
    n : number of configurations.
    power : mean |X|^2 of each mode.
    kappa, mean, error : of each shell: geometric mean wave number, mean power of its modes, and
        the standard error of that for independent configurations (nan for one).
    """

    basis: Basis
    n: int
    power: _Array
    kappa: _Array
    mean: _Array
    error: _Array

    def over_shells(self, power: _Array) -> _Array:
        """Return the means over the shells of another power of each mode."""
        return np.asarray(_over_shells(power[None], self.basis)[0])


def _over_shells(power: _Array, basis: Basis) -> _Array:
    """Return the means of `power` (n, *modes) over shells above the zero mode, (n, shells)."""
    inside = basis.kappa.ravel() > 0
    kappa, weight = basis.kappa.ravel()[inside], basis.weight.ravel()[inside]
    edges = np.geomspace(kappa.min() * 0.999, kappa.max() * 1.001, _KNOTS + 1)
    shell = np.unique(np.digitize(kappa, edges), return_inverse=True)[1]
    flat = power.reshape(len(power), -1)[:, inside]
    means = np.stack([np.bincount(shell, weight * one) for one in flat])
    return np.asarray(means / np.bincount(shell, weight))


def _log_kappa(basis: Basis) -> _Array:
    """Return the mean of log kappa of each shell."""
    return np.asarray(_over_shells(np.log(basis.kappa.clip(min=basis.lowest))[None], basis)[0])


def measure_shells(batches: _Batches, basis: Basis) -> ShellPower:
    """Return the mode powers of batches of fields (n, *shape), and their errors by shell.

    Of fields with channels, (n, channels, *shape), they are means over the channels.
    """
    power, n = np.zeros_like(basis.kappa), 0
    total, squares = np.zeros(1), np.zeros(1)
    for fields in batches:
        modes = basis.modes(torch.from_numpy(np.asarray(fields, dtype=np.float64)))
        each = (modes.abs() ** 2).numpy()
        each = each.mean(axis=1) if each.ndim > 1 + power.ndim else each
        shells = _over_shells(each, basis)
        power += each.sum(axis=0)
        total, squares = total + shells.sum(axis=0), squares + (shells**2).sum(axis=0)
        n += len(each)
    mean = total / n
    spread = np.sqrt(np.maximum(squares / n - mean**2, 0.0))
    error = spread / math.sqrt(n - 1) if n > 1 else np.full_like(mean, np.nan)
    return ShellPower(basis, n, power / n, np.exp(_log_kappa(basis)), mean, error)


def fit_spectrum(power: _Array, basis: Basis, kind: str = RadialSpectrum.kind) -> Spectrum:
    """Return a spectrum of `kind` for measured mode powers; raises BadInput for none of KINDS.

    Parameters
    ----------
    power : measured E|X|^2 of the modes of `basis` (`measure_shells`), not all zero.
    kind : 'radial', 'torus', 'power_law' or 'modes'.
    """
    if kind not in KINDS:
        raise BadInput("spectrum", kind, " or ".join(KINDS))
    if not 0 < power.mean() < math.inf:
        raise BadInput("lattices", float(power.mean()), "lattices whose mean square is above 0")
    floored = np.maximum(power, _FLOOR * np.average(power, weights=basis.weight))
    if kind == ModeSpectrum.kind:
        return ModeSpectrum(basis.name, basis.shape, tuple(floored.ravel().tolist()))
    log_kappa, log_power = _log_kappa(basis), np.log(_over_shells(floored[None], basis)[0])
    if kind == PowerLaw.kind:
        return _power_law(log_kappa, log_power)
    if kind == TorusSpectrum.kind:
        return fit_torus([(power, basis, 1)])
    table = _radial(log_kappa, log_power)
    grid = np.geomspace(1e-4, float(np.exp(log_kappa[0])), 4000)
    zero = float(grid[np.argmin(np.abs(table(grid) - floored.flat[0]))])
    return replace(table, zero_scale=zero * basis.sites ** (1 / len(basis.shape)))


def fit_torus(powers: Sequence[tuple[_Array, Basis, int]]) -> TorusSpectrum:
    """Return P_bulk and f(m) of lattices of one system and several shapes.

    Parameters
    ----------
    powers : measured E|X|^2 of the modes, the basis, and how many lattices that is the mean of.

    The slope at long waves is what makes the same mode m of tori of one aspect ratio agree; from
    lattices of one size it is that of the lowest knots.
    """
    reach = TorusSpectrum.WAVES
    floor = _FLOOR * np.average(powers[0][0], weights=powers[0][1].weight)
    kappas, logs, weights, waves = [], [], [], []
    for power, basis, n in powers:
        order = np.argsort(basis.shape, kind="stable")
        m = np.stack(np.meshgrid(*basis.numbers, indexing="ij"))[order]
        m = np.abs(m).reshape(len(order), -1)
        flat, kappa = np.maximum(power, floor).ravel(), basis.kappa.ravel()
        beyond, count = (m > reach).any(axis=0), basis.weight.ravel() * n
        kappas.append(kappa[beyond])
        logs.append(flat[beyond])
        weights.append(count[beyond])
        ratios = tuple((np.sort(basis.shape) / min(basis.shape)).tolist())
        if ratios[-1] == 1.0:  # nothing tells the axes of a square apart
            m = np.sort(m, axis=0)
        place = np.ravel_multi_index(tuple(np.minimum(m, reach)), [reach + 1] * len(order))
        size = (reach + 1) ** len(order)
        own = [np.bincount(place, w * ~beyond, size) for w in (count, count * flat)]
        long = np.bincount(place, count * ~beyond * kappa.clip(min=basis.lowest), size)
        with np.errstate(divide="ignore", invalid="ignore"):
            waves.append((ratios, np.log(own[1] / own[0]), np.log(long / own[0]), n))
    kappa, flat, count = (np.concatenate(one) for one in (kappas, logs, weights))
    if not kappa.size:  # lattices of a few sites have long waves alone
        kappa = np.concatenate([one.kappa.clip(min=one.lowest).ravel() for _, one, _ in powers])
        flat = np.concatenate([np.maximum(power, floor).ravel() for power, _, _ in powers])
        count = np.concatenate([one.weight.ravel() * n for _, one, n in powers])
    edges = np.geomspace(kappa.min() * 0.999, kappa.max() * 1.001, _KNOTS + 1)
    shell = np.unique(np.digitize(kappa, edges), return_inverse=True)[1]
    total = np.bincount(shell, count)
    knots = np.exp(np.bincount(shell, count * np.log(kappa)) / total)
    power = np.bincount(shell, count * flat) / total
    tail = min(6, len(knots) - 1)
    slope = float(np.log(power[tail] / power[0]) / np.log(knots[tail] / knots[0])) if tail else 0.0
    shared = []
    for ratios in sorted({wave[0] for wave in waves}):
        same = [wave for wave in waves if wave[0] == ratios]
        if len(same) > 1:
            x, y = (np.stack([wave[i] for wave in same]) for i in (2, 1))
            share = np.sqrt([wave[3] for wave in same])
            ok = np.isfinite(x).all(axis=0) & np.isfinite(y).all(axis=0)
            x, y = (one[:, ok] - np.average(one[:, ok], axis=0, weights=share) for one in (x, y))
            shared.append([(share @ (x * one)).sum() for one in (y, x)])
    if shared:
        slope = float(sum(one[0] for one in shared) / sum(one[1] for one in shared))
    found = TorusSpectrum(tuple(knots.tolist()), tuple(power.tolist()), slope, ())
    tori = []
    for ratios in sorted({wave[0] for wave in waves}):
        same = [wave for wave in waves if wave[0] == ratios]
        above = [y - np.log(found.bulk(np.exp(np.nan_to_num(x)))) for _, y, x, _ in same]
        shape = [reach + 1] * len(ratios)
        many = np.array([wave[3] for wave in same])[:, None] * np.isfinite(above)
        f = (np.nan_to_num(above) * many).sum(axis=0) / np.maximum(many.sum(axis=0), 1e-300)
        f = f.reshape(shape)
        if ratios[-1] == 1.0:
            f = f[tuple(np.sort(np.indices(shape), axis=0))]
        tori.append((ratios, tuple(np.exp(f).ravel().tolist())))
    return replace(found, tori=tuple(tori))


def _radial(log_kappa: _Array, log_power: _Array, smooth: float = 0.7) -> RadialSpectrum:
    """Return a table whose log P is smoothed about a cubic by a Gaussian `smooth` shells wide."""
    degree = min(3, log_kappa.size - 1)
    trend = np.polynomial.Polynomial.fit(log_kappa, log_power, degree)(log_kappa)
    log_power = trend + gaussian_filter1d(log_power - trend, smooth, mode="nearest")
    return RadialSpectrum(tuple(np.exp(log_kappa)), tuple(np.exp(log_power)), 1.0)


def _power_law(log_kappa: _Array, log_power: _Array) -> PowerLaw:
    """Return the least-squares fit over shells, all of equal weight."""

    def model(x: _Array, log_amplitude: float, alpha: float, log_k0: float) -> _Array:
        return np.asarray(log_amplitude - alpha * np.log(np.exp(2.0 * x) + np.exp(2.0 * log_k0)))

    low, high = float(log_kappa[0]), float(log_kappa[-1])
    bounds = ((-np.inf, 0.0, low - 10.0), (np.inf, 10.0, high))
    start = (float(log_power[-1]), 1.0, low)
    best, _ = curve_fit(model, log_kappa, log_power, start, bounds=bounds)
    return PowerLaw(math.exp(best[0]), float(best[1]), math.exp(2.0 * best[2]))


def fit_channels(batches: Sequence[NDArray[np.generic]], basis: Basis) -> ChannelSpectra:
    """Return the spectra of images (n, channels, *shape) along their principal directions.

    Directions are those of the covariance of the channels over all sites, the largest first; each
    is turned so that its components have a sum above zero, or the first of them is.
    """
    channels = batches[0].shape[1]
    total, count = np.zeros((channels, channels)), 0
    for batch in batches:
        flat = np.moveaxis(np.asarray(batch, dtype=np.float64), 1, 0).reshape(channels, -1)
        total += np.cov(flat) * flat.shape[1]
        count += flat.shape[1]
    mixing = np.linalg.eigh(total / count)[1].T[::-1]
    lead = np.where(np.abs(mixing.sum(1)) > 0.1, mixing.sum(1), mixing[:, 0])
    mixing = mixing * np.sign(lead)[:, None]

    power = np.zeros((channels, *basis.kappa.shape))
    for batch in batches:
        along = np.einsum("kc,nc...->kn...", mixing, np.asarray(batch, dtype=np.float64))
        modes = basis.modes(torch.from_numpy(np.ascontiguousarray(along)))
        power += (modes.abs() ** 2).sum(1).numpy()
    power /= sum(map(len, batches))
    # Grey images have no colours at all: noise of theirs is next to none, but there is some.
    power = np.maximum(power, _FLOOR * np.average(power[0], weights=basis.weight))
    spectra = (fit_spectrum(one, basis) for one in power)
    radial = tuple(s for s in spectra if isinstance(s, RadialSpectrum))
    return ChannelSpectra(tuple(tuple(float(x) for x in row) for row in mixing), radial)


@dataclass(frozen=True)
class SpectrumFit:
    """The power spectrum of samples by shell, and a fit of it.

    Attributes
    ----------
    kind : of the fit, of KINDS.
    shells : what was measured.
    spectrum : the fit, as the `spectrum` of a recipe.
    values : its means over the shells.
    """

    kind: str
    shells: ShellPower
    spectrum: Spectrum
    values: _Array

    @classmethod
    def of(cls, lattices: Any, kind: str = RadialSpectrum.kind, basis: str | None = None) -> Self:
        """Measure and fit opened configurations of numbers, or training images.

        `basis` None is 'dct' for images, 'dft' for others. Raises BadInput.
        """
        where = str(lattices.path)
        if lattices.field == "image":
            lattices = ImageLattices(lattices, "train" if "split" in lattices.variables else None)
        elif lattices.q or len(lattices.shape) < 2:
            raise BadInput("lattices", where, "lattices of numbers in two or three dimensions")
        if math.prod(lattices.shape) == 1:
            raise BadInput("lattices", where, "lattices of two sites or more")
        modes = make_basis(basis or ("dct" if lattices.channels else "dft"), lattices.shape)
        batches = (
            lattices.read(*span).astype(np.float64) * lattices.scale for span in lattices.batches()
        )
        shells = measure_shells(batches, modes)
        spectrum = fit_spectrum(shells.power, modes, kind)
        return cls(kind, shells, spectrum, shells.over_shells(spectrum.variances(modes)))

    def record(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        _, _, _, kappa, mean, error = self.shells
        shells = {"kappa": kappa, "power": mean, "power_err": error, "fit": self.values}
        return {
            "lattices": self.shells.n,
            "basis": self.shells.basis.name,
            "spectrum": self.spectrum.record(),
            "shells": {name: values.tolist() for name, values in shells.items()},
        }

    def text(self, rows: int = 12) -> str:
        """Return a table of some shells, and the constants of a power law."""
        m = self.shells
        lines = [f"{'kappa':>9}  {'P':>11}  {'error':>9}  {self.kind:>11}"]
        for i in np.unique(np.linspace(0, m.kappa.size - 1, rows).round().astype(int)):
            shell = f"{m.kappa[i]:9.4f}  {m.mean[i]:11.5g}  {m.error[i]:9.2g}"
            lines.append(f"{shell}  {self.values[i]:11.5g}")
        if isinstance(self.spectrum, PowerLaw):
            law = "P = {amplitude:.5g} (kappa^2 + {k0_squared:.4g})^-{alpha:.5g}"
            lines.append(law.format(**self.spectrum.record()))
        return "\n".join(lines)


# -- pair couplings ----------------------------------------------------------------------------


def _orbits(reach: int, dimension: int, symmetric: bool) -> list[list[_Offset]]:
    """Return the separations within `reach`, one of each opposite pair, in groups of equal J.

    The groups are the orbits of flips and quarter turns if `symmetric`, else single separations.
    """
    groups: dict[_Offset, list[_Offset]] = {}
    for offset in itertools.product(range(-reach, reach + 1), repeat=dimension):
        if offset > (0,) * dimension:
            key = tuple(sorted(map(abs, offset))) if symmetric else offset
            groups.setdefault(key, []).append(offset)
    return sorted(groups.values(), key=lambda group: max(sum(x * x for x in r) for r in group))


def _around(s: NDArray[Any], offset: _Offset) -> NDArray[Any]:
    """Return the sum of s (n, *shape) at both sites that are `offset` away."""
    back, axes = tuple(-step for step in offset), tuple(range(1, s.ndim))
    both: NDArray[Any] = np.roll(s, back, axes) + np.roll(s, offset, axes)
    return both


def _maximum(rows: _Array, counts: _Array) -> _Array:
    """Return the J that maximizes sum of counts ln p, p = 1 / (1 + exp(-2 rows J)), by Newton.

    A small ridge keeps it finite where the data would have it infinite (all spins alike).
    """
    total, ridge = counts.sum(), 1e-6
    j = np.zeros(rows.shape[1])
    for _ in range(50):
        wrong = 1.0 / (1.0 + np.exp(2.0 * rows @ j))
        gradient = 2.0 * (counts * wrong) @ rows / total - ridge * j
        curvature = 4.0 * (rows.T * (counts * wrong * (1.0 - wrong))) @ rows / total
        step = np.linalg.solve(curvature + ridge * np.eye(j.size), gradient)
        j = j + step * min(1.0, 1.0 / max(np.abs(step).max(), 1e-300))
        if np.abs(step).max() < 1e-10:
            break
    return np.asarray(j)


def fit_couplings(batches: _Batches, reach: int = 2, symmetric: bool = True) -> Couplings:
    """Return the pair couplings of spins (n, *shape) of +-1, periodic, of any dimension.

    Parameters
    ----------
    batches : of independent configurations; the jackknife error is over groups of them.
    reach : largest separation along an axis; 0 for no couplings at all.
    symmetric : whether separations that flips and quarter turns take into each other share J.

    Couplings that do not stand out from zero by SIGNIFICANT standard errors are left out, and the
    others fitted again without them. Where there are so many that next to no two sites are alike,
    _SITES of each batch are looked at.

    Raises BadInput for more separations than can be told apart.
    """
    orbits: list[list[_Offset]] = []
    tables: list[Counter[int]] = [Counter() for _ in range(_GROUPS)]
    for index, spins in enumerate(batches):
        orbits = orbits or _orbits(reach, spins.ndim - 1, symmetric)
        if not orbits or min(spins.shape[1:]) < 2 * reach + 1:
            return Couplings()
        # One number for each site that stands for s_i times the spins' sum over each orbit about i.
        s = spins.astype(np.int8)
        sums = [
            s * sum((_around(s, offset) for offset in orbit), np.zeros_like(s)) + 2 * len(orbit)
            for orbit in orbits
        ]
        values = tuple(4 * len(orbit) + 1 for orbit in orbits)
        if math.prod(values) >= 2**63:
            few = "" if symmetric else ", or symmetries with 'flip' and 'turn'"
            raise BadInput("couplings_reach", reach, f"a smaller one{few}")
        numbers = np.ravel_multi_index(tuple(sums), values).ravel()
        if math.prod(values) > _TOLD_APART:
            numbers = numbers[:: -(-numbers.size // _SITES)]
        seen, times = np.unique(numbers, return_counts=True)
        tables[index % _GROUPS].update(dict(zip(seen.tolist(), times.tolist(), strict=True)))
    keys = sorted(set().union(*tables))
    if not keys:
        return Couplings()
    raised = np.stack(np.unravel_index(np.array(keys), values), axis=1)
    rows = raised - 2.0 * np.array([len(orbit) for orbit in orbits])
    counts = np.array([[table[key] for key in keys] for table in tables], dtype=np.float64)
    counts = counts[counts.sum(axis=1) > 0]
    kept = list(range(len(orbits)))
    while kept:
        best = _maximum(rows[:, kept], counts.sum(axis=0))
        if len(counts) < 2:
            break
        left_out = np.array([_maximum(rows[:, kept], counts.sum(axis=0) - c) for c in counts])
        error = np.sqrt((len(counts) - 1) * left_out.var(axis=0))
        strength = np.abs(best) / np.maximum(error, 1e-12)
        if strength.min() >= SIGNIFICANT:
            break
        del kept[int(np.argmin(strength))]
    found = {offset: float(best[i]) for i, k in enumerate(kept) for offset in orbits[k]}
    return Couplings(tuple(found), tuple(found.values()))


def beyond_pairs(batches: _Batches, couplings: Couplings, reach: int = 2) -> _Array:
    """Return by how many standard errors spins differ from what pair `couplings` make of them.

    If p(s) ~ exp(sum over pairs of J_ij s_i s_j), then s_i - tanh(sum_j J_ij s_j) has a mean of
    zero times anything that is made of the other spins. Here that is, summed over the planes of the
    lattice: three of the four nearest neighbours, the other three corners of a plaquette, and pairs
    just beyond `reach`, on axes and on diagonals. The error is over batches.

    Returns
    -------
    (4,) mean over its error; NaN from fewer than two batches.
    """
    means = []
    for spins in batches:
        s = spins.astype(np.float64)
        pull = np.zeros_like(s)
        for offset, j in zip(couplings.offsets, couplings.values, strict=True):
            pull += j * _around(s, offset)
        rest, found = s - np.tanh(pull), np.zeros(4)
        for plane in itertools.combinations(range(1, s.ndim), 2):
            found += [(rest * made).mean() for made in _in_plane(s, plane, reach + 1)]
        means.append(found)
    if len(means) < 2:
        return np.full(4, np.nan)
    error = np.std(means, axis=0, ddof=1) / math.sqrt(len(means))
    return np.asarray(np.mean(means, axis=0) / np.maximum(error, 1e-300))


def _in_plane(s: _Array, plane: tuple[int, ...], far: int) -> tuple[_Array, ...]:
    def at(dy: int, dx: int) -> _Array:
        return np.roll(s, (-dy, -dx), plane)

    around = [at(0, 1), at(1, 0), at(0, -1), at(-1, 0)]
    corners = [at(1, 1), at(1, -1), at(-1, -1), at(-1, 1)]
    return (
        around[0] * around[1] * around[2] * around[3] * sum(around),
        np.asarray(sum(around[k] * corners[k] * around[k - 3] for k in range(4))),
        at(0, far) + at(far, 0) + at(0, -far) + at(-far, 0),
        at(far, far) + at(far, -far) + at(-far, -far) + at(-far, far),
    )


# -- both --------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """What is known of the data before the first step."""

    spectrum: Spectrum
    couplings: Couplings
    conditional: bool = False
    """Whether the targets of spins are their means given all the others."""
    responses: Mapping[str, Response] = MappingProxyType({})
    """What rules that are not linear make of the data, by name."""

    def process(
        self, recipe: Recipe, shape: tuple[int, ...], device: torch.device | str = "cpu",
        grid: tuple[int, ...] | None = None,
    ) -> Process:  # fmt: skip
        """Return the forward process of these data for fields of `shape`, or on its `grid`."""
        return Process(self.spectrum, shape, device, recipe.basis, recipe.kappa_c, grid)


def measure(source: Source, recipe: Recipe) -> Measured:
    """Measure the spectrum, and of spins the pair couplings, of the source's first batches.

    No sample is counted twice, unless all are fewer than a batch: the errors of couplings are over
    independent batches.
    """
    if recipe.spectrum == "white":
        return Measured(WHITE, Couplings())
    if recipe.paper_spectrum is not None:
        return Measured(recipe.paper_spectrum, Couplings())
    count = recipe.spectrum_batches
    if source.n_samples is not None:
        count = min(count, max(1, source.n_samples // recipe.batch))
    batches = [source.next(recipe.batch)]
    count = min(count, 1 + _MOST_BYTES // batches[0].nbytes)
    batches += [source.next(recipe.batch) for _ in range(count - 1)]
    _check_sign(batches, recipe.symmetries)
    basis = make_basis(recipe.basis, source.shape)
    if recipe.spectrum == ChannelSpectra.kind:
        if not source.channels:
            raise BadInput("spectrum", recipe.spectrum, "another for lattices, without channels")
        return Measured(fit_channels(batches, basis), Couplings())
    d = len(source.shape)
    shapes = sorted({batch.shape[-d:] for batch in batches})
    if recipe.spectrum == TorusSpectrum.kind:
        found = []
        for shape in shapes:
            shells = measure_shells(
                (batch for batch in batches if batch.shape[-d:] == shape),
                make_basis(recipe.basis, shape),
            )
            found.append((shells.power, shells.basis, shells.n))
        spectrum: Spectrum = fit_torus(found)
    else:
        power = measure_shells((b for b in batches if b.shape[-d:] == source.shape), basis).power
        spectrum = fit_spectrum(power, basis, recipe.spectrum)
    if recipe.output != "logits":
        return Measured(spectrum, Couplings(), recipe.targets == "conditional")
    few = [batch for shape in shapes for batch in _of_shape(batches, shape)[:_RESPONSE_BATCHES]]
    responses = Response.measured(few, recipe.coarse_factors) if recipe.over_grids else {}
    batches = _of_shape(batches, source.shape)
    reach, alike = recipe.couplings_reach, {"flip", "turn"} <= set(recipe.symmetries)
    couplings, targets = fit_couplings(batches, reach, symmetric=alike), recipe.targets
    if targets == "auto":
        pairs = (np.abs(beyond_pairs(batches, couplings, reach)) < SIGNIFICANT).all()
        targets = "conditional" if pairs else "spins"
    return Measured(spectrum, couplings, targets == "conditional", responses)


def _of_shape(batches: _Samples, shape: tuple[int, ...]) -> list[NDArray[np.generic]]:
    return [batch for batch in batches if batch.shape[1:] == shape]


def _check_sign(batches: Sequence[NDArray[np.generic]], symmetries: Sequence[str]) -> None:
    """Warn if configurations are to be symmetric under a change of sign, and do not look like it.

    That is, of 64 or more, if the mean of all is above half the root mean square of the mean of
    one: 4 standard errors where they are independent, as those of one chain are not.
    """
    fields = [np.asarray(batch, dtype=np.float64).reshape(len(batch), -1) for batch in batches]
    means = np.concatenate([batch.mean(axis=1) for batch in fields])
    mean = float(means.mean())
    if "sign" in symmetries and len(means) >= 64 and mean**2 > 0.25 * float((means**2).mean()):
        others = [name for name in symmetries if name != "sign"]
        warn(
            f"symmetries: {list(symmetries)}, but the mean of the lattices is {mean:.3g}, not 0: "
            f"they are trained on with either sign, unless symmetries = {others}",
        )


def untrained(
    samples: NDArray[np.generic],
    couplings: Couplings | None = None,
    *,
    reach: int = 1,
    system: dict[str, Any] | None = None,
) -> Weights:
    """Return weights without a network, in any dimension.

    The mean field of spins on the lattice, and on coarser grids a Gaussian field.

    Parameters
    ----------
    samples : (n, *shape) spins of +-1, independent, whose spectrum is measured.
    couplings : of the pairs, where they are known; None to learn those within `reach`.
    system : their model and temperature; other systems are refused.
    """
    basis, d = make_basis("dft", samples.shape[1:]), samples.ndim - 1
    if couplings is None:
        couplings = fit_couplings([samples[i::_GROUPS] for i in range(_GROUPS)], reach)
    spectrum = fit_spectrum(measure_shells([samples], basis).power, basis)
    usual = Recipe()
    return Weights(
        {}, None, spectrum, "logits", (0.0, FAR), system or {}, couplings=couplings, dimension=d,
        window=(usual.window[0], usual.window[1]),
        responses=Response.measured([samples], usual.coarse_factors),
    )  # fmt: skip
