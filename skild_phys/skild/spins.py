"""What is known of spins given X_t: mean field, logits, posterior spectrum, conditional sampling.

Given X_t, spins s have p(s | X_t) ~ p(s) exp(h s - s K s / 2) with, mode by mode,
h = sqrt(abar) X_t / ((1 - abar) P) and K = abar / ((1 - abar) P): an Ising model in a field, whose
couplings J = J_prior - K are known up to the prior's. The equations of Thouless, Anderson and
Palmer (Phil. Mag. 35, 593 (1977)),

    m_i = tanh(h_i + sum_j J_ij m_j - c m_i sum_j J_ij^2 (1 - m_j^2)),

give the means where X_t holds most spins in place: on critical Ising lattices within 4e-5 nats a
site below lambda = 0.5. With c = 1 a spin's reaction on itself goes along pairs alone. By larger
loops too, which K has at every length, it is R(chi) m_i in place of chi m_i sum_j J_ij^2, where
chi = <1 - m^2> and R(chi) = L - 1 / chi with L from chi = <1 / (L - J_k)>_k: exact for couplings
with random eigenvectors (Parisi and Potters, J. Phys. A 28, 5267 (1995); Opper and Winther, Phys.
Rev. E 64, 056131 (2001)); c is the ratio of the two. J_prior is learned from the data
(`couplings`). Where spins are free to move together the network corrects both the start and the
field of the iteration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skild_phys.rules.conditions import Constraint, Settled
from skild_phys.rules.sampling import MOST
from skild_phys.skild.equations import Noise, Process, Sight
from skild_phys.skild.streams import Streams

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Couplings:
    """J of a homogeneous lattice by separation.

    Attributes
    ----------
    offsets : (dy, dx) of one of each pair of opposite separations.
    values : J / (k_B T) at `offsets`.
    """

    offsets: tuple[tuple[int, int], ...] = ()
    values: tuple[float, ...] = ()

    def transfer(self, shape: tuple[int, int]) -> Array:
        """Return sum over r of J(r) cos(k r) of every rfft2 mode of a torus, float64."""
        ky = 2.0 * np.pi * np.fft.fftfreq(shape[0])[:, None]
        kx = 2.0 * np.pi * np.fft.rfftfreq(shape[1])[None, :]
        total = np.zeros((ky.size, kx.size))
        for (dy, dx), value in zip(self.offsets, self.values, strict=True):
            total += 2.0 * value * np.cos(ky * dy + kx * dx)
        return total


def couplings_from_record(record: dict[str, Any]) -> Couplings:
    """Return the couplings whose `dataclasses.asdict` went through JSON."""
    offsets = tuple((int(dy), int(dx)) for dy, dx in record["offsets"])
    return Couplings(offsets, tuple(float(value) for value in record["values"]))


RATE, MOMENTUM = 0.7, 0.2
"""Of the damped iteration: m += RATE (tanh(l / 2) - m) + MOMENTUM (m - m before)."""


LOOPS, NEAREST, FARTHEST = 12, 0.5, 1e3
"""Entries of the table of c, and how far its L are from the largest J_k. Nearer than that chi is
larger than it is where an iteration ends, and c returns to 1."""


FAINT = 1e-6
"""Sum of squared couplings up to which c is 1: there is no reaction to speak of."""


SILENT = 1e-30
"""Root mean square of what X_t still shows of the fields below which its whitened field is 0, not
the quotient of two numbers that float32 cannot hold."""


REMEMBERED = 2**22
"""Sites times lambdas of which what evidence is made of is kept, 10 bytes each."""


ANSWERS = 2
"""Iterations after a part of the spins has been drawn: neighbours hold most of what is left."""


Means = Callable[[Tensor], Tensor]
"""Logits (n, Ly, Lx) -> E[s] under whatever constraint holds."""


def half_tanh(logits: Tensor) -> Tensor:
    """Return the mean of a free spin, tanh(logit / 2)."""
    return torch.tanh(0.5 * logits)


@dataclass(frozen=True)
class Evidence:
    """What X_t says of the spins.

    Attributes
    ----------
    field : h, (n, Ly, Lx).
    wiener : sqrt(abar) X_t, the mean of x0 were it Gaussian, (n, Ly, Lx).
    whitened : sqrt(abar) X_t / sqrt(P), scaled to a mean square near 1: the same with all wave
        numbers that are left equally loud, (n, Ly, Lx). 0 where none is left (`SILENT`).
    kernels : DFT of J and of J^2 without their parts at r = 0, (n or 1, 2, *modes).
    loops : a table of chi, increasing, and of c, (n or 1, 2, LOOPS).
    """

    field: Tensor
    wiener: Tensor
    whitened: Tensor
    kernels: Tensor
    loops: Tensor


@dataclass(frozen=True)
class _AtLambda:
    """What evidence is made of, whatever X_t is: factors of its modes (n or 1, *modes)."""

    cosine: Tensor
    gain: Tensor
    whitening: Tensor
    kernels: Tensor
    loops: Tensor


def _interpolated(table: Tensor, at: Tensor) -> Tensor:
    """Return the values (n,) at `at` (n,) of a table (n or 1, 2, entries), constant beyond it."""
    x, y = table.unbind(dim=1)
    width = x.diff()
    along = (at[:, None] - x[:, :-1]).clamp(min=0.0).minimum(width)
    return y[:, 0] + (along * (y.diff() / width)).sum(dim=1)


class MeanField:
    """The iteration for lattices of one shape.

    Parameters
    ----------
    process : in the DFT basis; the field's mean square is the spins', 1.
    couplings : of the prior.
    """

    def __init__(self, process: Process, couplings: Couplings) -> None:
        self.process, self.shape = process, process.shape
        device = process.kappa2.device
        self.prior = torch.as_tensor(couplings.transfer(process.shape), device=device)
        self.weight = torch.as_tensor(process.basis.weight, device=device)
        self._sites = float(math.prod(process.shape))
        self._remembered: dict[float, _AtLambda] = {}

    def _real(self, modes: Tensor) -> Tensor:
        out: Tensor = torch.fft.irfft2(modes, s=self.shape)
        return out

    def evidence(self, xt: Tensor, lam: Tensor) -> Evidence:
        """Return what fields `xt` (n, Ly, Lx) at `lam` (n,), or (1,) for all, say of the spins."""
        at = self._recalled(lam) if len(lam) == 1 else self._at(lam.double())
        wiener = torch.fft.rfft2(xt) * at.cosine
        return Evidence(
            self._real(wiener * at.gain),
            self._real(wiener),
            self._real(wiener * at.whitening),
            at.kernels,
            at.loops,
        )

    def _recalled(self, lam: Tensor) -> _AtLambda:
        """Return `_at` of one lambda: the lambdas of a chain are those of the next."""
        one = float(lam)
        found = self._remembered.get(one)
        if found is None:
            # Under inference mode tensors would be made that no gradient may ever pass.
            with torch.inference_mode(False), torch.no_grad():
                at = torch.tensor([one], dtype=torch.float64, device=self.prior.device)
                found = self._at(at)
            if (len(self._remembered) + 1) * self._sites > REMEMBERED:
                self._remembered.clear()
            self._remembered[one] = found
        return found

    def _at(self, lam: Tensor) -> _AtLambda:
        p, at = self.process, lam[:, None, None]
        abar = torch.exp(-p.kappa2 * at)
        gain = 1.0 / (-torch.expm1(-p.kappa2 * at) * p.power)
        loudness = ((abar * self.weight).sum((-2, -1), keepdim=True) / self._sites).sqrt().float()
        couplings = self.prior - abar * gain
        by_site = self._real(couplings.to(torch.complex128))
        couplings = couplings - by_site[:, :1, :1]
        by_site[:, 0, 0] = 0.0
        squares = torch.fft.rfft2(by_site**2).real
        loops = self._loops(couplings, squares[:, 0, 0])
        return _AtLambda(
            abar.sqrt().float(),
            gain.float(),
            torch.where(loudness > SILENT, 1.0 / (p.amplitude * loudness), 0.0),
            torch.stack([couplings, squares], dim=1).float(),
            loops.float(),
        )

    def _loops(self, couplings: Tensor, squares: Tensor) -> Tensor:
        """Return chi and c, (n, 2, LOOPS); `squares` (n,) is sum_j J_ij^2."""
        top, table = couplings.amax((-2, -1)), []
        for gap in np.geomspace(FARTHEST, NEAREST, LOOPS - 1):
            at = top + float(gap)
            chi = (self.weight / (at[:, None, None] - couplings)).sum((-2, -1)) / self._sites
            c = torch.where(squares > FAINT, (at - 1.0 / chi) / (chi * squares), 1.0)
            table.append(torch.stack([chi, c], dim=1))
        table.append(torch.stack([2.0 * chi, torch.ones_like(chi)], dim=1))
        return torch.stack(table, dim=2)

    def couplings_by_site(self, evidence: Evidence) -> Tensor:
        """Return J (n or 1, Ly, Lx) by the displacement between two sites."""
        return self._real(evidence.kernels[:, 0].to(torch.complex64))

    def coupled(self, evidence: Evidence, m: Tensor) -> Tensor:
        """Return sum_j J_ij m_j - c m_i sum_j J_ij^2 (1 - m_j^2), (n, Ly, Lx)."""
        pull, unknown = self._parts(evidence, m)
        return pull - m * unknown

    def _parts(self, evidence: Evidence, m: Tensor) -> tuple[Tensor, Tensor]:
        """Return sum_j J_ij m_j, and c sum_j J_ij^2 (1 - m_j^2): what is unknown of the others."""
        left = 1.0 - m * m
        both = torch.fft.rfft2(torch.stack([m, left], dim=1)) * evidence.kernels
        pull, unknown = self._real(both).unbind(dim=1)
        share = _interpolated(evidence.loops, left.detach().mean((-2, -1)))
        return pull, share[:, None, None] * unknown

    def given(
        self, evidence: Evidence, logits: Tensor, known: Tensor, spins: Tensor, means: Means
    ) -> Tensor:
        """Return the logits of the other sites once those in `known` (bool) hold `spins`.

        `logits` are those before. What they have beyond the mean field's (from the network, from a
        constraint) fades as the others of a site become known: where all are, what is left is
        exact, 2 (h_i + sum_j J_ij s_j). Known sites get +-MOST.
        """
        m = means(logits)
        pull, unknown = self._parts(evidence, m)
        beyond = logits - 2.0 * (evidence.field + pull - m * unknown)
        m = torch.where(known, spins, m)
        for step in range(ANSWERS):
            pull, left = self._parts(evidence, m)
            share = (left / unknown.clamp(min=1e-12)).clamp(0.0, 1.0)
            moved = 2.0 * (evidence.field + pull - m * left) + share * beyond
            moved = torch.where(known, MOST * spins, moved)
            if step + 1 < ANSWERS:
                m = torch.where(known, spins, means(moved))
        return moved

    def iterate(
        self,
        evidence: Evidence,
        m: Tensor,
        steps: int,
        field: Tensor | float = 0.0,
        means: Means = half_tanh,
    ) -> Tensor:
        """Return the logits 2 (h + field + coupled(m)) after `steps` iterations from means `m`.

        `means` turns logits into means.
        """
        before, applied = m, evidence.field + field
        logits = m
        for step in range(steps):
            logits = 2.0 * (applied + self.coupled(evidence, m))
            if step + 1 < steps:
                new = means(logits)
                m, before = m + RATE * (new - m) + MOMENTUM * (m - before), m
        return logits


ALONE, FIRST, SECOND = 8, 4, 2
"""Mean-field iterations without the network, and before and after it."""


TELLING = 0.05
"""The lambda below which the sign of sqrt(abar) X_t is the spin at all but a few sites."""


class SpinLogits(NamedTuple):
    """Logits given X_t, the network's draft of them, and what X_t says of the spins."""

    logits: Tensor
    draft: Tensor
    evidence: Evidence


