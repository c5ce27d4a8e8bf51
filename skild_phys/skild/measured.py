"""What is measured of the data before training: power spectrum, and pair couplings of spins."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import curve_fit

from skild_phys.errors import BadInput, warn
from skild_phys.skild.couplings import GROUPS, SIGNIFICANT, beyond_pairs, fit_couplings
from skild_phys.skild.data import ImageLattices, Source
from skild_phys.skild.equations import Process
from skild_phys.skild.recipe import Recipe
from skild_phys.skild.spectrum import (
    KINDS,
    WHITE,
    Basis,
    ChannelSpectra,
    ModeSpectrum,
    PowerLaw,
    RadialSpectrum,
    Spectrum,
    make_basis,
)
from skild_phys.skild.spins import Couplings
from skild_phys.skild.weights import Weights

_Array = NDArray[np.float64]
_FLOOR = 1e-4
"""Lowest P kept, as a fraction of the mean over all modes."""
_KNOTS = 48
"""Shells, uniform in log kappa; those without a mode are dropped."""


def fit_spectrum(power: _Array, basis: Basis, kind: str = RadialSpectrum.kind) -> Spectrum:
    """Return a spectrum of `kind` for measured mode powers; raises BadInput for none of KINDS.

    Parameters
    ----------
    power : measured E|X|^2 of the modes of `basis` (`measure_shells`), not all zero.
    kind : 'radial', 'power_law' or 'modes'.
    """
    if kind not in KINDS:
        raise BadInput("spectrum", kind, " or ".join(KINDS))
    if not 0 < power.mean() < math.inf:
        raise BadInput("lattices", float(power.mean()), "lattices whose mean square is above 0")
    floored = np.maximum(power, _FLOOR * np.average(power, weights=basis.weight))
    if kind == ModeSpectrum.kind:
        return ModeSpectrum(basis.name, basis.shape, tuple(floored.ravel().tolist()))
    return _power_law(floored, basis) if kind == PowerLaw.kind else _radial(floored, basis)


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
    turned = (np.einsum("kc,nc...->kn...", mixing, np.asarray(b, np.float64)) for b in batches)
    power, count = np.zeros((channels, *basis.kappa.shape)), 0
    for directions in turned:
        modes = basis.modes(torch.from_numpy(np.ascontiguousarray(directions)))
        power += (modes.abs() ** 2).sum(1).numpy()
        count += directions.shape[1]
    # Grey images have no colours at all: noise of theirs is next to none, but there is some.
    power = np.maximum(power / count, _FLOOR * np.average(power[0] / count, weights=basis.weight))
    spectra = (fit_spectrum(one, basis, RadialSpectrum.kind) for one in power)
    radial = tuple(s for s in spectra if isinstance(s, RadialSpectrum))
    return ChannelSpectra(tuple(tuple(float(x) for x in row) for row in mixing), radial)


def _shells(basis: Basis) -> tuple[NDArray[np.int64], _Array, _Array]:
    """Return the shell and weight of every mode above the zero mode, and log kappa of the shells.

    log kappa is the mean over a shell's modes.
    """
    inside = basis.kappa.ravel() > 0
    kappa, weight = basis.kappa.ravel()[inside], basis.weight.ravel()[inside]
    edges = np.geomspace(kappa.min() * 0.999, kappa.max() * 1.001, _KNOTS + 1)
    which = np.unique(np.digitize(kappa, edges), return_inverse=True)[1].astype(np.int64)
    return which, weight, np.bincount(which, weight * np.log(kappa)) / np.bincount(which, weight)


def _shell_means(power: _Array, basis: Basis) -> _Array:
    """Return the means of `power` (n, *modes) over the shells, (n, shells)."""
    which, weight, _ = _shells(basis)
    flat = power.reshape(len(power), -1)[:, basis.kappa.ravel() > 0]
    means = np.stack([np.bincount(which, weight * one) for one in flat])
    return np.asarray(means / np.bincount(which, weight))


def _radial(power: _Array, basis: Basis, smooth: float = 0.7) -> RadialSpectrum:
    """Return a table of the shells; log P is smoothed against a cubic trend by a Gaussian
    `smooth` shells wide."""
    log_kappa, log_power = _shells(basis)[2], np.log(_shell_means(power[None], basis)[0])
    degree = min(3, log_kappa.size - 1)
    trend = np.polynomial.Polynomial.fit(log_kappa, log_power, degree)(log_kappa)
    log_power = trend + gaussian_filter1d(log_power - trend, smooth, mode="nearest")
    table = RadialSpectrum(tuple(np.exp(log_kappa)), tuple(np.exp(log_power)), 1.0)
    grid = np.geomspace(1e-4, float(np.exp(log_kappa[0])), 4000)
    zero = float(grid[np.argmin(np.abs(table(grid) - power.flat[0]))])
    return RadialSpectrum(table.kappa, table.power, zero * basis.sites ** (1 / len(basis.shape)))


def _power_law(power: _Array, basis: Basis) -> PowerLaw:
    """Return the least-squares fit of log P over shells, all of equal weight."""
    log_kappa, log_power = _shells(basis)[2], np.log(_shell_means(power[None], basis)[0])

    def model(x: _Array, log_amplitude: float, alpha: float, log_k0: float) -> _Array:
        return np.asarray(log_amplitude - alpha * np.log(np.exp(2.0 * x) + np.exp(2.0 * log_k0)))

    low = float(log_kappa[0])
    start = (float(log_power[-1]), 1.0, low)
    bounds = ((-np.inf, 0.0, low - 10.0), (np.inf, 10.0, float(log_kappa[-1])))
    best, _ = curve_fit(model, log_kappa, log_power, start, bounds=bounds)
    return PowerLaw(math.exp(best[0]), float(best[1]), math.exp(2.0 * best[2]))


@dataclass(frozen=True)
class ShellPower:
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
        return np.asarray(_shell_means(power[None], self.basis)[0])


def measure_shells(batches: Iterable[NDArray[np.generic]], basis: Basis) -> ShellPower:
    """Return the mode powers of batches of fields (n, *shape), and their errors by shell.

    Of fields with channels, (n, channels, *shape), they are means over the channels.
    """
    power, n = np.zeros_like(basis.kappa), 0
    total, squares = np.zeros(1), np.zeros(1)
    for fields in batches:
        modes = basis.modes(torch.from_numpy(np.asarray(fields, dtype=np.float64)))
        each = (modes.abs() ** 2).numpy()
        each = each.mean(axis=1) if each.ndim > 1 + power.ndim else each
        shells = _shell_means(each, basis)
        power += each.sum(axis=0)
        total, squares = total + shells.sum(axis=0), squares + (shells**2).sum(axis=0)
        n += len(each)
    mean = total / n
    spread = np.sqrt(np.maximum(squares / n - mean**2, 0.0))
    error = spread / math.sqrt(n - 1) if n > 1 else np.full_like(mean, np.nan)
    return ShellPower(basis, n, power / n, np.exp(_shells(basis)[2]), mean, error)


def untrained(
    samples: NDArray[np.generic],
    couplings: Couplings | None = None,
    *,
    reach: int = 1,
    system: dict[str, Any] | None = None,
) -> Weights:
    """Return weights without a network: the mean field of spins alone, in any dimension.

    Parameters
    ----------
    samples : (n, *shape) spins of +-1, independent, whose spectrum is measured.
    couplings : of the pairs, where they are known; None to learn those within `reach`.
    system : their model and temperature, by which lattices of another are refused.
    """
    basis, d = make_basis("dft", samples.shape[1:]), samples.ndim - 1
    if couplings is None:
        couplings = fit_couplings([samples[i::GROUPS] for i in range(GROUPS)], reach)
    spectrum = fit_spectrum(measure_shells([samples], basis).power, basis)
    reached, system = (0.0, 1000.0), system or {}
    return Weights({}, None, spectrum, "logits", reached, system, couplings=couplings, dimension=d)


_MOST_BYTES = 2**31  # of the samples that spectrum and couplings are measured on


class Measured(NamedTuple):
    """What is known of the data before the first step."""

    spectrum: Spectrum
    couplings: Couplings
    conditional: bool = False
    """Whether the targets of spins are their means given all the others."""

    def process(
        self, recipe: Recipe, shape: tuple[int, int], device: torch.device | str = "cpu"
    ) -> Process:
        """Return the forward process of these data for fields of `shape`."""
        cutoff = None if recipe.cutoff < 0 else recipe.cutoff
        return Process(self.spectrum, shape, device, recipe.basis, cutoff)


def measure(source: Source, recipe: Recipe) -> Measured:
    """Measure the spectrum, and of spins the pair couplings, of the source's first batches.

    No lattice is counted twice, unless all are fewer than a batch: the errors of couplings are over
    independent batches.
    """
    if recipe.spectrum == "white":
        return Measured(WHITE, Couplings())
    if recipe.paper_spectrum is not None:
        return Measured(recipe.paper_spectrum, Couplings())
    basis, count = make_basis(recipe.basis, source.shape), recipe.spectrum_batches
    if source.n_samples is not None:
        count = min(count, max(1, source.n_samples // recipe.batch))
    batches = [source.next(recipe.batch)]
    count = min(count, 1 + _MOST_BYTES // batches[0].nbytes)
    batches += [source.next(recipe.batch) for _ in range(count - 1)]
    _check_sign(batches, recipe.symmetries)
    if recipe.spectrum == ChannelSpectra.kind:
        if not source.channels:
            raise BadInput("spectrum", recipe.spectrum, "another for lattices, without channels")
        return Measured(fit_channels(batches, basis), Couplings())
    spectrum = fit_spectrum(measure_shells(batches, basis).power, basis, recipe.spectrum)
    couplings = Couplings()
    if recipe.output == "logits":
        alike = {"flip", "turn"} <= set(recipe.symmetries)
        couplings = fit_couplings(batches, recipe.couplings_reach, symmetric=alike)
    conditional = recipe.targets == "conditional"
    if recipe.output == "logits" and recipe.targets == "auto":
        deviations = beyond_pairs(batches, couplings, recipe.couplings_reach)
        conditional = bool((np.abs(deviations) < SIGNIFICANT).all())
    return Measured(spectrum, couplings, conditional)


def _check_sign(batches: Sequence[NDArray[np.generic]], symmetries: Sequence[str]) -> None:
    """Warn if lattices are to be symmetric under a change of sign, and do not look like it.

    That is, of 64 or more, if the mean of all is above half the root mean square of the mean over
    a lattice: 4 standard errors where lattices are independent, as those of one chain are not.
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
        """Measure and fit opened lattices of numbers, or of images those to train on.

        `basis` None is 'dct' for images, 'dft' for others. Raises BadInput.
        """
        where = str(lattices.path)
        if lattices.field == "image":
            lattices = ImageLattices(lattices, "train" if lattices.has("split") else None)
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
        shells = {
            "kappa": self.shells.kappa.tolist(),
            "power": self.shells.mean.tolist(),
            "power_err": self.shells.error.tolist(),
            "fit": self.values.tolist(),
        }
        found = {"lattices": self.shells.n, "basis": self.shells.basis.name}
        return found | {"spectrum": self.spectrum.record(), "shells": shells}

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
