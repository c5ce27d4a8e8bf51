"""The modes of a field: orthonormal bases, and the power P = E|X - E X|^2 of each mode.

Fields have any number of axes, (..., Ly, Lx) in 2D; sides may be odd and unequal. Both bases map
them to modes with E|X|^2 = P and give the wave number kappa = |k|, in radians per site, of each.

arXiv 2605.26032 and its code have other units: a box of side 1, so that kappa_ref = pi u counts
half waves of the DCT-II, and a transform that is 2/L of the sum of cosines along each axis. Modes
that are constant along an axis differ by another sqrt 2 per axis: noise of variance S_0 in every
mode of the reference has half its power there, in 2D a quarter in the zero mode.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.errors import BadInput

_Array = NDArray[np.float64]


class _Crop(NamedTuple):
    """The modes of a lattice that a coarser grid has.

    Attributes
    ----------
    index : where they are among the lattice's, of arrays and tensors.
    inside : of the shape of the grid's modes: False for those on the edge of an even grid's box,
        where a mode and its conjugate are one; there a grid has noise only.
    """

    index: Any
    inside: NDArray[np.bool_]

    def of(self, modes: Any) -> Any:
        """Return the grid's modes of an array or a tensor (..., *modes of the lattice)."""
        return modes[self.index]