def spin_logits(
    sight: Sight | None,
    mean_field: MeanField,
    xt: Tensor,
    lam: Tensor,
    means: Means = half_tanh,
    alone: Tensor | None = None,
) -> SpinLogits:
    """Return log odds of spin up given X_t, (n, Ly, Lx).

    Parameters
    ----------
    sight : the network, or what looks through it; None for the mean field alone.
    xt, lam : (n, Ly, Lx) and (n,), or (1,) for one lambda for all.
    means : logits to means. Where a constraint holds these are the means under it: the
        mean field then carries what a block says to its neighbours, and what comes back are
        the logits of independent sites that have yet to be drawn under the constraint.
    alone : (n, Ly, Lx), E[s] by the constraint alone, without X_t; None for none. Without it the
        network cannot tell whether it is to say what the constraint does: from majority signs by
        4 at lambda = 4, E[m s] - E[m^2] of the means m was then +0.015 instead of 0.
    """
    evidence = mean_field.evidence(xt, lam)
    with torch.no_grad():
        first_guess = evidence.wiener.clamp(-0.98, 0.98)
        # Where X_t tells nearly every spin, only a start at the spins themselves converges.
        first_guess = torch.where(
            lam[:, None, None] < TELLING, 0.9999 * evidence.wiener.sign(), first_guess
        )
        start = means(2.0 * torch.atanh(first_guess))
        first = mean_field.iterate(evidence, start, FIRST if sight else ALONE, means=means)
    if sight is None:
        return SpinLogits(first, first, evidence)
    alone = torch.zeros_like(xt) if alone is None else alone
    seen = [xt, evidence.whitened, torch.tanh(first / 2), torch.tanh(first / 8), alone]
    draft, trust, field, weight = sight(torch.stack(seen, 1), lam.expand(len(xt))).unbind(dim=1)
    draft = draft + (1.0 + trust) * first
    second = mean_field.iterate(evidence, means(draft), SECOND, 0.5 * field, means)
    weight = torch.sigmoid(weight)
    return SpinLogits(weight * second + (1.0 - weight) * draft, draft, evidence)


