"""The power spectrum P = E|X - E X|^2 of the modes, measured or fitted.

Modes are those of an orthonormal basis, kappa = |k| in radians per site. Its kinds:

- `RadialSpectrum`: a smooth table of P(kappa), for every lattice size;
- `PowerLaw`: C (kappa^2 + k0^2)^-alpha, for every lattice size;
- `PaperSpectrum`: the same with the constants, units and normalization of the paper;
- `ModeSpectrum`: one P for each mode, as measured, for one lattice size.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import curve_fit

from skild_phys.errors import BadInput
from skild_phys.skild.basis import Basis, Box
from skild_phys.skild.reference import eps_norms

Array = NDArray[np.float64]


class Spectrum(ABC):
    """P of every mode of a lattice."""

    kind: ClassVar[str]

    @abstractmethod
    def variances(self, basis: Basis) -> Array:
        """Return P of every mode of `basis`, of its modes' shape, positive."""

    def eps_norms(self, basis: Basis) -> Array:
        """Return the rms that white eps, as the network predicts it, has in every mode."""
        return np.ones_like(basis.kappa)

    def record(self) -> dict[str, Any]:
        """Return what `spectrum_from_record` makes this spectrum of, for JSON."""
        return {"kind": self.kind, **dataclasses.asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class RadialSpectrum(Spectrum):
    """P(kappa) by linear interpolation of log P in log kappa.

    Below the first knot P goes on as the power law of the lowest knots, and the zero mode of a
    lattice of N sites takes the value at kappa = zero_scale / sqrt(N): at a critical point chi
    and P(2 pi / L) grow with the same power of L, so that one table serves every size.

    Attributes
    ----------
    kappa : (m,) knots in radians per site, increasing.
    power : (m,) P at the knots, in units of the field squared.
    zero_scale : the zero mode of side L has the power of kappa = zero_scale / L.
    """

    kind: ClassVar[str] = "radial"
    kappa: tuple[float, ...]
    power: tuple[float, ...]
    zero_scale: float

    def __call__(self, kappa: Array) -> Array:
        """Return P at `kappa` > 0, in float64; constant above the last knot."""
        log_kappa, log_power = np.log(self.kappa), np.log(self.power)
        tail = min(6, len(self.kappa) - 1)
        slope = (log_power[tail] - log_power[0]) / (log_kappa[tail] - log_kappa[0])
        x = np.log(np.asarray(kappa, dtype=np.float64))
        below = log_power[0] + slope * (x - log_kappa[0])
        log_p = np.where(x < log_kappa[0], below, np.interp(x, log_kappa, log_power))
        return np.asarray(np.exp(log_p), dtype=np.float64)

    def variances(self, basis: Basis) -> Array:
        kappa = np.where(basis.kappa > 0, basis.kappa, self.zero_scale / basis.sites**0.5)
        return self(kappa)


@dataclass(frozen=True)
class PowerLaw(Spectrum):
    """P = amplitude (kappa^2 + k0_squared)^-alpha.

    With k0_squared = 0 the zero mode takes the value of the lowest wave number above it.
    """

    kind: ClassVar[str] = "power_law"
    amplitude: float
    alpha: float
    k0_squared: float

    def variances(self, basis: Basis) -> Array:
        kappa = basis.kappa if self.k0_squared > 0 else basis.kappa.clip(min=basis.lowest)
        return np.asarray(self.amplitude * (kappa**2 + self.k0_squared) ** -self.alpha)


@dataclass(frozen=True)
class PaperSpectrum(Spectrum):
    """The paper's fit S_0 = amplitude (kappa_ref^2 + k0_squared)^-alpha (arXiv 2605.26032).

    S_0 is the variance of the noise in the modes of the reference, whose DCT is not orthonormal
    (`reference`), for fields of `side`^2. It is Var |F| of the data there, about 0.36 of the power
    spectrum.
    """

    side: int
    alpha: float
    amplitude: float
    k0_squared: float
    kind: str = "paper"  # type: ignore[misc]

    def __post_init__(self) -> None:
        for name in ("side", "alpha", "amplitude", "k0_squared"):
            if not 0 < getattr(self, name) < math.inf:
                raise BadInput(f"[paper_spectrum] {name}", getattr(self, name), "a number above 0")

    def power_law(self) -> PowerLaw:
        """Return P(kappa) of orthonormal modes that vary along both axes."""
        scale = (self.side / 2.0) ** 2 * float(self.side) ** (-2.0 * self.alpha)
        return PowerLaw(self.amplitude * scale, self.alpha, self.k0_squared / self.side**2)

    def variances(self, basis: Basis) -> Array:
        return self.power_law().variances(basis) * self.eps_norms(basis) ** 2

    def eps_norms(self, basis: Basis) -> Array:
        return eps_norms(basis.shape) if basis.name == Box.name else super().eps_norms(basis)


@dataclass(frozen=True)
class ModeSpectrum(Spectrum):
    """P of each mode on its own, for lattices of one shape in one basis.

    Attributes
    ----------
    basis, shape : of the lattices that were measured.
    power : P of each mode, row by row.
    """

    kind: ClassVar[str] = "modes"
    basis: str
    shape: tuple[int, int]
    power: tuple[float, ...]

    def variances(self, basis: Basis) -> Array:
        if basis.shape != tuple(self.shape) or basis.name != self.basis:
            has = "{} x {}".format(*basis.shape)
            wanted = "{} x {} in the basis {}: its spectrum is of single modes"
            raise BadInput("lattice", has, wanted.format(*self.shape, self.basis))
        return np.array(self.power).reshape(basis.kappa.shape)


@dataclass(frozen=True)
class ChannelSpectra(Spectrum):
    """A radial spectrum for each of the directions in which the channels of images vary.

    Attributes
    ----------
    mixing : (c, c) orthogonal, row by row: direction k is the sum over c of mixing[k][c] times
        channel c. Of photographs the first is close to the intensity, the others are colours.
    spectra : of each direction.
    """

    kind: ClassVar[str] = "channels"
    mixing: tuple[tuple[float, ...], ...]
    spectra: tuple[RadialSpectrum, ...]

    @property
    def matrix(self) -> Array:
        """`mixing` as an array."""
        return np.array(self.mixing)

    def variances(self, basis: Basis) -> Array:
        return np.stack([spectrum.variances(basis) for spectrum in self.spectra])


KINDS: dict[str, type[Spectrum]] = {
    kind.kind: kind for kind in (RadialSpectrum, PowerLaw, ModeSpectrum)
}
"""Those that can be fitted to one field; images may have ChannelSpectra."""


def spectrum_from_record(record: dict[str, Any]) -> Spectrum:
    """Return the spectrum that gave `record`; KeyError, TypeError or ValueError if none did."""
    if record["kind"] == ChannelSpectra.kind:
        rows = tuple(tuple(float(x) for x in row) for row in record["mixing"])
        radial = [{"kind": RadialSpectrum.kind, **one} for one in record["spectra"]]
        spectra = [spectrum_from_record(one) for one in radial]
        return ChannelSpectra(rows, tuple(s for s in spectra if isinstance(s, RadialSpectrum)))
    items = ((k, v) for k, v in record.items() if k != "kind")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in items}
    if record["kind"] == PaperSpectrum.kind:
        return PaperSpectrum(**values)
    return KINDS[record["kind"]](**values)