class Basis(ABC):
    """An orthonormal transform of real fields of one shape.

    Attributes
    ----------
    shape : of the fields, one side an axis.
    axes : theirs, counted from the end.
    kappa : |k| of every mode, float64, of the modes' shape.
    lowest : the smallest kappa above 0.
    sites : of a field.
    weight : how many modes of the full transform each mode stands for, of the modes' shape: a
        mode of the half-plane DFT stands for its complex conjugate too.
    numbers : whole wave numbers along each axis, signed on a torus.
    """

    name: str

    def __init__(self, shape: tuple[int, ...], waves: list[_Array]) -> None:
        self.shape, self.sites = tuple(shape), math.prod(shape)
        self.axes = tuple(range(-len(shape), 0))
        self.kappa: _Array = functools.reduce(np.hypot.outer, waves)
        above = self.kappa[self.kappa > 0]
        self.lowest = float(above.min()) if above.size else 2.0 * math.pi
        self.weight: _Array = np.ones_like(self.kappa)
        self.numbers: list[NDArray[np.int64]] = [np.arange(line.size) for line in waves]

    @abstractmethod
    def modes(self, fields: Tensor) -> Tensor:
        """Return the modes of real `fields`, (..., *modes)."""

    @abstractmethod
    def fields(self, modes: Tensor) -> Tensor:
        """Return the real fields (..., *shape) of `modes`: the inverse of `modes`."""

    @abstractmethod
    def line(self, axis: int, side: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return which modes of `axis` a grid of `side` sites has, and whether they are inside."""

    def crop(self, grid: tuple[int, ...]) -> _Crop:
        """Return the modes that a grid of sides `grid`, none longer than the lattice's, has."""
        lines = [self.line(axis, side) for axis, side in enumerate(grid)]
        inside = functools.reduce(np.logical_and.outer, [line[1] for line in lines])
        return _Crop((..., *np.ix_(*(line[0] for line in lines))), inside)

    def turned(self, fields: Tensor, back: bool = False) -> Tensor:
        """Return fields whose channels are turned as `modes` turns them, or back."""
        return fields


class _Torus(Basis):
    """The DFT of a periodic lattice, the half-plane of `rfftn`: modes (..., Ly, Lx // 2 + 1)."""

    name = "dft"

    def __init__(self, shape: tuple[int, ...]) -> None:
        waves = [*map(np.fft.fftfreq, shape[:-1]), np.fft.rfftfreq(shape[-1])]
        super().__init__(shape, [np.asarray(2.0 * np.pi * k) for k in waves])
        self.weight[..., 1 : (shape[-1] + 1) // 2] = 2.0
        signed = [np.rint(np.fft.fftfreq(side, 1 / side)).astype(np.int64) for side in shape[:-1]]
        self.numbers[:-1] = signed

    def line(self, axis: int, side: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        last = axis == len(self.shape) - 1
        m = np.arange(side // 2 + 1) if last else np.rint(np.fft.fftfreq(side, 1 / side))
        inside = (2 * np.abs(m) < side) | (side == self.shape[axis])
        return (m % self.shape[axis]).astype(np.intp), inside

    def modes(self, fields: Tensor) -> Tensor:
        modes: Tensor = torch.fft.rfftn(fields, dim=self.axes, norm="ortho")
        return modes

    def fields(self, modes: Tensor) -> Tensor:
        fields: Tensor = torch.fft.irfftn(modes, s=self.shape, dim=self.axes, norm="ortho")
        return fields


class _Box(Basis):
    """The DCT-II of a lattice with open (Neumann) edges: real modes of the fields' shape.

    Products with cosine matrices: exact for any side, and fast where images live (sides of a few
    hundred).
    """

    name = "dct"

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape, [np.pi * np.arange(side) / side for side in shape])
        self._cosines = [cosines(side) for side in shape]

    def line(self, axis: int, side: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        return np.arange(side), np.ones(side, dtype=bool)

    def modes(self, fields: Tensor) -> Tensor:
        for axis, table in zip(self.axes[:-1], self._cosines, strict=False):
            fields = (table.to(fields) @ fields.movedim(axis, -2)).movedim(-2, axis)
        return fields @ self._cosines[-1].to(fields).T

    def fields(self, modes: Tensor) -> Tensor:
        for axis, table in zip(self.axes[:-1], self._cosines, strict=False):
            modes = (table.to(modes).T @ modes.movedim(axis, -2)).movedim(-2, axis)
        return modes @ self._cosines[-1].to(modes)


def cosines(side: int) -> Tensor:
    """Return the orthonormal DCT-II of a line of `side` sites, (mode, site) float64."""
    u, x = np.arange(side)[:, None], np.arange(side)[None, :]
    table = np.cos(np.pi * u * (x + 0.5) / side) * math.sqrt(2.0 / side)
    table[0] /= math.sqrt(2.0)
    return torch.from_numpy(table)


class _Mixed(Basis):
    """Another basis, for fields (n, c, *shape) whose channels are turned by an orthogonal matrix.

    Direction k is the sum over c of mixing[k][c] times channel c.
    """

    def __init__(self, basis: Basis, mixing: Sequence[Sequence[float]]) -> None:
        self.__dict__.update(vars(basis))
        self.name, self._inner = basis.name, basis
        self._mixing = torch.tensor(mixing, dtype=torch.float64)

    def line(self, axis: int, side: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        return self._inner.line(axis, side)

    def modes(self, fields: Tensor) -> Tensor:
        return self._inner.modes(self.turned(fields))

    def fields(self, modes: Tensor) -> Tensor:
        return self.turned(self._inner.fields(modes), back=True)

    def turned(self, fields: Tensor, back: bool = False) -> Tensor:
        matrix = self._mixing.to(fields)
        return torch.einsum("kc,nc...->nk...", matrix.T if back else matrix, fields)


BASES: dict[str, type[_Torus] | type[_Box]] = {"dft": _Torus, "dct": _Box}


def make_basis(
    name: str, shape: tuple[int, ...], mixing: Sequence[Sequence[float]] | None = None
) -> Basis:
    """Return the basis `name` of BASES for fields of `shape`; raises BadInput.

    `mixing` (c, c) orthogonal turns their channels; None for not at all.
    """
    if name not in BASES:
        raise BadInput("basis", name, " or ".join(BASES))
    basis = BASES[name](shape)
    return basis if mixing is None else _Mixed(basis, mixing)


class Spectrum(ABC):
    """P of every mode of a lattice."""

    kind: ClassVar[str]

    @abstractmethod
    def variances(self, basis: Basis) -> _Array:
        """Return P of every mode of `basis`, of its modes' shape, positive."""

    def eps_norms(self, basis: Basis) -> _Array:
        """Return the rms that white eps, as the network predicts it, has in every mode."""
        return np.ones_like(basis.kappa)

    def record(self) -> dict[str, Any]:
        """Return what `spectrum_from_record` makes this spectrum of, for JSON."""
        return {"kind": self.kind, **dataclasses.asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class RadialSpectrum(Spectrum):
    """P(kappa) by linear interpolation of log P in log kappa.

    Below the first knot P continues as the power law of the lowest knots, and the zero mode of a
    lattice of N sites takes the value at kappa = zero_scale / N^(1/d): at a critical point chi
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

    def __call__(self, kappa: _Array) -> _Array:
        """Return P at `kappa` > 0, in float64; constant above the last knot."""
        log_kappa, log_power = np.log(self.kappa), np.log(self.power)
        tail = min(6, len(self.kappa) - 1)
        slope = (log_power[tail] - log_power[0]) / (log_kappa[tail] - log_kappa[0])
        x = np.log(np.asarray(kappa, dtype=np.float64))
        below = log_power[0] + slope * (x - log_kappa[0])
        log_p = np.where(x < log_kappa[0], below, np.interp(x, log_kappa, log_power))
        return np.asarray(np.exp(log_p), dtype=np.float64)

    def variances(self, basis: Basis) -> _Array:
        side = basis.sites ** (1 / len(basis.shape))
        return self(np.where(basis.kappa > 0, basis.kappa, self.zero_scale / side))


@dataclass(frozen=True)
class TorusSpectrum(Spectrum):
    """P(kappa) of long lattices, and what tori of their own sides make of the longest waves.

    A torus has P = f(m) P_bulk(kappa) in its mode m. At a critical point f depends on the aspect
    ratio alone: 0.76 for the longest waves of the 2D Ising model on a square. Elsewhere it depends
    on the side over the correlation length too, so that only sides as in training are right. Beyond
    |m| = `WAVES` on any axis f is 1. The zero mode is m = 0 with kappa of the longest wave.

    Attributes
    ----------
    kappa, power : knots of P_bulk: log P is linear in log kappa between them, constant above.
    slope : d log P_bulk / d log kappa below the first knot.
    tori : ratios of the sides to the shortest, in increasing order, and f at (|m|, ..), flat, of
        the sides in this order. Of other ratios it is interpolated.
    """

    WAVES: ClassVar[int] = 3

    kind: ClassVar[str] = "torus"
    kappa: tuple[float, ...]
    power: tuple[float, ...]
    slope: float
    tori: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]

    def bulk(self, kappa: _Array) -> _Array:
        """Return P_bulk at `kappa` > 0, float64."""
        log_kappa, log_power = np.log(self.kappa), np.log(self.power)
        x = np.log(np.asarray(kappa, dtype=np.float64))
        below = log_power[0] + self.slope * (x - log_kappa[0])
        return np.exp(np.where(x < log_kappa[0], below, np.interp(x, log_kappa, log_power)))

    def variances(self, basis: Basis) -> _Array:
        d, order = len(basis.shape), np.argsort(basis.shape, kind="stable")
        ratios = np.sort(basis.shape) / min(basis.shape)
        far = [float(np.abs(np.log(ratios / known)).sum()) for known, _ in self.tori]
        near = 1.0 / np.maximum(far, 1e-9)
        # Whatever is exactly known counts alone: 1e9 times as much as others.
        two = np.argsort(near)[::-1][:2]
        logs = np.log([self.tori[i][1] for i in two])
        log_f = np.average(logs, axis=0, weights=near[two]).reshape([self.WAVES + 1] * d)
        # `log_f` has the sides in increasing order; those of the lattice:
        log_f = log_f.transpose(np.argsort(order))
        m = np.meshgrid(*basis.numbers, indexing="ij")
        beyond = np.any([np.abs(one) > self.WAVES for one in m], axis=0)
        f = log_f[tuple(np.minimum(np.abs(one), self.WAVES) for one in m)]
        f = np.where(beyond, 0.0, f)
        return np.asarray(self.bulk(basis.kappa.clip(min=basis.lowest)) * np.exp(f))


@dataclass(frozen=True)
class PowerLaw(Spectrum):
    """P = amplitude (kappa^2 + k0_squared)^-alpha.

    With k0_squared = 0 the zero mode takes the value of the lowest wave number above it.
    """

    kind: ClassVar[str] = "power_law"
    amplitude: float
    alpha: float
    k0_squared: float

    def variances(self, basis: Basis) -> _Array:
        kappa = basis.kappa if self.k0_squared > 0 else basis.kappa.clip(min=basis.lowest)
        return np.asarray(self.amplitude * (kappa**2 + self.k0_squared) ** -self.alpha)


@dataclass(frozen=True)
class PaperSpectrum(Spectrum):
    """The paper's fit S_0 = amplitude (kappa_ref^2 + k0_squared)^-alpha (arXiv 2605.26032).

    S_0 is the variance of the noise in the modes of the reference, whose DCT is not orthonormal,
    for fields of `side`^2. It is Var |F| of the data there, about 0.36 of the power
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

    def variances(self, basis: Basis) -> _Array:
        return self.power_law().variances(basis) * self.eps_norms(basis) ** 2

    def eps_norms(self, basis: Basis) -> _Array:
        """Return the orthonormal DCT modes over side / 2 times those of the reference."""
        if basis.name != _Box.name:
            return super().eps_norms(basis)
        axes = (np.where(np.arange(side) == 0, math.sqrt(0.5), 1.0) for side in basis.shape)
        return np.asarray(functools.reduce(np.multiply.outer, axes))


@dataclass(frozen=True)
class ModeSpectrum(Spectrum):
    """P of each mode on its own, for fields of one shape in one basis.

    Attributes
    ----------
    basis, shape : of the fields that were measured.
    power : P of each mode, in their order.
    """

    kind: ClassVar[str] = "modes"
    basis: str
    shape: tuple[int, ...]
    power: tuple[float, ...]

    def variances(self, basis: Basis) -> _Array:
        if basis.shape != tuple(self.shape) or basis.name != self.basis:
            has, wanted = (" x ".join(map(str, shape)) for shape in (basis.shape, self.shape))
            accepted = f"{wanted} in the basis {self.basis}: its spectrum is of single modes"
            raise BadInput("lattice", has, accepted)
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

    def variances(self, basis: Basis) -> _Array:
        return np.stack([spectrum.variances(basis) for spectrum in self.spectra])


KINDS: dict[str, type[Spectrum]] = {
    kind.kind: kind for kind in (RadialSpectrum, TorusSpectrum, PowerLaw, ModeSpectrum)
}
"""Those that can be fitted to one field; images may have ChannelSpectra."""


def spectrum_from_record(record: dict[str, Any]) -> Spectrum:
    """Return the spectrum that gave `record`; KeyError, TypeError or ValueError if none did."""

    def read(value: Any) -> Any:
        return tuple(map(read, value)) if isinstance(value, list) else value

    values = {key: read(value) for key, value in record.items() if key != "kind"}
    if "spectra" in values:
        radial = (spectrum_from_record({"kind": "radial"} | one) for one in values["spectra"])
        values["spectra"] = tuple(radial)
    kinds = KINDS | {kind.kind: kind for kind in (ChannelSpectra, PaperSpectrum)}
    return kinds[record["kind"]](**values)


WHITE = PowerLaw(1.0, 0.0, 1.0)
"""The spectrum of white noise of variance 1."""