SHARPER = 1.9
"""How much more X_t says of spins than of a Gaussian field: 1 for that."""


class LeftOpen:
    """Spectra and draws of X_0 - E[X_0 | X_t] for spins of one shape.

    Parameters
    ----------
    process : the forward process; the field's mean square is the spins', 1.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        # Summed by NumPy, whose sums do not depend on the number of threads.
        self._grid = np.geomspace(1e-6, 1e6, 193)
        weight = torch.as_tensor(process.basis.weight, device=process.power.device)
        share = weight / math.prod(process.shape)
        self._variances = np.array(
            [float((self._spectrum(float(lam)) * share).cpu().numpy().sum()) for lam in self._grid]
        )

    def _spectrum(self, lam: Tensor | float) -> Tensor:
        open_ = torch.expm1(self.process.kappa2 * lam)
        # Beyond float64's range all is open.
        return self.process.power * torch.nan_to_num(open_ / (open_ + SHARPER), nan=1.0)

    def spectrum(self, variance: Tensor) -> Tensor:
        """Return R (n, *modes), float64, whose sum is `variance` (n,) a site."""
        log_variance = np.log(variance.cpu().numpy())
        found = np.interp(log_variance, np.log(self._variances), np.log(self._grid))
        lam = torch.as_tensor(np.exp(found), device=self.process.power.device)
        return self._spectrum(lam[:, None, None])

    def draw(self, means: Tensor, white: Tensor) -> Tensor:
        """Return m + sqrt(1 - m^2) g, (n, Ly, Lx), with a Gaussian g of variance 1.

        Not spins, but fields with the waves that spins have: the product has each site's variance
        and the spectrum R, as far as a g there is (no mode of it can have a power below 0).

        Parameters
        ----------
        means : m, (n, Ly, Lx), within [-1, 1].
        white : modes of white noise.
        """
        spread = (1.0 - means * means).clamp(min=0.0)
        spectrum = self.spectrum(spread.double().mean((-2, -1)).clamp(min=1e-9))
        spread = spread.sqrt()
        # By displacement: the covariance of the product is that of g times that of `spread`.
        shape, size = self.process.shape, math.prod(self.process.shape)
        open_, own = torch.fft.irfft2(
            torch.stack([spectrum, torch.fft.rfft2(spread.double()).abs() ** 2 / size]), s=shape
        )
        power = torch.fft.rfft2(open_ / own.clamp(min=1e-12)).real.clamp(min=0.0)
        return means + spread * self.process.basis.fields(white * power.sqrt().float())


WAVES_ABOVE = 2.0
"""Lambda above which waves are drawn instead of spins, unless block sums say what the waves are."""


PARTS = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Places in a 2 x 2 cell, in the order in which the spins there are drawn."""