WHITE = PowerLaw(1.0, 0.0, 1.0)
"""The spectrum of white noise of variance 1."""


def fit_spectrum(power: Array, basis: Basis, kind: str = RadialSpectrum.kind) -> Spectrum:
    """Return a spectrum of `kind` for measured mode powers; raises BadInput for none of KINDS.

    Parameters
    ----------
    power : measured E|X|^2 of the modes of `basis` (`measure_shells`), not all zero.
    kind : 'radial', 'power_law' or 'modes'.
    """
    if kind not in KINDS:
        raise BadInput("spectrum", kind, " or ".join(KINDS))
    if not 0 < power.mean() < math.inf:
        raise BadInput("STORE", float(power.mean()), "lattices whose mean square is above 0")
    floored = np.maximum(power, FLOOR * np.average(power, weights=basis.weight))
    if kind == ModeSpectrum.kind:
        return ModeSpectrum(basis.name, basis.shape, tuple(floored.ravel().tolist()))
    if kind == PowerLaw.kind:
        return _power_law(floored, basis)
    return _radial(floored, basis)


def fit_channels(batches: Sequence[NDArray[np.generic]], basis: Basis) -> ChannelSpectra:
    """Return the spectra of images (n, channels, Ly, Lx) along their principal directions.

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
    turned = (np.einsum("kc,ncyx->knyx", mixing, np.asarray(b, np.float64)) for b in batches)
    power, count = np.zeros((channels, *basis.kappa.shape)), 0
    for directions in turned:
        modes = basis.modes(torch.from_numpy(np.ascontiguousarray(directions)))
        power += (modes.abs() ** 2).sum(1).numpy()
        count += directions.shape[1]
    # Grey images have no colours at all: noise of theirs is next to none, but there is some.
    power = np.maximum(power / count, FLOOR * np.average(power[0] / count, weights=basis.weight))
    spectra = (fit_spectrum(one, basis, RadialSpectrum.kind) for one in power)
    radial = tuple(s for s in spectra if isinstance(s, RadialSpectrum))
    return ChannelSpectra(tuple(tuple(float(x) for x in row) for row in mixing), radial)


FLOOR = 1e-4
"""Lowest P kept, as a fraction of the mean over all modes."""


KNOTS = 48
"""Shells, uniform in log kappa; those without a mode are dropped."""


def _shell_of(basis: Basis) -> tuple[NDArray[np.int64], Array]:
    """Return the shell and the weight of every mode above the zero mode, row by row."""
    inside = basis.kappa.ravel() > 0
    kappa = basis.kappa.ravel()[inside]
    edges = np.geomspace(kappa.min() * 0.999, kappa.max() * 1.001, KNOTS + 1)
    _, which = np.unique(np.digitize(kappa, edges), return_inverse=True)
    return which.astype(np.int64), basis.weight.ravel()[inside]


def _shells(power: Array, basis: Basis) -> tuple[Array, Array]:
    """Return log kappa and log P of the shells."""
    which, weight = _shell_of(basis)
    count: Array = np.bincount(which, weight).astype(np.float64)
    log_kappa = np.log(basis.kappa.ravel()[basis.kappa.ravel() > 0])
    log_power: Array = np.log(_shell_means(power[None], basis)[0])
    return np.asarray(np.bincount(which, weight * log_kappa) / count), log_power


def _radial(power: Array, basis: Basis, smooth: float = 0.7) -> RadialSpectrum:
    """Return a table of the shells; log P is smoothed against a cubic trend by a Gaussian
    `smooth` shells wide."""
    log_kappa, log_power = _shells(power, basis)
    degree = min(3, log_kappa.size - 1)
    trend = np.polynomial.Polynomial.fit(log_kappa, log_power, degree)(log_kappa)
    log_power = trend + gaussian_filter1d(log_power - trend, smooth, mode="nearest")
    table = RadialSpectrum(tuple(np.exp(log_kappa)), tuple(np.exp(log_power)), 1.0)
    grid = np.geomspace(1e-4, float(np.exp(log_kappa[0])), 4000)
    zero = float(grid[np.argmin(np.abs(table(grid) - power.flat[0]))])
    return RadialSpectrum(table.kappa, table.power, zero * basis.sites**0.5)


def _power_law(power: Array, basis: Basis) -> PowerLaw:
    """Return the least-squares fit of log P over shells, all of equal weight."""
    log_kappa, log_power = _shells(power, basis)

    def model(x: Array, log_amplitude: float, alpha: float, log_k0: float) -> Array:
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
    n : number of lattices.
    power : mean |X|^2 of each mode.
    kappa, mean, error : of each shell: geometric mean wave number, mean power of its modes, and
        the standard error of that for independent lattices (nan for one lattice).
    """

    basis: Basis
    n: int
    power: Array
    kappa: Array
    mean: Array
    error: Array

    def over_shells(self, power: Array) -> Array:
        """Return the means over the shells of another power of each mode."""
        return np.asarray(_shell_means(power[None], self.basis)[0])


def _shell_means(power: Array, basis: Basis) -> Array:
    """Return the means of `power` (n, *modes) over `_shell_of`'s shells, (n, shells)."""
    which, weight = _shell_of(basis)
    counts = np.bincount(which, weight)
    flat = power.reshape(len(power), -1)[:, basis.kappa.ravel() > 0]
    means: Array = np.stack([np.bincount(which, weight * one) for one in flat]) / counts
    return np.asarray(means)


def measure_shells(batches: Iterable[NDArray[np.generic]], basis: Basis) -> ShellPower:
    """Return the mode powers of batches of lattices (n, Ly, Lx), and their errors by shell.

    Of images (n, channels, Ly, Lx) they are means over the channels.
    """
    power, n = np.zeros_like(basis.kappa), 0
    total, squares = np.zeros(1), np.zeros(1)
    for fields in batches:
        modes = basis.modes(torch.from_numpy(np.asarray(fields, dtype=np.float64)))
        each = (modes.abs() ** 2).numpy()
        each = each.mean(axis=1) if each.ndim == 4 else each
        shells = _shell_means(each, basis)
        power += each.sum(axis=0)
        total, squares = total + shells.sum(axis=0), squares + (shells**2).sum(axis=0)
        n += len(each)
    mean = total / n
    spread = np.sqrt(np.maximum(squares / n - mean**2, 0.0))
    error = spread / math.sqrt(n - 1) if n > 1 else np.full_like(mean, np.nan)
    which, weight = _shell_of(basis)
    log_kappa = np.log(basis.kappa.ravel()[basis.kappa.ravel() > 0])
    kappa = np.exp(np.bincount(which, weight * log_kappa) / np.bincount(which, weight))
    return ShellPower(basis, n, power / n, kappa, mean, error)