class SpinPosterior:
    """Spins with the logits of the denoiser, under a constraint: in four parts, or their waves.

    Spins that are drawn one by one from their own means know nothing of each other: on critical
    lattices at lambda = 1 the energy of such a draw is off by +0.10 a site. Here every second site
    of every second row is drawn so; the next quarter given those, and so on, by the couplings of
    the mean field, of which the strongest lie between the parts. Then it is off by -0.003(4), and
    by 0.02 instead of 0.08 where block sums are known.

    Far out spins answer to each other as a mean field does not: at lambda = 12 such a draw has
    0.6 of the power it should have at kappa = 0.3 .. 0.7 (one by one, 0.3). What the next step
    sees of X_0 there are its waves, and they are drawn (`LeftOpen`: within 0.06 of the power).
    Where block sums are known they say the same, and spins are drawn at every lambda.

    Parameters
    ----------
    found : what the denoiser says.
    constraint : of the lattices.
    mean_field, left_open : of the lattices.
    lam : lambda of X_t.
    streams : one a lattice.
    """

    def __init__(
        self,
        process: Process,
        found: SpinLogits,
        constraint: Constraint,
        mean_field: MeanField,
        left_open: LeftOpen,
        lam: float,
        noise: Noise,
        streams: Sequence[Streams],
    ) -> None:
        self.process, self.found, self.mean_field = process, found, mean_field
        self.left_open, self.noise = left_open, noise
        self.constraint, self.lam, self.streams = constraint, lam, streams

    def mean(self) -> Tensor:
        return self.process.modes(self.constraint.means(self.found.logits))

    def spins(self) -> NDArray[np.int8]:
        """Return spins (n, Ly, Lx) drawn under the constraint."""
        states = [stream.state for stream in self.streams]
        logits, bound = self.constraint.settled(self.found.logits, states)
        spins = self._drawn(logits, bound)
        device = logits.device
        y, x = (torch.arange(side, device=device) for side in logits.shape[-2:])
        start = np.array([stream.noise.integers(2, size=2) for stream in self.streams])
        dy, dx = torch.from_numpy(start).to(device).T[:, :, None, None]
        cell_y, cell_x = (y[:, None] + dy) % 2, (x + dx) % 2
        known = torch.zeros(logits.shape, dtype=torch.bool, device=device)
        for part_y, part_x in PARTS[:-1]:
            known = known | ((cell_y == part_y) & (cell_x == part_x))
            held = torch.from_numpy(spins.astype(np.float32)).to(device)
            evidence = self.found.evidence
            left = self.mean_field.given(evidence, logits, known, held, bound.means)
            spins = self._drawn(left, bound)
        return spins

    def _drawn(self, logits: Tensor, bound: Settled) -> NDArray[np.int8]:
        lattices = zip(logits.cpu().numpy(), self.streams, strict=True)
        return np.stack([bound.draw(one, i, to.state) for i, (one, to) in enumerate(lattices)])

    def draw(self) -> Tensor:
        if self.lam > WAVES_ABOVE and not self.constraint.holds_sums:
            means = self.constraint.means(self.found.logits)
            return self.process.modes(self.left_open.draw(means, self.noise()))
        spins = torch.from_numpy(self.spins().astype(np.float32))
        return self.process.modes(spins.to(self.found.logits.device))
